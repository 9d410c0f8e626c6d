"""Ways to change bytes and numbers, shared by targets."""

import random

ODD = (0, 1, -1, 2, -2, 255, 256, -128, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63), -(10**12), 10**8)
ODD_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e30, -1e30, 1e-40, float("inf"), float("-inf"), float("nan"))


def changed(data: bytes, rng: random.Random, most: int = 8) -> bytes:
    """Bytes with up to `most` changes: bits, bytes, odd 16-, 32- and 64-bit numbers, pieces cut, doubled or moved."""
    out = bytearray(data)
    for _ in range(rng.randint(1, most)):
        at = rng.randrange(len(out)) if out else 0
        match rng.randrange(8):
            case 0 if out:
                out[at] ^= 1 << rng.randrange(8)
            case 1 if out:
                out[at] = rng.randrange(256)
            case 2 | 3 if out:
                size = rng.choice((2, 4, 8))
                number = (rng.choice(ODD) % (1 << 8 * size)).to_bytes(size, "little")
                out[at : at + size] = number if rng.random() < 0.5 else number[::-1]
            case 4:
                del out[at : at + rng.choice((1, 4, 16, 256))]
            case 5:
                out[at:at] = out[at : at + rng.choice((1, 4, 16, 256))]
            case 6:
                out = out[:at]
            case 7:
                out[at:at] = rng.randbytes(rng.choice((1, 4, 16)))
    return bytes(out)
