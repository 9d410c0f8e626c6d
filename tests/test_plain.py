"""JSON, YAML and dataclasses of what strangers wrote: within bounds, and refused in one line."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
import yaml

from ussfast.errors import InputError, OutputError
from ussfast.plain import Checked, Name, Range, check_known, from_dict, read_json, read_yaml, shown


@dataclass(frozen=True)
class Part(Checked):
    size: Annotated[int, Range(1, 100)]


@dataclass(frozen=True)
class Whole(Checked):
    name: Name = "a"
    share: Annotated[float, Range(0, 1)] = 0.5
    free: float = 0.0
    parts: Annotated[tuple[Part, ...], Range(0, 2)] = ()
    kind: Literal["a", "b"] | None = None
    most: Annotated[int, Range(0, 9)] | None = None


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"share": 1.5}, r"it\.share must be 0 to 1, got 1\.5"),
        ({"share": float("nan")}, r"it\.share must be a finite number"),
        ({"free": float("inf")}, r"it\.free must be a finite number"),
        ({"free": 10**400}, r"it\.free must be .* got a number of more than 64 bits"),
        ({"most": 10**400}, r"it\.most must be .* got a number of more than 64 bits"),
        ({"most": 10}, r"it\.most must be 0 to 9, got 10"),
        ({"parts": [{"size": 0}]}, r"it\.parts\[0\]\.size must be 1 to 100, got 0"),
        ({"parts": [{"size": 1}] * 3}, r"it\.parts must have 0 to 2 entries, got a tuple of 3"),
        ({"name": ""}, r"it\.name must be 1 to 255 characters that can be printed, got ''"),
        ({"name": "a\nb"}, r"it\.name must be .* got 'a\\nb'"),
        ({"name": "x" * 300}, r"it\.name must be .* got 'x{59}\.\.\."),
        ({"kind": []}, r"it\.kind must be one of \['a', 'b'\], got a list of 0"),
        ({"kind": True}, r"it\.kind must be one of"),
        ({3: 1, "x": 2}, r"unknown \['3', 'x'\]"),
    ],
)
def test_values_that_do_not_fit(data, says):
    with pytest.raises(InputError, match=says):
        from_dict(Whole, data, "it")


def test_what_fits():
    data = {"share": 1, "parts": [{"size": 2}], "kind": "b", "most": None}
    whole = from_dict(Whole, data)
    assert whole == Whole(share=1.0, parts=(Part(2),), kind="b") and isinstance(whole.share, float)
    with pytest.raises(InputError, match="Part.size must be 1 to 100"):
        Part(0)  # however it is made
    check_known(Part, {"size": 1, "colour": []}, "row")
    with pytest.raises(InputError, match="row lacks size"):
        check_known(Part, {"colour": 1}, "row")


def nested(kind, depth):
    return "[" * depth + "1" + "]" * depth if kind == "json" else "\n".join("  " * i + "a:" for i in range(depth))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not readable as JSON"),
        ('{"a": NaN}', "NaN is not a number of JSON"),
        ('{"a": [-Infinity]}', "-Infinity is not a number of JSON"),
        ('{"a": 1e999}', "'1e999' is not a number of JSON"),
        ("1" + "0" * 5000, "not readable as JSON"),
        (nested("json", 61), "nested deeper than 60"),
        (nested("json", 100_000), "nested deeper than 60"),
        ('"\\ud800"', "half a character"),
        ('{"a": "\x00"}', "not readable as JSON"),
        (b"\xff\xfe\xff", "not readable as JSON"),
        (" " * (4 << 20) + "1", "more than 4194304 bytes"),
    ],
)
def test_json_that_is_refused(tmp_path, text, says):
    path = tmp_path / "x"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=says) as caught:
        read_json(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_json_that_is_read(tmp_path):
    path = tmp_path / "x"
    path.write_text('{"a": [1, -2.5e3, null, true, "\u00e9\\ud83d\\ude00"]}')
    assert read_json(path) == {"a": [1, -2500.0, None, True, "\u00e9\U0001f600"]}
    with pytest.raises(InputError, match="not readable: "):
        read_json(tmp_path)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 10)}]}}\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LAUGHS, "more than 200000 values, aliases followed"),
        (MERGES, "more than 200000 values, aliases followed"),
        ("&a [*a]", "nested deeper than 60"),
        ("&a {b: *a}", "nested deeper than 60"),
        ("&a {? *a : 1}", "not readable as YAML"),
        (nested("yaml", 61), "nested deeper than 60"),
        ("[" * 10_000, "nested deeper than 60"),
        ("a: 2020-13-45", "not readable as YAML"),
        ("a: !!int abc", "not readable as YAML"),
        ("a: !!timestamp abc", "not readable as YAML"),
        ("a: !!float abc", "not readable as YAML"),
        ("a: !!binary '\u00e9'", "not readable as YAML"),
        ("a: !!python/object:os.system x", "not readable as YAML"),
        ("? {a: 1}\n: 2", "not readable as YAML"),
        ('"\\ud800"', "half a character"),
        ("a: 1\n---\nb: 2", "not readable as YAML"),
        ("# " + "x" * (1 << 19), "more than 524288 bytes"),
    ],
)
def test_yaml_that_is_refused(tmp_path, text, says):
    path = tmp_path / "x"
    path.write_text(text)
    with pytest.raises(InputError, match=says) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_yaml_that_is_read(tmp_path):
    path = tmp_path / "x"
    shared = {"size": 1}
    path.write_text(yaml.safe_dump({"a": shared, "b": [shared, {3: 1.5}], "c": None}))
    assert "&id001" in path.read_text()
    assert read_yaml(path) == {"a": shared, "b": [shared, {3: 1.5}], "c": None}
    path.write_text("")
    assert read_yaml(path) is None


def test_values_are_shown_in_short():
    assert shown("a\n") == repr("a\n") and shown(3) == "3"
    assert shown(10**5000) == "a number of more than 64 bits"
    assert len(shown("x" * 10**6)) < 70 and shown([1] * 10**6) == "a list of 1000000"


def test_an_error_is_one_line_that_can_be_printed():
    error = OutputError("a\nb\x1b[31m\u2028\udc80 \u00e9")
    assert str(error) == "a\\nb\\x1b[31m\\u2028\\udc80 \u00e9"
    assert len(str(InputError("x" * 10**6))) < 2100
