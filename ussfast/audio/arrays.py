"""Callers' arrays as samples: float32 [channels, frames]."""

from typing import Any

import numpy as np

from ussfast.errors import AudioError

MAX_ARRAY_CHANNELS = 64  # more rows than this, and more rows than columns: the array is transposed


def validate(array: Any, where: str = "audio") -> np.ndarray:
    """Turns a caller's array into float32 [channels, frames], without ever writing to it.

    The result may share memory with `array`: treat it as read-only.

    Args:
        array: numpy array, torch tensor on any device, or anything with `__array__`; [frames] or
            [channels, frames]. Floats are taken as they are; integers of 8, 16 and 32 bits are divided by their range
            (int16 by 32768; unsigned ones are centred first), so that full scale is [-1, 1).
        where: what to call it in errors.
    Raises:
        AudioError: another type, shape or dtype, no samples, NaN or infinity, or clearly [frames, channels]; 16-bit
            samples in a 32-bit type.
    """
    values = _numbers(array, where)
    _check_width(values, where)
    samples = _scaled(values, where, None)
    if samples.size == 0:
        raise AudioError(f"{where}: no samples in it (shape {list(np.shape(array))})")
    check_finite(samples, where)
    return samples


def as_samples(array: Any, where: str = "audio", channels: int | None = None) -> np.ndarray:
    """As `validate`, but there may be no samples, some that are not finite, or 32-bit ones so quiet that they may be of
    16 bits: it may be a part of something.

    channels: how many there are, where that is known: then no guess is made whether the array is transposed.
    """
    return _scaled(_numbers(array, where), where, channels)


def _scaled(values: np.ndarray, where: str, channels: int | None) -> np.ndarray:
    rows, columns = np.atleast_2d(values).shape
    if not rows:
        raise AudioError(f"{where}: no channels in it (shape {[rows, columns]})")
    if channels is None and rows > MAX_ARRAY_CHANNELS and rows > columns:
        raise AudioError(f"{where}: shape {[rows, columns]} looks transposed: pass [channels, samples]")
    if values.dtype.kind in "iu":
        span = 2.0 ** (8 * values.dtype.itemsize - 1)
        centre = span if values.dtype.kind == "u" else 0.0
        values = (values.astype(np.float64) - centre) / span
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, which is for the caller to find
        samples = np.ascontiguousarray(np.atleast_2d(values), np.float32)
    # NumPy calls an axis of length 1 contiguous whatever its stride, and PyTorch refuses those below 0.
    return samples.copy() if min(samples.strides) < 0 else samples


def _numbers(array: Any, where: str) -> np.ndarray:
    """The array as numpy has it, of one or two axes and of a type that audio comes in."""
    try:
        if hasattr(array, "detach") and hasattr(array, "cpu"):
            tensor = array.detach().cpu()
            try:
                array = tensor.numpy()
            except TypeError:  # bfloat16 has no numpy twin
                array = tensor.float().numpy()
        values = np.asarray(array) if hasattr(array, "__array__") else None
    except Exception as error:  # a tensor that is sparse, or whose numbers are nowhere
        reason = " ".join(str(error).split()) or type(error).__name__
        kind = type(array).__name__
        raise AudioError(f"{where}: no array of numbers can be made of this {kind}: {reason}") from error
    if values is None:
        hint = ": put them into io.BytesIO" if isinstance(array, (bytes, bytearray, memoryview)) else ""
        raise AudioError(f"{where}: a numpy array or torch tensor is needed, not {type(array).__name__}{hint}")
    if values.ndim not in (1, 2):
        shape = list(values.shape)
        raise AudioError(f"{where}: the shape must be [samples] or [channels, samples], not {shape}")
    if values.dtype.kind not in "iuf":
        raise AudioError(f"{where}: samples must be float or integer numbers, not {values.dtype}")
    if values.dtype.kind in "iu" and values.dtype.itemsize > 4:
        raise AudioError(
            f"{where}: {values.dtype} has no full scale in audio: pass samples.astype(np.int16) if they are of 16 bits "
            "(np.int32 if of 32), or floats with full scale 1.0"
        )
    return values


def _check_width(values: np.ndarray, where: str) -> None:
    """AudioError for samples of 16 bits in a type of 32: taken at its range, they would be silence.

    Decoders put 24 and fewer bits on the left of 32, so that the lowest byte of all is 0.
    """
    if values.dtype.kind not in "iu" or values.dtype.itemsize < 4 or not values.size:
        return
    centre = 2**31 if values.dtype.kind == "u" else 0
    # Unsigned ones of 16 bits lie around 2**15, not around their own centre.
    low, high = int(values.min()), int(values.max())
    if low == high == centre or not (values & 0xFF).any():
        return
    if (0 <= low and high < 2**16) if centre else (-(2**15) <= low and high < 2**15):
        narrow = "uint16" if centre else "int16"
        raise AudioError(
            f"{where}: {values.dtype} samples from {low} to {high} are of 16 bits, it seems, and full scale is 2**31: "
            f"pass samples.astype(np.{narrow}), or samples / 2**31 if they are that quiet"
        )


def check_finite(block: np.ndarray, where: str, start: int = 0, sample_rate: int | None = None) -> None:
    """AudioError that says where the first sample is that is not finite: `start` samples come before the block."""
    finite = np.isfinite(block)
    if finite.all():
        return
    at = int(np.argmin(finite.all(axis=0)))
    kind = "NaN" if np.isnan(block[:, at]).any() else "infinity"
    when = f"sample {at}" if sample_rate is None else f"{(start + at) / sample_rate:.3f} s"
    raise AudioError(f"{where}: contains {kind}, first at {when}")
