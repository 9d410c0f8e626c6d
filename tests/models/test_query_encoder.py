"""The query encoder and the statistics that it looks at."""

import pytest
import torch
from tiny import CAUSAL, RATE, noise

from ussfast import stft
from ussfast.models import statistics
from ussfast.models.query import Described, QueryEncoder


def encoder(seed=0):
    torch.manual_seed(seed)
    return QueryEncoder(CAUSAL.stft, RATE, CAUSAL.dim).eval()


def described(audio):
    model = encoder()
    power = stft.analyze(audio, model.stft).abs().square()
    return statistics.describe(power, power @ model.filters)


def clips(*seconds):
    return [torch.from_numpy(noise(1, int(RATE * s), seed)) for seed, s in enumerate(seconds)]


@pytest.mark.parametrize("seconds", [0.001, 0.1, 0.5, 1.0, 3.0])
def test_statistics_of_any_length_are_finite_and_of_order_one(seconds):
    (clip,) = clips(seconds)
    for audio in (clip, torch.zeros_like(clip), torch.nn.functional.pad(clip, (0, 4000)), clip.sign()):
        found = described(audio)
        assert found.shape == (1, statistics.count())
        assert found.isfinite().all()
        assert found.abs().max() < 100


def test_the_level_does_not_count():
    (clip,) = clips(1.0)
    torch.testing.assert_close(described(1e-3 * clip), described(clip), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(encoder()(0.1 * clip), encoder()(clip), rtol=1e-3, atol=1e-3)


def test_clips_of_a_batch_are_described_one_by_one():
    both = torch.cat(clips(1.0, 1.0))
    alone = torch.cat([described(clip[None]) for clip in both])
    torch.testing.assert_close(described(both), alone, rtol=1e-4, atol=1e-4)


def test_silence_around_a_sound_changes_little():
    """Frames without sound do not count, but for those at its edges."""
    (clip,) = clips(2.0)
    apart = (described(clip) - described(torch.nn.functional.pad(clip, (RATE, RATE)))).abs()
    other = (described(clip) - described(clip.cumsum(-1) / 30)).abs()
    assert apart.mean() < other.mean() / 3


def test_what_sounds_alike_is_told_from_what_does_not():
    time = torch.arange(2 * RATE) / RATE
    hum = [(torch.sin(6.28 * f * time) * (1 + 0.3 * torch.sin(6.28 * 3 * time)))[None] for f in (200.0, 220.0)]
    hiss = clips(2.0, 2.0)
    a, b, c, d = (described(clip)[0] for clip in (*hum, *hiss))
    within = (a - b).norm(), (c - d).norm()
    across = [(one - other).norm() for one in (a, b) for other in (c, d)]
    assert max(within) < min(across)


def test_training_learns_mean_and_spread_and_evaluation_keeps_them():
    layer, power = Described(4), torch.rand(8, 30, 33) + 0.1
    bands = power @ torch.rand(33, 64)
    layer.train()
    for _ in range(600):
        layer(power, bands)
    found = statistics.describe(power, bands)
    torch.testing.assert_close(layer.mean.data, found.mean(0), rtol=0.02, atol=0.02)
    torch.testing.assert_close(layer.variance.data, found.var(0, correction=0), rtol=0.1, atol=0.02)
    before = layer.mean.clone()
    layer.eval()(power, bands)
    assert torch.equal(layer.mean, before)
    assert [name for name, p in layer.named_parameters() if p.requires_grad] == ["out.weight"]
