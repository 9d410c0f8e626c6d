"""Names of stems' files: each label has one of its own, and none leads elsewhere."""

import os
from pathlib import Path

import pytest

from ussfast.audio.naming import check_inputs_stay, fields, identities, stem_paths
from ussfast.errors import InputError


def names(labels, template="{label}.wav", name="talk", suffix="wav"):
    return [str(path.relative_to("out")) for path in stem_paths(Path("out"), template, labels, name, None, suffix)]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("my dog", "my_dog"), ["my_dog.wav", "my_dog-2.wav"]),
        (("a/b", "a\\b", "a b", "a_b-2"), ["a_b.wav", "a_b-2.wav", "a_b-3.wav", "a_b-2-2.wav"]),
        (("Speech", "speech", "SPEECH"), ["Speech.wav", "speech-2.wav", "SPEECH-3.wav"]),
        (("caf\u00e9", "cafe\u0301"), ["caf\u00e9.wav", "cafe_.wav"]),
        (("", ".", "..", "...hidden"), ["_.wav", "_-2.wav", "_-3.wav", "_hidden.wav"]),
        (("x" * 300, "x" * 301), None),
    ],
)
def test_each_label_has_a_file(labels, expected):
    found = names(labels)
    assert expected is None or found == expected
    assert len(set(found)) == len(labels) and all(len(name) <= 255 and "/" not in name for name in found)
    assert all(Path(name).suffix == ".wav" for name in found)


def test_fields():
    assert names(("a", "b"), "{suffix}/{name}-{index:02}-{label}") == ["wav/talk-01-a.wav", "wav/talk-02-b.wav"]
    assert names(("a",), "{{label}}-{label}.flac") == ["{label}-a.flac"]
    assert fields("{{name}}{label}/{index:3d}") == {"label", "index"}


@pytest.mark.parametrize("name", ["..", ".", "a/../../b", "a\0b", "{label}", "{0}", "/etc"])
def test_names_of_inputs_lead_nowhere(name):
    for template in ("{name}/{label}.wav", "{suffix}/{label}.wav", "{name}.wav"):
        (path,) = stem_paths(Path("out"), template, ("x",), name, None, name)
        assert path.parts[0] == "out" and ".." not in path.parts and "\0" not in str(path)


def test_long_names_keep_their_beginning_and_stay_different():
    one, two = (names(("label",), "{name}-{label}.flac", "n" * 250 + end)[0] for end in "ab")
    assert one != two and one.startswith("nnn") and one.endswith(".flac") and len(one) == 255
    assert names(("label",), "{name}-{label}.flac", "n" * 250 + "a")[0] == one
    (kanji,) = names(("label",), "{name}.wav", "\u97f3" * 100)
    assert len(os.fsencode(kanji)) <= 255 and kanji.startswith("\u97f3\u97f3") and kanji.endswith(".wav")


def test_inputs_stay(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).touch()
    (tmp_path / "soft").symlink_to("one")
    os.link(tmp_path / "one", tmp_path / "hard")
    kept = identities([tmp_path / "one", tmp_path / "gone"])
    for name in ("one", "soft", "hard", "./one"):
        with pytest.raises(InputError, match="an output would overwrite the input"):
            check_inputs_stay([tmp_path / "two", tmp_path / name], kept)
    check_inputs_stay([tmp_path / "two", tmp_path / "gone"], kept)
