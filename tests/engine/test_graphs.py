"""Graphs by themselves: keys, what is kept, and what happens when recording fails."""

import threading
from dataclasses import dataclass

import pytest
import torch
from stand_in import StandIn
from torch import Tensor

from ussfast.engine.graphs import Graphs, bucket, graphs_for, why_not


@dataclass(frozen=True)
class Pair:
    first: Tensor
    others: tuple[Tensor, ...] | None


def test_nested_work():
    recorder = StandIn()
    graphs, calls = Graphs(recorder), []

    def work(pair, factor):
        calls.append(1)
        return Pair(pair.first * factor, None if pair.others is None else tuple(t + 1 for t in pair.others))

    kept = []
    for number in range(6):
        pair = Pair(torch.full((3,), float(number)), (torch.arange(2) + number,))
        out = graphs.run("work", work, pair, torch.tensor(2.0))
        kept.append((out, pair))
    for out, pair in kept:  # none was written to by the next
        assert torch.equal(out.first, pair.first * 2) and torch.equal(out.others[0], pair.others[0] + 1)
    assert len(calls) == 2 and (recorder.recorded, recorder.played) == (1, 5)
    assert graphs.run("work", work, Pair(torch.ones(3), None), torch.tensor(2.0)).others is None
    assert len(calls) == 3


def test_keys_are_kinds_shapes_and_types():
    graphs = Graphs(StandIn())
    inputs = [torch.ones(3), torch.ones(4), torch.ones(3, dtype=torch.float64), torch.ones(1, 3)]
    for _ in range(3):
        for x in inputs:
            assert torch.equal(graphs.run("double", lambda x: x * 2, x), x * 2)
            assert torch.equal(graphs.run("halve", lambda x: x / 2, x), x / 2)
    assert len(graphs) == 8


def test_the_least_recently_used_goes():
    recorder = StandIn()
    graphs = Graphs(recorder, most=2)
    for size in (1, 1, 2, 2, 1, 3, 3):  # 2 goes
        x = torch.rand(size)
        assert torch.equal(graphs.run("f", torch.sin, x), x.sin())
    assert len(graphs) == 2 and recorder.recorded == 3
    graphs.run("f", torch.sin, torch.rand(1))
    assert recorder.recorded == 3
    graphs.run("f", torch.sin, torch.rand(2))
    assert recorder.recorded == 3  # once eagerly
    graphs.run("f", torch.sin, torch.rand(2))
    assert recorder.recorded == 4 and len(graphs) == 2


def test_what_cannot_be_recorded_stays_eager():
    graphs, calls = Graphs(StandIn()), []

    def work(x):
        calls.append(1)
        return x * x.sum().item()

    x = torch.arange(3.0)
    graphs.run("work", work, x)
    with pytest.warns(RuntimeWarning, match="no CUDA graph for work, .* not permitted when stream is capturing"):
        assert torch.equal(graphs.run("work", work, x), x * 3)
    for _ in range(3):
        assert torch.equal(graphs.run("work", work, x), x * 3)
    assert len(calls) == 6 and list(graphs.reasons.values()) != [] and not len(graphs)


def test_in_place_work_is_done_once_also_where_recording_fails():
    recorder, state = StandIn(), torch.zeros(3)
    graphs = Graphs(recorder)

    def work(x):
        state.add_(x)
        return state * 1

    for number, error in enumerate((None, RuntimeError("broken"), None, None), 1):
        recorder.error = error
        x = torch.ones(3)
        if error is None:
            out = graphs.run("work", work, x)
        else:
            with pytest.warns(RuntimeWarning, match="broken"):
                out = graphs.run("work", work, x)
        assert torch.equal(out, torch.full((3,), float(number)))
    assert recorder.recorded == 0


@pytest.mark.parametrize("hidden", [False, True])
def test_lack_of_memory_frees_all_graphs(hidden):
    recorder = StandIn()
    graphs = Graphs(recorder)
    family = graphs.another()
    for _ in range(2):
        graphs.run("a", torch.sin, torch.rand(2))
        family.run("b", torch.cos, torch.rand(2))
    assert len(graphs) == len(family) == 1
    error: RuntimeError = torch.OutOfMemoryError("CUDA out of memory")
    if hidden:  # as where the end of the capture fails on top of it
        error, error.__context__ = RuntimeError("capture invalidated"), error
    recorder.error, x = error, torch.rand(3)
    family.run("b", torch.cos, x)
    with pytest.warns(RuntimeWarning, match="no CUDA graph for b, which runs without: out of memory"):
        assert torch.equal(family.run("b", torch.cos, x), x.cos())
    assert not len(graphs) and not len(family) and recorder.released == 1
    recorder.error, x = None, torch.rand(2)
    assert torch.equal(graphs.run("a", torch.sin, x), x.sin()) and len(graphs) == 1


def test_threads_take_turns():
    recorder = StandIn()
    graphs, wrong = Graphs(recorder), []

    def work(seed):
        rng = torch.Generator().manual_seed(seed)
        with torch.inference_mode():
            for _ in range(30):
                x = torch.randn(4 + seed % 2, generator=rng)
                if not torch.equal(graphs.run("f", lambda x: (x * 2).sin() + 1, x), (x * 2).sin() + 1):
                    wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and recorder.recorded == 2


def test_where_graphs_are(monkeypatch):
    cpu = torch.device("cpu")
    if not torch.cuda.is_available():
        assert why_not() in ("no CUDA device", "this torch is built without CUDA")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert why_not() is None and why_not(torch.device("cuda", 1)) is None
    assert why_not(cpu) == "the device is cpu" and not graphs_for(cpu).on
    monkeypatch.setenv("USSFAST_GRAPHS", "0")
    assert why_not() == why_not(torch.device("cuda")) == "USSFAST_GRAPHS=0"
    assert not graphs_for(torch.device("cuda")).on
    assert [bucket(n) for n in (1, 2, 3, 4, 5, 8, 9)] == [1, 2, 4, 4, 8, 8, 16]
