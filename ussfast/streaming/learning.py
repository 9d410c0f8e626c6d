"""Prompts that get better while a stream runs: vectors that take the place of others, and what finds them beside it."""

import atexit
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ussfast.engine.backends.networks import check_learns
from ussfast.engine.engine import Engine
from ussfast.errors import InputError, PromptError, UssfastError
from ussfast.prompts.bank import Plan, Prompt, PromptBank
from ussfast.streaming.apart import Apart, Cancelled
from ussfast.streaming.stages import Stages
from ussfast.streaming.tracks import Tracks

if TYPE_CHECKING:
    from ussfast.tuning.prompts import TuneStep

LEAVE_S = 10.0  # to leave kernels at the end of a program; far more than it takes


class Teacher(Protocol):
    """What tunes prompts: a separator."""

    engine: Engine
    prompts: PromptBank


class Learning:
    """A prompt that is being tuned in a process of its own; made by `Session.tune`.

    Attributes:
        name: of the prompt.
        step: what is known after the newest step, None before the first.
    """

    def __init__(
        self,
        name: str,
        work: Apart,
        better: Callable[[Prompt, bool], Prompt],
        on_step: "Callable[[TuneStep], None] | None",
    ):
        self.name = name
        self.step: TuneStep | None = None
        self._work, self._better, self._on_step = work, better, on_step
        self._sent: Prompt | None = None  # the newest one, as it was sent, and as others have it
        self._newest: Prompt | None = None
        self._found: Prompt | None = None
        self._error: BaseException | None = None
        self._ended = threading.Event()
        # A daemon: what waits for the other process never keeps a program from its end.
        self._thread = threading.Thread(target=self._run, name=f"ussfast tunes {name}", daemon=True)
        _running.add(self)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether it has ended, however it did."""
        return self._ended.is_set()

    def wait(self, timeout: float | None = None) -> Prompt:
        """The prompt, as `Separator.tune` returns it; after `cancel`, the best so far.

        Args:
            timeout: in seconds; None: as long as it takes.
        Raises:
            TimeoutError: it has not ended by then. InputError: it was cancelled before its first step. What
            `Separator.tune` or `on_step` raised. UssfastError: its process was killed.
        """
        if not self._ended.wait(timeout):
            raise TimeoutError(f"{self.name!r} is still being tuned after {timeout:g} s")
        if self._error is not None:
            raise self._error
        if self._found is None:
            raise InputError(f"tuning {self.name!r} was cancelled before its first step: there is no prompt yet")
        return self._found

    def cancel(self) -> None:
        """Ends it, without waiting for that; the best prompt so far stays."""
        self._work.stop()

    def _run(self) -> None:
        try:
            self._found = self._known(self._work.run(self._each))
        except Cancelled:
            self._found = self._newest
        except BaseException as error:  # it belongs to whoever waits
            self._error = error
        finally:
            self._ended.set()

    def _each(self, step: "TuneStep") -> None:
        self.step = replace(step, prompt=self._known(step.prompt))
        if self._on_step is not None:
            self._on_step(self.step)

    def _known(self, sent: Prompt) -> Prompt:
        """A prompt as the separator has it by now, and the stream, if it is better than those before."""
        if sent is not self._sent:
            former = self._sent
            same = former is not None and torch.equal(former.vector, sent.vector)
            # The one that it began with is what the stream has, or had.
            better = not same and (former is not None or sent.kind == "tuned")
            self._sent, self._newest = sent, self._better(sent, better)
        assert self._newest is not None
        return self._newest


_running: "weakref.WeakSet[Learning]" = weakref.WeakSet()


@atexit.register
def _leave() -> None:
    """Daemons must not be torn out of kernels."""
    for learning in list(_running):
        learning.cancel()
        learning._thread.join(LEAVE_S)


class Learns:
    """The part of a `Session` whose prompts become other vectors while it runs."""

    _stages: Stages
    _tracks: Tracks

    def _set_up_learning(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self._learning: dict[str, Learning] = {}
        # Left by any thread, taken by the one that pushes; neither ever waits for the other.
        self._replaced: deque[tuple[str, Tensor]] = deque()

    def replace_prompt(self, name: str, prompt: Prompt | Tensor) -> None:
        """Separates what is called `name` by another vector, from the next chunk on; any thread may say so.

        The stem keeps its place and goes on; the two vectors cross-fade where the next hop begins. Where prompts do not
        see one another, as in the default model, all other stems stay as they are, bit for bit. The separator's prompts
        stay, too, and `set_prompts` takes theirs.

        Args:
            name: of a prompt that the session was asked for; where it repeats, all of them.
            prompt: or its vector, [dim] of finite numbers.
        Raises:
            PromptError: nothing is called so here, a vector that the model cannot take, or one that another stem has.
            InputError: neither a Prompt nor a tensor; a stream that has left its pool.
        """
        self._stages.core.check_open()
        vector = prompt.vector if isinstance(prompt, Prompt) else prompt
        if not isinstance(vector, Tensor):
            raise InputError(f"a Prompt or the tensor of its vector is needed, got {type(prompt).__name__}")
        vector = vector.detach().float().clone()
        plan = self._foreseen().with_vector(name, vector)
        assert plan.vectors is not None
        self._stages.core.foresee(plan.vectors)
        self._replaced.append((name, vector))

    def tune(
        self,
        name: str,
        clips: Iterable[Any],
        backgrounds: Iterable[Any] | None = None,
        sample_rate: int | None = None,
        start: str | Prompt = "enrolled",
        *,
        steps: int | None = None,
        minutes: float | None = None,
        on_step: "Callable[[TuneStep], None] | None" = None,
        **settings: Any,
    ) -> Learning:
        """`Separator.tune` beside the stream: a prompt that learns from clips, without the stream waiting for it.

        Whenever it is better than before, `replace_prompt` brings it into this session, while that is asked for `name`;
        in any case it is among the separator's prompts. Errors come to whoever asks the result, never to the stream.
        `close` ends it.

        Args:
            clips, backgrounds: paths or arrays; the work is another process's, so that the stream never waits for it.
            on_step: called in a thread of this one; what it raises ends the work.
            all others: see `Separator.tune`.
        Returns:
            at once; see `Learning`.
        Raises:
            PromptError: a name that no prompt can have here, or a model that takes none.
            InputError: `name` is being tuned already.
        """
        self._stages.core.check_open()
        self._teacher.prompts.check_name(name)
        if self._teacher.prompts.prompt_size is None:
            raise PromptError(f"{name!r} cannot be tuned: this model takes no prompts")
        check_learns(self._teacher.engine.model, name)
        if name in self._learning and not self._learning[name].done:
            raise InputError(f"{name!r} is being tuned already: wait for that, or cancel it")

        arguments = name, _listed(clips), _listed(backgrounds), sample_rate, start
        work = Apart(self._teacher, arguments, {"steps": steps, "minutes": minutes} | settings)

        def better(prompt: Prompt, switch: bool) -> Prompt:
            prompt = replace(prompt, vector=prompt.vector.to(self._teacher.engine.device))
            self._teacher.prompts.add(prompt)
            if switch:
                with suppress(UssfastError):  # nobody asks for it here, or for the same by another name
                    self.replace_prompt(name, prompt)
            return prompt

        self._learning[name] = Learning(name, work, better, on_step)
        return self._learning[name]

    def _foreseen(self) -> Plan:
        """What will be separated from the next chunk on."""
        return _changed(self._tracks.plan, self._replaced.copy())

    def _catch_up(self) -> None:
        """Takes what `replace_prompt` left."""
        before = plan = self._tracks.plan
        while self._replaced:
            plan = _changed(plan, [self._replaced.popleft()])
        if plan is not before:
            self._stages.core.set_prompts(plan.vectors, self._tracks.slots, plan.groups)
            self._tracks.plan = plan

    def _stop_learning(self) -> None:
        for learning in self._learning.values():
            learning.cancel()


def _listed(clips: Any) -> Any:
    return list(clips) if isinstance(clips, Iterable) else clips


def _changed(plan: Plan, replaced: Iterable[tuple[str, Tensor]]) -> Plan:
    for name, vector in replaced:
        with suppress(PromptError):  # asked for no longer
            plan = plan.with_vector(name, vector)
    return plan
