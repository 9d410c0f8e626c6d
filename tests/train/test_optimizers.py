"""Which parameters go where, learning rates, and the mean of the weights."""

import numpy as np
import pytest
import torch
from running import exactly, steps, trainer_in
from tiny import tiny_model

from ussfast.errors import CheckpointError, InputError
from ussfast.train.ema import Ema
from ussfast.train.muon import Muon
from ussfast.train.optimizers import Optimizer, matrix_names
from ussfast.train.recipe import LossConfig, OptimConfig, RunConfig
from ussfast.train.schedule import learning_rate

MUON = OptimConfig(steps=10, name="muon")


def test_muon_gets_the_matrices_of_blocks():
    model = tiny_model()
    names = matrix_names(model)
    assert {name.rsplit(".", 2)[-2] + "." + name.rsplit(".", 1)[-1] for name in names} == {
        "qkv.weight", "out.weight", "ffn_after.conv_weight", "ffn_after.deconv_weight"
    }  # fmt: skip
    assert len(names) == 16 and all(".blocks." in name for name in names)
    adamw, muon = Optimizer(model, MUON).parts
    assert isinstance(muon, Muon) and isinstance(adamw, torch.optim.AdamW)
    both = [p for part in (adamw, muon) for group in part.param_groups for p in group["params"]]
    assert {id(p) for p in both} == {id(p) for p in model.parameters()} and len(both) == len(list(model.parameters()))
    assert len(Optimizer(model, OptimConfig(steps=10)).parts) == 1


def test_a_model_may_say_which():
    model = tiny_model()
    model.matrix_names = lambda: ["decoder.weight1"]
    muon = Optimizer(model, MUON).parts[1]
    assert [p.shape for group in muon.param_groups for p in group["params"]] == [model.decoder.weight1.shape]


def test_the_state_is_that_of_one_optimiser():
    model = tiny_model()
    optimizer = Optimizer(model, MUON)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    state = optimizer.state_dict()
    assert [i for group in state["param_groups"] for i in group["params"]] == list(range(len(list(model.parameters()))))
    other = Optimizer(model, MUON)
    other.load_state_dict(state)
    exactly(other.state_dict(), state)
    with pytest.raises(CheckpointError, match=r"another optimiser \(optim\.name\)"):
        Optimizer(model, OptimConfig(steps=10)).load_state_dict(state)


def test_muon_learns(tmp_path, pool):
    optim = {"steps": 1000, "lr": 0.02, "warmup": 3, "name": "muon"}
    trainer = trainer_in(tmp_path, pool, optim=optim)
    batch = trainer.work.mixer.batch()
    losses = [trainer.train_step(batch) for _ in range(25)]
    assert losses[-1] < losses[0] - 3  # dB
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {0.02 * trainer.learning_rate(24) / 0.02}


def test_wsd():
    optim = OptimConfig(steps=100, lr=0.5, warmup=10, schedule="wsd", decay=0.2)
    found = [learning_rate(optim, step) for step in range(102)]
    assert found[:11] == pytest.approx(np.linspace(0, 0.5, 11)) and set(found[10:81]) == {0.5}
    assert found[80:101] == pytest.approx(np.linspace(0.5, 0, 21)) and found[101] == 0
    longer = OptimConfig(steps=200, lr=0.5, warmup=10, schedule="wsd", decay=0.2)
    assert [learning_rate(longer, step) for step in range(80)] == found[:80]  # so that it can be stretched
    everything = OptimConfig(steps=100, lr=1.0, warmup=0, schedule="wsd", decay=1.0)
    assert learning_rate(everything, 50) == pytest.approx(0.5)
    assert learning_rate(OptimConfig(steps=100, lr=1.0, warmup=0, schedule="wsd", decay=0.0), 99) == 1.0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: OptimConfig(steps=0), r"steps must be 1 to 1e\+12, got 0"),
        (lambda: OptimConfig(steps=1, accumulate=0), "accumulate must be 1 to"),
        (lambda: OptimConfig(steps=1, ema=1.0), r"ema must be 0 to 0\.999999999, got 1\.0"),
        (lambda: OptimConfig(steps=1, clip=0.0), "clip must be 1e-12 to 1e.12, got 0.0"),
        (lambda: OptimConfig(steps=1, autoclip_percentile=101.0), r"percentile must be 0 to 100, got 101"),
        (lambda: RunConfig(keep_best=0), "keep_best must be 1 to"),
    ],
)
def test_settings_that_cannot_be(make, says):
    with pytest.raises(InputError, match=says):
        make()
    assert LossConfig().silence == "group"


def test_ema_rule():
    model = torch.nn.Linear(3, 2)
    ema = Ema(model, 0.9)
    expected = model.weight.detach().clone()
    for step in range(200):
        with torch.no_grad():
            model.weight.add_(torch.randn_like(model.weight))
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(ema.state()["weight"], expected, rtol=1e-5, atol=1e-5)
    assert Ema(model, 0.0).decay == 0


def test_ema_takes_the_models_place_and_gives_it_back():
    model = torch.nn.Linear(3, 2)
    ema, raw = Ema(model, 0.9), model.weight.detach().clone()
    ema.load({"weight": torch.ones(2, 3)})
    with pytest.raises(ZeroDivisionError), ema.applied():
        assert torch.equal(model.weight, torch.ones(2, 3))
        1 / 0  # noqa: B018
    exactly(model.weight.detach(), raw)
    exactly(ema.state()["bias"], model.bias.detach())  # not in what was loaded: starts at the weights


def test_validation_sees_the_mean_weights(tmp_path, pool, dev):
    trainer = trainer_in(tmp_path, pool, dev, optim={"steps": 50, "ema": 0.99})
    steps(trainer, 3)
    before = trainer.validate()
    raw = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.model.load_state_dict(raw | trainer.ema.state())
    from ussfast.train.validation import validate

    assert validate(trainer.model, dev) == before
    single = validate(trainer.model, dev, batch=1)
    assert single == pytest.approx(before, abs=1e-3) and list(single) == list(before)
    trainer.model.load_state_dict(raw)
    assert validate(trainer.model, dev) != before
