"""Prompts that get better while a stream runs: vectors that take the place of others, and what finds them beside it."""

import ctypes
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ussfast.errors import InputError, PromptError, UssfastError
from ussfast.ops import rms_group_norm
from ussfast.prompts.bank import Plan, Prompt, PromptBank
from ussfast.streaming.stages import Stages
from ussfast.streaming.tracks import Tracks

if TYPE_CHECKING:
    from ussfast.tuning.prompts import TuneStep

LOWEST = 19  # priority of a thread on Linux


class Teacher(Protocol):
    """What tunes prompts: a separator."""

    prompts: PromptBank

    def tune(self, name: str, clips: Iterable[Any], *arguments: Any, **settings: Any) -> Prompt:
        """See `Separator.tune`."""


class Cancelled(Exception):
    """Ends the work before a step, or between two."""


class Learning:
    """A prompt that is being tuned in a thread of its own; made by `Session.tune`.

    The thread has the lowest priority that Linux knows, itself alone, and one thread of the CPU for its kernels. The
    program does not wait for it at its end.

    Attributes:
        name: of the prompt.
        step: what is known after the newest step, None before the first.
    """

    def __init__(
        self,
        name: str,
        tune: "Callable[[Callable[[TuneStep], None]], Prompt]",
        better: Callable[[Prompt], None],
        on_step: "Callable[[TuneStep], None] | None",
    ):
        self.name = name
        self.step: TuneStep | None = None
        self._tune, self._better, self._on_step = tune, better, on_step
        self._newest: Prompt | None = None
        self._found: Prompt | None = None
        self._error: BaseException | None = None
        self._cancelled, self._begun, self._ended = threading.Event(), threading.Event(), threading.Event()
        self._before_steps, self._knowing = 0, threading.Lock()  # the thread, until it makes steps

    def start(self) -> None:
        threads = torch.get_num_threads()
        _Thread(target=self._run, name=f"ussfast tunes {self.name}").start()
        self._begun.wait()
        # Numbers of threads are each thread's own, but those to come begin with the last one that was set anywhere.
        torch.set_num_threads(threads)

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
            `Separator.tune` or `on_step` raised.
        """
        if not self._ended.wait(timeout):
            raise TimeoutError(f"{self.name!r} is still being tuned after {timeout:g} s")
        if self._error is not None:
            raise self._error
        if self._found is None:
            raise InputError(f"tuning {self.name!r} was cancelled before its first step: there is no prompt yet")
        return self._found

    def cancel(self) -> None:
        """Ends it with the present step, without waiting for that; the best prompt so far stays."""
        with self._knowing:
            if self._before_steps and not self._cancelled.is_set():
                # Making mixtures takes seconds, and nobody is asked meanwhile.
                thread = ctypes.c_ulong(self._before_steps)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(Cancelled))
            self._cancelled.set()

    def _run(self) -> None:
        _one_thread()
        self._begun.set()
        if sys.platform == "linux":
            with suppress(OSError):  # a number of a thread means that thread alone
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)
        try:
            try:
                with self._knowing:
                    if self._cancelled.is_set():
                        raise Cancelled
                    self._before_steps = threading.get_ident()
                self._found = self._tune(self._each)
            finally:
                self._no_more_exceptions()
            self._tell(self._found)
        except Cancelled:
            self._found = None if self.step is None else self.step.prompt
        except BaseException as error:  # it belongs to whoever waits
            self._error = error
        finally:
            self._ended.set()

    def _no_more_exceptions(self) -> None:
        """From now on `cancel` raises nothing in here by itself."""
        with self._knowing:
            self._before_steps = 0
        _nothing()  # one that is on its way arrives when a function is called

    def _each(self, step: "TuneStep") -> None:
        if self._before_steps:
            self._no_more_exceptions()
        self.step = step
        self._tell(step.prompt)
        if self._on_step is not None:
            self._on_step(step)
        if self._cancelled.is_set() or _abandoned():
            raise Cancelled

    def _tell(self, prompt: Prompt) -> None:
        """Passes on a prompt that is better than those before; the one that it began with is what others have."""
        former, self._newest = self._newest, prompt
        same = former is not None and torch.equal(former.vector, prompt.vector)
        if not same and (former is not None or prompt.kind == "tuned"):
            self._better(prompt)


def _one_thread() -> None:
    """For kernels that this thread calls, PyTorch's and ours, whatever others choose for themselves."""
    # Either take the number that was chosen last by anyone when a thread calls them first: that has to be behind us.
    torch.get_num_threads()
    rms_group_norm(torch.zeros(1, 1), torch.zeros(1), 1)
    torch.set_num_threads(1)


def _nothing() -> None:
    pass


class _Thread(threading.Thread):
    """No daemon, for those are torn out of their kernels at the end of a program."""


def _abandoned() -> bool:
    """Whether the program has come to its end and waits for such threads alone."""
    if threading.main_thread().is_alive():
        return False
    others = (thread for thread in threading.enumerate() if not isinstance(thread, _Thread))
    return all(thread.daemon or not thread.is_alive() for thread in others)


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
            on_step: called in the thread that tunes; what it raises ends the work.
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
        if name in self._learning and not self._learning[name].done:
            raise InputError(f"{name!r} is being tuned already: wait for that, or cancel it")

        def work(each: "Callable[[TuneStep], None]") -> Prompt:
            return self._teacher.tune(
                name, clips, backgrounds, sample_rate, start, steps=steps, minutes=minutes, on_step=each, **settings
            )

        def better(prompt: Prompt) -> None:
            with suppress(UssfastError):  # nobody asks for it here, or for the same by another name
                self.replace_prompt(name, prompt)

        self._learning[name] = Learning(name, work, better, on_step)
        self._learning[name].start()
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


def _changed(plan: Plan, replaced: Iterable[tuple[str, Tensor]]) -> Plan:
    for name, vector in replaced:
        with suppress(PromptError):  # asked for no longer
            plan = plan.with_vector(name, vector)
    return plan
