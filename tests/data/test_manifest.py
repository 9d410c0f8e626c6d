"""Manifests that others have written: rows whose fields fit, and errors that name those that do not."""

import json

import pytest

from ussfast.data.manifest import merge, read_rows, write_rows
from ussfast.data.pool import read_manifest
from ussfast.errors import InputError

GOOD = {"path": "a.wav", "prompt": "sfx", "split": "train", "license_class": "free-use", "sample_rate": 8000}


def written(folder, *rows):
    (folder / "manifest.json").write_text(json.dumps({"items": list(rows)}))
    return folder / "manifest.json"


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"path": 5}, r"items\[1\]\.path must be a str, got 5"),
        ({"path": ["a"]}, r"items\[1\]\.path must be a str, got a list of 1"),
        ({"path": "a\0"}, r"items\[1\]\.path must be a path"),
        ({"path": ""}, r"items\[1\]\.path must be a path"),
        ({"sample_rate": "1e999"}, r"items\[1\]\.sample_rate must be a float, got '1e999'"),
        ({"sample_rate": 0}, r"items\[1\]\.sample_rate must be 1 to 10000000"),
        ({"sample_rate": 10**400}, "more than 64 bits"),
        ({"sample_rate": True}, "sample_rate must be a float"),
        ({"seconds": -1}, "seconds must be 0 to"),
        ({"seconds": None}, "seconds must be a float, got None"),
        ({"prompt": ["speech"]}, "prompt must be a str, got a list of 1"),
        ({"split": {}}, "split must be a str"),
        ({"license_class": 3}, "license_class must be a str"),
        ({"license": ["CC0"]}, "license must be a str"),
        ({"song": ["a"]}, r"items\[1\]\.song must be a name or a number, got a list of 1"),
        ({"speaker": {}}, "speaker must be a name or a number"),
        ({"label": 1.5}, "label must be a name or a number"),
        ({"aligned_with": "b.wav"}, "aligned_with must be a list"),
        ({"aligned_with": [5]}, r"aligned_with\[0\] must be a str"),
        ({"aligned_with": None}, "aligned_with must be a list"),
        ({"source": "\ud800"}, "half a character"),
    ],
)
def test_fields_that_do_not_fit_are_named(tmp_path, entry, says):
    path = written(tmp_path, GOOD, GOOD | entry)
    with pytest.raises(InputError, match=says) as caught:
        read_rows(path)
    assert str(caught.value).startswith(str(path)) and str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text",
    ['{"items": [{"path": "a", "seconds": 1e999}]}', '{"items": ' + "[" * 10**5, '{"items": 5}', '{"items": [5]}', "5"],
)
def test_files_that_are_none(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json is not a manifest \(a table with 'items'\)"):
        read_rows(tmp_path / "manifest.json")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_names_of_files_that_can_be_none(tmp_path, name):
    with pytest.raises(InputError, match="no such manifest"):
        read_rows(tmp_path / name)


def test_what_is_read_is_what_was_written(tmp_path):
    row = GOOD | {"song": 3, "speaker": None, "aligned_with": ["b.wav"], "colour": [{}], "sample_rate": 44100.0}
    path = written(tmp_path, row)
    assert read_rows(path) == [row]
    (item,) = read_manifest(path)
    assert (item.native_rate, item.song, item.group, item.license) == (44100, 3, "3", "unknown")
    rows = merge([path], tmp_path / "all.json")
    write_rows(tmp_path / "all.json", rows)
    assert read_rows(tmp_path / "all.json") == rows == [row]
