"""Audio as Ogg Vorbis in memory: the same bytes for the same samples, whenever and wherever they are encoded."""

import io
import struct
import zlib

import numpy as np
import soundfile

# libsndfile keeps a block's coefficients on the stack: one write of a whole song would overflow it.
BLOCK_FRAMES = 1 << 14
SERIAL = b"ussf"
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def encode(samples: np.ndarray, rate: int, loss: float) -> bytes:
    """Mono samples, float [frames] within full scale, as an Ogg Vorbis file of the same length.

    Args:
        rate: Hz, up to 192000.
        loss: of quality, from 0 (the best) to 1; Vorbis's own scale is 10 * (1 - loss).
    """
    memory = io.BytesIO()
    with soundfile.SoundFile(
        memory, "w", rate, 1, format="OGG", subtype="VORBIS", compression_level=loss
    ) as file:
        for start in range(0, len(samples), BLOCK_FRAMES):
            file.write(samples[start : start + BLOCK_FRAMES])
    return _with_serial(bytearray(memory.getvalue()))


def _with_serial(data: bytearray) -> bytes:
    """The stream under a fixed serial number: libsndfile draws one at random. Each page's checksum covers it."""
    at = 0
    while at < len(data):
        segments = data[at + 26]
        end = at + 27 + segments + sum(data[at + 27 : at + 27 + segments])
        data[at + 14 : at + 18] = SERIAL
        data[at + 22 : at + 26] = bytes(4)
        data[at + 22 : at + 26] = struct.pack("<I", _checksum(bytes(data[at:end])))
        at = end
    return bytes(data)


def _checksum(page: bytes) -> int:
    """CRC-32 of Ogg: zlib's polynomial, but most significant bit first, from 0 and not inverted."""
    value = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{value:032b}"[::-1], 2)
