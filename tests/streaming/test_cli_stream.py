"""`ussfast stream` with pipes and files, against a separator that only scales: every byte can be checked."""

import json

import numpy as np
import pytest
import soundfile
from fake_session import HOP_S, FakeSeparator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from replaced_stdio import Terminal
from test_pace import Clock
from test_pcm import Dribble, pcm

from ussfast.streaming.live.pace import at_pace
from ussfast.streaming.live.pcm import WIDTHS, decode

RATE = 8000
RAW = ("--rate", RATE)


def numbers(frames, channels=1, limit=2**13):
    """Random s16le samples, [frames, channels], that leave room for gains, divisible by 4."""
    values = np.random.default_rng(frames).integers(-limit, limit, (frames, channels)) * 4
    return values.astype("<i2")


def complaint(result, code=2):
    assert result[0] == code, result
    assert result[2].startswith("ussfast: ") and result[2].count("\n") == 1, result[2]
    return result[2]


def wav(path, frames=3000, channels=2, rate=RATE):
    audio = numbers(frames, channels)
    soundfile.write(path, audio, rate, subtype="PCM_16")
    return audio


@pytest.mark.parametrize("format", sorted(WIDTHS))
@pytest.mark.parametrize("channels", [1, 3])
def test_one_prompt_is_put_out_byte_for_byte(stream, format, channels):
    data = pcm(format, channels, 5000)
    assert stream("-p", "same", *RAW, "--channels", channels, "--format", format, data=data) == (0, data, "")
    session = FakeSeparator.sessions[-1]
    assert (session.sample_rate, session.channels, session.labels) == (RATE, channels, ("same",))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames=st.integers(1, 700), channels=st.integers(1, 3), sizes=st.lists(st.integers(1, 400), min_size=1))
def test_reads_of_any_sizes_lose_nothing(stream, frames, channels, sizes):
    data = pcm("s16le", channels, frames)
    result = stream("-", "-p", "same", *RAW, "--channels", channels, data=Dribble(data, sizes))
    assert result == (0, data, "")


def test_settings_reach_the_separator(stream, monkeypatch):
    seen = []

    class Noting(FakeSeparator):
        def __init__(self, *arguments, **settings):
            seen.append((arguments, settings))
            super().__init__(*arguments, **settings)

        def session(self, *arguments, prompts, **settings):
            seen.append(prompts)
            return super().session(*arguments, prompts=prompts, **settings)

    monkeypatch.setattr("ussfast.separator.Separator", Noting)
    options = ("-m", "some/model", "--device", "cuda:1", "--dtype", "int8", "--backend", "reference")
    options += ("--max-attenuation", "12", "--sum-to-mixture", "--stereo", "linked")
    assert stream("-p", "same", "-p", "half", "--all", *options, *RAW, data=bytes(4))[0] == 0
    expected = {"device": "cuda:1", "dtype": "int8", "backend": "reference"}
    expected |= {"max_attenuation": 12.0, "sum_to_mixture": True, "channels": "linked", "detector": None}
    assert seen == [(("some/model",), expected), ("same", "half")]


def test_a_chosen_stem_and_the_residual(stream):
    audio = numbers(1000, 2)
    for stem, gain in (("half", 0.5), ("quarter", 0.25), ("residual", 0.25)):
        code, out, _ = stream(
            "-p", "half", "-p", "quarter", "--stem", stem, *RAW, "--channels", 2, data=audio.tobytes()
        )  # fmt: skip
        assert code == 0 and out == (audio * gain).astype("<i2").tobytes()


def test_all_stems_as_channels_stem_by_stem(stream):
    audio = numbers(1000, 2)
    code, out, _ = stream("-p", "same", "-p", "half", "--all", *RAW, "--channels", 2, data=audio.tobytes())
    assert code == 0
    left, right = audio.T
    expected = np.stack([left, right, left // 2, right // 2], 1).astype("<i2")
    np.testing.assert_array_equal(np.frombuffer(out, "<i2").reshape(-1, 4), expected)


def test_repeated_prompts_are_numbered(stream):
    data = numbers(500).tobytes()
    assert stream("-p", "same", "-p", "same", "--stem", "same-2", *RAW, data=data) == (0, data, "")


def test_loud_stems_are_clipped_and_it_is_said(stream):
    audio = np.array([[100], [16384], [-16384], [-30000]], "<i2")
    code, out, err = stream("-p", "loud", *RAW, data=audio.tobytes())
    assert code == 0 and np.frombuffer(out, "<i2").tolist() == [400, 32767, -32768, -32768]
    assert err == "ussfast: 0 dropouts, 3 clipped samples\n"
    code, out, err = stream("-p", "loud", *RAW, "--json", data=audio.tobytes())
    assert [json.loads(line)["clipped"] for line in err.splitlines()] == [3]


def test_bytes_beyond_the_last_frame_are_an_error_after_the_rest(stream, tmp_path):
    audio = numbers(777, 2)
    result = stream(
        "-p", "same", "--stem", "same", *RAW, "--channels", 2, "-o", tmp_path, data=audio.tobytes() + b"\1\2\3"
    )  # fmt: skip
    assert "3 bytes too many at the end: 2 channels of s16le make frames of 4 bytes" in complaint(result)
    assert result[1] == audio.tobytes()
    np.testing.assert_array_equal(soundfile.read(tmp_path / "same.wav")[0], audio / 2**15)


def test_a_file_that_turns_out_damaged_is_an_error_after_the_rest(stream, tmp_path):
    audio = np.zeros((3000, 1), np.float32)
    audio[:2000], audio[2000] = 0.25, np.nan
    soundfile.write(tmp_path / "a.wav", audio, RATE, subtype="FLOAT")
    result = stream(tmp_path / "a.wav", "-p", "same", "--fast")
    assert "contains NaN, first at 0.250 s" in complaint(result)
    assert result[1] == np.full(12 * 160, 2**13, "<i2").tobytes()  # up to the hop that has it


def test_nan_in_float_input(stream):
    audio = np.array([0.5, np.nan, -0.5], "<f4")
    base = ("-p", "same", *RAW, "--format", "f32le")
    code, out, _ = stream(*base, data=audio.tobytes())
    assert code == 0 and np.frombuffer(out, "<f4").tolist() == [0.5, 0, -0.5]
    assert "NaN in the chunk" in complaint(stream(*base, "--on-bad", "raise", data=audio.tobytes()))


def test_a_file_at_its_own_pace(stream, tmp_path, monkeypatch):
    audio, clock = wav(tmp_path / "a.wav"), Clock()
    monkeypatch.setattr("ussfast.streaming.live.sources.at_pace", lambda b, rate: at_pace(b, rate, clock, clock.sleep))
    assert stream(tmp_path / "a.wav", "-p", "same") == (0, audio.tobytes(), "")
    session = FakeSeparator.sessions[-1]
    assert session.pushes == [round(HOP_S * RATE)] * 18 + [120]
    np.testing.assert_allclose(clock.slept, 3000 / RATE)


def test_a_file_without_waiting(stream, tmp_path, monkeypatch):
    audio = wav(tmp_path / "a.wav")
    monkeypatch.setattr("ussfast.streaming.live.sources.at_pace", None)
    assert stream(tmp_path / "a.wav", "-p", "same", "--fast") == (0, audio.tobytes(), "")
    code, out, _ = stream(tmp_path / "a.wav", "-p", "half", "--fast", "--format", "f32le")
    np.testing.assert_array_equal(decode(out, "f32le", 2).T, audio / 2**16)


def test_files_of_all_stems(stream, tmp_path):
    audio = wav(tmp_path / "a.wav")
    result = stream(tmp_path / "a.wav", "-p", "same", "-p", "half", "-o", tmp_path / "out", "--residual", "--fast")
    paths = [tmp_path / f"out/{name}.wav" for name in ("same", "half", "residual")]
    assert result == (0, "".join(f"{path}\n" for path in paths).encode(), "")
    for path, gain in zip(paths, (1, 0.5, -0.5), strict=True):
        assert soundfile.info(path).subtype == "FLOAT" and soundfile.info(path).samplerate == RATE
        np.testing.assert_array_equal(soundfile.read(path)[0], audio / 2**15 * gain)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["half.wav", "residual.wav", "same.wav"]


def test_files_and_a_stem_at_once(stream, tmp_path):
    data = numbers(900).tobytes()
    assert stream("-p", "same", "-p", "half", "-o", tmp_path, "--stem", "same", *RAW, data=data) == (0, data, "")
    assert soundfile.info(tmp_path / "half.wav").frames == 900


def test_statistics(stream, tmp_path):
    data = numbers(RATE).tobytes()
    code, out, err = stream("-p", "same", *RAW, "--statistics", data=data)
    assert (code, out) == (0, data) and err.splitlines()[-1].startswith("in all 1.0 s, RTF ")
    code, out, err = stream("-p", "same", *RAW, "--json", data=data)
    last = json.loads(err.splitlines()[-1])
    assert (last["summary"], last["seconds"], last["dropouts"], last["latency_ms"]) == (True, 1.0, 0, 40.0)
    assert last["rtf"] > 0 and last["step_p99_ms"] >= last["step_p50_ms"] > 0


MISUSE = {
    "no rate": (("-p", "same"), "raw PCM does not tell its sample rate: give --rate"),
    "stems not chosen": (
        ("-p", "same", "-p", "half", *RAW),
        "several stems (same, half): choose one with --stem NAME, or all as channels with --all",
    ),
    "unknown stem": (("-p", "same", *RAW, "--stem", "half"), "unknown stem 'half'; there are same, residual"),
    "both": (("-p", "same", *RAW, "--stem", "same", "--all"), "--stem and --all exclude each other"),
    "unknown prompt": (("-p", "speach", *RAW), "unknown prompt 'speach'"),
    "no prompt": (RAW, "no prompts given"),
    "fast pipe": (("-p", "same", *RAW, "--fast"), "--fast is for files"),
    "residual": (("-p", "same", *RAW, "--residual"), "it needs -o DIR"),
    "live option": (("-p", "same", *RAW, "--input-device", "1"), "--input-device is for --live only"),
    "block": (("-p", "same", *RAW, "--block", 10), "--block is for --live only"),
    "rate of a file": (("good.wav", "-p", "same", *RAW), "--rate is for raw PCM; a file has its own"),
    "channels of a file": (("good.wav", "-p", "same", "--channels", 2), "--channels is for raw PCM"),
    "no file": (("gone.wav", "-p", "same"), "gone.wav: no such file"),
    "no audio": (("notes.txt", "-p", "same"), "notes.txt: libsndfile could not read it"),
    "empty": (("-p", "same", *RAW), "standard input: no audio in it (0 samples)"),
    "itself": (("same.wav", "-p", "same", "-o", "."), "an output would overwrite the input"),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse(stream, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    wav(tmp_path / "good.wav")
    (tmp_path / "notes.txt").write_text("not audio")
    arguments, says = MISUSE[name]
    if name == "itself":
        before = wav(tmp_path / "same.wav")
    result = stream(*arguments)
    assert says in complaint(result) and result[1] == b""
    if name == "itself":
        np.testing.assert_array_equal(soundfile.read("same.wav", dtype="int16")[0], before)


@pytest.mark.parametrize(
    "options", [("--rate", 0), ("--rate", "fast"), (*RAW, "--channels", 0), (*RAW, "--format", "s8"), ("--on-bad", "?")]
)
def test_values_that_the_parser_refuses(stream, options):
    code, out, err = stream("-p", "same", *options)
    assert code == 2 and out == b"" and "Usage: " in err and "Error" in err


def test_terminals_are_refused(stream, monkeypatch, tmp_path):
    result = stream("-p", "same", *RAW, kind=Terminal)
    assert "standard input is a terminal" in complaint(result)
    wav(tmp_path / "a.wav")
    assert "standard output is a terminal: pipe or redirect" in complaint(
        stream(tmp_path / "a.wav", "-p", "same", kind=Terminal)
    )
    assert stream(tmp_path / "a.wav", "-p", "same", "--fast", "-o", tmp_path / "out", kind=Terminal)[0] == 0


def test_closed_standard_input_and_output(stream, tmp_path):
    wav(tmp_path / "a.wav")
    assert "standard input is closed" in complaint(stream("-p", "same", *RAW, data=None))
    assert "standard output is closed" in complaint(stream(tmp_path / "a.wav", "-p", "same", data=None))
