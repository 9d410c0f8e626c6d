"""Training separators by vectors on weakly labelled clips."""

import dataclasses

import numpy as np
import pytest
import torch
from clip_data import NEW, TONES, UNET, burst, clip_manifest, clip_sets, known, plain_weak, weak_recipe
from running import exactly, same, steps
from tiny import DETECTOR, RATE, tiny_detector

from ussfast.data.pool import AudioPool, Item
from ussfast.errors import InputError
from ussfast.models.detectors.log_mel import LogMelConfig
from ussfast.train.clip_recipes import weak_from_dict
from ussfast.train.clip_sets import ClipSet
from ussfast.train.segments import Segments
from ussfast.train.trainer import Trainer
from ussfast.train.weak import Weak, sdr

# Tags whole clips: where a label is heard, the loudest part is a better guess than what random weights say.
TAGS = dataclasses.replace(known(), pooling="clip")
LENGTH = round(UNET["segment_seconds"] * RATE)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return clip_manifest(tmp_path_factory.mktemp("clips"))


def work(manifest, detector=None, **changes):
    recipe = weak_recipe(**changes)
    detector = detector or tiny_detector(TAGS)
    return Weak(recipe, recipe.labels, *clip_sets(manifest, recipe.labels), detector, "tiny", "digest")


def begun(manifest, **pairs):
    found = work(manifest, pairs=pairs)
    found.begin(found.model(), np.random.default_rng(0))
    return found


def tone_of(row):
    """The label whose tone a clip has."""
    peak = np.abs(np.fft.rfft(row * np.hanning(len(row)))).argmax() * RATE / len(row)
    return min({**TONES, **NEW}, key=lambda label: abs({**TONES, **NEW}[label] * 1.05 - peak))


def test_a_batch_has_every_mixture_once_per_source(manifest):
    found = begun(manifest)
    seen = []
    for _ in range(20):
        batch = found.batch()
        assert batch.mixture.shape == batch.source.shape == (6, LENGTH) and batch.vector.shape == (6, 8)
        pairs = batch.source.unflatten(0, (3, 2))
        exactly(batch.mixture[::2], batch.mixture[1::2])
        torch.testing.assert_close(batch.mixture[::2], pairs.sum(1))
        energy = pairs.square().mean(-1)
        torch.testing.assert_close(energy[:, 0], energy[:, 1], rtol=1e-3, atol=0)
        labels = [tone_of(row) for row in batch.source.numpy()]
        assert all(a != b for a, b in zip(labels[::2], labels[1::2], strict=True))
        seen += labels
    # Held-out labels are never trained, and the others equally often.
    assert sorted(set(seen)) == sorted(TONES)
    assert max(map(seen.count, TONES)) == min(map(seen.count, TONES))


def test_vectors_are_the_detectors_of_the_segment_as_it_was_recorded(manifest):
    detector = tiny_detector(TAGS)
    found = begun(manifest, level_db=[-40.0, -40.0])
    kept = {}
    segments = found.segments
    for (index, start), vector in [*segments._vectors.items()]:
        with torch.no_grad():
            torch.testing.assert_close(vector, detector.embed(segments.audio(index, start)[None])[0])
        kept[index, start] = vector
    assert kept
    for index, start in kept:
        exactly(segments.vector(index, start), kept[index, start])
    levels = found.batch().source.square().mean(-1)
    torch.testing.assert_close(levels, torch.full_like(levels, 1e-4), rtol=1e-3, atol=0)


def single(*clips, labels):
    items = [Item(f"{i}", "sfx", f"{i}", "train", "permissive", RATE) for i in range(len(clips))]
    return ClipSet(AudioPool(items, clips, RATE), labels)


def test_segments_are_where_the_detector_hears_the_label(monkeypatch):
    long = burst(300, 3.0, at=0.7)
    segments = Segments(single(long, labels=["low"]), tiny_detector(known()), LENGTH, 4 * RATE, torch.device("cpu"))
    frames = np.zeros((round(3 * RATE / 80) + 1, 3), np.float32)
    frames[60:70, 0] = 1.0  # 0.6 to 0.7 s, where the tone is not
    frames[200:230, 1] = 1.0  # another label
    monkeypatch.setattr(type(segments.detector), "frames", lambda self, audio, rate: frames)
    start = segments.first(0)
    middle = (start + LENGTH / 2) / RATE
    assert 0.45 < middle < 0.85 and abs(middle - 0.65) <= LENGTH / 2 / RATE + 0.01
    assert start <= 0.6 * RATE and start + LENGTH >= 0.7 * RATE - 80


def test_of_labels_that_the_detector_does_not_know_the_loudest_part_is_taken():
    long = burst(300, 3.0, at=0.7)
    segments = Segments(single(long, labels=["new"]), tiny_detector(TAGS), LENGTH, 4 * RATE, torch.device("cpu"))
    start = segments.first(0)
    assert start < 2.1 * RATE - 0.1 * RATE and start + LENGTH > 2.1 * RATE + 0.1 * RATE


def test_long_items_have_a_clip_at_every_place_and_short_ones_are_repeated():
    parts = np.concatenate([burst(300, 1.0, at=0.5, seed=i) for i in range(5)])
    short = burst(300, 0.3)
    clips = single(parts, short, labels=["new", "new"])
    segments = Segments(clips, tiny_detector(TAGS), LENGTH, RATE, torch.device("cpu"))
    starts = {segments.start(0, place) for place in np.linspace(0, 0.999, 60)}
    assert len({start // RATE for start in starts}) == 5
    for start in starts:
        assert 0 <= start <= 5 * RATE - LENGTH
        heard = segments.audio(0, start)
        assert heard.shape == (LENGTH,) and heard.square().mean() > 1e-4
    segments.vector(0, 0)
    assert not segments._vectors  # segments of long items hardly come twice
    assert segments.start(1, 0.9) == 0
    repeated = segments.audio(1, 0)
    torch.testing.assert_close(
        repeated, clips.pool.crops(np.array([1]), np.array([0]), len(short))[0].repeat(2)[:LENGTH]
    )
    segments.vector(1, 0)
    assert list(segments._vectors) == [(1, 0)]


def test_sdr_by_hand():
    x = torch.tensor([3.0, 4.0])
    assert sdr(x, torch.tensor([0.0, 0.5])) == pytest.approx(20.0)
    assert sdr(x, torch.zeros(2)) == pytest.approx(10 * np.log10(25e8)) and sdr(torch.zeros(2), x) < -90


def test_validation_asks_for_each_label_by_other_clips(manifest):
    found = work(manifest)
    assert len(found.held) == 8 and sum(one.new for one in found.held) == 2
    labels = [tone_of(one.target.numpy()) for one in found.held]
    assert labels == [label for label in (*TONES, *NEW) for _ in range(2)]
    assert all(tone_of(one.other.numpy()) != label for one, label in zip(found.held, labels, strict=True))
    train, dev = found.segments, Segments(found.dev, tiny_detector(TAGS), LENGTH, RATE, torch.device("cpu"))
    for one, index in zip(found.held, [i for label in (*TONES, *NEW) for i in found.dev.by_label[label]], strict=True):
        label = found.dev.labels[index]
        if one.new:
            [other] = [i for i in found.dev.by_label[label].tolist() if i != index]
            expected = dev.vector(other, dev.first(other))
        else:
            some = found.train.by_label[label][:2].tolist()
            expected = torch.stack([train.vector(i, train.first(i)) for i in some]).mean(0)
        torch.testing.assert_close(one.vector, expected)


class Through(torch.nn.Module):
    """A separator that gives back half of what comes in."""

    def separate(self, audio, prompts):
        return audio[:, None] / 2


def test_figures_of_a_model_that_halves(manifest):
    found = work(manifest)
    means = found.means(found.scores(Through()))
    assert list(means) == ["mixture", "clean", "silence", "held out, mixture", "held out, clean", "held out, silence"]
    for prefix in ("", "held out, "):
        assert means[prefix + "clean"] == means[prefix + "silence"] == pytest.approx(6.02, abs=0.01)
        assert means[prefix + "mixture"] == pytest.approx(3.0, abs=0.3)  # half of both at equal energy
    assert found.mean(means) == means["mixture"]
    assert found.mean(means | {"held out, mixture": 99.0}) == means["mixture"]
    whole = found.scores(Through())
    assert sorted(found.scores(Through(), 0, 2) + found.scores(Through(), 1, 2)) == sorted(whole)


@pytest.mark.parametrize("loss", ["mae", "log_mae"])
def test_a_separator_learns_tones(manifest, tmp_path, monkeypatch, loss):
    def vector(self, index, start):  # as of a detector that tells the labels apart
        return torch.eye(8)[list({**TONES, **NEW}).index(self.clips.labels[index])]

    monkeypatch.setattr(Segments, "vector", vector)
    optim = {"steps": 60, "warmup": 5, "lr": 0.01, "ema": 0.5, "clip": 1.0}
    pairs = {"loss": loss, "level_db": [-20.0, -20.0], "pairs": 6}
    model = UNET | {"level": {"enabled": True}}
    trainer = Trainer(work(manifest, model=model, optim=optim, pairs=pairs), tmp_path)
    before = trainer.validate()
    losses = steps(trainer, 60)
    after = trainer.validate()
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) and after["mixture"] > before["mixture"] + 3
    batch = trainer.work.batch()
    with torch.no_grad():
        value = trainer.work.objective(trainer.model.eval())(batch)
        error = (trainer.model.separate(batch.mixture, batch.vector[:, None])[:, 0] - batch.source).abs().mean()
    expected = error if loss == "mae" else error.log10()
    torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-5)


def test_six_steps_are_three_and_three(manifest, tmp_path):
    straight = Trainer(work(manifest), tmp_path / "a")
    whole = steps(straight, 6)
    first = Trainer(work(manifest), tmp_path / "b")
    half = steps(first, 3)
    first.validated()
    first._save()
    torch.manual_seed(99)
    second = Trainer(work(manifest), tmp_path / "b")
    assert second.step == 3 and same(first, second) and not second.notes
    assert half + steps(second, 3) == whole
    exactly(straight.model.state_dict(), second.model.state_dict())
    exactly(straight.ema.state(), second.ema.state())


RATE_TOO_HIGH = dataclasses.replace(
    known(), front=LogMelConfig(sample_rate=16000, n_fft=256, hop=80, mels=16, fmin=20.0, fmax=4000.0)
)


@pytest.mark.parametrize(
    ("changes", "detector", "says"),
    [
        ({"held_out": ["buz"]}, None, "held_out: recipe tiny has no label 'buz'; did you mean 'buzz'?"),
        ({"held_out": ["middle", "high", "buzz"]}, None, "clips of 2 labels at least, got low"),
        ({"labels": ["low"], "held_out": []}, None, "clips of 2 labels at least, got low"),
        ({"labels": ["low", "lwo"], "held_out": []}, None, "the training data has no label 'lwo'; did you mean 'low'?"),
        ({"held_out": []}, None, "the training data has no label 'buzz'"),
        ({}, DETECTOR, "detector tiny has no label 'low'; there are 'dog', 'rain', 'bell'"),
        (
            {"model": UNET | {"latent_dim": 5}}, None,
            "embeddings of detector tiny have 8 numbers, and the recipe's model takes 5: set its latent_dim to 8",
        ),
        ({}, RATE_TOO_HIGH, "detector tiny works at 16000 Hz, the recipe's model at 8000 Hz"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained(manifest, changes, detector, says):
    with pytest.raises(InputError) as caught:
        work(manifest, detector and tiny_detector(detector), **changes)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_validation_needs_clips_of_two_labels(manifest):
    recipe = weak_recipe()
    train, dev = clip_sets(manifest, recipe.labels)
    only = ClipSet(dev.pool, [label if label == "low" else None for label in dev.labels])
    with pytest.raises(InputError, match="no clips of split dev to validate on, of two labels at least"):
        Weak(recipe, recipe.labels, train, only, tiny_detector(TAGS), "tiny", "digest")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "detector"}, "of kind 'detector': it is for 'ussfast train detector'"),
        ({"model": {"architecture": "tuss"}}, "config of tuss"),
        ({"model": {"architecture": "cnn14", "labels": ["a"]}}, "trains models of the architecture asp_unet"),
        ({"held_out": "buzz"}, "held_out must be a list, got 'buzz'"),
        ({"pairs": {"loss": "l2"}}, r"pairs.loss must be one of \['mae', 'log_mae'\], got 'l2'"),
        ({"pairs": {"level_db": [0.0]}}, "pairs.level_db must have 2 entries"),
        ({"detector": 5}, "detector must be a str, got 5"),
    ],
)
def test_recipes_that_are_wrong(change, says):
    with pytest.raises(InputError, match=says):
        weak_from_dict(plain_weak() | change)
