"""The half of a session that works at the model's rate: what causal and other models have in common."""

from typing import Any, Protocol

import numpy as np
from torch import Tensor

from ussfast.long_audio.alignment import Groups


class Core(Protocol):
    """Audio at the model's rate in, one row per slot out.

    A slot is a track of the output that a source can be sent to: when prompts change, sources that go on keep their
    slots, ended ones fade out in theirs, and new ones fade in in free ones. Slots without a source are silent.

    latency: samples that follow a sample before its output is there.
    fade: samples of output in which old and new prompts may both be heard, counted from a change.
    hop: samples that are computed at once.
    """

    latency: int
    fade: int
    hop: int

    def push(self, audio: np.ndarray) -> np.ndarray:
        """[channels, n] float32, any n -> [slots, channels, m], what is complete; m may be 0."""

    def flush(self) -> np.ndarray:
        """The rest: as many samples in all as went in. The next push begins anew."""

    def reset(self) -> None:
        """Forgets all audio; prompts and slots stay."""

    def set_prompts(self, vectors: Tensor | None, slots: tuple[int, ...], groups: Groups = ()) -> None:
        """What the frames to come are separated by.

        Args:
            vectors: [sources, dim]; None for models without prompts.
            slots: of each source.
            groups: sources that are asked for by equal prompts.
        """

    def foresee(self, vectors: Tensor) -> None:
        """Computes what `set_prompts` needs of these, so that it costs little then; any thread may call it."""

    def check_open(self) -> None:
        """InputError if the core's memory is another stream's by now."""

    def given(self, taken: int) -> int:
        """Samples that have come out after so many went in, before `flush`."""

    @property
    def state(self) -> Any:
        """A dataclass of tensors, possibly nested, that is a copy."""

    def after(self, taken: int) -> Any:
        """What `state` is like after so many samples, for `fit`: what they were is not in it."""

    def load(self, state: Any) -> None:
        """Goes on from a state of such a core that fits; the prompts must be those that it was taken with."""
