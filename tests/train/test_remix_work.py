"""Training from mixtures alone: what is drawn, how the teacher follows, validation, and resuming bit for bit."""

import dataclasses

import numpy as np
import pytest
import torch
from running import exactly, same, steps
from tiny import RATE, UNCONDITIONAL

from ussfast.data.pool import AudioPool, Item
from ussfast.data.stems import Piece, StemPool
from ussfast.errors import InputError
from ussfast.models import build
from ussfast.models.config import to_dict
from ussfast.train.remix import Remix
from ussfast.train.remix_recipe import remix_from_dict
from ussfast.train.trainer import Trainer

SECONDS = 0.25


def sounds(seconds, seed, count=2):
    """[count, samples]: noise that comes and goes, in bands of its own for each source."""
    rng, samples = np.random.default_rng(seed), round(seconds * RATE)
    spectrum = np.fft.rfft(rng.standard_normal((count, samples)))
    band = np.arange(spectrum.shape[1]) * count // spectrum.shape[1]
    return np.fft.irfft(spectrum * (band == np.arange(count)[:, None]), samples).astype(np.float32) * 0.1


def pool(count=4, seconds=1.0, first=0):
    items = [Item(f"{i}.wav", "", str(i), "train", "unknown", RATE) for i in range(count)]
    return AudioPool(items, [sounds(seconds, first + i).sum(0) for i in range(count)], RATE)


def stems(count=2, sources=2, seconds=1.0):
    names = [f"source{i}" for i in range(sources)]
    pieces = [Piece(str(i), "dev", {name: (f"{i}-{name}.wav",) for name in names}, ()) for i in range(count)]
    return StemPool(names, RATE, pieces, [torch.from_numpy(sounds(seconds, 90 + i, sources)) for i in range(count)])


def plain(remix=None, optim=None, run=None, **changes):
    return {
        "kind": "remix",
        "name": "tiny",
        "model": {"architecture": "bslocoformer", **to_dict(UNCONDITIONAL)},
        "remix": {"seconds": SECONDS, "batch": 4} | (remix or {}),
        "optim": {"steps": 6, "lr": 0.01, "warmup": 1, "ema": 0.5} | (optim or {}),
        "run": {"log_every": 1, "validate_every": 1000, "checkpoint_every": 1000, "tensorboard": False} | (run or {}),
    } | changes


def recipe(**changes):
    return remix_from_dict(plain(**changes))


def trainer(folder, held=None, dev=None, teacher=None, **changes):
    return Trainer(Remix(recipe(**changes), pool(), held, dev, teacher), folder)


def test_teacher_and_student_begin_with_different_weights(tmp_path):
    made = trainer(tmp_path / "a")
    student, teacher = made.model.state_dict(), made.work.teacher.state_dict()
    assert not torch.equal(student["encoder.weights.0"], teacher["encoder.weights.0"])
    exactly(teacher, trainer(tmp_path / "b").work.teacher.state_dict())
    given = build(UNCONDITIONAL)
    exactly(trainer(tmp_path / "c", teacher=given).work.teacher.state_dict(), given.state_dict())


def test_the_teacher_gets_no_gradient_and_its_estimates_sum_to_the_mixture(tmp_path):
    made = trainer(tmp_path)
    batch = made.work.batch()
    assert batch.mixtures.shape == (4, 2000) and batch.sources.shape == (4, 3, 2000)
    torch.testing.assert_close(batch.sources.sum(1), batch.mixtures, rtol=0, atol=1e-5)
    before = {name: value.clone() for name, value in made.work.teacher.state_dict().items()}
    made.objective(batch).backward()
    assert all(p.grad is None for p in made.work.teacher.parameters())
    assert any(p.grad is not None and p.grad.any() for p in made.model.parameters())
    exactly(made.work.teacher.state_dict(), before)


@pytest.mark.parametrize(
    "update, wanted", [("never", 1.0), ("copy", 0.0), ("step", 0.8 ** (3 / 2)), ("epoch", 0.8)]
)
def test_how_the_teacher_follows(tmp_path, update, wanted):
    teacher = {"update": update, "weight": 0.8, "epoch_steps": 2}
    work = trainer(tmp_path, remix={"teacher": teacher}).work
    student, name = build(UNCONDITIONAL), "encoder.weights.0"
    old, new = (x.state_dict()[name].clone() for x in (work.teacher, student))
    for step in (1, 2, 3):
        work.stepped(student, step)
    torch.testing.assert_close(work.teacher.state_dict()[name], wanted * old + (1 - wanted) * new)


def test_the_teacher_takes_over_what_the_warm_up_learned(tmp_path):
    made = trainer(tmp_path, remix={"warmup": {"by": "mixit", "steps": 2}})
    first = made.work.batch()
    assert first.sources is None and made.work.warming_up
    losses = steps(made, 2)
    assert np.isfinite(losses).all() and not made.work.warming_up
    exactly(made.work.teacher.state_dict(), made.model.state_dict())
    assert made.work.batch().sources is not None
    steps(made, 1)
    assert not torch.equal(made.work.teacher.encoder.weights[0], made.model.encoder.weights[0])


ALL = {
    "remix": {"warmup": {"by": "mixit", "steps": 2}, "teacher": {"update": "step", "epoch_steps": 3}, "sources": 2},
    "optim": {"accumulate": 2, "autoclip_percentile": 10.0},
    "run": {"validate_every": 2, "keep_best": 2},
}


@pytest.mark.parametrize("stop", [1, 3])
def test_six_steps_are_some_and_the_rest(tmp_path, stop):
    straight = trainer(tmp_path / "a", dev=stems(), **ALL)
    assert straight.run()
    first = trainer(tmp_path / "b", dev=stems(), **ALL)
    for _ in range(stop):
        steps(first, 1)
        if first.step == 2:
            first.validated()
    first._save()
    torch.manual_seed(99)  # whatever happened in between
    second = trainer(tmp_path / "b", dev=stems(), **ALL)
    assert same(first, second) and second.work.step == stop
    exactly(first.work.state(), second.work.state())
    assert second.run() and same(straight, second)
    exactly(straight.work.state(), second.work.state())


def test_validation_by_stems_is_of_the_best_order(tmp_path):
    made = trainer(tmp_path, dev=stems(3))
    scores = made.validate()
    assert list(scores) == ["source0", "source1"] and made.work.measure.key == "si_sdr_improvement"

    class Perfect(torch.nn.Module):
        def separate(self, audio, prompts, autocast=False):
            found = torch.fft.rfft(audio)
            low = torch.arange(found.shape[-1]) * 2 < found.shape[-1]
            parts = [torch.fft.irfft(found * keep, audio.shape[-1]) for keep in (~low, low)]
            return torch.stack([parts[0], 0 * audio, parts[1]], 1)

    assert made.work.validate(Perfect()) > 15 > made.work.validate(made.model)


def test_validation_without_stems_is_the_loss_and_always_the_same(tmp_path):
    made = trainer(tmp_path, held=pool(6, first=50))
    first, second = made.validate(), made.validate()
    assert first == second and list(first) == ["mixed back", "like the teacher"]
    assert made.work.mean(first) == first["mixed back"]
    made.work.recipe = recipe(remix={"method": "remixit"})
    assert made.work.mean(first) == first["like the teacher"]
    assert trainer(tmp_path / "none", held=pool(1, first=50)).work.dev_set is None


def test_silence_is_not_drawn(tmp_path):
    quiet = pool(4, 4.0)
    quiet.samples.view(4, -1)[:, 4000:] = 0
    arrays = [row.numpy() / 32768 for row in quiet.samples.view(4, -1).float()]
    work = Remix(recipe(), AudioPool(quiet.items, arrays, RATE))
    work.begin(build(UNCONDITIONAL), np.random.default_rng(0))
    assert all((work.batch().mixtures.square().mean(-1) > 1e-6).all() for _ in range(10))
    with pytest.raises(InputError, match="silent throughout"):
        Remix(recipe(), AudioPool(quiet.items[:1], [np.zeros(8000)], RATE))


def test_stems_that_cannot_be_validated_on():
    with pytest.raises(InputError, match="4 stems to validate on, and the model has 3 outputs"):
        Remix(recipe(), pool(), stems=stems(sources=4))
    with pytest.raises(InputError, match=r"no 0.25 s in which all of source0, source1 are heard"):
        Remix(recipe(), pool(), stems=stems(seconds=0.2))
    other = build(dataclasses.replace(UNCONDITIONAL, sources=2))
    with pytest.raises(InputError, match="the teacher is another model"):
        Remix(recipe(), pool(), teacher=other)
