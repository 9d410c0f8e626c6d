"""`ussfast train voices`: copies of recorded speech by other voices, everything else untouched."""

import builtins

import numpy as np
import pytest
import soundfile

from ussfast.audio import read
from ussfast.cli.main import main
from ussfast.data.manifest import read_rows, write_rows
from ussfast.data.pool import read_manifest
from ussfast.data.voices import FULL_RATE, Hiss, Voice, change_voice, draw_voice, make_voices, resonances
from ussfast.errors import InputError, OutputError

RATE, PITCH, FORMANT = 16000, 120.0, 1500.0
SAME = Voice(pitch=PITCH, melody=1.0, formants=1.0, full_band=False, fall_db=6.0, breath=1.0, bass_db=0.0)


def vowel(seconds=1.5, pitch=PITCH):
    """Harmonics under one formant, and a little noise."""
    time = np.arange(round(RATE * seconds)) / RATE
    moving = pitch * (1 + 0.05 * np.sin(2 * np.pi * 3 * time))
    phase = 2 * np.pi * np.cumsum(moving) / RATE
    tones = [np.cos(k * phase) / (0.1 + abs(k * pitch - FORMANT) / FORMANT) for k in range(1, int(7600 / pitch))]
    return 0.01 * sum(tones) + 1e-4 * np.random.default_rng(0).standard_normal(len(time))


def pitch_of(x, rate):
    """By the first peak of the autocorrelation between 60 and 400 Hz."""
    spectrum = np.abs(np.fft.rfft(x, 2 * len(x))) ** 2
    likeness = np.fft.irfft(spectrum)
    first, last = rate // 400, rate // 60
    return rate / (first + likeness[first:last].argmax())


def centre_of(x, rate):
    """Mean frequency of the power up to 6 kHz."""
    power, hz = np.abs(np.fft.rfft(x)) ** 2, np.fft.rfftfreq(len(x), 1 / rate)
    return (power * hz)[hz < 6000].sum() / power[hz < 6000].sum()


def changed(**values):
    return change_voice(vowel(), RATE, Voice(**(vars(SAME) | values)))


def test_pitch_and_formants_move_apart():
    (same, _), (higher, rate), (longer, _) = changed(), changed(pitch=1.4 * PITCH), changed(formants=0.85)
    assert rate == RATE and same.dtype == np.float32
    assert pitch_of(same, RATE) == pytest.approx(PITCH, rel=0.05)
    assert pitch_of(higher, RATE) == pytest.approx(1.4 * PITCH, rel=0.05)
    assert pitch_of(longer, RATE) == pytest.approx(PITCH, rel=0.05)
    assert centre_of(higher, RATE) == pytest.approx(centre_of(same, RATE), rel=0.08)
    assert centre_of(longer, RATE) == pytest.approx(0.85 * centre_of(same, RATE), rel=0.08)
    assert np.abs(higher).max() == pytest.approx(np.abs(vowel()).max(), rel=0.02)


def test_full_band_voices_have_an_octave_more():
    wide, rate = changed(full_band=True, fall_db=0.0)
    assert rate == FULL_RATE and abs(len(wide) - 2 * len(vowel())) < 400

    def above_8k(x):
        power, hz = np.abs(np.fft.rfft(x)) ** 2, np.fft.rfftfreq(len(x), 1 / FULL_RATE)
        return 10 * np.log10(power[hz > 8500].sum() / power.sum())

    assert above_8k(wide) - above_8k(changed(full_band=True, fall_db=12.0)[0]) == pytest.approx(12, abs=2)


def syllables():
    """A vowel, a pause with little noise, and a burst of noise from 3 kHz to the end; half a second each."""
    rng = np.random.default_rng(0)
    spectrum = np.fft.rfft(0.1 * rng.standard_normal(RATE // 2))
    spectrum[np.fft.rfftfreq(RATE // 2, 1 / RATE) < 3000] = 0
    x = np.concatenate([vowel(0.5), np.zeros(RATE // 2), np.fft.irfft(spectrum)])
    return x + 1e-3 * rng.standard_normal(len(x))


def said(part, **values):
    """The syllables by a full-band voice; the middle of one of them, 0.4 s at FULL_RATE."""
    made = change_voice(syllables(), RATE, Voice(**(vars(SAME) | {"full_band": True} | values)))
    return made[0][int((0.5 * part + 0.05) * FULL_RATE) :][: int(0.4 * FULL_RATE)]


def level(x, least_hz, most_hz):
    """Per Hz, in dB."""
    power, hz = np.abs(np.fft.rfft(x * np.hanning(len(x)))) ** 2, np.fft.rfftfreq(len(x), 1 / FULL_RATE)
    return 10 * np.log10(power[(hz > least_hz) & (hz < most_hz)].mean())


def test_consonants_get_a_band_of_their_own():
    hiss = Hiss(low_hz=5000, high_hz=10000, rise_db=30.0, drop_db=300.0)
    vowels, consonants = said(0, hiss=(hiss,)), said(2, hiss=(hiss,))
    assert level(consonants, 8500, 9900) == pytest.approx(level(consonants, 5000, 7000), abs=2)
    assert level(consonants, 2400, 2600) == pytest.approx(level(consonants, 5000, 7000) - 30, abs=5)
    assert level(consonants, 12500, 15000) < level(consonants, 8500, 9900) - 50
    assert level(said(2), 12500, 15000) > level(said(2), 8500, 9900) - 10
    assert level(consonants, 5000, 7000) == pytest.approx(level(said(2), 5000, 7000), abs=3)
    assert level(vowels, 9000, 15000) == pytest.approx(level(said(0), 9000, 15000), abs=1)
    louder = Hiss(low_hz=5000, high_hz=10000, rise_db=30.0, drop_db=300.0, gain_db=6.0)
    apart = said(2, hiss=(hiss, louder)), said(2, hiss=(louder, hiss))  # in turn: the first stretch is not the last
    assert abs(level(apart[0], 5000, 9000) - level(apart[1], 5000, 9000)) > 3


def test_bands_end_and_have_peaks():
    ended = said(2, end_hz=11000.0)
    assert level(ended, 11500, 15000) < level(ended, 9000, 10500) - 50
    assert level(ended, 9000, 10500) == pytest.approx(level(said(2), 9000, 10500), abs=1)
    peaked = said(2, peaks=((12000.0, 10.0),))
    assert level(peaked, 11800, 12200) == pytest.approx(level(said(2), 11800, 12200) + 10, abs=2)
    assert level(peaked, 6000, 7000) == pytest.approx(level(said(2), 6000, 7000), abs=1)


def test_dry_voices_lose_the_noise_of_pauses():
    assert level(said(1, dry=True), 1000, 6000) < level(said(1), 1000, 6000) - 4
    assert level(said(0, dry=True), 1000, 2000) == pytest.approx(level(said(0), 1000, 2000), abs=1)


def test_resonances_are_what_a_spectrum_was_made_of():
    poles = [1.0, -1.2, 0.81]  # one formant
    power = 3.0 / np.abs(np.fft.rfft(poles, 1024)) ** 2
    assert resonances(np.stack([power, 0 * power + 1e-16]), 2)[0] == pytest.approx(power, rel=1e-3)
    rippled = power * (1.5 + np.cos(np.arange(513) / 2))
    assert np.log(resonances(rippled[None], 2)[0] / power).std() < 0.3 * np.log(rippled / power).std()
    assert np.isfinite(resonances(np.full((1, 513), 1e-16), 12)).all()


def test_drawn_voices_cover_the_kinds():
    voices = [draw_voice(np.random.default_rng(seed), 0.5) for seed in range(400)]
    assert voices[7] == draw_voice(np.random.default_rng(7), 0.5)
    wide = [voice for voice in voices if voice.full_band]
    assert 150 < len(wide) < 250
    for voice in voices:
        assert voice.full_band or not any((voice.hiss, voice.peaks, voice.poles, voice.end_hz, voice.dry))
        assert all(h.low_hz < h.high_hz < FULL_RATE / 2 for h in voice.hiss) and voice.fall_db <= 40
    for has in (
        lambda v: v.hiss, lambda v: v.peaks, lambda v: v.poles, lambda v: v.end_hz, lambda v: v.dry,
        lambda v: v.fall_db > 15, lambda v: v.breath == 0,
    ):  # fmt: skip
        assert 0.1 < np.mean([bool(has(voice)) for voice in wide]) < 0.75


def test_noise_has_no_voice():
    assert change_voice(1e-3 * np.random.default_rng(0).standard_normal(RATE), RATE, SAME) is None


@pytest.fixture
def manifest(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    rows = []
    for number in range(6):
        soundfile.write(folder / f"{number}.wav", vowel(pitch=100 + 20 * number), RATE, "FLOAT")
        rows.append({
            "path": f"{number}.wav", "prompt": "sfx" if number == 3 else "speech",
            "split": "dev" if number == 4 else "train", "license_class": "permissive", "license": "CC0",
            "source": "vowels", "sample_rate": RATE, "seconds": 1.5, "speaker": f"s{number // 2}", "real": number != 5,
        })  # fmt: skip
    write_rows(folder / "manifest.json", rows)
    return folder / "manifest.json"


def test_recorded_training_speech_gets_copies(manifest, tmp_path):
    assert make_voices(manifest, tmp_path / "out", full_band=1.0) == (3, 9)
    rows, before = read_rows(tmp_path / "out/manifest.json"), read_rows(manifest)
    copies = [row for row in rows if row["source"] == "vowels (voice changed)"]
    kept = [row for row in rows if row not in copies]
    assert [row["speaker"] for row in copies] == ["s0 changed", "s0 changed", "s1 changed"]
    assert [{**row, "path": None} for row in kept] == [{**row, "path": None} for row in before]
    for row, item in zip(rows, read_manifest(tmp_path / "out/manifest.json"), strict=True):
        audio, rate = read(item.path)
        assert rate == row["sample_rate"] and audio.shape[1] == pytest.approx(row["seconds"] * rate, abs=1)
        assert (row in copies) == (rate == FULL_RATE) and (row in kept or not row["real"])
    # One speaker has one voice.
    first, second = (pitch_of(read(tmp_path / "out" / row["path"])[0][0], FULL_RATE) for row in copies[:2])
    assert second == pytest.approx(first, rel=0.06)


def test_the_choice_does_not_depend_on_the_rest(manifest, tmp_path):
    make_voices(manifest, tmp_path / "all", share=0.5, seed=1)
    write_rows(manifest, read_rows(manifest)[1:])
    make_voices(manifest, tmp_path / "some", share=0.5, seed=1)
    made = [{p.name: p.read_bytes() for p in (tmp_path / f / "voices").iterdir()} for f in ("all", "some")]
    after = {f"{int(name[:6]) - 1:06d}.flac": data for name, data in made[0].items() if name != "000000.flac"}
    assert made[1] == after


def test_the_command(manifest, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["train", "voices", str(manifest), str(tmp_path / "out"), "--share", "0"])
    assert not exit.value.code and "6 items, 0 of them changed voices" in capsys.readouterr().out


def test_what_cannot_be_done(manifest, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="between 0 and 1"):
        make_voices(manifest, tmp_path / "out", share=2)
    with pytest.raises(OutputError, match="is there already"):
        make_voices(manifest, tmp_path)
    plain = builtins.__import__

    def without(name, *args):
        if name == "pyworld":
            raise ImportError(name)
        return plain(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'ussfast\[voices\]'"):
        make_voices(manifest, tmp_path / "out")
    assert not (tmp_path / "out").exists()
