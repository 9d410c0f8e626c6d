"""Callers' arrays, and the files that paths mean."""

import numpy as np
import pytest
import torch

from ussfast.audio import find_inputs, validate
from ussfast.errors import AudioError

RATE = 16_000


def noise(channels=2, frames=RATE):
    return (np.random.default_rng(0).standard_normal((channels, frames)) * 0.1).astype(np.float32)


class Tensor:
    """What `validate` may rely on in a torch tensor."""

    def __init__(self, values, bfloat16=False):
        self.values, self.bfloat16, self.steps = values, bfloat16, []

    def detach(self):
        self.steps.append("detach")
        return self

    def cpu(self):
        self.steps.append("cpu")
        return self

    def float(self):
        return Tensor(self.values)

    def numpy(self):
        if self.bfloat16:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.values


def test_validate_takes_floats_and_tensors():
    mono = noise(1, 50)[0]
    np.testing.assert_array_equal(validate(mono), mono[None])
    for dtype in (np.float16, np.float64, ">f4"):
        got = validate(noise().astype(dtype))
        assert got.dtype == np.float32 and got.dtype.isnative and got.shape == (2, RATE)
    for tensor in (Tensor(noise()), Tensor(noise(), bfloat16=True)):
        np.testing.assert_array_equal(validate(tensor), noise())
        assert tensor.steps == ["detach", "cpu"]
    assert validate(noise(2, 200).T[:60]).flags.c_contiguous
    assert validate(np.zeros((100, 200))).shape == (100, 200)


def test_validate_takes_real_torch_tensors():
    tensor = torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True)
    np.testing.assert_array_equal(validate(tensor * 0.5), np.full((2, 3), 0.5))
    np.testing.assert_array_equal(validate(torch.tensor([-32768, 16384], dtype=torch.int16)), [[-1, 0.5]])


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"])
def test_validate_scales_integers_by_their_range(dtype):
    kind = np.iinfo(dtype)
    middle = (kind.max + kind.min + 1) // 2
    values = np.array([kind.min, middle, middle + (kind.max - middle + 1) // 2, kind.max], dtype)
    before = values.copy()
    got = validate(values)
    np.testing.assert_allclose(got, [[-1, 0, 0.5, 1 - 2.0 ** -(kind.bits - 1)]], rtol=1e-7)
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize(
    "array, message",
    [
        (np.float32(1.0), r"shape must be \[samples\] or \[channels, samples\], not \[\]"),
        (np.zeros((1, 2, 3)), r"shape must be .* not \[1, 2, 3\]"),
        (np.zeros((2, 0)), r"no samples in it \(shape \[2, 0\]\)"),
        (np.array([0.0, np.nan]), "contains NaN, first at sample 1"),
        (np.array([[0.0, 0.0, 1.0], [0.0, np.inf, 1.0]]), "contains infinity, first at sample 1"),
        (np.array([1e300]), "contains infinity, first at sample 0"),
        (np.zeros(4, complex), "float or integer numbers, not complex128"),
        (np.array([None, 1.0]), "float or integer numbers, not object"),
        (np.zeros(4, bool), "float or integer numbers, not bool"),
        (np.zeros((48_000, 2)), r"shape \[48000, 2\] looks transposed: pass \[channels, samples\]"),
        ([0.1, 0.2], "numpy array or torch tensor is needed, not list"),
        ("song.wav", "numpy array or torch tensor is needed, not str"),
    ],
)
def test_validate_says_what_is_wrong(array, message):
    with pytest.raises(AudioError, match=f"^clip 3: .*{message}"):
        validate(array, where="clip 3")


def tree(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_find_inputs_mirrors_folders(tmp_path, monkeypatch):
    tree(tmp_path, "in/b.WAV", "in/a.mp3", "in/sub/c.flac", "in/notes.txt", "in/.hidden.wav", "in/.git/d.wav")
    tree(tmp_path, "odd.name")
    found = find_inputs([tmp_path / "odd.name", str(tmp_path / "in")])
    places = ["odd.name", "a.mp3", "b.WAV", "sub/c.flac"]
    assert [str(place) for _, place in found] == places
    assert [file for file, _ in found] == [tmp_path / "odd.name", *(tmp_path / "in" / p for p in places[1:])]
    assert find_inputs(tmp_path / "in") == found[1:]
    assert len(find_inputs([tmp_path / "in/a.mp3", tmp_path / "in/a.mp3"])) == 1
    monkeypatch.chdir(tmp_path / "in")
    assert [str(place) for _, place in find_inputs(["."])] == places[1:]


def test_find_inputs_errors(tmp_path):
    tree(tmp_path, "a/x.wav", "b/x.wav", "none/readme.md")
    with pytest.raises(AudioError, match=r"gone\.wav: no such file"):
        find_inputs([tmp_path / "gone.wav"])
    with pytest.raises(AudioError, match=r"no audio in this folder \(looked for \.wav, \.flac"):
        find_inputs([tmp_path / "none"])
    with pytest.raises(AudioError, match=r"a/x\.wav and .*b/x\.wav would share the output x\.wav"):
        find_inputs([tmp_path / "a", tmp_path / "b/x.wav"])
