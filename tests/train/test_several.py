"""Two processes: same weights, mixtures of their own, mean gradients, one writer."""

import os
import socket
from pathlib import Path

import pytest
import torch
import yaml
from running import steps, trainer_in
from tiny import RATE, tiny_recipe

from ussfast.data.pool import AudioPool, read_manifest
from ussfast.train import checkpoints, parallel
from ussfast.train.log import read_log

OPTIM = {"steps": 4, "name": "muon", "autoclip_percentile": 10.0, "clip": 1e9, "warmup": 0}


def gradients(trainer):
    return [p.grad.clone() for p in trainer.model.parameters()]


def work(rank, port, manifest, folder):
    """One of two processes: two steps one by one, then a whole run through the command line."""
    import sys

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    from ussfast.cli.main import main
    from ussfast.data import pool as data

    items = [item for item in data.read_manifest(manifest) if item.split == "train"]
    trainer = trainer_in(folder / "steps", AudioPool.load(items, RATE), optim=OPTIM)
    assert trainer.accelerator.num_processes == 2 and trainer.accelerator.process_index == rank
    losses = steps(trainer, 1)
    first = gradients(trainer)
    losses += steps(trainer, 1)
    trainer._save()
    torch.save({"losses": losses, "first": first, "weights": trainer.model.state_dict(), "rng": trainer.work.mixer.rng
                .bit_generator.state, "history": trainer.autoclip.history}, folder / f"rank{rank}.pt")
    recipe, run = str(folder / "recipe.yaml"), str(folder / "run")
    sys.stdout = open(folder / f"out{rank}.txt", "w")
    try:
        main(["train", recipe, "--data", str(manifest), "-o", run, "--device", "cpu", "--max-minutes", "5"])
    finally:
        sys.stdout.close()


@pytest.fixture(scope="module")
def folder(manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    recipe = tiny_recipe(optim={"steps": 2, "accumulate": 2}, run={"validate_every": 2, "tensorboard": True})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(work, (port, manifest, folder), nprocs=2)
    return folder


@pytest.fixture(scope="module")
def ranks(folder):
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def test_both_have_the_same_weights_and_gradients(ranks):
    one, other = ranks
    for a, b in zip(one["first"], other["first"], strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(one["weights"], other["weights"], rtol=0, atol=0)
    assert one["history"] == other["history"] and len(one["history"]) == 2
    assert one["losses"] != other["losses"] and one["rng"] != other["rng"]


def test_gradients_are_the_mean_of_both(ranks, tmp_path, pool):
    import numpy as np

    parts = []
    for rank in range(2):
        trainer = trainer_in(tmp_path, pool, optim=OPTIM)
        trainer.work.mixer.rng = np.random.default_rng((0, rank))
        assert steps(trainer, 1) == pytest.approx(ranks[rank]["losses"][:1], rel=1e-5)
        parts.append(gradients(trainer))
    norm = sum(((a + b) / 2).square().sum() for a, b in zip(*parts, strict=True)).sqrt()
    assert min(abs(float(norm) - seen) for seen in ranks[0]["history"]) < 1e-4 * float(norm)
    for a, b, both in zip(*parts, ranks[0]["first"], strict=True):
        torch.testing.assert_close((a + b) / 2, both, rtol=1e-3, atol=1e-5)


def test_one_checkpoint_with_everyones_state(folder, ranks, pool):
    found = checkpoints.newest(folder / "steps")
    assert sorted(p.name for p in (folder / "steps").iterdir()) == ["step-0000002"]
    resumed = trainer_in(folder / "steps", pool, optim=OPTIM)
    assert resumed.work.mixer.rng.bit_generator.state == ranks[0]["rng"]
    facts = checkpoints.load(found, resumed.recipe).facts
    assert facts["rng"] == [rank["rng"] for rank in ranks]
    assert "random.1.torch" in checkpoints.load(found, resumed.recipe).extra


def test_the_command_writes_once(folder):
    run = folder / "run"
    rows = read_log(run)
    assert [row["step"] for row in rows] == [1, 2, 2] and "mean" in rows[-1]
    names = sorted(p.name for p in run.iterdir())
    assert names == ["best-0000002", "log.jsonl", "model", "step-0000002", "tb", "validation.md"]
    assert len(list((run / "tb").iterdir())) == 1
    assert (folder / "out1.txt").read_text() == ""
    assert "2 processes, step 0" in (folder / "out0.txt").read_text()
    assert "finished at step 2" in (folder / "out0.txt").read_text()


def test_a_third_process_starts_anew(folder, manifest):
    """A run with more processes than its checkpoint knows: the new ones get generators of their own."""
    items = [item for item in read_manifest(manifest) if item.split == "train"]
    accelerator = parallel.start("cpu")

    class Third:
        process_index, num_processes, is_main_process = 2, 3, False
        prepare_model = staticmethod(accelerator.prepare_model)

    from ussfast.train.recipe import recipe_from_dict
    from ussfast.train.separation import Separation
    from ussfast.train.trainer import Trainer

    pool = AudioPool.load(items, RATE)
    third = Trainer(Separation(recipe_from_dict(tiny_recipe(optim=OPTIM)), pool, []), Path(folder / "steps"), Third())
    states = [checkpoints.load(checkpoints.newest(folder / "steps"), third.recipe).facts["rng"]]
    assert third.step == 2 and third.work.mixer.rng.bit_generator.state not in states[0]
