"""The loss of a batch: prompts by name and by example, precision, accumulated gradients."""

import sys
from types import SimpleNamespace

import pytest
import torch
from running import trainer_in
from tiny import CAUSAL, tiny_model

from ussfast._ext import cpu_isa
from ussfast.errors import InputError
from ussfast.models._packed import kernel_precision
from ussfast.ops import use_reference
from ussfast.train import parallel
from ussfast.train.losses import prompt_loss
from ussfast.train.objective import Objective, prompt_rows
from ussfast.train.recipe import LossConfig


def with_queries(batch, asked):
    queries = torch.randn(len(asked), 500)
    return SimpleNamespace(
        mixture=batch.mixture, references=batch.references, prompts=batch.prompts,
        queries=queries, asked=torch.tensor(asked).reshape(-1, 2),
    )  # fmt: skip


def embedding(model):
    model.listen = torch.nn.Linear(500, 8)
    model.embed = model.listen.forward
    return model


@pytest.fixture
def batch(tmp_path, pool):
    return trainer_in(tmp_path, pool).work.mixer.batch()


def test_rows_of_examples_replace_those_of_names(batch):
    model = embedding(tiny_model())
    asked = [[0, 1], [1, 0]]
    given = with_queries(batch, asked)
    loss = Objective(model, LossConfig())(given)
    rows = prompt_rows(model, batch.prompts).clone()
    rows[0, 1], rows[1, 0] = model.embed(given.queries)
    with use_reference():
        estimates = model.separate(batch.mixture, rows)
    expected = prompt_loss(estimates, batch.references, batch.prompts, asked).mean()
    torch.testing.assert_close(loss, expected)
    assert (loss - Objective(model, LossConfig())(batch)).abs() > 1e-3
    loss.backward()
    assert model.listen.weight.grad.abs().sum() > 0


def test_class_prompts_are_looked_up_in_order():
    model = tiny_model()
    prompts = [("speech", "sfx"), ("other", "speech")]
    expected = torch.stack([model.prompt_vectors(names) for names in prompts])
    assert torch.equal(prompt_rows(model, prompts), expected)


def test_models_that_cannot_listen(batch):
    with pytest.raises(InputError, match="this model cannot embed examples"):
        Objective(tiny_model(), LossConfig())(with_queries(batch, [[0, 0]]))
    none = with_queries(batch, [])
    assert Objective(tiny_model(), LossConfig())(none) == Objective(tiny_model(), LossConfig())(batch)


def test_loss_settings_arrive(batch):
    model = tiny_model()
    batch.references[:, 0] = 0
    group, mixture = (Objective(model, LossConfig(silence=s))(batch).item() for s in ("group", "mixture"))
    assert group < mixture  # an energy was added under the logarithm
    assert Objective(model, LossConfig(zero_weight=1.0))(batch).item() != group
    assert Objective(model, LossConfig(snr_max=1.0))(batch).item() > group


def test_bf16(tmp_path, pool):
    full, half = (trainer_in(tmp_path / p, pool, run={"precision": p}) for p in ("fp32", "bf16"))
    batch = full.work.mixer.batch()
    for _ in range(3):
        one, other = full.train_step(batch), half.train_step(batch)
        assert one != other and one == pytest.approx(other, abs=0.1)
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}


def test_bf16_of_kernels_for_training(batch):
    model = tiny_model(CAUSAL)
    full, half = (Objective(model, LossConfig(), bfloat16=b)(batch).item() for b in (False, True))
    assert half == pytest.approx(full, abs=0.1) and (half != full) == (cpu_isa() == "avx512_bf16")
    with pytest.raises(KeyError), kernel_precision(model, "bfloat16"):
        assert model.head.precision == "bfloat16"
        raise KeyError
    assert {layer.precision for layer in model.modules() if hasattr(layer, "precision")} == {"float32"}


def test_accumulated_gradients_are_means(tmp_path, pool):
    trainer = trainer_in(tmp_path, pool, optim={"clip": 1e9, "accumulate": 2})
    batches = [trainer.work.mixer.batch() for _ in range(2)]
    parts, losses = [], []
    for batch in batches:
        trainer.model.zero_grad()
        loss = trainer.objective(batch)
        loss.backward()
        losses.append(loss.item())
        parts.append([p.grad.clone() for p in trainer.model.parameters()])
    value = trainer.train_step(*batches)
    assert value == pytest.approx(sum(losses) / 2, rel=1e-5)
    for p, one, other in zip(trainer.model.parameters(), *parts, strict=True):
        torch.testing.assert_close(p.grad, (one + other) / 2, rtol=1e-4, atol=1e-6)


def test_without_accelerate(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(InputError, match=r"training needs accelerate: pip install 'ussfast\[train\]'"):
        parallel.start("cpu")


def test_the_run_takes_as_many_batches_as_it_should(tmp_path, pool):
    trainer = trainer_in(tmp_path, pool, optim={"steps": 2, "accumulate": 3})
    taken = []
    batch = trainer.work.mixer.batch
    trainer.work.mixer.batch = lambda: taken.append(1) or batch()
    trainer.run()
    assert len(taken) == 6
