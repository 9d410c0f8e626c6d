"""What `ussfast evaluate apt` measures on: layouts of data sets, sets of N clips, and mixtures."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from apt_data import HERTZ, esc50, manifest, musdb18, record
from tiny import RATE

from ussfast.errors import AudioError, InputError
from ussfast.evaluate.apt_cases import AptConfig, methods_of, number_of, read_cases, shots_of
from ussfast.evaluate.apt_mixtures import LEVEL, crop, mixtures_of


def names(paths, root):
    return [str(path.relative_to(root)) for path in paths]


def test_esc50_has_three_folds_to_learn_from(tmp_path):
    data = read_cases(esc50(tmp_path))
    assert data.kind == "esc50" and [c.name for c in data.classes] == ["cat", "dog", "rain"] and data.left_out == ()
    cat, dog, _ = data.classes
    assert [path.name[0] for path in cat.training] == list("112233") and [p.name[0] for p in cat.test] == list("4455")
    assert all(path.stem.endswith("-A-1") for path in dog.training + dog.test)


def test_musdb18_has_four_classes(tmp_path):
    data = read_cases(musdb18(tmp_path))
    assert data.kind == "musdb18" and [c.name for c in data.classes] == ["bass", "drums", "other", "vocals"]
    vocals = data.classes[3]
    assert names(vocals.training, tmp_path) == ["train/A - One/vocals.wav", "train/B - Two/vocals.wav"]
    assert names(vocals.test, tmp_path) == ["test/C - Three/vocals.wav"]


ROWS = (
    ("t1.wav", "sfx", "dog", "tune"), ("t2.wav", "sfx", "cat", "tune"), ("t3.wav", "sfx", "dog", "tune"),
    ("d1.wav", "sfx", "dog", "dev"), ("d2.wav", "sfx", "cat", "dev"), ("x1.wav", "sfx", "dog", "train"),
    ("x2.wav", "sfx", "bird", "train"), ("x3.wav", "sfx", "bell", "dev"), ("x4.wav", "sfxbg", "cat", "tune"),
    ("x5.wav", "sfx", None, "tune"), ("x6.wav", "sfx", "bee", "tune"), ("x7.wav", "sfx", "dog", "test"),
)  # fmt: skip


def test_manifests_have_splits_of_their_own_for_it(tmp_path):
    path = manifest(tmp_path, ROWS)
    for place in (path, tmp_path):
        data = read_cases(place)
        assert data.kind == "manifest" and [c.name for c in data.classes] == ["cat", "dog"]
        assert data.left_out == ("bee",), "there is something to learn from, and nothing to test on"
        dog = data.classes[1]
        assert names(dog.training, tmp_path) == ["t1.wav", "t3.wav"] and names(dog.test, tmp_path) == ["d1.wav"]


def test_what_a_data_set_is_does_not_depend_on_where_it_is(tmp_path):
    here = read_cases(esc50(tmp_path / "here"))
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert read_cases(tmp_path / "there").fingerprint == here.fingerprint
    table = tmp_path / "there/meta/esc50.csv"
    table.write_text(table.read_text().replace(",4,", ",3,", 1))
    assert read_cases(tmp_path / "there").fingerprint != here.fingerprint


def wrong_fold(folder):
    table = esc50(folder) / "meta/esc50.csv"
    table.write_text(table.read_text().replace(",5,", ",6,", 1))


def no_column(folder):
    table = esc50(folder) / "meta/esc50.csv"
    table.write_text(table.read_text().replace("category", "kind"))


def only_training(folder):
    table = esc50(folder) / "meta/esc50.csv"
    table.write_text("\n".join(row for row in table.read_text().splitlines() if ",4," not in row and ",5," not in row))


def decoded_elsewhere(folder):
    (folder / "train").mkdir()
    (folder / "train/A - One.stem.mp4").touch()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: (folder / "x.txt").touch(), "not a data set that is known here; expected is a manifest"),
        (decoded_elsewhere, "has .stem.mp4 files: decode them first"),
        (lambda folder: (esc50(folder) / "audio/4-40-A-0.wav").unlink(), "4-40-A-0.wav: no such file, though"),
        (lambda folder: (musdb18(folder) / "test/C - Three/bass.wav").unlink(), "Three/bass.wav: no such file, though"),
        (wrong_fold, "a fold from 1 to 5, got"),
        (no_column, "no column category"),
        (only_training, "two classes or more with clips of both sorts, got 0: 'cat' has none to learn from"),
        (lambda folder: esc50(folder, ("cat",)), "two classes or more with clips of both sorts, got 1"),
        (lambda folder: manifest(folder, ROWS[3:6]), "no sound effects .* of the split 'tune'"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "is not a manifest"),
    ],
)
def test_folders_that_are_no_data_set(tmp_path, make, says):
    make(tmp_path)
    with pytest.raises(InputError, match=says):
        read_cases(tmp_path)


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="gone: no such file or folder; expected is a manifest"):
        read_cases(tmp_path / "gone")


def test_classes_are_chosen_by_name(tmp_path):
    data = read_cases(manifest(tmp_path, ROWS))
    assert [c.name for c in data.chosen(["dog"])] == ["dog"] and data.chosen(None) == data.classes
    with pytest.raises(InputError, match="no class 'wolf'; there are cat, dog"):
        data.chosen(["dog", "wolf"])
    with pytest.raises(InputError, match="'bee' has no clips to learn from, or none to test on"):
        data.chosen(["bee"])


def test_sets_of_clips_are_nested(tmp_path):
    data = read_cases(esc50(tmp_path, per_fold=4))
    for sound in data.classes:
        order = sound.order(0)
        assert sorted(order) == sorted(sound.training) and sound.order(0) == order != sound.order(1)
    first, second = ([str(p.name)[:4] for p in c.order(0)] for c in data.classes[:2])
    assert first != second


def test_files_of_classes_differ():
    from ussfast.evaluate.apt_cases import SoundClass

    files = [SoundClass(name, i, (), ()).file for i, name in enumerate(("a/b", "a b", "../x", "A B", "é" * 300))]
    assert len({file.lower() for file in files}) == 5 and all(Path(file).name == file for file in files)
    assert all(len(file) < 100 for file in files)


def test_shots():
    assert shots_of("full, 10,1,5,5") == ("1", "5", "10", "full") and shots_of("007") == ("7",)
    assert number_of("5") == 5 and number_of("full") >= 10**6
    for text in ("0", "-1", "1.5", "", "1,,5", "all", "1,five", "99999999999", "٣"):
        with pytest.raises(InputError, match="shots are whole numbers from 1 to 1000000, or 'full'"):
            shots_of(text)


def test_methods():
    assert methods_of("tuned,mean") == ("mean", "tuned")
    for text in ("median", "mean,", ""):
        with pytest.raises(InputError, match="unknown method .*; there are mean, robust, tuned, joint"):
            methods_of(text)


@pytest.mark.parametrize(
    "settings",
    [{"mixtures": 0}, {"seconds": 1.0}, {"steps": 0}, {"seed": -1}, {"backgrounds": "none"}, {"seconds": 1e9}],
)
def test_settings(settings):
    with pytest.raises(InputError, match=f"AptConfig.{next(iter(settings))} must be"):
        AptConfig(**settings)


def pitch(audio):
    return np.abs(np.fft.rfft(audio * np.hanning(len(audio)))).argmax() * RATE / len(audio)


def of_class(audio):
    return min(("cat", "dog", "rain"), key=lambda name: abs(HERTZ[name] - pitch(audio)))


def test_mixtures_are_of_two_classes_at_the_same_level(tmp_path):
    data = read_cases(esc50(tmp_path))
    dog = data.classes[1]
    made = list(mixtures_of(dog, data.classes, 12, 2.0, RATE, 0))
    for target, other in made:
        assert target.shape == other.shape == (2 * RATE,) and target.dtype == other.dtype == np.float32
        assert np.sqrt(np.mean(target**2)) == pytest.approx(LEVEL, rel=1e-3)
        assert np.sqrt(np.mean(other**2)) == pytest.approx(LEVEL, rel=1e-3)
        assert of_class(target) == "dog"
    assert {of_class(other) for _, other in made} == {"cat", "rain"}
    assert len({round(pitch(target), 1) for target, _ in made}) == len(dog.test), "clips take turns"
    few = list(mixtures_of(dog, data.classes, 3, 2.0, RATE, 0))
    assert all(np.array_equal(a, b) for one, two in zip(few, made, strict=False) for a, b in zip(one, two, strict=True))
    another = next(mixtures_of(dog, data.classes, 1, 2.0, RATE, 1))
    assert not all(np.array_equal(a, b) for a, b in zip(another, made[0], strict=True))


def test_silent_test_clips_are_passed_over(tmp_path):
    data = read_cases(esc50(tmp_path))
    cat, _, rain = data.classes
    for path in cat.test[1:]:
        record(path, "cat", -1)
    assert {of_class(target) for target, _ in mixtures_of(cat, data.classes, 8, 2.0, RATE, 0)} == {"cat"}
    record(cat.test[0], "cat", -1)
    with pytest.raises(InputError, match="is silent, and so are all test clips of its class"):
        list(mixtures_of(cat, data.classes, 1, 2.0, RATE, 0))
    with pytest.raises(InputError, match="is silent, and so are"):
        list(mixtures_of(rain, data.classes, 30, 2.0, RATE, 0))


def test_the_part_of_a_long_recording_that_is_heard(tmp_path):
    audio = np.zeros(60 * RATE, np.float32)
    audio[50 * RATE : 50 * RATE + RATE // 2] = 0.1
    soundfile.write(tmp_path / "long.wav", audio, RATE)
    cut = crop(tmp_path / "long.wav", 2.0, RATE, np.random.default_rng(0))
    assert np.count_nonzero(cut > 0.01) == RATE // 2
    high = crop(tmp_path / "long.wav", 2.0, 11_025, np.random.default_rng(0))
    assert high.shape == (22_050,) and np.sqrt(np.mean(high**2)) == pytest.approx(LEVEL, rel=1e-3)
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    with pytest.raises(AudioError, match=r"bad\.wav"):
        crop(tmp_path / "bad.wav", 2.0, RATE, np.random.default_rng(0))
