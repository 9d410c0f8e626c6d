"""What the public engine is given: open files, rates of any numeric type, prompts that can be read once."""

import io
import tempfile

import numpy as np
import pytest
import soundfile
from tiny import CAUSAL, RATE, SHORT, noise, tiny_model

from ussfast import AudioError, InputError, PromptError, Separator


@pytest.fixture(scope="module")
def separator():
    return Separator.from_model(tiny_model(), ("speech", "sfx"), device="cpu", **SHORT)


@pytest.fixture(scope="module")
def causal():
    return Separator.from_model(tiny_model(CAUSAL), ("speech", "sfx"), device="cpu")


def encoded(audio, name=None):
    file = io.BytesIO()
    soundfile.write(file, audio.T, RATE, "FLOAT", format="WAV")
    file.seek(0)
    if name is not None:
        file.name = name
    return file


class OnlyReads:
    """As the body of a request."""

    def __init__(self, file):
        self.read = file.read


def test_open_files_are_separated_as_their_samples(separator):
    audio = noise(2, 5000)
    expected = separator.separate(audio, RATE)
    for file in (encoded(audio), OnlyReads(encoded(audio))):
        out = separator.separate(file)
        np.testing.assert_array_equal(out.stems, expected.stems)
        assert out.sample_rate == RATE
    with pytest.raises(InputError, match="sample_rate is for arrays; a file has its own"):
        separator.separate(encoded(audio), RATE)
    with pytest.raises(AudioError, match="not bytes: put them into io.BytesIO"):
        separator.separate(encoded(audio).getvalue(), RATE)


def test_open_files_into_files(separator, tmp_path):
    audio = noise(1, 5000)
    spooled = tempfile.SpooledTemporaryFile()
    spooled.write(encoded(audio).getvalue())
    spooled.seek(0)
    expected = separator.separate(audio, RATE)["sfx"]
    files = {"audio": OnlyReads(encoded(audio)), "audio2": spooled, "a_song": encoded(audio, "in/a song.wav")}
    for name, file in files.items():
        folder = tmp_path / name
        written = separator.separate_file(file, folder, template="{name}-{label}.wav", residual=True)
        stem = name.removesuffix("2")
        assert [path.name for path in written] == [f"{stem}-{label}.wav" for label in ("speech", "sfx", "residual")]
        assert (written.seconds, written.sample_rate, written.channels) == (5000 / RATE, RATE, 1)
        np.testing.assert_allclose(soundfile.read(written[1])[0], expected[0], atol=1e-6)
    assert not spooled.closed and spooled.tell() == 0
    rubbish = io.BytesIO(b"rubbish")
    rubbish.name = "in/bad.wav"
    with pytest.raises(AudioError, match="^bad.wav: libsndfile could not read it"):
        separator.separate_file(rubbish, tmp_path)


@pytest.mark.parametrize("audio", [7, None, "a" * 300, "a\0b", "\ud800", "", "x/" * 3000, "/dev/null", [0.1, 0.2]])
def test_what_is_no_audio(separator, tmp_path, audio):
    for give in (lambda: separator.separate(audio), lambda: separator.separate_file(audio, tmp_path)):
        with pytest.raises(AudioError):
            give()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rate", [44_100.0, np.int64(44_100), np.float32(44_100), np.uint16(44_100), np.array(44_100)])
def test_rates_of_any_type_are_whole_numbers_from_the_door_on(separator, causal, tmp_path, rate):
    audio = noise(1, 3000)
    out = separator.separate(audio, rate)
    pieces = [*causal.stream([audio], rate), causal.session(rate).push(audio)]
    pool = causal.pool(1, rate)
    pieces.append(pool.push({pool.join(): audio})[0])
    for piece in (out, *pieces):
        assert type(piece.sample_rate) is int and piece.sample_rate == 44_100
    assert soundfile.info(out.save(tmp_path)[0]).samplerate == 44_100
    assert type(out.save(tmp_path).sample_rate) is int


@pytest.mark.parametrize("rate", [True, np.bool_(True), "44100", [44_100], np.float64("inf"), np.ones(99), 10**400])
def test_rates_that_are_none(separator, causal, rate):
    for give in (lambda: separator.separate(noise(1, 100), rate), lambda: causal.session(rate)):
        with pytest.raises(InputError, match="^sample_rate must be a whole number of Hz from 1 to 768000") as caught:
            give()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_prompts_that_can_be_read_once(separator, causal):
    def once(*names):
        return (name for name in names)

    audio = noise(1, 3000)
    assert Separator.from_model(tiny_model(), once("drums", "bass")).labels() == ("drums", "bass")
    assert Separator.from_model(tiny_model(), np.array(["drums", "bass"])).labels() == ("drums", "bass")
    assert separator.labels(once("drums")) == ("drums",)
    assert separator.separate(audio, RATE, prompts=once("drums", "bass")).labels == ("drums", "bass")
    session = causal.session(RATE, prompts=once("drums"))
    assert session.labels == ("drums",)
    session.set_prompts(once("bass", "sfx"))
    assert session.labels == ("bass", "sfx")
    pool = causal.pool(1, RATE)
    assert pool[pool.join(once("drums", "bass"))].labels == ("drums", "bass")


@pytest.mark.parametrize("prompts", [7, [7], [None], ["x" * 300], ["a\0"]])
def test_prompts_that_are_none(separator, prompts):
    for give in (
        lambda: Separator.from_model(tiny_model(), prompts),
        lambda: separator.separate(noise(1, 100), RATE, prompts=prompts),
        lambda: separator.session(RATE, prompts=prompts),
    ):
        with pytest.raises(PromptError, match="^(prompts are names, not|unknown prompt)") as caught:
            give()
        assert "\n" not in str(caught.value)


def test_short_blocks_of_many_channels(causal):
    """65 channels and more: what is short is no longer taken for transposed once their number is known."""
    audio = noise(70, 200)
    for channels in (70, None):
        session = causal.session(RATE, channels=channels)
        pieces = [session.push(audio[:, :150]), session.push(audio[:, 150:]), session.flush()]
        assert sum(piece.mixture.shape[1] for piece in pieces) == 200
    with pytest.raises(InputError, match="this stream has 70 channels, the chunk 50"):
        causal.session(RATE, channels=70).push(audio.T[:50])
