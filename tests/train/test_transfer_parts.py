"""Parts of models that learn alone: everything else stays bit for bit; low-rank additions are merged in the end."""

import pytest
import torch
from running import same, steps
from stem_folders import CHIMERA, MODELS, stem_folder, stem_recipe, stem_trainer, stem_work
from tiny import ASP, UNCONDITIONAL, tiny_detector_directory, tiny_directory, tiny_model

from ussfast.errors import InputError
from ussfast.models.tflocoformer import TfLocoformerConfig
from ussfast.train import checkpoints
from ussfast.train.export import export
from ussfast.train.folders import Damaged
from ussfast.train.low_rank import add_low_rank, low_rank_names, merged
from ussfast.train.transfer_parts import HEADS, choose, still

TF = TfLocoformerConfig(sample_rate=8000, stft=UNCONDITIONAL.stft, sources=3, stack=UNCONDITIONAL.first)
EVERY = {**MODELS, "tflocoformer": TF, "asp_unet": ASP}


@pytest.fixture(scope="module")
def stems(tmp_path_factory):
    return stem_folder(tmp_path_factory.mktemp("stems"), seconds=9.0, pieces=1)


def trained(folder, stems, kind, part):
    """A trainer of a part of a model, after three steps, and how it began."""
    source = str(tiny_directory(folder, EVERY[kind]))
    detector = str(tiny_detector_directory(folder)) if kind == "asp_unet" else None
    recipe = stem_recipe(kind if kind in MODELS else "bslocoformer", optim={"steps": 3})
    options = {"stage": "finetune", "source": source, "train": part, "detector": detector}
    trainer = stem_trainer(folder / "run", stems, recipe, **options)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    steps(trainer, 3)
    return trainer, before


PARTS = [(kind, part) for kind, parts in HEADS.items() for part in parts if part != "lora"]


@pytest.mark.parametrize("kind, part", PARTS)
def test_the_rest_stays_bit_for_bit(tmp_path, stems, kind, part):
    trainer, before = trained(tmp_path, stems, kind, part)
    after, beginnings = trainer.model.state_dict(), HEADS[kind][part]
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed and all(name.startswith(beginnings) for name in changed), changed
    # Every beginning in the table is that of something that there is.
    assert all(any(name.startswith(one) for name in after) for one in beginnings)


@pytest.mark.parametrize("kind", [kind for kind, parts in HEADS.items() if "lora" in parts])
def test_low_rank_additions_learn_alone_and_are_merged(tmp_path, stems, kind):
    trainer, before = trained(tmp_path, stems, kind, "lora")
    after = trainer.model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed and all(name.endswith((".up", ".down")) or name == "prompts" for name in changed)
    assert any(name.endswith(".up") for name in changed)
    ordinary = tiny_model(trainer.recipe.model)
    ordinary.load_state_dict(merged(after))
    # The merged model gives what the one with additions gives.
    mixture = trainer.work.excerpts.sum(1)
    with torch.no_grad():
        rows = trainer.work.asked(trainer.model)
        torch.testing.assert_close(
            ordinary.eval().separate(mixture, rows), trainer.model.eval().separate(mixture, rows), rtol=1e-3, atol=1e-4
        )
    trainer._save()
    config, weights, _ = checkpoints.load_weights(checkpoints.newest(tmp_path / "run"))
    assert config == trainer.recipe.model and weights.keys() == ordinary.state_dict().keys()
    export(tmp_path / "run", "m", "CC0-1.0", newest=True)


def test_a_run_of_additions_goes_on_bit_for_bit(tmp_path, stems):
    source = str(tiny_directory(tmp_path, MODELS["causal"]))
    options = {"stage": "finetune", "source": source, "train": "lora"}
    recipe = stem_recipe("causal")
    straight = stem_trainer(tmp_path / "a", stems, recipe, **options)
    assert straight.run()
    first = stem_trainer(tmp_path / "b", stems, recipe, **options)
    steps(first, 3)
    first._save()
    second = stem_trainer(tmp_path / "b", stems, recipe, **options)
    assert second.step == 3 and second.run() and same(straight, second)


def test_additions_begin_as_nothing():
    model, mixture = tiny_model(UNCONDITIONAL).eval(), torch.randn(1, 1000)
    with torch.no_grad():
        before = model.separate(mixture, None)
        add_low_rank(model, ["first.blocks.0.freq.attention.qkv.weight"])
        assert torch.equal(model.separate(mixture, None), before)
    plain = tiny_model(UNCONDITIONAL).state_dict()
    assert merged(plain).keys() == plain.keys() == merged(model.state_dict()).keys()


def test_statistics_of_a_batch_norm_stay_where_its_layer_does():
    model = tiny_model(CHIMERA)
    choose(model, "mask")
    still(model, "mask")
    before = model.norm.running_mean.clone()
    model.heads(torch.rand(2, 5, CHIMERA.stft.bins))
    assert torch.equal(model.norm.running_mean, before) and model.mask.training
    still(model, "whole")
    model.heads(torch.rand(2, 5, CHIMERA.stft.bins))
    assert not torch.equal(model.norm.running_mean, before)


@pytest.mark.parametrize(
    "kind, part, known",
    [
        ("causal", "mask", "whole, head, lora"),
        ("chimera", "lora", "whole, head, mask"),
        ("asp_unet", "lora", "whole, head"),
    ],
)
def test_a_part_that_there_is_not(tmp_path, kind, part, known):
    with pytest.raises(InputError, match=f"architecture {kind} has no part '{part}'; it can train {known}$"):
        choose(tiny_model(EVERY[kind]), part)


def test_the_work_says_so_before_it_trains(tmp_path, stems):
    source = str(tiny_directory(tmp_path, CHIMERA))
    work = stem_work(stems, stem_recipe(), stage="finetune", source=source, train="lora")
    with pytest.raises(InputError, match="has no part 'lora'"):
        work.model()


def test_a_part_without_matrices():
    with pytest.raises(InputError, match="train another part"):
        low_rank_names(tiny_model(ASP), ("bin_norm.",))


def test_a_checkpoint_that_lacks_half_of_an_addition_is_damaged(tmp_path, stems):
    trainer, _ = trained(tmp_path, stems, "causal", "lora")
    weights = trainer.model.state_dict()
    half = {name: value for name, value in weights.items() if not name.endswith("qkv.0.up")}
    assert len(half) < len(weights)
    checkpoints.save_weights(tmp_path / "best-0000003", trainer.recipe, half, {"step": 3, "mean": 1.0})
    with pytest.raises(Damaged, match="best-0000003: its weights are not those of its model"):
        checkpoints.load_weights(tmp_path / "best-0000003")
