"""Which label clips of a manifest or a folder have, and which of them are for validation."""

import dataclasses

import numpy as np
import pytest
import soundfile

from ussfast.data.clips import LabelRule, check_rules, labels_of, read_clips, rules_of, unknown_label
from ussfast.data.pool import Item
from ussfast.errors import InputError

ITEM = Item("a.wav", "sfx", "x", "train", "permissive", 8000, label="dog_bark")


def item(**changes):
    return dataclasses.replace(ITEM, **changes)


def test_rules_fit_by_name_label_or_prompt():
    assert LabelRule("dog_bark").fits(ITEM) and not LabelRule("dog").fits(ITEM)
    assert LabelRule("dog", labels=("cat", "dog_bark")).fits(ITEM)
    assert not LabelRule("dog_bark", labels=("cat",)).fits(ITEM)
    assert LabelRule("speech", prompts=("speech",)).fits(item(prompt="speech", label=None))
    assert not LabelRule("dog_bark", prompts=("speech",)).fits(ITEM)
    assert LabelRule("7").fits(item(label=7))


def test_the_first_rule_that_fits_gives_the_label():
    rules = (LabelRule("dog", labels=("dog_bark",)), LabelRule("effects", prompts=("sfx",)))
    assert labels_of([ITEM, item(label="x"), item(prompt="speech")], rules) == ["dog", "effects", "dog"]
    assert labels_of([item(prompt="speech", label=None)], rules) == [None]
    with pytest.raises(InputError, match="labels must differ, 'dog' is there twice"):
        check_rules((*rules, LabelRule("dog")))


def test_without_rules_every_label_of_the_training_items_counts():
    items = [ITEM, item(label="rain"), item(label="new", split="dev"), item(label=None)]
    assert [rule.name for rule in rules_of(items)] == ["dog_bark", "rain"]


def folder_of(root, counts):
    for label, count in counts.items():
        (root / label).mkdir(parents=True)
        for number in range(count):
            soundfile.write(root / label / f"{number}.wav", np.full(800, 0.1, np.float32), 8000)
    return root


def test_a_folder_has_a_subfolder_per_label(tmp_path):
    root = folder_of(tmp_path / "a", {"dog": 10, "rain": 2, "one": 1})
    (root / "dog" / "notes.txt").write_text("mine")
    items = read_clips(root)
    counts = {(label, split): 0 for label in ("dog", "rain", "one") for split in ("train", "dev")}
    for found in items:
        counts[found.label, found.split] += 1
    assert counts == {
        ("dog", "train"): 8, ("dog", "dev"): 2, ("rain", "train"): 1, ("rain", "dev"): 1, ("one", "train"): 1,
        ("one", "dev"): 0,
    }  # fmt: skip
    assert {(found.native_rate, found.seconds, found.license_class) for found in items} == {(8000, 0.1, "unknown")}
    # A file more leaves the others where they are, as long as the share is the same.
    soundfile.write(root / "rain" / "7.wav", np.zeros(80), 8000)
    before = {found.path: found.split for found in items if found.label == "dog"}
    assert {found.path: found.split for found in read_clips(root) if found.label == "dog"} == before


def test_a_folder_may_say_what_is_for_validation(tmp_path):
    folder_of(tmp_path / "train", {"dog": 3, "rain": 2})
    folder_of(tmp_path / "dev", {"dog": 1})
    found = [(item.label, item.split) for item in read_clips(tmp_path)]
    assert found == [("dog", "dev")] + [("dog", "train")] * 3 + [("rain", "train")] * 2


def test_folders_without_clips(tmp_path):
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="neither a manifest nor a folder with a subfolder of audio files per label"):
        read_clips(tmp_path)
    with pytest.raises(InputError, match="no such manifest"):
        read_clips(tmp_path / "gone")


def test_an_unknown_label_is_told_with_its_neighbours():
    assert str(unknown_label("dog", ("dogs", "rain"), "here is")) == "here is no label 'dog'; did you mean 'dogs'?"
    assert str(unknown_label("xyz", ("dogs", "rain"), "here is")) == "here is no label 'xyz'; there are 'dogs', 'rain'"
    assert str(unknown_label("xyz", (), "here is")).endswith("there are none")
