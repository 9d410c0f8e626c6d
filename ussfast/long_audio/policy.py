"""How audio is cut into windows: for files, and for live audio with a wanted latency."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from ussfast.errors import InputError
from ussfast.values import flag, real, shown

FADE_SECONDS = 0.1
# 1 s of context on each side and the cross-fade: see docs/long-audio.md.
OVERLAP_SECONDS = 2.1
LEAST_LATENCY_SECONDS = 0.1
MOST_SECONDS = 3600.0  # of a window
# Decimal seconds do not add up exactly; a millionth of a second is less than a sample.
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class SegmentPolicy:
    """How audio is cut; all in seconds.

    segment: window that the model sees at once, an hour at most.
    overlap: shared by neighbouring windows. With stitch "fade" it is context, `fade` of cross-fade, and context again;
        what a window says about its context is thrown away.
    stitch: "fade", or "published": plain averages over the overlap, the last window padded with zeros, as the TUSS
        authors' scripts do.
    solve_permutation: published stitching only: reorders all sources by their loss against what is there already.
    look_ahead: stitch "fade" only. None: as much context on the right as on the left, and the first window is a full
        one. A number: context on the right; the rest of the overlap is context on the left, and the first windows grow
        to their full length, so that output starts after `segment - overlap + fade + look_ahead`: the latency.
    """

    segment: float
    overlap: float
    stitch: Literal["fade", "published"] = "fade"
    solve_permutation: bool = False
    look_ahead: float | None = None

    def __post_init__(self) -> None:
        for name in ("segment", "overlap", "look_ahead"):
            if getattr(self, name) is not None or name != "look_ahead":
                object.__setattr__(self, name, real(getattr(self, name), name))
        if not (0 < self.segment < float("inf") and 0 <= self.overlap < self.segment):
            raise InputError(
                f"need a segment above 0 s and an overlap from 0 s to below the segment, "
                f"got segment {self.segment:g} s, overlap {self.overlap:g} s"
            )
        if self.segment > MOST_SECONDS:
            raise InputError(f"segment must be {MOST_SECONDS:g} s at most, got {self.segment:g} s")
        _check_stitch(self.stitch)
        flag(self.solve_permutation, "solve_permutation")
        if self.look_ahead is None:
            return
        if self.stitch != "fade":
            raise InputError("look_ahead is for stitch 'fade'; published stitching has no context to choose")
        most = self.overlap - self.fade
        if not 0 <= self.look_ahead <= most + _TOLERANCE:
            raise InputError(
                f"need a look_ahead from 0 s to what the overlap of {self.overlap:g} s leaves beside a cross-fade of "
                f"{self.fade:g} s: {most:g} s, got {self.look_ahead:g} s"
            )

    @property
    def fade(self) -> float:
        """The cross-fade in seconds: FADE_SECONDS, or less where the overlap or a live window's step is short."""
        fade = min(FADE_SECONDS, self.overlap / 2)
        return fade if self.look_ahead is None else min(fade, (self.segment - self.overlap) / 4)

    def shorter(self) -> "SegmentPolicy":
        """Half the window, for a machine where this one does not fit; the rest shrinks only if it must."""
        segment = self.segment / 2
        half = replace(self, segment=segment, overlap=min(self.overlap, segment / 2), look_ahead=None)
        if self.look_ahead is None:
            return half
        # With any look-ahead the cross-fade is that of 0, which always fits.
        most = half.overlap - replace(half, look_ahead=0.0).fade
        return replace(half, look_ahead=min(self.look_ahead, most))


def _check_stitch(stitch: Any) -> None:
    if not isinstance(stitch, str) or stitch not in ("fade", "published"):
        raise InputError(f"stitch must be 'fade' or 'published', got {shown(stitch)}")


def default_policy(
    trained: float,
    segment: float | None,
    overlap: float | None,
    stitch: Literal["fade", "published"],
    look_ahead: float | None = None,
) -> SegmentPolicy:
    """Windows for a model that was trained on `trained` seconds; published stitching has no overlap by default."""
    _check_stitch(stitch)
    segment = None if segment is None else real(segment, "segment")
    if stitch == "published":
        length, shared = trained if segment is None else segment, 0.0 if overlap is None else overlap
    else:
        length = max(6.0, trained) if segment is None else segment
        shared = min(OVERLAP_SECONDS, 0.4 * length) if overlap is None else overlap
    return SegmentPolicy(length, shared, stitch, look_ahead=look_ahead)


def live_policy(trained_seconds: float, latency_seconds: float, segment: float | None = None) -> SegmentPolicy:
    """Windows for live audio: half of the latency is the windows' step, the rest cross-fade and look-ahead.

    Args:
        trained_seconds: what the model was trained on; the default of `segment` follows from it as for files.
        latency_seconds: from a sample that comes in to the same sample separated, without the time of computing. Each
            window costs a whole segment, so every second of audio costs 2 * segment / latency seconds of windows.
        segment: the window in seconds.
    Raises:
        InputError: a latency below LEAST_LATENCY_SECONDS or longer than the window; a bad segment.
    """
    length = default_policy(trained_seconds, segment, None, "fade").segment
    latency_seconds = real(latency_seconds, "latency")
    if not LEAST_LATENCY_SECONDS <= latency_seconds <= length:
        raise InputError(
            f"need a latency from {LEAST_LATENCY_SECONDS:g} s (for less, use a causal model) to the window of "
            f"{length:g} s, got {latency_seconds:g} s"
        )
    advance = latency_seconds / 2
    bare = SegmentPolicy(length, length - advance, look_ahead=0.0)
    return replace(bare, look_ahead=latency_seconds - advance - bare.fade)
