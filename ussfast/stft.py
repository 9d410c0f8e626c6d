"""The STFT in front of every model and its inverse behind it: the only place that knows windows and hops."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ussfast.errors import InputError
from ussfast.ops import stft_mask
from ussfast.plain import Checked, Range

MOST_OVERLAP = 64  # frames that hold the same sample: what an STFT makes of audio is larger by as much


@dataclass(frozen=True)
class StftConfig(Checked):
    """Short-time Fourier transform in front of and behind a model; sizes in samples at the model's rate.

    padding: "zero" frames the whole signal with n_fft/2 zeros around it (TUSS), "reflect" mirrors it (ESPnet, SFC).
    normalize: None, "default" (orthonormal, 1/sqrt(n_fft)) or "window" (window divided by its sum).
    drop_last_frame: whether the network gets all frames but the last, which then no estimate covers (SFC).
    """

    n_fft: Annotated[int, Range(2, 16384)]
    hop: Annotated[int, Range(1, 16384)]
    window_length: Annotated[int, Range(1, 16384)]
    window: Literal["sqrt_hann", "hann"] = "sqrt_hann"
    padding: Literal["zero", "reflect"] = "zero"
    normalize: Literal["default", "window"] | None = None
    drop_last_frame: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.hop <= self.window_length <= self.n_fft <= MOST_OVERLAP * self.hop:
            raise InputError(
                f"STFT sizes must satisfy hop <= window_length <= n_fft <= {MOST_OVERLAP} hop, got hop {self.hop}, "
                f"window_length {self.window_length}, n_fft {self.n_fft}"
            )

    @property
    def bins(self) -> int:
        return self.n_fft // 2 + 1


def window(config: StftConfig, device: torch.device | None = None) -> Tensor:
    """The analysis (and synthesis) window, float32 [window_length]."""
    hann = torch.hann_window(config.window_length, device=device)
    shaped = hann.sqrt() if config.window == "sqrt_hann" else hann
    return shaped / shaped.sum() if config.normalize == "window" else shaped


def frame_count(samples: int, config: StftConfig) -> int:
    """Frames that a network gets of so many samples: what `analyze` and `drop_frame` make."""
    if config.padding == "zero":
        frames = 1 + (samples + frame_fill(samples, config)) // config.hop
    else:
        frames = 1 + max(samples, config.n_fft // 2 + 1) // config.hop
    return max(1, frames - config.drop_last_frame)


def drop_frame(spec: Tensor, config: StftConfig) -> Tensor:
    """[batch, frames, bins] without the last frame, if the network is not to see it; a single frame stays."""
    return spec[:, : max(1, spec.shape[1] - config.drop_last_frame)]


def frame_fill(samples: int, config: StftConfig) -> int:
    """Zeros behind zero-padded audio that complete its last frame."""
    extra = (-(samples + config.n_fft - config.window_length)) % config.hop
    return extra % config.window_length if config.window_length < config.n_fft else extra


def analyze(audio: Tensor, config: StftConfig) -> Tensor:
    """Complex spectrum of `audio`.

    Args:
        audio: [batch, samples], float32 or float64, at least one sample.
        config: frame sizes and padding.
    Returns:
        [batch, frames, bins] complex; ceil(samples/hop)+1 frames with zero padding, floor(samples/hop)+1 with
        reflection (which needs more than n_fft/2 samples: shorter audio is zero-padded first).
    """
    samples, half = audio.shape[-1], config.n_fft // 2
    if config.padding == "zero":
        audio = F.pad(audio, (half, half + frame_fill(samples, config)))
    elif samples <= half:
        audio = F.pad(audio, (0, half + 1 - samples))
    return frames(audio, config, centred=config.padding == "reflect")


def frames(audio: Tensor, config: StftConfig, centred: bool = False) -> Tensor:
    """Spectra [batch, frames, bins] of all whole frames in [batch, samples], the first at the beginning.

    centred: the middle of the first at the beginning, with a mirrored border.
    """
    spec = torch.stft(
        audio,
        config.n_fft,
        config.hop,
        config.window_length,
        window(config, audio.device).to(audio.dtype),
        center=centred,
        pad_mode="reflect",
        normalized=config.normalize == "default",
        return_complex=True,
    )
    return spec.transpose(1, 2)


def synthesize(
    estimate: Tensor, config: StftConfig, samples: int, mixture: Tensor | None = None, *, consistency: bool = False
) -> Tensor:
    """Audio of an estimated spectrum: centred overlap-add divided by the summed squared window.

    Args:
        estimate: [batch, sources, frames, bins, 2] real and imaginary parts, frames as from `analyze`; where the
            last one is missing, samples that only it reaches are zero.
        config: the same sizes.
        samples: length to return, that of the analysed audio.
        mixture: [batch, frames, bins] complex: multiplied with the estimate, which then is a mask.
        consistency: masks are corrected such that the sources add up to the mixture, see `stft_mask`.
    Returns:
        [batch, sources, samples] real.
    """
    # Only audio shorter than the reflected border had been lengthened by analyze.
    length = max(samples, config.n_fft // 2 + 1) if config.padding == "reflect" else samples
    audio = stft_mask(
        estimate,
        None if mixture is None else torch.view_as_real(mixture),
        window(config, estimate.device),
        n_fft=config.n_fft,
        hop=config.hop,
        samples=length,
        normalized=config.normalize == "default",
        consistency=consistency,
    )
    return audio[..., :samples]
