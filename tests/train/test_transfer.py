"""Training on stems: what is drawn, what is learned, how it is validated, and that it goes on bit for bit."""

import numpy as np
import pytest
import torch
from running import same, steps
from stem_folders import MODELS, only_embedding, stem_folder, stem_pools, stem_recipe, stem_trainer, stem_work
from tiny import ASP, RATE, STEREO, tiny_detector_directory, tiny_directory, tiny_manifest, tiny_model

from ussfast.errors import InputError
from ussfast.prompts.enrolment import unit
from ussfast.train.objective import prompt_rows
from ussfast.train.stem_losses import StemObjective, waveform_loss
from ussfast.train.stem_mixing import StemMixer, Stems, excerpts_of
from ussfast.train.transfer_recipe import ObjectiveConfig, StemMixConfig, transfer_from_dict
from ussfast.train.transfer_runs import TransferOptions, pools
from ussfast.train.transfer_start import of_model


@pytest.fixture(scope="module")
def stems(tmp_path_factory):
    return stem_folder(tmp_path_factory.mktemp("stems"))


def pitch_of(audio):
    spectrum = (audio * torch.hann_window(audio.shape[-1])).double().numpy()
    return np.abs(np.fft.rfft(spectrum)).argmax(-1) * RATE / audio.shape[-1]


@pytest.mark.parametrize("augment", ["none", "pitch", "stretch", "incoherent", "all"])
def test_mixtures_are_changed_as_asked(stems, augment):
    train, _ = stem_pools(stems)
    mixer = StemMixer(train, StemMixConfig(seconds=0.4, batch=16, augment=augment))
    drawn = mixer.draw(np.random.default_rng(0), 16)
    again = mixer.draw(np.random.default_rng(0), 16)
    assert drawn.shape == (16, 3, round(0.4 * RATE)) and torch.equal(drawn, again) and drawn.isfinite().all()
    factor = pitch_of(drawn) / np.array([2500, 300, 900])
    moved = np.abs(12 * np.log2(factor))
    if augment in ("pitch", "all"):
        # One shift for all stems of a mixture, up to three semitones.
        assert 1 < moved.max() < 3.6 and np.abs(moved[:, 0] - moved[:, 2]).max() < 0.5
    else:
        assert moved.max() < 0.5
    as_they_are = _as_they_are(train, drawn)
    if augment == "none":
        assert as_they_are.all()
    elif augment == "incoherent":
        # Every stem is somewhere in a piece, but hardly ever all of a mixture at one place.
        apart = [_as_they_are(train, drawn[:, k : k + 1], k) for k in range(3)]
        assert np.stack(apart).all() and as_they_are.mean() < 0.2
    elif augment == "stretch":
        assert as_they_are.mean() < 0.2


def _as_they_are(pool, drawn, source=None):
    """Whether each excerpt is at one place of a piece."""
    found = []
    for own in drawn.numpy():
        rows = [audio.numpy() if source is None else audio[source : source + 1].numpy() for audio in pool.audio]
        places = [
            np.flatnonzero(np.isclose(row[0, : row.shape[1] - own.shape[1] + 1], own[0, 0], atol=1e-7)) for row in rows
        ]
        hits = [
            np.array_equal(row[:, at : at + own.shape[1]], own)
            for row, some in zip(rows, places, strict=True)
            for at in some
        ]
        found.append(any(hits))
    return np.array(found)


def test_chosen_stems_only(stems):
    train, _ = stem_pools(stems)
    mixer = StemMixer(train, StemMixConfig(seconds=0.4, augment="pitch"))
    drawn = mixer.draw(np.random.default_rng(0), 2, np.array([[2, 0], [1, 2]]))
    expected = np.array([[900, 2500], [300, 900]])
    assert (np.abs(np.log2(pitch_of(drawn) / expected)) < 0.3).all()


def test_excerpts_do_not_overlap_and_are_spread(stems):
    _, held = stem_pools(stems)
    every = excerpts_of(held, 0.1, 100)
    some = excerpts_of(held, 0.1, 3)
    assert len(every) == 2 * 6 and torch.equal(some, every[[0, 6, 11]])
    assert excerpts_of(held, 2.4, 9).shape == (2, 3, round(0.6 * RATE))  # shorter ones, where no place is as long
    assert not len(excerpts_of(held, 3.0, 9))


@pytest.mark.parametrize("model", list(MODELS))
def test_it_learns(tmp_path, stems, model):
    trainer = stem_trainer(tmp_path / "run", stems, stem_recipe(model, optim={"steps": 40}, stems={"augment": "all"}))
    before = trainer.work.validate(trainer.model)
    assert trainer.run()
    means = trainer.work.means(trainer.work.scores(trainer.model))
    assert set(means) == {"high", "low", "mid"} and min(means.values()) > before
    assert trainer.kept[0][1] == pytest.approx(trainer.work.mean(means)) and trainer.kept[0][1] > before + 3


@pytest.mark.parametrize("model", ["chimera", "causal"])
def test_six_steps_are_three_and_three(tmp_path, stems, model):
    recipe = stem_recipe(model, stems={"augment": "all"})
    straight = stem_trainer(tmp_path / "a", stems, recipe)
    assert straight.run()
    first = stem_trainer(tmp_path / "b", stems, recipe)
    steps(first, 3)
    first._save()
    second = stem_trainer(tmp_path / "b", stems, recipe)
    assert second.step == 3 and second.run()
    assert same(straight, second)


def test_pretraining_trains_the_embedding_alone(tmp_path, stems):
    trainer = stem_trainer(tmp_path / "run", stems, stem_recipe(optim={"steps": 30}), stage="pretrain")
    masks = {n: p.clone() for n, p in trainer.model.named_parameters() if n.startswith("mask.")}
    before = trainer.work.validate(trainer.model)
    trainer.run()
    assert trainer.work.measure.key == "embedding_fit" and trainer.best > before + 0.05
    assert masks and all(torch.equal(trainer.model.get_parameter(n), p) for n, p in masks.items())


def test_sources_without_an_order_may_come_out_in_any():
    reference = torch.randn(4, 3, 200, generator=torch.Generator().manual_seed(0))
    turned = reference[:, [2, 0, 1]]
    for loss in ("snr", "l1"):
        config, batch = ObjectiveConfig(loss=loss), Stems(reference.sum(1), reference)
        right, found = (waveform_loss(x, batch, config, fixed=False) for x in (reference, turned))
        assert found == right
        assert waveform_loss(turned, batch, config, fixed=True) > right + 0.5


def test_losses_of_a_chimera_add_up(stems):
    work = stem_work(stems)
    work.begin(None, np.random.default_rng(0))
    model, batch = work.model(), work.batch()
    both, clustered, masked = (
        StemObjective(model, ObjectiveConfig(loss=loss, alpha=alpha), fixed=True)(batch)
        for loss, alpha in (("chimera", 0.3), ("deep_clustering", 0.0), ("chimera", 0.0))
    )
    torch.testing.assert_close(both, 0.3 * clustered + 0.7 * masked)
    assert clustered > masked > 0


def test_a_model_with_prompts_is_asked_for_what_is_there_and_what_is_not(tmp_path, stems):
    source = str(tiny_directory(tmp_path, MODELS["causal"]))
    recipe = stem_recipe("causal", stems={"batch": 4, "keep": 2, "absent": 1.0, "background": 1.0})
    work = stem_work(stems, recipe, stage="finetune", source=source)
    model = work.model()
    work.begin(model, np.random.default_rng(0))
    assert model.prompt_names == (*MODELS["causal"].prompts, "high", "low", "mid")
    seen = set()
    for _ in range(12):
        batch = work.batch()
        assert len(batch.prompts) == 6 and batch.references.shape[:2] == (6, len(batch.prompts[0]))
        asked, old = batch.prompts[:4], batch.prompts[4:]
        assert all(set(names) <= {"high", "low", "mid"} and len(set(names)) == len(names) for names in asked)
        assert all(set(names) <= set(MODELS["causal"].prompts) for names in old)
        seen.add(int(batch.absent[:4].sum(1)[0]))
        assert torch.equal(batch.absent, batch.references.abs().amax(-1) == 0)
        # What the untouched model gives is the target of the others, in mixtures of the batch.
        with torch.no_grad():
            made = work.teacher.separate(batch.mixture[4:], prompt_rows(work.teacher, old))
        kept = batch.references[4:].abs().amax(-1) > 0
        torch.testing.assert_close(batch.references[4:][kept], made[kept])
        assert torch.equal(batch.mixture[4:], batch.mixture[:2])
        # The background is in the mixture and in no reference.
        assert ((batch.mixture[:4] - batch.references[:4].sum(1)).square().mean(1) > 1e-7).all()
    assert seen == {0, 1}  # of all three stems none is left that could be absent


def test_a_prompt_begins_as_its_stem_and_one_of_a_known_name_learns_on(tmp_path):
    folder = stem_folder(tmp_path / "stems", ("Speech", "kettle"))
    directory = tiny_directory(tmp_path, MODELS["causal"])
    train, _ = stem_pools(folder)
    beginning = of_model(str(directory), train)
    assert beginning.asks == ("speech", "kettle") and beginning.config.prompts[-1] == "kettle"
    assert beginning.notes == ("prompts that learn on: speech", "new prompts: kettle")
    model, old = beginning.build(), tiny_model(MODELS["causal"])
    with torch.no_grad():
        made = sum(unit(model.eval().embed(audio[1][None]))[0] for audio in train.audio)
    cosine = torch.nn.functional.cosine_similarity(made, model.prompts[-1].detach(), dim=0)
    assert cosine > 0.9999 and torch.equal(model.prompts[:-1], old.prompts)

    tuss = of_model(str(tiny_directory(tmp_path, MODELS["tuss"])), train).build()
    torch.testing.assert_close(tuss.prompts[-1], tuss.prompts[:-1].mean(0))


def test_sources_of_other_names_and_numbers(tmp_path, stems):
    pool, _ = stem_pools(stems)
    named = stem_work(stems, stem_recipe()).beginning
    from ussfast.checkpoints.store import save_model

    save_model(tmp_path / "three", named.build(), name="three", license="CC0-1.0", source={})
    same_names = of_model(str(tmp_path / "three"), pool)
    assert same_names.config.labels == ("high", "low", "mid") and not same_names.notes

    two, _ = stem_pools(stem_folder(tmp_path / "two", ("low", "hum")))
    other = of_model(str(tmp_path / "three"), two)
    assert other.config.labels == ("hum", "low") and other.config.sources == 2
    assert "high, low, mid, and are hum, low" in other.notes[0]
    assert "mask.bias, mask.weight begin anew" in other.notes[1]
    grown, before = other.build().state_dict(), named.build().state_dict()
    assert {n for n in grown if grown[n].shape != before[n].shape} == {"mask.weight", "mask.bias"}

    free = of_model(str(tiny_directory(tmp_path, MODELS["bslocoformer"])), two)
    assert free.config.labels == () and free.config.sources == 2 and "begin anew" in free.notes[0]
    embedding = of_model(str(tiny_directory(tmp_path, only_embedding())), two)
    assert embedding.config.masks and embedding.config.labels == ("hum", "low") and "only embeds" in embedding.notes[0]


def test_the_order_is_that_of_the_models_labels(tmp_path, stems):
    from dataclasses import replace

    from ussfast.checkpoints.store import save_model

    config = replace(MODELS["bslocoformer"], labels=("mid", "high", "low"))
    save_model(tmp_path / "m", tiny_model(config), name="m", license="CC0-1.0", source={})
    work = stem_work(stems, stem_recipe("bslocoformer"), stage="finetune", source=str(tmp_path / "m"))
    work.begin(None, np.random.default_rng(0))
    batch = work.batch()
    assert (np.abs(np.log2(pitch_of(batch.references) / [900, 2500, 300])) < 0.1).all()
    assert torch.equal(batch.mixture, batch.references.sum(1))

    class Oracle(torch.nn.Module):
        def separate(self, mixture, rows):
            assert rows is None
            return work.excerpts[: len(mixture)][:, [1, 2, 0]]

    assert list(work.means(work.scores(Oracle()))) == ["mid", "high", "low"]


def test_a_model_of_vectors_is_asked_by_those_of_the_stems(tmp_path):
    folder = stem_folder(tmp_path / "stems", seconds=12.0, pieces=1)
    detector, directory = tiny_detector_directory(tmp_path), tiny_directory(tmp_path, ASP)
    recipe = stem_recipe("bslocoformer")
    work = stem_work(folder, recipe, stage="finetune", source=str(directory), detector=str(detector))
    work.begin(None, np.random.default_rng(0))
    batch = work.batch()
    names = [(row[0] - work.vectors).abs().sum(1).argmin() for row in batch.rows]
    expected = np.array([2500, 300, 900])[names]
    assert (np.abs(np.log2(pitch_of(batch.references[:, 0]) / expected)) < 0.1).all()
    loss = work.objective(work.model())(batch)
    loss.backward()
    assert loss.isfinite()


def test_what_cannot_be_is_said(tmp_path, stems):
    for recipe, words in (
        (stem_recipe("bslocoformer", objective={"loss": "chimera"}), None),  # a chimera's loss becomes snr
        (stem_recipe("tuss", objective={"loss": "l1"}), "by objective.loss snr"),
        (stem_recipe("bslocoformer", objective={"permutation": "bin"}), "bin is of loss chimera"),
        (stem_recipe(stems={"seconds": 30.0}), "nowhere in the part that is held out"),
    ):
        if words is None:
            assert stem_work(stems, recipe).recipe.objective.loss == "snr"
            continue
        with pytest.raises(InputError, match=words):
            stem_work(stems, recipe)
    with pytest.raises(InputError, match="needs the model to begin with"):
        TransferOptions(stage="finetune").checked()
    with pytest.raises(InputError, match="stage pretrain is for a chimera"):
        stem_work(stems, stem_recipe("tuss"), stage="pretrain")
    with pytest.raises(InputError, match="kind 'detector'"):
        transfer_from_dict(stem_recipe() | {"kind": "detector"})
    with pytest.raises(InputError, match="shorter one first"):
        StemMixConfig(stretch=(1.2, 0.8))
    train, _ = stem_pools(stems)
    with pytest.raises(InputError, match="2 channels"):
        of_model(str(tiny_directory(tmp_path, STEREO)), train)
    wide = stem_folder(tmp_path / "wide", rate=2 * RATE)
    with pytest.raises(InputError, match=r"works at 8000 Hz, and the stems are at 16000 Hz"):
        of_model(str(tiny_directory(tmp_path, MODELS["tuss"])), stem_pools(wide, 2 * RATE)[0])
    names = tuple(f"s{i}" for i in range(9))
    many = stem_folder(tmp_path / "many", names)
    with pytest.raises(InputError, match="have no order, and 9 of them"):
        source = tiny_directory(tmp_path, MODELS["bslocoformer"], seed=1)
        stem_work(many, stem_recipe("bslocoformer"), stage="finetune", source=str(source))


def test_songs_of_a_manifest_and_their_licences(tmp_path):
    manifest = tiny_manifest(tmp_path)
    options = TransferOptions(stems=("bass", "drums"))
    train, held = pools(manifest, ("permissive",), options, RATE, False)
    assert train.names == ("bass", "drums")
    assert {p.split for p in train.pieces} == {"train"} and {p.split for p in held.pieces} == {"dev"}
    with pytest.raises(InputError, match=r"no piece has stems of the licences that the recipe takes \(attribution\)"):
        pools(manifest, ("attribution",), options, RATE, False)
