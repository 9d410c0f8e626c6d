"""Work that is slower than its audio, by a clock of the test's own."""

import numpy as np
import pytest
from tiny import CAUSAL, RATE, noise, tiny_model

from ussfast import Separator
from ussfast.integrations.config import FilterConfig
from ussfast.integrations.live_filter import LiveFilter

SEPARATOR = Separator.from_model(tiny_model(CAUSAL), dtype="float32")
CHUNK = 160
CHUNK_S = CHUNK / RATE


class Slow:
    """A filter whose session takes the time that it is told; `pushed`: the places of the chunks that it got."""

    def __init__(self, max_late_s=0.1, keep="speech", channels=1):
        self.now = self.cost_s = 0.0
        self.live = LiveFilter(
            SEPARATOR, RATE, FilterConfig(keep, max_late_s=max_late_s), channels, clock=lambda: self.now
        )
        self.at, self.pushed = 0, []
        self._push, self.live.session.push = self.live.session.push, self.push

    def push(self, chunk):
        self.now += self.cost_s
        self.pushed.append(self.at)
        return self._push(chunk)

    def process(self, audio, costs, size=CHUNK):
        """All of it in chunks; `costs`: seconds of work for each, the last one for the rest."""
        out = []
        for number, start in enumerate(range(0, audio.shape[1], size)):
            self.at, self.cost_s = start, costs[min(number, len(costs) - 1)]
            out.append(self.live.process(audio[:, start : start + size]))
        return np.concatenate(out, 1)


def wet_of(slow, audio, size=CHUNK):
    """What its session made of the chunks that it got, where it belongs in the output; NaN where there is none."""
    session = SEPARATOR.session(RATE, prompts="speech", channels=len(audio))
    places = np.concatenate([np.arange(at, min(at + size, audio.shape[1])) for at in slow.pushed])
    parts = [session.push(audio[:, at : at + size])["speech"] for at in slow.pushed]
    stem = np.concatenate(parts, 1)
    wet = np.full((len(audio), audio.shape[1] + slow.live.latency_samples), np.nan, np.float32)
    wet[:, : slow.live.latency_samples] = 0
    wet[:, places[: stem.shape[1]] + slow.live.latency_samples] = stem
    return wet[:, : audio.shape[1]]


def late_by(audio, samples):
    return np.concatenate((np.zeros((len(audio), samples), np.float32), audio), 1)[:, : audio.shape[1]]


@pytest.mark.parametrize("size", [CHUNK, 7, 1000])
@pytest.mark.parametrize("channels", [1, 2])
def test_one_stall_is_dry_for_a_while_and_then_as_before(size, channels):
    audio = noise(channels, 20000)
    slow = Slow(channels=channels)
    stall = 4000 // size
    out = slow.process(audio, [0.0] * stall + [1.0, 0.0], size)
    dry, wet = late_by(audio, slow.live.latency_samples), wet_of(slow, audio, size)
    is_dry = (out == dry).all(0) & (dry != 0).all(0)
    # The pause makes up for the stall and no more, to a fade, a chunk, and the time that the model takes to settle.
    assert slow.live.overruns == 1 and slow.live.dry_s == pytest.approx(1.0, abs=0.011 + 2 * size / RATE)
    assert is_dry.sum() / RATE == pytest.approx(1.0, abs=0.05 + 3 * size / RATE)
    before, after = stall * size, 4000 + RATE + 3 * slow.live.latency_samples + 3 * size + 100
    np.testing.assert_array_equal(out[:, :before], wet[:, :before])
    np.testing.assert_array_equal(out[:, after:], wet[:, after:])
    assert after < 16000


def test_there_is_no_click_anywhere():
    """No step is larger than those of the two sounds and the cross-fade between them."""
    audio = noise(1, 60000)
    slow = Slow()
    costs = [0.0] * 50 + [0.3] + [0.0] * 100 + [0.05] * 20 + [0.0] * 100 + [0.2, 0.0]
    out = slow.process(audio, costs)
    assert slow.live.overruns == 3
    dry, wet = late_by(audio, slow.live.latency_samples), wet_of(slow, audio)
    wet = np.where(np.isnan(wet), dry, wet)
    steps, fade = np.abs(np.diff(out)), round(0.01 * RATE)
    # At each sample out = dry + share * (wet - dry); the share moves by 1 / fade at most.
    apart = np.abs(wet - dry)
    allowed = np.maximum(np.abs(np.diff(dry)), np.abs(np.diff(wet))) + np.maximum(apart[:, 1:], apart[:, :-1]) / fade
    settled = np.abs(out - dry)[:, 1:] > 1e-6  # where nothing wet is heard, a cut in it is not
    assert (steps <= allowed + 1e-6)[settled].all()
    mixed = (np.abs(out - dry) > 1e-6) & (np.abs(out - wet) > 1e-6)
    assert 4 * fade <= mixed.sum() <= 6 * fade


def test_the_delay_never_grows_while_work_is_too_slow():
    """Twice real time for a minute: mostly dry, and never later than the limit, a chunk of work and nothing else."""
    audio = noise(1, 60 * RATE)
    slow = Slow(max_late_s=0.2)
    latest, begin = 0.0, slow.now
    for start in range(0, audio.shape[1], CHUNK):
        slow.cost_s = 2 * CHUNK_S
        before = slow.now
        out = slow.live.process(audio[:, start : start + CHUNK])
        assert out.shape[1] == CHUNK
        slow.now = max(slow.now, begin + (start + CHUNK) / RATE)  # waits for the next chunk
        latest = max(latest, slow.now - begin - (start + CHUNK) / RATE)
        assert slow.now >= before
    assert latest <= 0.2 + 2 * 2 * CHUNK_S + 1e-9
    assert 3 <= slow.live.overruns <= 9 and slow.live.dry_s > 45
    # Once it is fast enough, it is heard again after the last pause, and stays.
    quick = noise(1, 40 * RATE, seed=2)
    out = slow.process(quick, [0.1 * CHUNK_S])
    counted = slow.live.overruns
    assert not np.array_equal(out[:, -RATE:], late_by(quick, slow.live.latency_samples)[:, -RATE:])
    slow.process(quick, [0.9 * CHUNK_S])
    assert slow.live.overruns == counted


def test_long_steps_are_borne_where_the_model_has_them():
    """Of a limit below two hops, two hops are taken: a model that computes so much at once is not late."""
    slow = Slow(max_late_s=0.01)
    hop_s = CAUSAL.stft.hop / RATE
    slow.process(noise(1, 20000), [0.0, 1.9 * hop_s + CHUNK_S, 0.0])
    assert slow.live.overruns == 0
    slow.process(noise(1, 2000), [2.1 * hop_s + CHUNK_S, 0.0])
    assert slow.live.overruns == 1


def test_bypass_fades_to_the_input_and_back_and_is_no_overrun():
    audio = noise(1, 12000)
    slow = Slow()
    live, half = slow.live, 4000
    out = [slow.process(audio[:, :half], [0.0])]
    live.bypass = True
    slow.pushed.clear()
    out.append(slow.process(audio[:, half : 2 * half], [0.0]))
    assert len(slow.pushed) == 1  # for the fade
    live.bypass = False
    out.append(slow.process(audio[:, 2 * half :], [0.0]))
    out = np.concatenate(out, 1)
    dry = late_by(audio, live.latency_samples)
    fade = round(0.01 * RATE)
    assert not np.array_equal(out[:, :half], dry[:, :half])
    np.testing.assert_array_equal(out[:, half + fade : 2 * half], dry[:, half + fade : 2 * half])
    assert np.abs(out - dry)[:, -1000:].max() > 0.01
    assert live.overruns == 0 and live.dry_s == pytest.approx((half - CHUNK) / RATE)


def test_the_end_of_a_stream_in_a_pause_is_dry():
    audio = noise(1, 4000)
    slow = Slow()
    slow.process(audio, [0.0] * 20 + [1.0])
    np.testing.assert_array_equal(slow.live.flush(), audio[:, -slow.live.latency_samples :])
    assert slow.live.overruns == 1
    # And the next one begins separated.
    slow.process(audio, [0.0])
    assert slow.live.dry_s < 0.5 and slow.live.overruns == 1
