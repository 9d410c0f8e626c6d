"""A learning rate that falls where the loss does not, and what else of a run's work is in checkpoints."""

import math

import pytest
import torch
from running import same, steps, trainer_in
from tiny import tiny_recipe

from ussfast.errors import InputError
from ussfast.train.recipe import OptimConfig, recipe_from_dict
from ussfast.train.schedule import Plateau, learning_rate
from ussfast.train.separation import Separation
from ussfast.train.trainer import Trainer


def factors(plateau, losses):
    return [(plateau.update(loss), plateau.factor)[1] for loss in losses]


def test_halved_after_so_many_steps_without_a_new_minimum():
    found = factors(Plateau(window=2, patience=3), [4.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    # Means over two: 3, 1.5, 1, then five that are not below 1; 0.5 and 0 are.
    assert found == [1, 1, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]


def test_never_while_the_mean_falls_however_single_losses_jump():
    losses = [10 - 0.01 * i + (3 if i % 2 else -3) for i in range(400)]
    assert set(factors(Plateau(window=2, patience=2), losses)) == {1.0}


def test_nothing_within_the_first_window_and_losses_that_are_not_finite_do_not_count():
    plateau = Plateau(window=100, patience=1)
    assert set(factors(plateau, [1.0] * 99 + [math.nan, math.inf])) == {1.0}
    assert factors(plateau, [1.0, 1.0, 1.0]) == [1.0, 0.5, 0.25]


def test_it_goes_on_from_its_state():
    losses = torch.rand(60, generator=torch.Generator().manual_seed(0)).tolist()
    whole, first, second = (Plateau(window=5, patience=4) for _ in range(3))
    every = factors(whole, losses)
    half = factors(first, losses[:23])
    second.load(first.state())
    assert half + factors(second, losses[23:]) == every
    assert every[-1] < 1


def test_constant_after_warm_up():
    optim = OptimConfig(steps=1000, lr=0.5, warmup=10, schedule="plateau")
    assert [learning_rate(optim, step) for step in (0, 5, 10, 999)] == [0, 0.25, 0.5, 0.5]
    with pytest.raises(InputError, match="plateau_window"):
        OptimConfig(steps=1, plateau_window=0)


class Counting(Separation):
    """Keeps a memory of its own of the steps."""

    def begin(self, model, rng):
        super().begin(model, rng)
        self.seen, self.modes = torch.zeros(2), 0

    def mode(self, model):
        super().mode(model)
        self.modes += 1

    def stepped(self, model, step):
        self.seen += torch.tensor([1.0, float(step)])

    def state(self):
        return {"seen.steps": self.seen}

    def load(self, state):
        self.seen = state["seen.steps"].clone()


def test_the_rate_and_the_works_memory_survive_in_checkpoints(tmp_path, pool):
    optim = {"steps": 8, "schedule": "plateau", "plateau_window": 1, "plateau_patience": 1, "warmup": 0, "lr": 0.5}
    recipe = recipe_from_dict(tiny_recipe(optim=optim))

    def trainer(folder):
        return Trainer(Counting(recipe, pool, []), tmp_path / folder)

    straight, first = trainer("a"), trainer("b")
    whole = steps(straight, 6)
    assert straight.plateau.factor < 1 and straight.last["lr"] < recipe.optim.lr
    half = steps(first, 3)
    first._save()
    second = trainer("b")
    assert half + steps(second, 3) == whole and same(straight, second)
    assert second.plateau.factor == straight.plateau.factor
    assert straight.work.seen.tolist() == second.work.seen.tolist() == [6, 21]
    assert straight.work.modes == 6


def test_other_schedules_have_no_such_memory(tmp_path, pool):
    assert trainer_in(tmp_path / "a", pool).plateau is None
