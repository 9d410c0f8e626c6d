"""What a causal model remembers of several streams, stepped together."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from ussfast import stft
from ussfast.engine.engine import Engine
from ussfast.engine.graphs import bucket
from ussfast.engine.nested import copied, like, tensors_of
from ussfast.errors import InputError
from ussfast.models.causal import Modulation, TrunkState
from ussfast.models.causal.hop import StreamState, initial_state, step
from ussfast.models.causal.step import TrunkStep, fastest, supported

T = TypeVar("T")


class CausalRows:
    """Streams of as many channels each, with tracks ("slots") for sources of now and before.

    Every tensor of the state begins with an axis over streams and channels; where channels share their masks, those of
    the network over streams alone.

    Args:
        engine: with a causal model.
        streams, channels, slots: see above.
        threads: of the CPU.
    """

    def __init__(self, engine: Engine, streams: int, channels: int, slots: int, threads: int):
        assert engine.causal is not None
        self.engine, self.model, self.threads = engine, engine.causal, threads
        self.streams, self.channels, self.slots = streams, channels, slots
        # How many streams had a row before: what is left of one of them must not reach the next.
        self.former = [0] * streams
        config = self.model.config.stft
        self.hop = config.hop
        self.norm = stft.window(config, engine.device).square().view(2, -1).sum(0)
        self.linked = self.shared = engine.linked and channels > 1
        self.modulation: Modulation | None = None
        # Graphs work on memory that stays where it is: these are for this state, and modulations of one shape take
        # turns in one place.
        self.graphs = engine.graphs.another()
        self._places: dict[int, Modulation] = {}
        with engine.computing():
            items, together = (streams, channels) if self.shared else (streams * channels, 1)
            self._use(initial_state(self.model, items, slots, together))

    def _use(self, state: StreamState) -> None:
        self.graphs.forget()
        self.native: TrunkStep | None = None
        if supported(self.model):
            precision = fastest(self.model, self.engine.stream_precision)
            self.native = TrunkStep(self.model, state, self.slots, precision)
        self.state = state if self.native is None else self.native.state

    def set_prompts(self, row: int, vectors: Tensor, shared: bool) -> None:
        """What a stream's frames to come are separated by.

        shared: its channels get the same masks. Only where there is one stream, or channels always do: what was
            remembered of each channel becomes what is remembered of all, see `_shared`, and the other way round.
        """
        shared = shared or self.linked
        known = self.engine.condition(vectors)
        if self.streams == 1:
            self.modulation = self._placed(known) if self.graphs.on else known
            if shared != self.shared:
                with self.engine.computing():
                    self._use(replace(self.state, frames=_shared(self.state.frames, shared, self.channels)))
                self.shared = shared
            return
        if shared and not self.linked:
            raise InputError(
                "a pool separates channels one by one, so that equal prompts cannot be told apart: open it with one "
                "channel, link channels, or use a session"
            )
        room = self.slots // 2
        with self.engine.computing():
            if self.modulation is None:
                self.modulation = _blank(known, self.state.frames.items, room)
            mine, theirs = tensors_of(self.modulation), tensors_of(_filled(known, room))
            for name, value in mine.items():
                self._row(value, row).copy_(theirs[name])

    def _placed(self, known: Modulation) -> Modulation:
        """The modulation in the place of those with as many prompts."""
        prompts = known.scale.shape[1]
        with self.engine.computing():
            if prompts not in self._places:
                self._places[prompts] = copied(known)
            theirs = tensors_of(known)
            for name, value in tensors_of(self._places[prompts]).items():
                value.copy_(theirs[name])
        return self._places[prompts]

    def step(self, rows: Sequence[int], audio: Tensor) -> Tensor:
        """[rows, channels, hop] -> [rows, channels, slots, hop], valid until the next call: the stream's sources, then
        what is left of former ones."""
        assert self.modulation is not None
        every, each = len(rows) == self.streams, self.state.frames.items // self.streams
        items = None if every else [row * each + item for row in rows for item in range(each)]
        flat = audio.flatten(0, 1)
        if self.native is not None:
            out = self.native.step(flat, self.modulation, items)
        else:
            out = self._plain(flat, items)
        return out.unflatten(0, audio.shape[:2])

    def _plain(self, audio: Tensor, items: list[int] | None) -> Tensor:
        assert self.modulation is not None
        count, places = len(audio), None
        if items is not None:
            # The last item is computed again until there are as many as some graph has: it gets the same again.
            more = bucket(len(items)) - len(items) if self.graphs.on else 0
            places = torch.tensor(items + items[-1:] * more, device=audio.device)
            audio = torch.cat((audio, audio[-(count // len(items)) :].repeat(more, 1))) if more else audio
        what = "step", self.modulation.scale.shape[1]
        return self.graphs.run(what, self._reference, audio, places)[:count]

    def _reference(self, audio: Tensor, places: Tensor | None) -> Tensor:
        """A step of some items of the state, or of all, which it changes in place."""
        state, modulation = self.state, self.modulation
        assert modulation is not None
        # Rows of each item: the channels that share its masks.
        each, lines = len(state.context) // state.frames.items, None
        if places is not None:
            lines = (places[:, None] * each + torch.arange(each, device=places.device)).flatten()
            frames, modulation = _rows(state.frames, places), _rows(modulation, places)
            state = StreamState(state.context[lines], state.overlap[lines], frames)
        sources = modulation.scale.shape[1]
        out, after = step(self.model, audio, replace(state, overlap=state.overlap[:, :sources]), modulation)
        out = torch.cat((out, state.overlap[:, sources:] / self.norm), 1)
        # Sources beyond a stream's own only fill up the batch.
        count = modulation.count.expand(state.frames.items).repeat_interleave(each)
        own = torch.arange(self.slots, device=audio.device) < count[:, None]
        late = torch.cat((after.overlap, torch.zeros_like(state.overlap[:, sources:])), 1) * own[..., None]
        out = torch.where(own[..., None], out, state.overlap / self.norm)
        after = replace(after, overlap=late)
        mine, theirs = tensors_of(self.state), tensors_of(after)
        for name, value in mine.items():
            if places is None or lines is None:
                value.copy_(theirs[name])
            else:
                value.index_copy_(0, lines if name in ("context", "overlap") else places, theirs[name])
        return out

    def reorder(self, row: int, places: list[int]) -> None:
        """Source `places[i]` of a stream becomes its source i."""
        with self.engine.computing():
            overlap = self._row(self.state.overlap, row)
            overlap.copy_(overlap[:, places])

    def reset(self, row: int) -> None:
        """Forgets all audio of a stream."""
        with self.engine.computing():  # where inference tensors may be written to
            for tensor in tensors_of(self.state).values():
                self._row(tensor, row).zero_()

    def row_state(self, row: int) -> StreamState:
        """What is remembered of one stream; it shares its memory."""
        return like(self.state, {name: self._row(t, row) for name, t in tensors_of(self.state).items()})

    def load(self, row: int, state: StreamState) -> None:
        """Goes on from a copy of a `row_state`."""
        theirs = tensors_of(state)
        with self.engine.computing():
            for name, value in tensors_of(self.row_state(row)).items():
                value.copy_(theirs[name])

    def _row(self, tensor: Tensor, row: int) -> Tensor:
        size = len(tensor) // self.streams
        return tensor[row * size : (row + 1) * size]


def _rows(state: T, places: Tensor) -> T:
    return like(state, {name: tensor[places] for name, tensor in tensors_of(state).items()})


def _shared(frames: TrunkState, shared: bool, channels: int) -> TrunkState:
    """What was remembered of every channel, as one for all; or what was remembered of all, for every one.

    One for all is the loudest channel's, the first of them, at the level of the channels' mean power: that is what
    `linked` would have given of a sound that is in all of them. The mean would lose what has opposite phases.
    """
    if not shared:
        return like(frames, {name: value.repeat_interleave(channels, 0) for name, value in tensors_of(frames).items()})
    loudest = int(frames.level.argmax())
    one = like(frames, {name: value[loudest : loudest + 1].clone() for name, value in tensors_of(frames).items()})
    # Levels are logarithms of magnitudes.
    level = (torch.logsumexp(2 * frames.level, 0, keepdim=True) - math.log(len(frames.level))) / 2
    return replace(one, level=level)


def _filled(modulation: Modulation, prompts: int) -> Modulation:
    """The same with room for so many prompts."""
    more = prompts - modulation.scale.shape[1]

    def fill(tensor: Tensor) -> Tensor:
        return torch.cat((tensor, tensor.new_zeros(len(tensor), more, *tensor.shape[2:])), 1)

    return replace(modulation, scale=fill(modulation.scale), shift=fill(modulation.shift))


def _blank(modulation: Modulation, items: int, prompts: int) -> Modulation:
    """Room for the modulations of so many items."""
    named = tensors_of(_filled(modulation, prompts))
    return like(modulation, {name: t.new_zeros(items, *t.shape[1:]) for name, t in named.items()})
