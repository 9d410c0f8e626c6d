"""Streams in and out, for tests of sessions."""

import numpy as np


def cut(audio, sizes):
    """`audio` in chunks of these sizes, the last one with the rest."""
    at = 0
    for size in sizes:
        yield audio[:, at : at + size]
        at += size
    yield audio[:, at:]


def joined(pieces):
    pieces = list(pieces)
    stems = np.concatenate([piece.stems for piece in pieces], -1)
    return stems, np.concatenate([piece.mixture for piece in pieces], -1)


def close(a, b, tolerance=1e-4):
    assert a.shape == b.shape
    assert np.abs(a - b).max(initial=0) <= tolerance
