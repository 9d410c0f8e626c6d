"""Settings of the public engine: windows, dtype, backend, device, what happens without memory, presets."""

import shutil

import numpy as np
import pytest
import soundfile
import torch
from tiny import RATE, SHORT, noise

import ussfast
from ussfast import DeviceError, InputError, SegmentPolicy, Separator
from ussfast.long_audio.policy import default_policy


def fits(separator, most, error):
    """A model.separate that runs out of memory for windows of more than `most` samples, and the sizes it saw."""
    real, sizes = separator.engine.model.separate, []

    def limited(audio, prompts, dtype):
        sizes.append(audio.shape[-1])
        if audio.shape[-1] > most:
            raise error
        return real(audio, prompts, dtype)

    return limited, sizes


@pytest.mark.parametrize(
    ("policy", "sizes"),
    [
        ({"segment": 10}, [12000]),
        ({"segment": 1, "overlap": 0.25}, [8000, 8000]),
        ({"segment": 1, "stitch": "published"}, [8000, 8000]),
        ({"segment": 0.5, "overlap": 0.25, "stitch": "published"}, [4000] * 5),
        ({}, [12000]),
    ],
)
def test_the_model_sees_windows_as_asked_for(directory, monkeypatch, policy, sizes):
    separator = Separator(directory, "speech", device="cpu", **policy)
    limited, seen = fits(separator, 10**9, MemoryError())
    monkeypatch.setattr(separator.engine.model, "separate", limited)
    assert separator.separate(noise(1, 12000), RATE).stems.shape == (1, 1, 12000)
    assert seen == sizes


def test_default_windows():
    policy = default_policy(9.0, None, None, "fade")
    assert (policy.segment, policy.overlap, policy.stitch) == (9.0, 2.1, "fade")
    assert default_policy(2.0, None, None, "fade") == default_policy(6.0, None, None, "fade")
    assert default_policy(6.0, None, None, "fade") == SegmentPolicy(6.0, 2.1)
    assert default_policy(6.0, 0.9, None, "fade").overlap == pytest.approx(0.36)
    assert default_policy(6.0, None, 0.0, "fade").overlap == 0.0
    published = default_policy(6.0, None, None, "published")
    assert (published.segment, published.overlap, published.stitch) == (6.0, 0.0, "published")
    with pytest.raises(InputError, match="segment"):
        default_policy(6.0, -1.0, None, "fade")
    with pytest.raises(InputError, match="stitch must be 'fade' or 'published', got 'sew'"):
        default_policy(6.0, None, None, "sew")


def test_bfloat16_is_close_to_float32(directory, separator):
    audio = noise(1, 6000)
    half = Separator(directory, ("speech", "sfx"), dtype="bfloat16", device="cpu", **SHORT).separate(audio, RATE).stems
    full = separator.separate(audio, RATE).stems
    assert half.dtype == np.float32
    assert 0 < np.sqrt(np.mean((half - full) ** 2) / np.mean(full**2)) < 0.1


def test_reference_and_native_agree(directory, separator):
    audio = noise(2, 6000)
    other = Separator(directory, ("speech", "sfx"), backend="reference", device="cpu", **SHORT)
    plain = other.separate(audio, RATE).stems
    assert np.abs(plain - separator.separate(audio, RATE).stems).max() < 1e-5 * np.abs(plain).max()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"device": "cuda:99"}, "device 'cuda:99' is not available: .* use cpu"),
        ({"device": "gpu"}, "unknown device 'gpu'; use auto, cpu, cuda or cuda:N"),
        ({"device": "meta"}, "device 'meta' is not supported"),
        ({"dtype": "float8"}, "dtype must be one of auto, float32"),
        ({"backend": "magic"}, "backend must be one of auto, native, reference, onnx, trt, aoti, got 'magic'"),
    ],
)
def test_devices_and_settings_that_are_not_there(directory, setting, says):
    with pytest.raises(DeviceError, match=says):
        Separator(directory, "speech", **setting)


# The error is for machines without such a device.
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none(directory):
    with pytest.raises(DeviceError, match="device 'cuda' is not available: .* has no CUDA device; use cpu"):
        Separator(directory, "speech", device="cuda")


ALLOCATOR = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA"), RuntimeError(ALLOCATOR), MemoryError()])
@pytest.mark.parametrize("as_file", [False, True])
def test_a_window_that_does_not_fit_is_halved_once(directory, monkeypatch, tmp_path, error, as_file):
    separator = Separator(directory, "speech", device="cpu", segment=0.8, overlap=0.3)
    half = Separator(directory, "speech", device="cpu", segment=0.4, overlap=0.2)  # half the segment, half of that
    audio = noise(1, 9000)
    soundfile.write(tmp_path / "in.wav", audio.T, RATE, subtype="FLOAT")

    def run():
        if not as_file:
            return separator.separate(audio, RATE).stems[0]
        (path,) = separator.separate_file(tmp_path / "in.wav", tmp_path / "out")
        return soundfile.read(path, dtype="float32", always_2d=True)[0].T

    limited, sizes = fits(separator, 3200, error)
    monkeypatch.setattr(separator.engine.model, "separate", limited)
    np.testing.assert_array_equal(run(), half.separate(audio, RATE)["speech"])
    assert sizes[0] == 6400 and set(sizes[1:]) == {3200}
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    monkeypatch.undo()
    limited, sizes = fits(separator, 1600, error)
    monkeypatch.setattr(separator.engine.model, "separate", limited)
    with pytest.raises(ussfast.OutOfMemoryError, match=r"out of memory on cpu, also with a segment of 0\.4 s: use"):
        run()
    assert sizes == [6400, 3200]
    assert not list(tmp_path.rglob("out/*"))


def test_other_failures_are_not_called_out_of_memory(directory, monkeypatch):
    separator = Separator(directory, "speech", device="cpu")
    limited, sizes = fits(separator, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    monkeypatch.setattr(separator.engine.model, "separate", limited)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        separator.separate(noise(1, 500), RATE)
    assert sizes == [500]


def test_presets_are_reproducible():
    audio, state = noise(1, 300), torch.random.get_rng_state()
    first = Separator.from_preset("tflocoformer-s", seed=1, device="cpu")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.sample_rate == 8000 and first.labels() == ("source-1", "source-2")
    stems = first.separate(audio, RATE).stems
    again = Separator.from_preset("tflocoformer-s", seed=1, device="cpu").separate(audio, 8000).stems
    np.testing.assert_array_equal(again, stems)
    other = Separator.from_preset("tflocoformer-s", seed=2, device="cpu").separate(audio, 8000).stems
    assert np.abs(other - stems).max() > 1e-3
    with pytest.raises(InputError, match="no preset 'tuss-medum'; did you mean tuss-medium"):
        Separator.from_preset("tuss-medum")
    with pytest.raises(InputError, match="unknown settings colour; there are device"):
        Separator.from_preset("tflocoformer-s", colour="red")
