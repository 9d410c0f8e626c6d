"""Training detectors on weakly labelled clips."""

import numpy as np
import pytest
import torch
from clip_data import NEW, RUN, TONES, clip_manifest, clip_sets, detector_recipe, plain_detector
from running import exactly, same, steps
from tiny import RATE

from ussfast.errors import InputError
from ussfast.train.clip_recipes import detector_from_dict
from ussfast.train.tagging import ClipBatch, Tagging
from ussfast.train.trainer import Trainer

LABELS = tuple(TONES)
HTSAT = {
    "architecture": "htsat",
    "front": {"sample_rate": RATE, "n_fft": 256, "hop": 80, "mels": 16, "fmin": 20.0, "fmax": 4000.0},
    "image": 32, "patch": 4, "window": 4, "dim": 8, "depths": [2, 2], "heads": [2, 2], "segment_seconds": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return clip_manifest(tmp_path_factory.mktemp("clips"))


def work(manifest, **changes):
    recipe = detector_recipe(**changes)
    return Tagging(recipe, *clip_sets(manifest, recipe.labels))


def drawn(manifest, count=40, **clips):
    """A work that has begun, and batches."""
    found = work(manifest, clips=clips)
    found.begin(found.model(), np.random.default_rng(0))
    return found, [found.batch() for _ in range(count)]


def tones_in(row):
    """Which labels are heard in a clip, by its spectrum."""
    spectrum = np.abs(np.fft.rfft(row))
    frequency = np.fft.rfftfreq(len(row), 1 / RATE)
    peaks = [spectrum[np.abs(frequency - 1.05 * tone) < 0.1 * tone + 20].max() for tone in TONES.values()]
    return np.array(peaks) > 0.1 * max(spectrum.max(), 1e-3)


def test_targets_are_what_is_heard(manifest):
    _, batches = drawn(manifest, sums=0.5, mixup=0.0, unlabelled=0.0, sum_db=3.0)
    heard, count = 0, 0
    for batch in batches:
        assert batch.own.eq(1).all() and set(batch.targets.sum(1).int().tolist()) <= {1, 2}
        for row, target in zip(batch.audio.numpy(), batch.targets.numpy(), strict=True):
            heard += np.array_equal(tones_in(row), target == 1)
            count += 1
    # Crops at the very edge of a burst are too short to tell.
    assert heard > 0.9 * count
    sums = torch.cat([batch.targets for batch in batches]).sum(1).eq(2).float().mean()
    assert 0.35 < sums < 0.65
    labels = torch.cat([batch.targets for batch in drawn(manifest, sums=0.0, mixup=0.0, unlabelled=0.0)[1]]).sum(0)
    assert labels.min() == labels.max()


def test_clips_without_a_label_have_no_target(manifest):
    recipe = detector_recipe(labels=["low", "high"], clips={"sums": 0.0, "unlabelled": 0.5, "mixup": 0.0})
    found = Tagging(recipe, *clip_sets(manifest, recipe.labels))
    found.begin(found.model(), np.random.default_rng(0))
    targets = torch.cat([found.batch().targets for _ in range(40)]).sum(1)
    assert set(targets.tolist()) == {0, 1} and 0.3 < targets.eq(0).float().mean() < 0.7


def test_short_clips_are_repeated_or_lie_in_silence(manifest):
    whole, split = (
        torch.cat([b.audio for b in drawn(manifest, 20, sums=0.0, repeat=share)[1]]) for share in (1.0, 0.0)
    )
    for audio, most in ((whole, 0.05), (split, 1.0)):
        silent = audio.eq(0).float().mean(1)
        assert silent.max() <= most
    assert split.eq(0).float().mean(1).max() > 0.3  # of the clips of 0.3 s in 0.5 s
    short = round(0.3 * RATE)
    repeated = [row for row in whole if torch.equal(row[short:], row[: len(row) - short])]
    assert len(repeated) > 10 and len({int(row.abs().argmax()) for row in repeated}) > 5


def test_sums_are_of_equal_level(manifest):
    found = work(manifest, clips={"sums": 1.0, "mixup": 0.0, "sum_db": 0.0, "repeat": 0.5})
    found.begin(found.model(), np.random.default_rng(0))
    made, crops = [], found._crops
    found._crops = lambda places: made.append(crops(places)) or made[-1]
    batch = found.batch()
    second = batch.audio - made[0]
    powers = [x.square().mean(1) for x in (made[0], second)]
    torch.testing.assert_close(powers[1], powers[0], rtol=1e-3, atol=1e-9)


def test_the_level_of_clips_varies(manifest):
    levels = [torch.cat([b.audio.abs().amax(1) for b in drawn(manifest, 20, **gains)[1]]) for gains in (
        {"sums": 0.0}, {"sums": 0.0, "gain_db": [-20.0, -20.0]}
    )]  # fmt: skip
    torch.testing.assert_close(levels[1], levels[0] / 10, rtol=1e-4, atol=1e-6)


def test_blends_share_audio_and_targets(manifest):
    found, [batch] = drawn(manifest, 1, mixup=1.0)
    assert batch.own.min() < 0.5 < batch.own.max() < 1
    loss = found.objective(found.model().eval())
    loss.config = type(loss.config)(time_stripes=0, mel_stripes=0)
    swapped = ClipBatch(batch.audio.flip(0), batch.targets.flip(0), 1 - batch.own)
    # A blend is the same from both ends.
    exactly(loss(swapped), loss(batch))
    with torch.no_grad():
        alone = [float(loss(batch._replace(own=torch.full_like(batch.own, share)))) for share in (0.0, 1.0)]
        assert alone[0] == pytest.approx(alone[1], abs=1e-5) != float(loss(batch))


def test_stripes_hide_whole_bands_and_times(manifest):
    found, _ = drawn(manifest, 1)
    loss = found.objective(found.model())
    x = torch.randn(50, 40, 16)
    y = loss._striped(x)
    changed = y != x
    assert changed.any() and not changed.all()
    mean = x.mean((0, 1))
    assert (y[changed] - mean.expand_as(x)[changed]).abs().max() < 0.2  # bands' means, up to earlier stripes
    for one in changed:
        full = one.all(1), one.all(0)
        assert torch.equal(one, full[0][:, None] | full[1][None]) and full[1].sum() <= 4 and full[0].sum() <= 16
    assert len({tuple(one.all(1).tolist()) for one in changed}) > 20  # each clip has its own


@pytest.mark.parametrize("model", [None, HTSAT], ids=["cnn14", "htsat"])
def test_a_detector_learns_tones(manifest, tmp_path, model):
    changes = {"optim": {"steps": 100, "warmup": 5, "lr": 0.01 if model is None else 0.004}}
    clips = {"mixup": 0.0, "batch": 9, "sums": 0.2, "mel_stripes": 0}
    trainer = Trainer(work(manifest, model=model, clips=clips, **changes), tmp_path)
    before = trainer.validate()
    losses = steps(trainer, 100)
    after = trainer.validate()
    assert before.keys() == after.keys() == set(LABELS)
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10]) and trainer.work.mean(after) > 0.8


def test_six_steps_are_three_and_three(manifest, tmp_path):
    def trainer(folder):
        return Trainer(work(manifest), tmp_path / folder)

    straight = trainer("a")
    whole = steps(straight, 6)
    first = trainer("b")
    half = steps(first, 3)
    first.validated()
    first._save()
    torch.manual_seed(99)
    second = trainer("b")
    assert second.step == 3 and same(first, second) and not second.notes
    assert half + steps(second, 3) == whole
    exactly(straight.model.state_dict(), second.model.state_dict())
    exactly(straight.ema.state(), second.ema.state())
    assert len(second.kept) == 1


def test_running_statistics_are_averaged_with_the_weights(manifest, tmp_path):
    trainer = Trainer(work(manifest), tmp_path)
    steps(trainer, 3)
    mean, live = trainer.ema.state(), trainer.model.state_dict()
    name = "norm.running_mean"
    assert name in mean and not torch.equal(mean[name], live[name])
    with trainer.ema.applied():
        exactly(trainer.model.state_dict()[name], mean[name])
    exactly(trainer.model.state_dict()[name], live[name])


def test_another_dev_set_is_noticed(manifest):
    one, other = work(manifest), work(manifest)
    assert one.dev_set == other.dev_set
    assert work(manifest, clips={"seconds": 0.4}).dev_set != one.dev_set
    assert {one.dev.labels[index] for index, _ in one.held} == {*TONES, None}  # clips of no label count, too


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["low", "lwo"], "the training data has no label 'lwo'; did you mean 'low'?"),
        (["low"], "training needs clips of 2 labels at least, got low"),
        ([*TONES, *NEW], "the training data has no label 'buzz'"),
    ],
)
def test_labels_that_cannot_be_trained(manifest, labels, says):
    with pytest.raises(InputError) as caught:
        work(manifest, labels=labels)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "weak"}, "of kind 'weak': it is for 'ussfast train weak'"),
        ({"kind": "x"}, r"kind must be one of \['separation', 'detector', 'weak', 'remix', 'transfer'\], got 'x'"),
        ({"labels": ["a", "a"]}, "labels must differ, 'a' is there twice"),
        ({"labels": "a"}, "labels must be a list of names"),
        ({"labels": [{"nam": "a"}]}, r"labels\[0\] .*unknown \['nam'\], missing \['name'\]"),
        ({"clips": {"batch": 1}}, "clips.batch must be 2 to"),
        ({"clips": {"gain_db": [1.0]}}, "clips.gain_db must have 2 entries"),
        ({"mix": {"rows": 1}}, "unknown entries in the recipe: mix"),
        ({"model": {"architecture": "tuss"}}, "config of tuss|trains models of"),
        ({"run": RUN | {"seed": -1}}, "run.seed must be 0 to"),
    ],
)
def test_recipes_that_are_wrong(change, says):
    recipe = plain_detector()
    for key, value in change.items():
        recipe[key] = recipe[key] | value if isinstance(value, dict) and key == "clips" else value
    with pytest.raises(InputError, match=says):
        detector_from_dict(recipe)
