"""The C++ kernel with a Fourier transform inside that ops may call: which lengths and devices it takes."""

import torch

from ussfast.ops._op import LIB

LONGEST = 4096  # kLongestFft of csrc/common/fft_plan.h

# stft_mask for lengths that fit and anything but float64; results have the bits of a fixed order of additions. On a
# CPU stft_mask has a faster kernel, and this one is only for tests.
LIB.define(
    "_masked_istft(Tensor mask, Tensor? spec, Tensor window, int n_fft, int hop, int samples, bool normalized)"
    " -> Tensor"
)


def fits(n_fft: int) -> bool:
    """Whether kernels transform this many samples: an even number up to 4096 without factors other than 2, 3 and 5."""
    if n_fft < 2 or n_fft % 2 or n_fft > LONGEST:
        return False
    for factor in (2, 3, 5):
        while n_fft % factor == 0:
            n_fft //= factor
    return n_fft == 1


def has_masked_istft(device: torch.device, n_fft: int) -> bool:
    """Whether torch.ops.ussfast._masked_istft has a kernel for this device that takes this length."""
    key = device.type.upper()
    return fits(n_fft) and torch._C._dispatch_has_kernel_for_dispatch_key("ussfast::_masked_istft", key)
