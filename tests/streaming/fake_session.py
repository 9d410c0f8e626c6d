"""A separator without a model: every prompt is a gain, and a session holds audio back as a real one does.

Nothing here imports torch, so that processes of tests start at once.
"""

import numpy as np

from ussfast.errors import AudioError, PromptError
from ussfast.separation import Separation

GAINS = {"same": 1.0, "half": 0.5, "quarter": 0.25, "loud": 4.0}
HOP_S = 0.02


class FakeSession:
    """Whole hops come out a hop late; the labels' gains are those of their prompts."""

    latency, hop_seconds = 2 * HOP_S, HOP_S

    def __init__(self, labels, sample_rate, channels, on_bad):
        self.labels, self.sample_rate, self.channels, self._on_bad = labels, sample_rate, channels, on_bad
        self.hop = max(1, round(HOP_S * sample_rate))
        self._held = np.zeros((channels, 0), np.float32)
        self.pushes = []

    def push(self, chunk):
        assert chunk.dtype == np.float32 and chunk.shape[0] == self.channels and chunk.shape[1] > 0
        self.pushes.append(chunk.shape[1])
        if self._on_bad == "raise" and not np.isfinite(chunk).all():
            raise AudioError("NaN in the chunk")
        self._held = np.concatenate([self._held, np.nan_to_num(chunk, nan=0, posinf=0, neginf=0)], 1)
        return self._take(max(0, self._held.shape[1] // self.hop - 1) * self.hop)

    def flush(self):
        return self._take(self._held.shape[1])

    def _take(self, count):
        mixture, self._held = self._held[:, :count], self._held[:, count:]
        stems = np.stack([np.float32(GAINS[label.partition("-")[0]]) * mixture for label in self.labels])
        return Separation(self.labels, stems, self.sample_rate, mixture)


class FakeSeparator:
    """Attributes of the class: sessions, those opened so far."""

    sessions = []

    def __init__(self, model="default", **settings):
        self.model, self.settings = model, settings

    def session(self, sample_rate, channels=2, *, prompts=(), on_bad="silence", latency=None, threads=1):
        unknown = [name for name in prompts if name not in GAINS]
        if unknown or not prompts:
            raise PromptError(f"unknown prompt {unknown[0]!r}" if unknown else "no prompts given")
        repeats = len(set(prompts)) < len(prompts)
        labels = tuple(f"{name}-{i + 1}" if repeats else name for i, name in enumerate(prompts))
        FakeSeparator.sessions.append(FakeSession(labels, sample_rate, channels, on_bad))
        return FakeSeparator.sessions[-1]
