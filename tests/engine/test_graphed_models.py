"""Models, files and streams through recorded graphs give what they give without, whatever comes in between."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from causal_models import CONFIGS
from stand_in import StandIn, check
from tiny import CAUSAL, PROMPTS, RATE, SHORT, STEREO, TUSS, TUSS_SFC, UNCONDITIONAL, noise, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode

from ussfast import Separator
from ussfast.engine.engine import Engine
from ussfast.engine.graphs import Graphs
from ussfast.engine.settings import CHANNELS, Settings
from ussfast.errors import OutOfMemoryError
from ussfast.models.causal.hop import initial_state, step
from ussfast.models.config import StackConfig
from ussfast.models.tflocoformer import TfLocoformerConfig
from ussfast.ops._op import record_ops, use_reference

TF = TfLocoformerConfig(RATE, TUSS.stft, 2, StackConfig(**vars(TUSS.cross_prompt)))


def graphed(config, **settings):
    """A separator as on a GPU, its graphs being tapes; plain PyTorch, since native steps need none."""
    settings = {"device": "cpu", "backend": "reference", **SHORT} | settings
    separator = Separator.from_model(tiny_model(config), **settings)
    recorder = StandIn()
    separator.engine.graphs = Graphs(recorder)
    separator.engine.after_fork()  # what runs through them is made anew
    return separator, recorder


def plain(config, **settings):
    return Separator.from_model(tiny_model(config), **({"device": "cpu", "backend": "reference", **SHORT} | settings))


def same(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(1e-3, np.abs(b).max(initial=0.0)))


def test_ops_that_are_timed_run_eagerly():
    recorder = StandIn()
    graphs, separator = Graphs(recorder), plain(TUSS, prompts="speech")
    separator.engine.graphs = graphs
    audio = noise(1, 3000)
    for _ in range(3):
        with record_ops() as calls:
            separator.separate(audio, RATE)
        assert calls
    assert recorder.recorded == 0


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("config", [TUSS, TUSS_SFC, UNCONDITIONAL, STEREO, TF], ids=lambda c: type(c).__name__)
def test_windows_of_every_model(config, backend):
    prompts = getattr(config, "prompts", ())[:2]
    (separator, recorder), other = graphed(config, backend=backend), plain(config, backend=backend)
    for channels, samples in ((2, 9000), (1, 7000), (2, 3000)):
        audio = noise(channels, samples, seed=samples)
        same(separator.separate(audio, RATE, prompts=prompts).stems, other.separate(audio, RATE, prompts=prompts).stems)
    assert recorder.played > recorder.recorded >= 1


@pytest.mark.parametrize("config", [TUSS, UNCONDITIONAL, CAUSAL], ids=lambda c: type(c).__name__)
def test_linked_channels(config):
    prompts = getattr(config, "prompts", ())[:2]
    (separator, recorder), other = (make(config, channels="linked") for make in (graphed, plain))
    for channels, samples in ((2, 9000), (1, 7000), (3, 9000), (2, 3000)):
        audio = noise(channels, samples, seed=samples)
        same(separator.separate(audio, RATE, prompts=prompts).stems, other.separate(audio, RATE, prompts=prompts).stems)
    assert recorder.recorded >= 1


def test_prompts_may_change():
    separator, recorder = graphed(TUSS)
    other, audio = plain(TUSS), noise(1, 12000)
    for prompts in (("speech", "sfx"), ("drums", "bass"), ("bass",), ("vocals", "other"), ("drums", "drums")):
        same(separator.separate(audio, RATE, prompts=prompts).stems, other.separate(audio, RATE, prompts=prompts).stems)
    assert recorder.recorded == 2  # two prompts, and one


def test_batches_grow_and_shrink():
    """Loud channels are the items: 1, 3, 5, 2 of them, in buckets of 1, 4, 8, 2; twice `batch` go together."""
    separator, recorder = graphed(TUSS, prompts=("speech",), batch=4)
    other, seen = plain(TUSS, prompts=("speech",), batch=4), []
    real = separator.engine.model.separate
    separator.engine.model.separate = lambda x, *rest: seen.append(x) or real(x, *rest)
    for _ in range(2):
        for channels in (1, 3, 5, 2):
            audio = noise(channels, 3200)
            same(separator.separate(audio, RATE).stems, other.separate(audio, RATE).stems)
    assert {len(x) for x in seen} == {1, 4, 8, 2} and recorder.recorded == 4
    assert all(x.std(-1).min() > 0.01 for x in seen)  # what fills a batch up has a level too


def test_lack_of_memory_drops_graphs():
    separator, recorder = graphed(TUSS, prompts=("speech",))
    separator.separate(noise(1, 12000), RATE)
    assert len(separator.engine.graphs)
    with pytest.raises(OutOfMemoryError), separator.engine.computing():
        raise MemoryError
    assert not len(separator.engine.graphs) and recorder.released


@pytest.mark.parametrize("kind", ["default", "one band"])
def test_files_of_causal_models(kind):
    (separator, recorder), other = (make(CONFIGS[kind], segment=0.1, overlap=0.0) for make in (graphed, plain))
    for samples, prompts in ((9001, ("speech", "sfx")), (5003, ("drums", "drums")), (700, ("bass",)), (1, ("bass",))):
        audio = noise(2, samples, seed=samples)
        same(separator.separate(audio, RATE, prompts=prompts).stems, other.separate(audio, RATE, prompts=prompts).stems)
    assert recorder.played > 5
    shapes = {{name: shape for name, shape, _ in key[1:]}["0"][1] for key in separator.engine.graphs._seen}
    whole = round(0.1 * RATE / CONFIGS[kind].stft.hop)
    assert whole in shapes and all(frames == whole or frames.bit_count() == 1 for frames in shapes)


def test_causal_files_fill_up_batches():
    """Three files at once are four rows of graphs."""
    (separator, recorder), other = (make(CAUSAL, segment=0.1, overlap=0.0, batch=4) for make in (graphed, plain))
    audios, rows = [noise(1, 20000, seed=seed) for seed in range(3)], []
    real = separator.engine.model.advance
    separator.engine.model.advance = lambda spec, *rest: rows.append(len(spec)) or real(spec, *rest)

    def stems(one, audio):
        return one.separate(audio, RATE, prompts=("speech", "sfx")).stems

    with ThreadPoolExecutor(3) as pool:
        for got, audio in zip(pool.map(partial(stems, separator), audios), audios, strict=True):
            same(got, stems(other, audio))
    assert 4 in rows and all(count.bit_count() == 1 for count in rows) and recorder.recorded


def pieces(separator, audio, change=("drums", "bass", "vocals")):
    """A session whose prompts change on the way, and then to equal ones, which share masks among channels."""
    session = separator.session(RATE, prompts=("speech", "sfx"), channels=len(audio))
    out = []
    for number, chunk in enumerate(np.array_split(audio, 9, 1)):
        if number == 4:
            session.set_prompts(change)
        elif number == 6:
            session.set_prompts(("speech", "drums"))
        elif number == 7:
            session.set_prompts(("sfx", "sfx"))
        out += list(session.push(chunk).stems)
    return [*out, *session.flush().stems]


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("kind", ["default", "odd widths"])
def test_sessions(kind, channels):
    (separator, recorder), audio = graphed(CONFIGS[kind], channels=channels), noise(2, 64 * 22 + 17)
    other = plain(CONFIGS[kind], channels=channels)
    for a, b in zip(pieces(separator, audio), pieces(other, audio), strict=True):
        same(a, b)
    assert recorder.played > 8 and not separator.engine.graphs.reasons


def test_a_session_is_restored_and_reset():
    separator, recorder = graphed(CAUSAL, prompts=("speech", "sfx"))
    audio, hop = noise(1, 64 * 18), 64
    other = plain(CAUSAL, prompts=("speech", "sfx")).session(RATE, channels=1)
    session = separator.session(RATE, channels=1)
    for k in range(8):
        session.push(audio[:, k * hop : (k + 1) * hop])
    state = session.state
    first = session.push(audio[:, 8 * hop : 16 * hop]).stems
    session.state = state
    assert np.array_equal(session.push(audio[:, 8 * hop : 16 * hop]).stems, first)
    session.reset()
    same(session.push(audio).stems, other.push(audio).stems)
    assert recorder.recorded >= 1


@pytest.mark.parametrize("channels", CHANNELS)
def test_a_pool_whose_streams_come_and_go(channels):
    """Steps of all streams, and of some, which are filled up."""
    (separator, recorder), other = (make(CAUSAL, channels=channels) for make in (graphed, plain))
    rng, hop = np.random.default_rng(3), 64
    pools = [s.pool(5, RATE, channels=2) for s in (separator, other)]
    for pool in pools:
        for names in (("speech",), ("sfx", "bass"), ("drums", "bass", "other"), ("speech", "vocals"), ("bass",)):
            pool.join(names)
    for turn in range(24):
        who = [k for k in pools[0].streams if turn % 4 == 0 or rng.random() < 0.6]
        chunks = {k: noise(2, hop, seed=10 * turn + k) for k in who}
        outs = [pool.push(chunks) for pool in pools]
        for k in who:
            same(outs[0][k].stems, outs[1][k].stems)
        if turn == 12:
            for pool in pools:
                pool.leave(2)
                pool.join(PROMPTS[:4])
    assert recorder.recorded <= 5 and recorder.played > 12 and not separator.engine.graphs.reasons


class OnTheDevice(TorchDispatchMode):
    """Fails where something is not on the device ("meta" here), or where a device would have to be waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        check(func, args)
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            assert not torch.is_tensor(tensor) or tensor.device.type == "meta", func
        return out


@pytest.fixture
def meta(monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *args, **settings: nullcontext())  # which "meta" does not have
    return "meta"


@pytest.mark.parametrize("config", [TUSS, TUSS_SFC, UNCONDITIONAL, STEREO, TF], ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("op", ["op", "reference"])
def test_nothing_waits_for_the_device(config, op, meta):
    """All of `separate` in single operations: outside of inference mode, compound ones are seen from inside."""
    model = tiny_model(config).to(meta).eval()
    prompts = torch.empty(2, 3, 8, device=meta) if hasattr(config, "prompts") else None
    shape = (2, 2, 3000) if model.channels == 2 else (2, 3000)
    with torch.no_grad(), use_reference(op == "reference"), OnTheDevice():
        assert model.separate(torch.empty(shape, device=meta), prompts).shape[-1] == 3000


@pytest.mark.parametrize("kind", ["default", "odd widths"])
def test_causal_models_do_not_wait_for_the_device(kind, meta):
    model = tiny_model(CONFIGS[kind]).to(meta).eval()
    with torch.no_grad(), use_reference(), OnTheDevice():
        conditioning = model.condition(torch.empty(2, model.config.dim, device=meta))
        state = initial_state(model, 2, 2)
        for _ in range(2):
            _, state = step(model, torch.empty(2, 64, device=meta), state, conditioning)
        past = model.initial_state(2)
        for _ in range(2):
            spec = torch.empty(2, 5, 65, dtype=torch.complex64, device=meta)
            _, past = model.advance(spec, conditioning, past)


def test_the_engine_has_none_on_the_cpu():
    engine = Engine(tiny_model(), Settings("cpu"))
    assert not engine.graphs.on and engine.batch == 1 and engine.transfer.depth == 0
