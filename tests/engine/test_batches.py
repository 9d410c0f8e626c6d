"""The dispatcher by itself: who is computed together, in what order, and whom trouble reaches."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from ussfast.engine import batching
from ussfast.engine.batching import Batches, Ticket
from ussfast.errors import OutOfMemoryError

LONG = 1000.0  # seconds that no test waits


class Model:
    """A launch whose batches are kept; results are items times two. hold: what a batch waits for before it launches."""

    def __init__(self):
        self.batches, self.log, self.hold, self.error = [], [], None, None

    def __call__(self, items, prompts):
        number = len(self.batches)
        self.batches.append((items.copy(), prompts))
        self.log.append(f"launch {number}")
        if self.hold is not None:
            self.hold(number)
        if self.error is not None:
            error = self.error(items)
            if error is not None:
                raise error
        out = np.repeat(2 * items[:, None], 1 if prompts is None else prompts.shape[1], 1)
        return lambda: self.log.append(f"wait {number}") or out


def windows(*values, count=1, samples=4, prompts=None):
    return [Ticket(np.full((count, samples), value, np.float32), prompts) for value in values]


def test_batches_have_one_shape_and_as_many_windows_as_allowed():
    model = Model()
    batches = Batches(model, 3)
    two, three = torch.ones(2, 5), torch.ones(3, 5)
    tickets = windows(0, 1, 2, 3) + windows(4, samples=5) + windows(5, 6, prompts=two) + windows(7, prompts=three)
    tickets += windows(8, count=2, prompts=2 * two)
    for out, ticket in zip(batches.run(tickets), tickets, strict=True):
        assert out.shape == (len(ticket.items), 1 if ticket.prompts is None else len(ticket.prompts), *out.shape[2:])
        assert (out == 2 * ticket.items[:, None]).all()
    assert [len(items) for items, _ in model.batches] == [3, 1, 1, 4, 1]
    prompts = model.batches[3][1]  # each item has its own
    assert prompts.shape == (4, 2, 5) and torch.equal(prompts[:, 0, 0], torch.tensor([1.0, 1.0, 2.0, 2.0]))
    assert batches.run([]) == []


def test_the_next_batch_is_launched_before_the_last_is_waited_for():
    model = Model()
    Batches(model, 1).run(windows(0, 1, 2, 3))
    assert model.log == [
        "launch 0", "launch 1", "wait 0", "launch 2", "wait 1", "launch 3", "wait 2", "wait 3"
    ]  # fmt: skip


def in_threads(*calls):
    """Results or errors of calls that run at the same time."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [f.exception(LONG) or f.result() for f in [pool.submit(call) for call in calls]]


def until(batches, count):
    """Holds the first batch until so many windows wait behind it."""

    def hold(number):
        while number == 0 and len(batches._waiting) < count:
            threading.Event().wait(0.001)

    return hold


def test_threads_that_wait_are_computed_together():
    model = Model()
    batches = Batches(model, 4)
    model.hold = until(batches, 3)

    outs = in_threads(*(lambda v=v: batches.run(windows(v, count=v + 1)) for v in range(4)))
    assert sorted(len(items) for items, _ in model.batches)[-1] >= 6 and len(model.batches) == 2
    for value, [out] in enumerate(outs):
        assert out.shape == (value + 1, 1, 4) and (out == 2 * value).all()


def test_one_thread_never_waits(monkeypatch):
    monkeypatch.setattr(batching, "PATIENCE_SECONDS", LONG)
    batches = Batches(Model(), 4)
    with batches.present():
        assert len(batches.run(windows(1, 2))) == 2
    other = threading.Thread(target=lambda: batches.run(windows(3)), daemon=True)
    other.start()  # nor does one that is not expected to bring more
    other.join(LONG / 10)
    assert not other.is_alive()


def test_who_is_present_is_waited_for(monkeypatch):
    monkeypatch.setattr(batching, "PATIENCE_SECONDS", LONG)
    model, both = Model(), threading.Barrier(2)
    batches = Batches(model, 4)

    def work(late):
        with batches.present():
            both.wait(LONG)
            if late:
                threading.Event().wait(0.05)
            return batches.run(windows(int(late)))

    assert [out[0][0, 0, 0] for out in in_threads(lambda: work(False), lambda: work(True))] == [0, 2]
    assert [len(items) for items, _ in model.batches] == [2]


def test_but_not_for_long(monkeypatch):
    monkeypatch.setattr(batching, "PATIENCE_SECONDS", 0.01)
    batches, over = Batches(Model(), 4), threading.Event()

    def idle():
        with batches.present():
            over.wait(LONG)

    def work():
        with batches.present():
            try:
                return batches.run(windows(5))
            finally:
                over.set()

    assert in_threads(idle, work)[1][0][0, 0, 0] == 10


def test_errors_reach_every_window_of_the_batch_and_no_other():
    model = Model()
    batches = Batches(model, 8)
    model.hold = until(batches, 2)
    model.error = lambda items: ValueError("broken") if (items == 7).any() else None
    with ThreadPoolExecutor(3) as pool:
        good = pool.submit(batches.run, windows(1))
        while not model.log:  # the good one is under way, so that the others wait together
            threading.Event().wait(0.001)
        bad = [pool.submit(batches.run, windows(value, samples=5)) for value in (7, 1)]
        assert [str(future.exception(LONG)) for future in bad] == ["broken", "broken"]
        assert good.result(LONG)[0][0, 0, 0] == 2
    model.hold = None
    assert batches.run(windows(2, samples=5))[0][0, 0, 0] == 4


def test_batches_that_do_not_fit_become_smaller():
    model = Model()
    batches = Batches(model, 8)
    model.error = lambda items: OutOfMemoryError("out of memory") if len(items) > 2 else None
    outs = batches.run(windows(*range(8)))
    assert [out[0, 0, 0] for out in outs] == [0, 2, 4, 6, 8, 10, 12, 14]
    assert batches.most == 2 and {len(items) for items, _ in model.batches} == {8, 4, 2}
    with pytest.raises(OutOfMemoryError):
        batches.run(windows(1, count=3) + windows(2))
    assert batches.run(windows(3))[0][0, 0, 0] == 6


def test_lack_of_memory_in_the_result_is_the_same():
    model, tries = Model(), []

    def launch(items, prompts):
        wait = model(items, prompts)

        def result():
            tries.append(len(items))
            if len(items) > 1:
                raise OutOfMemoryError("out of memory")
            return wait()

        return result

    assert [out[0, 0, 0] for out in Batches(launch, 2).run(windows(1, 2, 3))] == [2, 4, 6]
    assert sorted(tries) == [1, 1, 1, 2]


def test_an_interrupt_is_for_one_thread():
    model = Model()
    batches = Batches(model, 8)
    model.hold = until(batches, 1)

    def error(items):
        return KeyboardInterrupt() if len(model.batches) == 1 else None

    model.error = error
    outs = []

    def work(value):
        try:
            outs.append(batches.run(windows(value))[0][0, 0, 0])
        except KeyboardInterrupt:
            outs.append("interrupted")

    threads = [threading.Thread(target=work, args=(value,), daemon=True) for value in (3, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG / 10)
    assert sorted(outs, key=str) == [6, "interrupted"]
    assert batches.run(windows(4))[0][0, 0, 0] == 8 and batches._flying == 0


def test_an_interrupt_leaves_no_batch_under_way():
    model, times = Model(), []

    def launch(items, prompts):
        wait = model(items, prompts)

        def result():
            times.append(1)
            if len(times) == 1:
                raise KeyboardInterrupt
            return wait()

        return result

    batches = Batches(launch, 1)
    with pytest.raises(KeyboardInterrupt):
        batches.run(windows(1, 2, 3))  # the second is under way by then
    assert batches._flying == 0 and not batches._waiting
    assert [out[0, 0, 0] for out in batches.run(windows(4, 5))] == [8, 10]
