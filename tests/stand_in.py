"""In place of a device that records: a tape of PyTorch operations, with what makes real recordings go wrong.

While it records, nothing happens to memory outside: what was written there is put back. What comes out is not a number
until the tape is played, which runs the same operations on the same tensors and no Python of the work.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# A device would have to be waited for, or would be given memory of the host.
FORBIDDEN = ("item", "_local_scalar_dense", "lift_fresh", "nonzero", "is_nonzero", "equal", "masked_select", "allclose")


def check(func, args):
    """RuntimeError for an operation that no recording may have."""
    name = func.overloadpacket.__name__
    mask = name in ("index", "index_put", "index_put_") and any(
        torch.is_tensor(part) and part.dtype == torch.bool for part in tree_leaves(args[1])
    )
    if name in FORBIDDEN or mask:
        raise RuntimeError(f"operation not permitted when stream is capturing: {func}")


def tensors(tree):
    return [tree] if torch.is_tensor(tree) else [leaf for leaf in tree_leaves(tree) if torch.is_tensor(leaf)]


def place(tensor):
    return tensor.untyped_storage().data_ptr()


class Tape(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls, self.before, self.own = [], {}, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        check(func, args)
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in tensors(value):
                    if place(tensor) not in self.own:
                        self.before.setdefault(place(tensor), (tensor, tensor.untyped_storage().clone()))
        known = {place(tensor) for tensor in tensors((args, kwargs))}
        out = func(*args, **kwargs)
        for tensor in tensors(out):
            if place(tensor) not in known:
                self.own[place(tensor)] = tensor
        self.calls.append((func, args, kwargs, tensors(out)))
        return out

    def rewind(self):
        for tensor, storage in self.before.values():
            tensor.untyped_storage().copy_(storage)
        for tensor in self.own.values():
            tensor.fill_(float("nan") if tensor.is_floating_point() or tensor.is_complex() else 77)

    def play(self):
        for func, args, kwargs, out in self.calls:
            for old, new in zip(out, tensors(func(*args, **kwargs)), strict=True):
                if place(old) != place(new):
                    old.copy_(new)


class StandIn:
    """A `Recorder`; recorded, played, released: how often. error: raised by the next recording, once it has begun."""

    def __init__(self):
        self.recorded = self.played = self.released = 0
        self.error = None

    def record(self, work):
        tape = Tape()
        try:
            with tape:
                out = work()
                if self.error is not None:
                    raise self.error
        finally:
            tape.rewind()
        self.recorded += 1

        def play():
            self.played += 1
            tape.play()

        return out, play

    def release(self):
        self.released += 1
