"""The engine on a real GPU: graphs, copies and bfloat16. Everything else about it is tested on the CPU."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tiny import CAUSAL, RATE, SHORT, STEREO, TUSS, TUSS_SFC, UNCONDITIONAL, noise, tiny_model

from ussfast import Separator
from ussfast.engine.copies import transfer_for
from ussfast.engine.graphs import CudaRecorder, Graphs
from ussfast.ops._op import OPS

pytestmark = [
    pytest.mark.gpu,
    # These look at a device's own streams, graphs and page-locked memory: there is nothing to test without one.
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CONFIGS = {"tuss": TUSS, "tuss with sfc": TUSS_SFC, "unconditional": UNCONDITIONAL, "stereo": STEREO, "causal": CAUSAL}


def separator(config, **settings):
    settings = {"device": "cuda", "prompts": getattr(config, "prompts", ())[:2], **SHORT} | settings
    return Separator.from_model(tiny_model(config), **settings)


def close(a, b, tolerance):
    assert a.shape == b.shape and np.isfinite(a).all()
    assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


@pytest.mark.parametrize("name", CONFIGS)
def test_graphs_and_batches_change_nothing(name):
    config, audio = CONFIGS[name], noise(2, 30000)
    graphed, eager, cpu = separator(config), separator(config, batch=1), separator(config, device="cpu")
    eager.engine.graphs = Graphs(None)
    eager.engine.after_fork()  # what runs through them is made anew
    for _ in range(3):  # eagerly, recorded, replayed
        out = graphed.separate(audio, RATE).stems
        close(out, eager.separate(audio, RATE).stems, 1e-5)
        close(out, cpu.separate(audio, RATE).stems, 1e-3)
    assert len(graphed.engine.graphs) and not graphed.engine.graphs.reasons


@pytest.mark.parametrize("name", ["causal", "tuss"])
def test_recordings_of_several_threads(name):
    config, audios = CONFIGS[name], [noise(1 + seed % 2, 30000, seed) for seed in range(5)]
    gpu, cpu = separator(config), separator(config, device="cpu")
    wanted = [cpu.separate(audio, RATE).stems for audio in audios]
    for _ in range(3):  # eagerly, recorded, replayed
        with ThreadPoolExecutor(5) as pool:
            for got, stems in zip(pool.map(lambda x: gpu.separate(x, RATE).stems, audios), wanted, strict=True):
                close(got, stems, 1e-3)


@pytest.mark.parametrize("name", ["causal", "tuss"])
def test_there_and_back(name):
    config, audio = CONFIGS[name], noise(2, 20000)
    cpu = separator(config, device="cpu")
    if cpu.can_enroll:
        cpu.enroll("dog", [noise(1, 4000)], RATE)
    gpu = cpu.to("cuda")
    back = gpu.to("cpu")
    assert gpu.to("cuda") is gpu and (gpu.engine.device.type, back.engine.device.type) == ("cuda", "cpu")
    prompts = ("speech", "dog") if cpu.can_enroll else ("speech", "sfx")
    whole = cpu.separate(audio, RATE, prompts=prompts).stems
    close(gpu.separate(audio, RATE, prompts=prompts).stems, whole, 1e-3)
    np.testing.assert_array_equal(back.separate(audio, RATE, prompts=prompts).stems, whole)


@pytest.mark.parametrize("name", CONFIGS)
def test_bfloat16_is_near_float32(name):
    config, audio = CONFIGS[name], noise(2, 20000)
    exact = separator(config).separate(audio, RATE).stems
    for backend in ("native", "reference"):
        narrow = separator(config, dtype="bf16", backend=backend)
        for _ in range(3):
            out = narrow.separate(audio, RATE).stems
        assert not narrow.engine.graphs.reasons
        close(out, exact, 2e-2)


@pytest.mark.parametrize("op", ["locoformer_ffn", "locoformer_attention"])
def test_ops_take_narrow_weights(op):
    """Matrices are converted once: the result is that of weights which the op rounds itself."""
    for args in list(OPS[op].samples(torch.device("cuda"), torch.float32))[:4]:
        args = [*args[:-1], "bfloat16"]
        matrices = (2, 4) if op == "locoformer_ffn" else (2, 3)
        narrow = [a.to(torch.bfloat16) if i in matrices else a for i, a in enumerate(args)]
        out = OPS[op](*narrow)
        assert out.dtype == torch.float32
        # The plain attention, where a kernel does not take the sizes, rounds no weights by itself.
        tolerance = 1e-4 if op == "locoformer_ffn" else 2e-2
        torch.testing.assert_close(out, OPS[op](*args), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "bf16"])
def test_streams_are_offline(dtype):
    live, audio = separator(CAUSAL, dtype=dtype), noise(2, 64 * 60)
    whole = live.separate(audio, RATE).stems
    session = live.session(RATE, channels=2)
    parts = [session.push(chunk).stems for chunk in np.array_split(audio, 13, 1)]
    out = np.concatenate([*parts, session.flush().stems], -1)
    close(out, whole, 1e-3 if dtype == "float32" else 5e-2)
    assert not live.engine.graphs.reasons


def test_a_pool_is_its_sessions():
    live, pool_size = separator(CAUSAL), 5
    pool, sessions = live.pool(pool_size, RATE), [live.session(RATE, channels=1) for _ in range(pool_size)]
    for _ in sessions:
        pool.join()
    for turn in range(24):
        who = [k for k in range(pool_size) if turn % 3 == 0 or (turn + k) % 2]
        chunks = {k: noise(1, 64, seed=10 * turn + k) for k in who}
        outs = pool.push(chunks)
        for k in who:
            alone = sessions[k].push(chunks[k]).stems
            np.testing.assert_allclose(outs[k].stems, alone, rtol=0, atol=1e-5)


def test_copies_beside_the_computation():
    transfer, rng = transfer_for(torch.device("cuda")), np.random.default_rng(0)
    arrays = [rng.standard_normal((3, 100_000 + k), np.float32) for k in range(8)]
    coming = [transfer.down(transfer.up(array) * 2) for array in arrays]
    for array, wait in zip(arrays, coming, strict=True):
        np.testing.assert_array_equal(wait(), 2 * array)


def test_a_capture_that_fails_leaves_everything_as_it_was():
    device = torch.device("cuda", torch.cuda.current_device())
    graphs, stream, x = Graphs(CudaRecorder(device)), torch.cuda.current_stream(), torch.arange(3.0, device=device)

    def work(x):
        return x * x.sum().item()

    graphs.run("work", work, x)
    with pytest.warns(RuntimeWarning, match="no CUDA graph for work"):
        assert graphs.run("work", work, x).tolist() == [0, 3, 6]
    assert torch.cuda.current_stream() == stream
    for _ in range(3):
        assert graphs.run("double", lambda x: x * 2, x).tolist() == [0, 2, 4]
    assert len(graphs) == 1


def test_any_thread_may_record():
    """The first run is in another thread than the second, whose handles of libraries are its own."""
    gpu, audio, outs = separator(TUSS_SFC), noise(1, 2000), []
    for _ in range(4):
        thread = threading.Thread(target=lambda: outs.append(gpu.separate(audio, RATE).stems))
        thread.start()
        thread.join()
    assert len(gpu.engine.graphs) == 1 and not gpu.engine.graphs.reasons
    for out in outs[1:]:
        close(out, outs[0], 1e-6)


def test_graphs_are_made_again_after_they_were_dropped():
    gpu, audio = separator(TUSS), noise(1, 9000)
    expected = gpu.separate(audio, RATE).stems
    for _ in range(3):
        assert len(gpu.engine.graphs)
        gpu.engine.graphs.clear()
        for _ in range(3):
            close(gpu.separate(audio, RATE).stems, expected, 1e-6)
    gpu.engine.graphs.forget()  # the last graph of a pool goes, the pool stays
    close(gpu.separate(audio, RATE).stems, expected, 1e-6)
    assert not gpu.engine.graphs.reasons


def test_rates_and_files(tmp_path):
    import soundfile

    path = tmp_path / "in.wav"
    soundfile.write(path, noise(2, 40000).T, 2 * RATE, subtype="FLOAT")
    gpu = separator(TUSS)
    for stem, file in zip(gpu.separate(path).stems, gpu.separate_file(path, tmp_path / "out"), strict=True):
        np.testing.assert_allclose(soundfile.read(file, dtype="float32")[0].T, stem, atol=1e-4)
