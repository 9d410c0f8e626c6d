"""Callers' arrays, and the files that paths mean."""

import numpy as np
import pytest
import soundfile
import torch

from ussfast.audio import as_samples, find_inputs, validate
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


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint8", "uint16", "uint32"])
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
        (b"RIFF", "numpy array or torch tensor is needed, not bytes: put them into io.BytesIO"),
        ("song.wav", "numpy array or torch tensor is needed, not str"),
    ],
)
def test_validate_says_what_is_wrong(array, message):
    with pytest.raises(AudioError, match=f"^clip 3: .*{message}"):
        validate(array, where="clip 3")


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_integers_without_a_full_scale_are_refused(dtype):
    with pytest.raises(AudioError, match=f"{dtype} has no full scale in audio: pass samples.astype\\(np.int16\\)"):
        as_samples(np.arange(100, dtype=dtype))


def test_16_bits_in_a_32_bit_type_are_refused_and_quiet_audio_is_not():
    loud = np.array([[0, 12_000, -32_768, 7]])
    for dtype, offset, narrow in (("int32", 0, "int16"), ("uint32", 32_768, "uint16")):
        samples = (loud + offset).astype(dtype)
        with pytest.raises(AudioError, match=rf"{dtype} samples from .*pass samples.astype\(np.{narrow}\)"):
            validate(samples)
        assert np.abs(as_samples(samples)).max() <= 1  # of a stream, a part of which may be that quiet
    quiet = np.array([[0, 256, -512, 256 * 127]], np.int32)  # 24 bits on the left of 32
    np.testing.assert_array_equal(validate(quiet), quiet / 2.0**31)
    np.testing.assert_array_equal(validate(np.zeros((1, 5), np.int32)), np.zeros((1, 5)))
    np.testing.assert_array_equal(validate(np.full((1, 5), 2**31, np.uint32)), np.zeros((1, 5)))


def test_integers_from_soundfile_are_taken(tmp_path):
    audio = noise(1, 500)[0] * 1e-3
    for subtype in ("PCM_16", "PCM_24", "PCM_32"):
        soundfile.write(tmp_path / "a.wav", audio, RATE, subtype=subtype)
        whole, _ = soundfile.read(tmp_path / "a.wav", dtype="int32")
        np.testing.assert_allclose(validate(whole)[0], audio, atol=2.0**-15)


def test_no_guess_is_made_where_the_channels_are_known():
    short = np.ones((100, 5), np.float32)
    with pytest.raises(AudioError, match="looks transposed"):
        as_samples(short)
    np.testing.assert_array_equal(as_samples(short, channels=100), short)


def test_tensors_that_hold_no_numbers():
    for tensor in (torch.empty(5, device="meta"), torch.ones(5).to_sparse()):
        with pytest.raises(AudioError, match=r"^clip 3: no array of numbers can be made of this Tensor: [^\n]+$"):
            validate(tensor, "clip 3")


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
    for name, said in (("a" * 300, "could not be opened: File name too long"), ("a\0", "could not be opened: ")):
        with pytest.raises(AudioError, match=said):
            find_inputs([name])
    with pytest.raises(AudioError, match=r"no audio in this folder \(looked for \.wav, \.flac"):
        find_inputs([tmp_path / "none"])
    with pytest.raises(AudioError, match=r"a/x\.wav and .*b/x\.wav would share the output x\.wav"):
        find_inputs([tmp_path / "a", tmp_path / "b/x.wav"])
