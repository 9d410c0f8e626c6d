"""Everything that is in a recording: what a detector hears becomes prompts, and stems."""

import numpy as np
import pytest
import soundfile
import torch
from tiny import ASP, CAUSAL, RATE, TUSS, UNCONDITIONAL, noise, tiny_detector, tiny_model

from ussfast import CheckpointError, Detector, InputError, PromptError, Separator
from ussfast.audio import AudioReader
from ussfast.checkpoints import names
from ussfast.detect.events import Event


def hearing(*events, label="the detector"):
    """A detector that hears these, (label, onset, offset, score), above the threshold that it is asked for."""
    detector = Detector.from_model(tiny_detector(), device="cpu", name=label)

    def detect(audio, sample_rate=None, *, threshold):
        return [Event(*event) for event in events if event[3] > threshold]

    detector.detect = detect
    return detector


@pytest.fixture(scope="module")
def causal():
    return Separator.from_model(tiny_model(CAUSAL), device="cpu")


def query(separator, *clips):
    return separator.prompt_of("a sound", list(clips), RATE).vector


def test_prompts_are_those_of_the_pieces(causal):
    audio = noise(2, 10 * RATE, 3)
    heard = hearing(("rain", 0.0, 3.0, 0.7), ("dog", 5.0, 7.0, 0.9), ("dog", 8.0, 9.0, 0.6))
    found = causal.find(audio, RATE, detector=heard)
    assert found.labels == ("dog", "rain") and [sound.score for sound in found.sounds] == [0.9, 0.7]
    pieces = [audio[:, int(a * RATE) : int(b * RATE)] for a, b in ((5, 7), (8, 9))]
    torch.testing.assert_close(found.vectors[0], query(causal, *pieces))
    torch.testing.assert_close(found.vectors[1], query(causal, audio[:, : 3 * RATE]))
    # They are prompts like any other, and are stored nowhere.
    out = causal.separate(audio, RATE, prompts=found)
    assert out.labels == found.labels and set(causal.prompts) == set(CAUSAL.prompts)
    assert np.array_equal(out.stems, causal.separate_everything(audio, RATE, detector=heard).stems)
    named = Separator.from_model(tiny_model(CAUSAL), device="cpu")
    named.enroll("dog", pieces, RATE)
    np.testing.assert_allclose(out["dog"], named.separate(audio, RATE, prompts="dog")["dog"], atol=1e-6)


def test_labels_may_be_names_of_class_prompts(causal):
    audio = noise(1, 4 * RATE)
    found = causal.find(audio, RATE, detector=hearing(("speech", 0.0, 3.0, 0.9)))
    assert found.labels == ("speech",)
    assert not torch.equal(found.vectors[0], causal.prompts["speech"].vector)


def test_what_is_never_alone_is_shown_without_the_others(causal, monkeypatch):
    audio = noise(1, 8 * RATE)
    asked = []
    whole = Separator.separate

    def separate(self, piece, rate, *, prompts):
        out = whole(self, piece, rate, prompts=prompts)
        asked.append((prompts.labels, piece, out.stems))
        return out

    monkeypatch.setattr(Separator, "separate", separate)
    heard = hearing(("rain", 0.0, 8.0, 0.8), ("dog", 2.0, 4.0, 0.9), ("bell", 5.0, 6.0, 0.6))
    found = causal.find(audio, RATE, detector=heard)
    assert found.labels == ("dog", "rain", "bell")
    assert [labels for labels, *_ in asked] == [("rain",), ("rain",)]
    for i, (_, piece, stems) in zip((0, 2), asked, strict=True):
        torch.testing.assert_close(found.vectors[i], query(causal, piece - stems[0]))
        assert not torch.allclose(found.vectors[i], query(causal, piece), atol=1e-4)


def test_what_others_took_is_part_of_them(causal, monkeypatch):
    """Speech, and a man's voice in it: there is nothing left of that without the speech."""
    audio = noise(1, 8 * RATE)
    whole = Separator.separate

    def separate(self, piece, rate, *, prompts):
        out = whole(self, piece, rate, prompts=prompts)
        out.stems[:] = 0
        out.stems[0] = 0.9 * piece
        return out

    monkeypatch.setattr(Separator, "separate", separate)
    heard = hearing(("speech", 0.0, 8.0, 0.9), ("male", 2.0, 4.0, 0.8), ("hum", 2.0, 4.1, 0.7))
    found = causal.find(audio, RATE, detector=heard)
    assert found.labels == ("speech",) and found.sounds[0].also == ("male", "hum")


def test_a_mixture_is_taken_apart_by_what_it_shows():
    """The embedded model: shown where the alarm is with the rain in it, it would take the rain for the alarm."""
    rate = 32000
    separator = Separator("default", device="cpu")
    rng, time = np.random.default_rng(0), np.arange(8 * rate) / rate
    rain = 0.1 * rng.standard_normal(len(time))
    alarm = 0.1 * np.sin(2 * np.pi * 1200 * time) * np.sign(np.sin(2 * np.pi * 6 * time))
    alarm *= ((time > 3) & (time < 5)) | ((time > 6) & (time < 7))
    mixture = (rain + alarm).astype(np.float32)[None]
    heard = hearing(("rain", 0.0, 8.0, 0.9), ("alarm", 3.0, 5.0, 0.8), ("alarm", 6.0, 7.0, 0.8))
    out = separator.separate_everything(mixture, rate, detector=heard)
    assert out.labels == ("rain", "alarm")

    def ratio(target, estimate):
        scaled = (estimate @ target) / (target @ target) * target
        return 10 * np.log10(np.square(scaled).sum() / np.square(estimate - scaled).sum())

    for name, target in (("rain", rain), ("alarm", alarm)):
        assert ratio(target, out[name][0]) > ratio(target, mixture[0]) + 4, name


def test_files_and_arrays_give_the_same(causal, tmp_path):
    audio = noise(2, 6 * RATE)
    soundfile.write(tmp_path / "x.wav", audio.T, RATE, subtype="FLOAT")
    heard = hearing(("rain", 0.0, 2.0, 0.7), ("dog", 3.0, 5.9, 0.9))
    found = causal.find(audio, RATE, detector=heard)
    with open(tmp_path / "x.wav", "rb") as file:
        for given in (tmp_path / "x.wav", file):
            same = causal.find(given, detector=heard)
            assert same.labels == found.labels and torch.allclose(same.vectors, found.vectors, atol=1e-6)
            out = causal.separate_everything(given, detector=heard)
            np.testing.assert_allclose(out.stems, causal.separate(audio, RATE, prompts=found).stems, atol=1e-5)
    written = causal.separate_file(tmp_path / "x.wav", tmp_path / "out", prompts=found, residual=True)
    assert [path.name for path in written] == ["dog.wav", "rain.wav", "residual.wav"]
    np.testing.assert_allclose(soundfile.read(written[0])[0].T, out["dog"], atol=1e-5)


def test_memory_does_not_depend_on_the_duration(causal, tmp_path, monkeypatch):
    """All that is kept of an hour with eight sounds is half a minute of each."""
    seconds = 1200
    soundfile.write(tmp_path / "x.flac", np.tile(noise(1, 10 * RATE)[0], seconds // 10), RATE)
    heard = hearing(*((f"sound {i}", 100.0 * i, 100.0 * i + 90, 0.9 - 0.01 * i) for i in range(8)))
    kept = []
    monkeypatch.setattr(Separator, "prompt_of", lambda self, name, clips, rate: kept.append(clips) or PROMPT)
    monkeypatch.setattr(AudioReader, "__next__", _counted(AudioReader.__next__, read := []))
    causal.find(tmp_path / "x.flac", detector=heard)
    assert len(kept) == 8 and all(sum(clip.size for clip in clips) <= 30 * RATE for clips in kept)
    assert sum(read) < 850 * RATE, "read further than the last sound"


class PROMPT:
    vector = torch.zeros(8)


def _counted(original, counts):
    def counted(self):
        block = original(self)
        counts.append(block.shape[1])
        return block

    return counted


def test_silent_pieces_are_left_out(causal):
    audio = noise(1, 8 * RATE)
    audio[:, 4 * RATE :] = 0
    one, both = ("dog", 1.0, 2.5, 0.9), ("dog", 5.0, 6.5, 0.6)
    found = causal.find(audio, RATE, detector=hearing(one, both))
    assert torch.equal(found.vectors, causal.find(audio, RATE, detector=hearing(one)).vectors)
    found = causal.find(audio, RATE, detector=hearing(one, ("bell", 5.0, 6.5, 0.6)))
    assert found.labels == ("dog",)
    with pytest.raises(InputError, match="bell: .*silent"):
        causal.find(audio, RATE, detector=hearing(("bell", 5.0, 6.5, 0.6)))


def test_a_model_that_takes_vectors_hears_with_its_own_detector():
    heard = hearing(("rain", 0.0, 3.0, 0.7), ("dog", 5.0, 7.0, 0.9))
    separator = Separator.from_model(tiny_model(ASP), device="cpu", detector=heard)
    audio = noise(1, 8 * RATE)
    found = separator.find(audio, RATE)
    torch.testing.assert_close(found.vectors[0], query(separator, audio[:, 5 * RATE : 7 * RATE]))
    assert separator.separate(audio, RATE, prompts=found).labels == ("dog", "rain")


def test_threshold_and_top(causal):
    heard = hearing(*((f"sound {i}", i, i + 1, 0.3 + 0.1 * i) for i in range(6)))
    audio = noise(1, 8 * RATE)
    assert causal.find(audio, RATE, detector=heard).labels == ("sound 5", "sound 4", "sound 3")
    assert causal.find(audio, RATE, detector=heard, top=2).labels == ("sound 5", "sound 4")
    assert len(causal.find(audio, RATE, detector=heard, threshold=0.1).labels) == 6


def test_what_cannot_be_found(causal, monkeypatch, tmp_path):
    audio, heard = noise(1, 4 * RATE), hearing(("dog", 1.0, 2.0, 0.7))
    monkeypatch.setattr(names, "EMBEDDED", tmp_path)
    tuss, fixed = (Separator.from_model(tiny_model(c), device="cpu") for c in (TUSS, UNCONDITIONAL))
    bare = Separator.from_model(tiny_model(ASP), device="cpu")
    found = causal.find(audio, RATE, detector=heard)
    for call, error, says in (
        (lambda: causal.find(audio, RATE, detector=heard, threshold=0.8), InputError, "no sound that detector 'the d"),
        (lambda: causal.find(audio, RATE), CheckpointError, "no detector comes with this ussfast"),
        (lambda: causal.find(audio, RATE, detector="nowhere"), CheckpointError, "no model 'nowhere'"),
        (
            lambda: causal.find(audio, RATE, detector=heard, top=0),
            InputError,
            "top must be a whole number from 1 to 64",
        ),
        (lambda: causal.find(audio, detector=heard), InputError, "sample_rate is missing"),
        (lambda: tuss.find(audio, RATE, detector=heard), PromptError, "makes no prompts"),
        (lambda: fixed.find(audio, RATE, detector=heard), PromptError, "makes no prompts"),
        (lambda: bare.find(audio, RATE, detector=heard), PromptError, "needs a detector to make prompts"),
        (lambda: fixed.separate(audio, RATE, prompts=found), PromptError, "'model' did not find these sounds: dog"),
    ):
        with pytest.raises(error, match=says) as raised:
            call()
        assert "\n" not in str(raised.value)
