"""Fused operations. Importing this package registers every op and loads the kernels this machine can run.

USSFAST_IMPL=reference keeps all of them on plain PyTorch; `use_reference()` does so for a block of code.
"""

from ussfast.ops._op import GRADIENTS, IMPL, LIB, OPS, use_reference
from ussfast.ops.band_attention import band_attention
from ussfast.ops.band_masks import band_masks
from ussfast.ops.band_merge import band_merge
from ussfast.ops.band_split import band_split
from ussfast.ops.band_tokens import band_tokens
from ussfast.ops.biased_cross_attention import biased_cross_attention
from ussfast.ops.conv_ffn import conv_ffn
from ussfast.ops.framed_stft import framed_stft
from ussfast.ops.gated_recurrence import gated_recurrence
from ussfast.ops.locoformer_attention import locoformer_attention
from ussfast.ops.locoformer_ffn import locoformer_ffn
from ussfast.ops.rms_group_norm import rms_group_norm
from ussfast.ops.stft_mask import stft_mask

from ussfast.ops import _fft  # noqa: F401  # isort: skip  (defines what kernels are loaded for)
from ussfast import _ext # isort: skip  (loads kernels for the ops defined above)

_ext.load(OPS, LIB, GRADIENTS, IMPL)

__all__ = [
    "band_attention",
    "band_masks",
    "band_merge",
    "band_split",
    "band_tokens",
    "biased_cross_attention",
    "conv_ffn",
    "framed_stft",
    "gated_recurrence",
    "locoformer_attention",
    "locoformer_ffn",
    "rms_group_norm",
    "stft_mask",
    "use_reference",
]
