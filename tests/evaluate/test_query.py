"""Asking by example, and the order of bounds, with a separator that knows the answer."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile
from tiny import RATE, TUSS, tiny_directory

from ussfast import Separator
from ussfast.data.pool import read_manifest
from ussfast.evaluate import run as evaluate_run
from ussfast.evaluate.query import Queries
from ussfast.prompts.names import number_repeats
from ussfast.separation import Separation
from ussfast.stft import StftConfig


class Enrolling:
    """Remembers what it was given."""

    def __init__(self):
        self.enrolled = {}

    def enroll(self, name, clips, sample_rate=None):
        assert name not in self.enrolled
        self.enrolled[name] = clips, sample_rate


ROWS = (
    ("dev", "sfx", "dog"), ("dev", "sfx", "bell"), ("dev", "sfx", "dog"), ("dev", "speech", "dog"),
    ("dev", "sfx", "dog"), ("train", "sfx", "bell"), ("train", "sfx", "dog"), ("train", "sfx", "bell"),
    ("dev", "sfx", "train"),
)  # fmt: skip


@pytest.fixture
def queries(tmp_path):
    """Every clip is a constant, its number in ROWS by 100, so that one can tell which was taken."""
    rows = []
    for number, (split, prompt, label) in enumerate(ROWS):
        soundfile.write(tmp_path / f"{number}.wav", np.full((400, 2), [(number + 1) / 100, 0.9]), 11025, "FLOAT")
        row = {"path": f"{number}.wav", "prompt": prompt, "split": split, "label": label, "sample_rate": 11025}
        rows.append(row | {"license_class": "permissive"})
    (tmp_path / "manifest.json").write_text(json.dumps({"items": rows}))
    items = read_manifest(tmp_path / "manifest.json")
    dev, train = ([i for i in items if i.split == split] for split in ("dev", "train"))
    return Queries(Enrolling(), dev, train)


def clip_of(queries, index):
    """Number of the clip that is enrolled for dev item `index`, None where there is none."""
    name = queries.prompt(index)
    if name is None:
        return None
    (clip,), rate = queries.separator.enrolled[name]
    assert clip.shape == (1, 400) and rate == 11025
    return round(float(clip.mean()) * 100) - 1


def test_another_clip_of_the_same_label(queries):
    # dev items are the rows 0-4 and 8: the next dog, around the end; the first bell of the train split; nothing.
    assert [clip_of(queries, i) for i in range(6)] == [2, 5, 4, None, 0, None]
    assert len(queries.separator.enrolled) == 4  # each clip once
    assert [clip_of(queries, i) for i in (4, 1, 0)] == [0, 5, 2] and len(queries.separator.enrolled) == 4


def test_silent_clips_are_passed_over(queries, tmp_path):
    for number in (2, 5, 7):
        soundfile.write(tmp_path / f"{number}.wav", np.zeros((400, 2)), 11025)
    assert [clip_of(queries, i) for i in (0, 1)] == [4, None]


METRICS = ("si_sdr", "si_sdr_improvement", "sdr", "snr", "snr_improvement")


class Cheat:
    """Stands in for separating: knows the references, and lets -12 dB of the rest of the mixture through."""

    can_enroll = True

    def __init__(self, mixtures, swap=False):
        self.known = {m.mixture.tobytes(): m for of_task in mixtures.values() for m in of_task}
        self.swap, self.clips, self.asked = swap, {}, []

    def enroll(self, name, clips, sample_rate=None):
        assert sample_rate == RATE
        self.clips[name] = clips[0][0]

    def separate(self, audio, sample_rate, *, prompts):
        item, self.asked = self.known[audio.tobytes()], [*self.asked, tuple(prompts)]
        wanted = [self.place(item, k, name) for k, name in enumerate(prompts)]
        references = np.stack([item.references[j] if j is not None else 0 * audio for j in wanted])
        stems = (references + 0.25 * (audio - references))[:: -1 if self.swap and len(set(item.prompts)) == 1 else 1]
        return Separation(number_repeats(prompts), stems[:, None], sample_rate, audio[None])

    def place(self, item, k, name):
        """Index of the source that is asked for; by query, the one of the clip's pitch."""
        if name not in self.clips:
            return k if k < len(item.prompts) else None
        return int(np.argmin([abs(pitch(r) - pitch(self.clips[name])) for r in item.references]))


def pitch(audio):
    return np.abs(np.fft.rfft(audio * np.hanning(audio.size), 2 * RATE * 6)).argmax() / 12


@pytest.fixture
def cheat(mixtures, monkeypatch):
    def with_settings(**settings):
        fake = Cheat(mixtures, **settings)
        for name in ("separate", "enroll", "can_enroll"):
            monkeypatch.setattr(Separator, name, getattr(fake, name), raising=False)
        monkeypatch.setattr(evaluate_run, "measure_conditions", lambda *_: None)  # it knows no other mixtures
        return fake

    return with_settings


@pytest.fixture
def averages(command, tmp_path):
    """Evaluates with these arguments; returns the `tasks` of its JSON file."""

    def run(*arguments):
        assert command(*arguments, "-o", tmp_path) == 0
        return json.loads((tmp_path / "evaluation.json").read_text())["tasks"]

    return run


def test_bounds_are_in_their_order(cheat, averages, arguments, directory, tmp_path):
    cheat()
    # Windows of a quarter of a second tell two speakers apart, whose tones are 20 Hz apart.
    config = dataclasses.replace(TUSS, stft=StftConfig(2048, 512, 2048), bands=(25, 200, 300, 500))
    sharp = [tiny_directory(tmp_path, config) if a == directory else a for a in arguments]
    tasks = averages(*sharp, "--oracle", "--baseline", "mixture")
    assert list(tasks) == [
        "speech_enhancement", "speech_speech", "speech_speech by query", "sfx_sfx", "sfx_sfx by query", "music",
        "cinematic", "absent",
    ]  # fmt: skip
    for task in list(tasks)[:-1]:
        for metric in METRICS:
            means = [tasks[task]["all"][name][metric]["mean"] for name in ("mixture", "model", "oracle_psm")]
            assert means[0] + 9 < means[1] < means[2] - 3, (task, metric)
    # A quarter of the amplitude leaks.
    assert tasks["absent"]["drums"]["model"]["leak_db"]["mean"] == pytest.approx(20 * np.log10(0.25), abs=1e-4)


def test_queries_are_not_exchanged(cheat, averages, arguments):
    fake = cheat()
    right = averages(*arguments)
    queries = [asked for asked in fake.asked if asked[0].startswith("query")]
    assert len(queries) == 4 and len(fake.clips) == 4 and all(len(set(asked)) == 2 for asked in queries)
    # In the dev split, a label has one clip, so these are of the train split: the first there of each label.
    assert sorted(pitch(clip) for clip in fake.clips.values()) == pytest.approx([300, 320, 700, 720], abs=0.5)
    cheat(swap=True)
    wrong = averages(*arguments)
    for task, prompt in (("speech_speech", "speech"), ("sfx_sfx", "sfx")):
        row = right[f"{task} by query"][prompt]["model"]
        assert row["sources"] == 4 and row == right[task][prompt]["model"] == wrong[task][prompt]["model"]
        assert row["si_sdr_improvement"]["mean"] > 9 > -3 > (
            wrong[f"{task} by query"][prompt]["model"]["si_sdr_improvement"]["mean"]
        )  # fmt: skip


def test_a_source_without_an_example_is_left_out(cheat, averages, manifest, arguments, tmp_path):
    rows = [r for r in json.loads(manifest.read_text())["items"] if r["path"] != "train-sfx-1.wav"]
    fewer = manifest.parent / "fewer.json"
    fewer.write_text(json.dumps({"items": [r for r in rows if r["prompt"] != "speech" or r["split"] == "dev"]}))
    fake = cheat()
    tasks = averages(*[fewer if a == manifest else a for a in arguments], "--oracle")
    assert "speech_speech by query" not in tasks and tasks["sfx_sfx by query"]["sfx"]["model"]["sources"] == 2
    assert [asked for asked in fake.asked if asked[0].startswith("query")] == [("query 1",)] * 2
    found = json.loads((tmp_path / "evaluation.json").read_text())["scores"]
    plain = [s for s in found if s["task"] == "sfx_sfx"]
    by_query = [s | {"task": "sfx_sfx"} for s in found if s["task"] == "sfx_sfx by query"]
    assert all(s in plain for s in by_query) and {s["mixture"] for s in by_query} == set(range(2))
