"""`ussfast.Detector` on what is longer than a window: no frame is missing, memory is that of a window, progress."""

import tracemalloc

import numpy as np
import pytest
import soundfile
from short_detector import RATE, model_says, shortened
from tiny import noise

import ussfast
from ussfast.detect.windows import cut


def test_windows_of_a_long_recording(detector):
    audio = noise(1, 100_123, seed=1)
    whole = list(cut([audio], 31680, 23680, 320))
    assert len(whole) == 4
    rows = 1 + audio.shape[1] // 320
    total, count, tags, vectors = np.zeros((rows, len(detector.labels))), np.zeros((rows, 1)), [], []
    for start, window in whole:
        said = model_says(detector, window)
        first = start // 320
        total[first : first + said.frames.shape[1]] += said.frames[0].numpy()
        count[first : first + said.frames.shape[1]] += 1
        tags.append(said.tags[0].numpy())
        vectors.append(said.embedding[0].numpy())
    assert count.min() == 1 and count.max() >= 2
    np.testing.assert_allclose(detector.frames(audio, RATE), total / count, atol=1e-6)
    assert np.array_equal(detector.tag(audio, RATE), np.max(tags, 0))
    np.testing.assert_allclose(detector.embed(audio, RATE), np.mean(vectors, 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("samples", [31679, 31680, 31681, 32000, 63360, 63361, 70001])
def test_every_frame_is_there(detector, samples):
    assert len(detector.frames(noise(1, samples), RATE)) == 1 + samples // 320


def test_a_sound_in_the_tail_is_heard(detector):
    audio = np.zeros(3 * RATE + 7000, np.float32)
    silent = detector.frames(audio, RATE)
    audio[-2000:] = noise(1, 2000)[0]
    heard = detector.frames(audio, RATE)
    changed = np.flatnonzero(np.abs(heard - silent).max(1) > 1e-4)
    assert len(changed) and changed.max() >= len(heard) - 2


def test_memory_does_not_grow_with_the_duration(monkeypatch):
    detector = ussfast.Detector.from_model(shortened())
    peaks = []

    def blocks(audio, rate):
        for number in range(400):
            if number % 100 == 0:
                peaks.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.reset_peak()
            yield noise(2, RATE // 10, seed=number)
        peaks.append(tracemalloc.get_traced_memory()[1])

    monkeypatch.setattr(detector, "_native", blocks)
    for call in (detector.tag, lambda audio: detector.detect(audio, threshold=1)):
        peaks.clear()
        tracemalloc.start()
        try:
            call(None)
        finally:
            tracemalloc.stop()
        # A hundred blocks are 2.5 MB.
        assert len(peaks) == 5 and peaks[4] < peaks[2] + 300_000, peaks


def test_progress(detector, tmp_path):
    audio, told = noise(1, 100_123, seed=1), []
    assert detector.detect(audio, RATE, progress=told.append) == detector.detect(audio, RATE)
    assert len(told) == 4 and told == sorted(told) and told[-1] == pytest.approx(100_123 / RATE)
    soundfile.write(tmp_path / "a.wav", audio.T, RATE)
    told.clear()
    detector.tag(tmp_path / "a.wav", progress=told.append)
    assert len(told) == 4 and told[-1] == pytest.approx(100_123 / RATE)

    def stop(seconds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        detector.detect(audio, RATE, progress=stop)


def test_memory_is_that_of_a_window(detector, monkeypatch):
    longest = []
    forward = detector.model.forward
    monkeypatch.setattr(detector.model, "forward", lambda audio: longest.append(audio.shape[1]) or forward(audio))
    detector.detect(noise(1, 20 * RATE), RATE)
    assert max(longest) <= 31680 and len(longest) > 20
