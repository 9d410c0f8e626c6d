"""Audio to the device and back, beside the computation where the device can."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


class Transfer:
    """Plain copies, each complete when it returns.

    depth: results of the past that are worth keeping waiting while more work is launched.
    """

    depth = 0

    def __init__(self, device: torch.device):
        self.device = device

    def up(self, array: np.ndarray) -> Tensor:
        """A copy of the array on the device, float32, for use on the current stream."""
        return torch.from_numpy(np.array(array, np.float32)).to(self.device)

    def down(self, tensor: Tensor) -> Callable[[], np.ndarray]:
        """Begins to copy what the current stream computes; the result waits for it and gives float32."""
        host = tensor.float().cpu().numpy()
        return lambda: host


class PinnedTransfer(Transfer):
    """Copies through page-locked memory, on a stream for either direction.

    While one window is computed, the next goes up and the one before comes down. PyTorch keeps page-locked blocks and
    reuses each when its copy is over: with one result waiting, two blocks take turns in either direction.
    """

    depth = 1

    def __init__(self, device: torch.device):
        super().__init__(device)
        self._up, self._down = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def up(self, array: np.ndarray) -> Tensor:
        host = torch.empty(array.shape, pin_memory=True)
        host.numpy()[...] = array
        now = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._up):
            there = host.to(self.device, non_blocking=True)
        now.wait_stream(self._up)
        there.record_stream(now)
        return there

    def down(self, tensor: Tensor) -> Callable[[], np.ndarray]:
        ready = tensor.float().contiguous()
        self._down.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._down):
            host = torch.empty(ready.shape, pin_memory=True)
            host.copy_(ready, non_blocking=True)
            over = self._down.record_event()
        ready.record_stream(self._down)

        def wait() -> np.ndarray:
            over.synchronize()
            return host.numpy()

        return wait


def transfer_for(device: torch.device) -> Transfer:
    return PinnedTransfer(device) if device.type == "cuda" else Transfer(device)
