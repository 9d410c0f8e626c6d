"""Several processes through accelerate: who is who, and what they tell each other."""

import os
from typing import TYPE_CHECKING, Any

import torch

from ussfast.engine.settings import pick_device
from ussfast.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator


def start(device: str | torch.device, every_weight_used: bool = True) -> "Accelerator":
    """This process's place among those of `accelerate launch`, or the only one.

    Args:
        device: "cpu", or anything else for a GPU per process; for a single process it has no meaning.
        every_weight_used: whether each step gives a gradient to every weight.
    Raises:
        InputError: accelerate is not installed.
    """
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError:
        raise InputError("training needs accelerate: pip install 'ussfast[train]'") from None
    # A single process places everything itself: accelerate, which decides once per process, need not know of a GPU.
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    cpu = not several or pick_device(str(device)).type == "cpu"
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=not every_weight_used)
    # Mixed precision is the model's own business: it keeps levels, STFTs and losses out of it.
    return Accelerator(cpu=cpu, device_placement=False, mixed_precision="no", kwargs_handlers=[ddp])


def training_device(accelerator: "Accelerator", name: str) -> torch.device:
    """Where this process trains."""
    return accelerator.device if accelerator.num_processes > 1 else pick_device(name)


def everyones(accelerator: "Accelerator", value: Any) -> list[Any]:
    """`value` of every process, in the order of their ranks."""
    if accelerator.num_processes == 1:
        return [value]
    from accelerate.utils import gather_object

    return gather_object([value])


def mains(accelerator: "Accelerator", value: bool) -> bool:
    """What the main process says."""
    if accelerator.num_processes == 1:
        return value
    from accelerate.utils import broadcast

    return bool(broadcast(torch.tensor([int(value)], device=accelerator.device)).item())
