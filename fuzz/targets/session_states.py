"""States of sessions, in memory and as files, with anything changed in them."""

import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tiny import CAUSAL, TUSS, UNCONDITIONAL, tiny_model
from torch import Tensor

from fuzz.mutate import ODD, ODD_FLOATS, changed
from ussfast import Separator
from ussfast.engine.nested import like, tensors_of
from ussfast.errors import UssfastError
from ussfast.streaming.states import SessionState

SECONDS, MIB = 10.0, 256
RATES = (8000, 16000, 11025)
DTYPES = (torch.float64, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64)
AUDIO = np.random.default_rng(0).standard_normal((3, 16000)).astype(np.float32) * 0.3
FILES = 0.4  # of the inputs go through a file


@dataclass
class Opened:
    """How a session is opened, and its state after it took so many samples."""

    separator: Separator
    rate: int
    channels: int
    taken: int
    state: SessionState | None = None
    whole: dict[str, Tensor] = field(default_factory=dict)
    file: bytes = b""

    def session(self, past: bool = True):
        session = self.separator.session(self.rate)
        if past:
            session.push(AUDIO[: self.channels, : self.taken])
        return session


def prepare(folder: Path) -> list[Opened]:
    separators = [
        Separator.from_model(tiny_model(CAUSAL), ("speech", "drums"), dtype="float32"),
        Separator.from_model(tiny_model(CAUSAL), ("sfx", "sfx"), dtype="float32", sum_to_mixture=True),
        Separator.from_model(tiny_model(CAUSAL), ("speech", "bass"), dtype="float32", channels="linked"),
        Separator.from_model(tiny_model(TUSS), ("sfx", "sfx"), segment=0.2, overlap=0.1, look_ahead=0.02),
        Separator.from_model(tiny_model(UNCONDITIONAL), segment=0.4, overlap=0.15),
    ]
    found = []
    for number, separator in enumerate(separators):
        for taken in (0, 63, 3333, 7000):
            one = Opened(separator, RATES[(number + taken) % 3], 1 + (number + taken // 63) % 2, taken)
            session = one.session()
            one.state, one.whole = session.state, tensors_of(session.state)
            session.save(folder / "state.safetensors")
            one.file = (folder / "state.safetensors").read_bytes()
            found.append(one)
    return found


def one(context: list[Opened], rng: random.Random, folder: Path) -> None:
    opened = rng.choice(context)
    session = opened.session(rng.random() < 0.7)
    if rng.random() < 0.3 and opened.separator.prompts:  # those of before may be fading out
        session.set_prompts("other")
        session.set_prompts(opened.separator.default_prompts)
    past = session.state
    try:
        _restore(session, opened, context, rng, folder)
    except UssfastError as error:
        assert "\n" not in str(error)
        assert _same(session.state, past), "a refused state changed the session"
        if rng.random() < 0.2:
            _as_before(session, opened, past)
        raise
    _goes_on(session, opened)


def _as_before(session, opened: Opened, past: SessionState) -> None:
    """What was refused has changed nothing that is heard."""
    twin = opened.separator.session(opened.rate)
    twin.state = past
    chunk = _chunk(session, opened)
    for ours, theirs in ((session.push(chunk), twin.push(chunk)), (session.flush(), twin.flush())):
        same = ours.labels[: len(theirs.labels)] == theirs.labels
        assert same and np.array_equal(ours.stems[: len(theirs.stems)], theirs.stems), "a refused state is heard"


def _chunk(session, opened: Opened) -> np.ndarray:
    return np.resize(AUDIO[:, opened.taken :], (len(session.state.mixture), opened.rate // 10))


def _goes_on(session, opened: Opened) -> None:
    """What was accepted can be gone on with: finite, and as many samples as went in."""
    held = session.state.mixture.shape[1]
    chunk = _chunk(session, opened)
    pieces = [session.push(chunk), session.flush()]
    assert sum(piece.mixture.shape[1] for piece in pieces) == held + chunk.shape[1]
    for piece in pieces:
        assert piece.stems.shape == (len(piece.labels), *piece.mixture.shape)
        assert len(set(piece.labels)) == len(piece.labels)
        assert np.isfinite(piece.stems).all(), "stems are not finite"


def _restore(session, opened: Opened, context: list[Opened], rng: random.Random, folder: Path) -> None:
    tensors, path = dict(opened.whole), folder / "state.safetensors"
    if rng.random() < 0.1:
        tensors = dict(rng.choice(context).whole)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        _change(tensors, rng)
    way = rng.random()
    if way < 0.15:
        path.write_bytes(changed(opened.file, rng))
        session.load(path)
    elif way < FILES:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
        session.load(path)
    else:
        session.state = like(opened.state, tensors)


def _change(tensors: dict[str, Tensor], rng: random.Random) -> None:
    name = rng.choice(sorted(tensors))
    value = tensors[name]
    match rng.randrange(12):
        case 0:
            del tensors[name]
        case 1:
            tensors[name + rng.choice((".x", "s", ""))] = tensors.pop(name)
        case 2:
            tensors[name] = tensors[rng.choice(sorted(tensors))].clone()
        case 3:
            tensors[name] = value.to(rng.choice(DTYPES))
        case 4 if value.dim():
            axis = rng.randrange(value.dim())
            tensors[name] = value.narrow(axis, 0, rng.randint(0, value.shape[axis])).clone()
        case 5:
            tensors[name] = torch.cat([value, value]) if value.dim() else value[None]
        case 6 if value.dim() > 1:
            tensors[name] = value.transpose(0, -1).clone()
        case 7:
            tensors[name] = torch.zeros(rng.choice(((0,), (10**9, 0), (0, 10**12), (1,) * 9)), dtype=value.dtype)
        case _ if value.numel():
            tensors[name] = value = value.clone(memory_format=torch.contiguous_format)
            at = rng.randrange(value.numel())
            if value.dtype == torch.float32:
                near = 10 ** rng.uniform(-6, 40) * rng.choice((-1, 1))
                number = min(3e38, max(-3e38, rng.choice((rng.choice(ODD_FLOATS), near))))
            else:
                number = rng.choice((int(value.view(-1)[at]) + rng.choice((-1, 1)), rng.choice(ODD)))
                number = min(2**63 - 1, max(-(2**63), number)) if value.dtype == torch.int64 else number % 256
            value.view(-1)[at : at + rng.choice((1, 1, 5, value.numel()))] = number


def _same(a: object, b: object) -> bool:
    ours, theirs = tensors_of(a), tensors_of(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
