"""Separators in other processes: pickled, copied, forked."""

import copy
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import CAUSAL, RATE, SHORT, STEREO, TUSS, noise, tiny_directory, tiny_model

from ussfast import CheckpointError, DeviceError, InputError, SegmentPolicy, Separator
from ussfast.checkpoints.store import save_model
from ussfast.engine import forks
from ussfast.engine.moving import packed, sent

CONFIGS = {"causal": CAUSAL, "tuss": TUSS, "stereo": STEREO}
WAYS = {
    "pickle": lambda one: pickle.loads(pickle.dumps(one)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}
SENT = {"sent": lambda one: pickle.loads(pickle.dumps(sent(one)))()}


def made(config, **settings):
    prompts = ("speech", "sfx") if config in (CAUSAL, TUSS) else ()
    return Separator.from_model(tiny_model(config), prompts, **({"device": "cpu"} | SHORT | settings))


def same(one, other, **asked):
    outs = [s.separate(noise(2, 9000), RATE, **asked).stems for s in (one, other)]
    np.testing.assert_array_equal(*outs)


@pytest.mark.parametrize("way", [*WAYS, *SENT])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_again(name, way):
    one = made(CONFIGS[name], max_attenuation=20)
    one.policy = SegmentPolicy(0.5, 0.1)
    if name == "causal":
        one.prompts.add(replace(one.enroll("dog", [noise(1, 4000)], RATE), kind="tuned"))
    other = (WAYS | SENT)[way](one)
    assert (other.info, other.settings, other.policy) == (one.info, one.settings, one.policy)
    assert other.labels() == one.labels() and list(other.prompts) == list(one.prompts)
    same(one, other)
    if name == "causal":
        same(one, other, prompts=("dog", "speech"))
        assert other.prompts["dog"].kind == "tuned"
        other.enroll("cat", [noise(1, 4000)], RATE)
        assert "cat" not in one.prompts
    with torch.no_grad():
        before = one.engine.model.state_dict()
        for parameter in other.engine.model.parameters():
            parameter.zero_()
    assert all(not torch.equal(before[n], p) for n, p in other.engine.model.named_parameters() if before[n].any())


def test_a_model_on_disk_is_pickled_as_its_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = tiny_directory(tmp_path)
    one = Separator(directory.name, ("speech", "sfx"), device="cpu", **SHORT)
    data = pickle.dumps(one)
    assert len(data) < 4096 < (directory / "model.safetensors").stat().st_size
    monkeypatch.chdir("/")
    other = pickle.loads(data)
    assert other.info.name == one.info.name and other.info.path == directory
    same(one, other)

    # Another model in that place: what was pickled before says so; what is pickled now takes its weights along.
    save_model(directory, tiny_model(seed=5), name="other", license="CC0-1.0", source={}, overwrite=True)
    with pytest.raises(CheckpointError, match="has other weights now") as error:
        pickle.loads(data)
    assert "\n" not in str(error.value)
    monkeypatch.chdir(tmp_path)
    same(one, pickle.loads(pickle.dumps(one)))
    (directory / "config.json").unlink()
    same(one, copy.deepcopy(one))


def test_weights_that_were_changed_in_memory_go_along(tmp_path):
    one = Separator(tiny_directory(tmp_path), "speech", device="cpu", backend="reference", **SHORT)
    with torch.no_grad():
        one.engine.model.prompts.mul_(2)
    other = pickle.loads(pickle.dumps(one))
    assert torch.equal(other.engine.model.prompts, one.engine.model.prompts)


def test_the_embedded_model_is_pickled_by_name():
    one = Separator(prompts="speech", device="cpu")
    data = pickle.dumps(one)
    assert packed(one.engine.model, one.info, one.settings).places == ("default",) and len(data) < 4096
    assert pickle.loads(data).labels() == ("speech",)


class Named(Separator):
    """With something of its own."""


def test_subclasses_keep_what_they_added():
    one = Named.from_model(tiny_model(), "speech", device="cpu")
    one.note = ["mine"]
    other = copy.deepcopy(one)
    assert type(other) is Named and other.note == ["mine"] and other.note is not one.note


def test_results_are_pickled(tmp_path):
    one = made(TUSS)
    out = one.separate(noise(1, 900), RATE)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(out)).stems, out.stems)
    for thing in (one.info, one.policy, one.settings, one.session(RATE).state, InputError("no"), one.prompts["sfx"]):
        assert type(pickle.loads(pickle.dumps(thing))) is type(thing)


@pytest.mark.parametrize("way", WAYS)
def test_sessions_and_pools_say_what_to_do_instead(way):
    one = made(CAUSAL)
    for thing in (one.session(RATE), one.pool(2, RATE)):
        with pytest.raises(InputError, match="take the `state` of a session") as error:
            WAYS[way](thing)
        assert "\n" not in str(error.value)


FORKED = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import numpy as np
import torch
from tiny import CAUSAL, RATE, SHORT, TUSS, noise, tiny_model
from ussfast import Separator

torch.set_num_threads(2)
config, busy = {{"causal": CAUSAL, "tuss": TUSS}}[sys.argv[1]], sys.argv[2] == "busy"
one = Separator.from_model(tiny_model(config), ("speech", "sfx"), device="cpu", batch=2, **SHORT)
audio = noise(2, 9000)
with torch.inference_mode():
    torch.ones(2000, 2000) @ torch.ones(2000, 2000)  # on threads, whatever so small a model takes
expected = one.separate(audio, RATE).stems
if busy:  # as another thread would have left it
    one.engine._conditionings._knowing.acquire()
    (one.engine._advancing or one.engine)._batches._flying = 9
child = os.fork()
if child == 0:
    signal.alarm(60)  # a child that hangs dies
    assert torch.get_num_threads() == 1
    found = one.separate(audio, RATE, prompts=("speech", "sfx")).stems
    assert np.array_equal(found, expected)
    assert not one.engine.causal or one.separate(audio, RATE, prompts="drums").stems.any()
    session = one.session(RATE, threads=2)
    with one.engine.computing(2):
        assert torch.get_num_threads() == 1
        torch.ones(2000, 2000) @ torch.ones(2000, 2000)
    assert session.push(audio).mixture.shape[1] + session.flush().mixture.shape[1] == 9000
    fresh = Separator.from_model(tiny_model(config), "speech", device="cpu")
    assert fresh.separate(audio, RATE).stems.shape == (1, 2, 9000)
    os._exit(7)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("busy", ["quiet", "busy"])
@pytest.mark.parametrize("name", ["causal", "tuss"])
def test_a_forked_child_works_on_one_thread(name, busy):
    """Its parent has computed on two."""
    done = subprocess.run([sys.executable, "-c", FORKED, name, busy], capture_output=True, text=True)
    assert done.returncode == 7, done.stderr


def test_a_forked_child_cannot_use_its_parents_gpu(monkeypatch):
    monkeypatch.setattr(forks, "_without_gpu", True)
    with pytest.raises(DeviceError, match="spawn"):
        forks.compute(torch.device("cuda", 0))
    assert forks.compute(torch.device("cpu"), 3) == 3
