"""bench/peers on tiny mixtures, with a peer that only delays: nothing of the peers' packages is needed."""

import importlib.util
import json
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tiny import RATE, tiny_manifest
from typer import Typer
from typer.testing import CliRunner

from ussfast import Separator
from ussfast.data.pool import AudioPool, read_manifest
from ussfast.errors import InputError

FOLDER = Path(__file__).parents[2] / "bench/peers"
COUNT, DELAY, HOP = 2, 700, 480


class Late:
    """Returns what it got, late."""

    name, rate, hop, version = "Late", 48000, HOP, "0"

    @contextmanager
    def opened(self):
        yield lambda audio: np.concatenate([np.zeros(DELAY, np.float32), audio])[: len(audio)]


@pytest.fixture(scope="module")
def modules():
    """compare.py and denoisers.py, which it imports as a script does."""
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("compare", FOLDER / "compare.py")
        compare = importlib.util.module_from_spec(spec)
        sys.modules["compare"] = compare  # dataclasses look their module up
        spec.loader.exec_module(compare)
        yield compare, sys.modules["denoisers"]
    finally:
        sys.path.remove(str(FOLDER))
        sys.modules.pop("compare", None)
        sys.modules.pop("denoisers", None)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return tiny_manifest(tmp_path_factory.mktemp("data"), seconds=6.0)


@pytest.fixture(scope="module")
def pool(manifest):
    return AudioPool.load([item for item in read_manifest(manifest) if item.split == "dev"], RATE)


@pytest.fixture(scope="module")
def found(modules, pool, directory):
    return modules[0].compare([Separator(directory, device="cpu")], [Late()], pool, COUNT)


def test_delay_is_measured_on_what_is_not_periodic(modules):
    speech = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    assert modules[0].delay_of(Late(), speech, RATE) == DELAY


def test_delay_is_taken_out(modules):
    audio = np.sin(np.arange(RATE) / 7).astype(np.float32)
    out, spent = modules[0].denoised(Late(), DELAY, audio, RATE)
    assert out.shape == audio.shape and spent >= 0
    np.testing.assert_allclose(out[100:-100], audio[100:-100], atol=2e-3)


def test_every_mixture_is_scored_for_every_system(modules, found):
    seen = {(s["task"], s["mixture"], s["system"]) for s in found["scores"]}
    assert len(seen) == len(found["scores"]) == len(modules[0].TASKS) * COUNT * 2
    assert all(s["cpu_per_second"] >= 0 and np.isfinite(s["si_sdr_improvement"]) for s in found["scores"])
    late = found["systems"]["Late"]
    assert late["latency_ms"] == pytest.approx((late["delay_samples"] + HOP) / 48)


def test_effects_are_at_the_levels_promised(modules, pool):
    first = list(modules[0].speech_in_effects(pool, 3))
    again = next(modules[0].speech_in_effects(pool, 1))
    np.testing.assert_array_equal(first[0].mixture, again.mixture)
    for item in first:
        powers = np.square(item.references.astype(np.float64)).mean(1)
        assert -4 < 10 * np.log10(powers[0] / powers[1]) < 8


def test_table_averages_by_hand(modules):
    gains = (1.0, 2.0, 6.0)
    scores = [
        {"task": "cinematic", "mixture": i, "system": "Late", "si_sdr_before": -2.0, "si_sdr_improvement": gain,
         "cpu_per_second": 0.0123}
        for i, gain in enumerate(gains)
    ]  # fmt: skip
    systems = {"Late": {"version": "0", "latency_ms": 40.0}, "ours": {"version": "1", "latency_ms": None}}
    text = modules[0].table({"systems": systems, "scores": scores, "torch": "2", "machine": "Some CPU"})
    assert "| cinematic | Late | 3 | -2.0 | 3.0 | 2.0 | 12.3 | 40 |" in text
    assert "| ours |" not in text and "Some CPU" in text


def test_an_update_changes_its_own_systems_only(modules, found):
    ours, late = found["systems"]
    change = {"si_sdr_improvement": 50.0, "cpu_per_second": 9.0}
    better = [score | change for score in found["scores"] if score["system"] == ours]
    new = modules[0].updated(found, found | {"systems": {ours: {"version": "2", "latency_ms": 1.0}}, "scores": better})
    assert list(new["systems"]) == [ours, late] and new["systems"][ours]["version"] == "2"
    assert len(new["scores"]) == len(found["scores"])
    for score in new["scores"]:
        assert (score["si_sdr_improvement"] == 50.0) == (score["system"] == ours)
    kept = modules[0].updated(found, found | {"systems": {ours: {"version": "2"}}, "scores": better}, same_speed=True)
    times = {score["cpu_per_second"] for score in found["scores"] if score["system"] == ours}
    assert {score["cpu_per_second"] for score in kept["scores"] if score["system"] == ours} == times
    assert kept["systems"] == found["systems"]
    other = [score | {"si_sdr_before": score["si_sdr_before"] + 0.1} for score in better]
    with pytest.raises(InputError, match="mixture 0 of .* is not that of the file"):
        modules[0].updated(found, found | {"scores": other})


def run(main, *arguments):
    app = Typer()
    app.command()(main)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_command_writes_json_and_table(modules, monkeypatch, manifest, directory, tmp_path):
    monkeypatch.setitem(modules[0].PEERS, "late", Late)
    monkeypatch.setattr(modules[0].torch, "set_num_threads", lambda count: None)
    output = tmp_path / "new" / "peers.json"
    done = run(modules[0].main, manifest, "-m", directory, "-n", 1, "--peer", "late", "-o", output)
    assert done.exit_code == 0, done.output
    assert json.loads(output.read_text())["count"] == 1
    assert "| Late |" in output.with_suffix(".md").read_text() and "| Late |" in done.output
    assert str(manifest) not in output.read_text()
    before = json.loads(output.read_text())
    again = run(modules[0].main, manifest, "-m", directory, "-n", 1, "--update", "-o", output)  # no peer is asked for
    assert again.exit_code == 0, again.output
    after = json.loads(output.read_text())
    assert after["systems"] == before["systems"] and len(after["scores"]) == len(before["scores"])


def test_missing_package_says_what_to_install(modules, monkeypatch, manifest):
    monkeypatch.setattr(modules[1].importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(modules[0].torch, "set_num_threads", lambda count: None)
    done = run(modules[0].main, manifest, "--peer", "rnnoise")
    assert str(done.exception).count("\n") == 0 and done.exit_code == 1
    assert "pip install pyrnnoise" in done.output + str(done.exception)


def test_unknown_peer_is_named(modules, manifest):
    done = run(modules[0].main, manifest, "--peer", "nobody")
    assert done.exit_code == 1 and "'nobody'" in done.output + str(done.exception)


def test_peak_memory_is_that_of_the_process(modules):
    spec = importlib.util.spec_from_file_location("peers_memory", FOLDER / "memory.py")
    memory = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(memory)
    small, large = (memory.peak_mib([sys.executable, "-c", f"x = b'1' * ({n} << 20)"]) for n in (1, 201))
    assert 195 < large - small < 215 and small < 40
