"""Clips as prompts keep them: the loudest ten seconds, as Ogg Vorbis."""

import io

import numpy as np
import pytest
import soundfile
from tiny import RATE, noise

from ussfast.audio.ogg import encode
from ussfast.errors import InputError
from ussfast.prompts.origin import KEPT_SECONDS, MOST_RATE, Loudest, Mark, decoded

MOST = round(KEPT_SECONDS * RATE)


def kept(*pieces, rate=RATE):
    loudest = Loudest(rate)
    for piece in pieces:
        loudest.push(piece)
    return decoded(loudest.encoded(), "clip")


def close(a, b):
    """As near as Vorbis comes."""
    return a.shape == b.shape and np.square(a - b).sum() < 0.1 * np.square(b).sum()


@pytest.mark.parametrize("samples", [1, 800, MOST - 1, MOST])
def test_short_clips_are_kept_whole(samples):
    clip = noise(1, samples)
    found, rate = kept(*np.array_split(clip[0], 3))
    assert rate == RATE and found.shape == (1, samples)
    assert samples < 100 or close(found, clip)


@pytest.mark.parametrize("place", [0, 16000, 100_000, 3 * MOST - 7])
@pytest.mark.parametrize("piece", [40_000, 700_000])
def test_of_long_clips_the_loudest_part_is_kept(place, piece):
    clip = 0.01 * noise(1, 4 * MOST - 7)[0]
    clip[place : place + MOST] = noise(1, MOST, seed=1)[0]
    # The parts begin every half second, and where the clip ends.
    found, _ = kept(*(clip[at : at + piece] for at in range(0, len(clip), piece)))
    assert close(found[0], clip[place : place + MOST])


def test_a_part_that_begins_in_between_is_nearly_there():
    clip = np.zeros(3 * MOST, np.float32)
    clip[4321 : 4321 + MOST] = noise(1, MOST)[0]
    found, _ = kept(clip)
    assert np.square(found).sum() > 0.95 * np.square(clip).sum()


def test_levels_and_rates():
    clip = noise(1, 30_000)
    loud = kept(8 * clip[0])[0]
    assert np.abs(loud).max() < 1.2 and close(loud / loud.std() * clip.std(), clip)
    assert close(kept(0.01 * clip[0])[0], 0.01 * clip)
    high, rate = kept(noise(1, 2 * MOST_RATE)[0], rate=2 * MOST_RATE)
    assert rate == MOST_RATE and high.shape == (1, MOST_RATE)


def test_the_same_clip_is_the_same_bytes():
    first, second = Loudest(RATE), Loudest(RATE)
    for loudest in (first, second):
        loudest.push(noise(1, 9000)[0])
    assert first.encoded() == second.encoded()


def another(format, channels, rate=RATE):
    file = io.BytesIO()
    soundfile.write(file, noise(channels, 900).T, rate, format=format)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"rubbish",
        another("FLAC", 1),
        another("OGG", 2),
        another("OGG", 1, 2 * MOST_RATE),
        encode(noise(1, 900)[0], RATE, 0.5)[:300],
    ],
)
def test_what_is_no_clip(data):
    with pytest.raises(InputError, match="clip 3 cannot be decoded") as caught:
        decoded(data, "clip 3")
    assert "\n" not in str(caught.value)


def test_more_than_is_kept_is_not_decoded():
    assert decoded(encode(noise(1, 2 * MOST)[0], RATE, 0.8), "clip")[0].shape == (1, MOST)


def test_marks():
    assert str(Mark("asp", "0123456789abcdef")) == "'asp' (01234567)"
    for name, mark in (("", "a"), ("a\n", "a"), ("a", ""), ("a", "b" * 65)):
        with pytest.raises(InputError, match="must be 1 to"):
            Mark(name, mark)
