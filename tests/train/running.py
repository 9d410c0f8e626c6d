"""Trainers on a tiny model, comparing them, and mixers."""

import numpy as np
import torch
from tiny import tiny_recipe

from ussfast.train.mix_config import MixConfig
from ussfast.train.mixing import Mixer
from ussfast.train.recipe import recipe_from_dict
from ussfast.train.separation import Separation
from ussfast.train.trainer import Trainer


def mixer(pool, seed=0, **settings):
    return Mixer(pool, MixConfig(**({"seconds": 0.4, "rows": 12} | settings)), np.random.default_rng(seed))


def trainer_in(folder, pool, dev=(), **changes):
    return Trainer(Separation(recipe_from_dict(tiny_recipe(**changes)), pool, list(dev)), folder)


def steps(trainer, count):
    batches = trainer.recipe.optim.accumulate
    return [trainer.train_step(*(trainer.work.batch() for _ in range(batches))) for _ in range(count)]


def exactly(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def same(one, other):
    """All that training depends on, bit for bit."""
    exactly(one.model.state_dict(), other.model.state_dict())
    exactly(one.optimizer.state_dict(), other.optimizer.state_dict())
    exactly(one.ema.state(), other.ema.state())
    assert one.work.rng.bit_generator.state == other.work.rng.bit_generator.state
    assert (one.step, one.kept) == (other.step, other.kept)
    assert (one.autoclip and one.autoclip.history) == (other.autoclip and other.autoclip.history)
    return True
