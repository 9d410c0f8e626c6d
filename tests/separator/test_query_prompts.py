"""Prompts of clips for models that take vectors: by a detector that is given, or that the model brings along."""

import copy
import io
import pickle
import shutil
import tracemalloc
import warnings
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from golden_detectors import HTSAT, golden_detector
from golden_io import arrays, assert_close
from tiny import (
    ASP,
    CAUSAL,
    DETECTOR,
    RATE,
    TUSS,
    UNCONDITIONAL,
    noise,
    tiny_detector,
    tiny_detector_directory,
    tiny_directory,
    tiny_model,
)  # fmt: skip

from ussfast import CheckpointError, Detector, InputError, PromptError, PromptWarning, Separator
from ussfast.audio import resample
from ussfast.checkpoints import store as checkpoint
from ussfast.detect import describing
from ussfast.prompts import enrolment
from ussfast.prompts.origin import AVERAGE, LEAST_COSINE
from ussfast.prompts.queries import TOGETHER, query_vector

LENGTH = 2 * RATE


def asp(detector=None, **settings):
    detector = Detector.from_model(tiny_detector(), device="cpu") if detector is None else detector
    return Separator.from_model(tiny_model(ASP), device="cpu", detector=detector, name="asp", **settings)


def embed(clips):
    return tiny_detector().embed(clips)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model with its detector."""
    folder = tmp_path_factory.mktemp("asp")
    place = tiny_directory(folder, ASP)
    tiny_detector_directory(folder).rename(place / "query")
    return place


def test_a_prompt_of_clips_is_their_query_vector():
    separator, clips = asp(), [noise(1, 40_000, 1), noise(1, 20_000, 2)]
    prompt = separator.enroll("dog", clips, RATE)
    expected = query_vector(embed, [torch.from_numpy(clip[0]) for clip in clips], LENGTH)
    torch.testing.assert_close(prompt.vector, expected, rtol=1e-4, atol=1e-5)
    assert separator.can_enroll and separator.prompts["dog"] is prompt and prompt.kind == "enrolled"
    origin = prompt.origin
    assert (origin.count, origin.seconds, origin.average, len(origin.clips)) == (2, 7.5, AVERAGE, 2)
    assert origin.detector.name == "model" and origin.agreement is None
    out = separator.separate(noise(2, 9000), RATE, prompts="dog")
    assert out.labels == ("dog",) and out.stems.shape == (1, 2, 9000)


def test_published_query_vectors(tmp_path):
    """A file through the public class is what the published code makes of it."""
    detector = copy.deepcopy(golden_detector(HTSAT))
    config = replace(ASP, sample_rate=32000, latent_dim=detector.embedding_dim)
    separator = Separator.from_model(tiny_model(config), device="cpu", detector=Detector.from_model(detector))
    clip, want = arrays(HTSAT, "inputs")["seg2s"], arrays(HTSAT, "outputs")["seg2s_latent"]
    soundfile.write(tmp_path / "x.wav", clip[0].numpy(), 32000, "FLOAT")
    found = separator.enroll("x", [tmp_path / "x.wav"]).vector
    assert_close(found, want, 2e-5)


def test_short_clips_are_repeated():
    separator, clip = asp(), noise(1, 3000)
    found = separator.enroll("dog", [clip], RATE).vector
    torch.testing.assert_close(found, embed(torch.from_numpy(np.tile(clip, 6))[:, :LENGTH])[0])


def test_quiet_segments_and_tails_do_not_count():
    separator, clip = asp(), noise(1, LENGTH)
    longer = np.concatenate((0.001 * noise(1, LENGTH, 3), clip, np.zeros((1, LENGTH), np.float32), clip[:, :900]), 1)
    found = separator.enroll("dog", [longer], RATE).vector
    torch.testing.assert_close(found, separator.enroll("dog", [clip], RATE).vector)


def test_files_open_files_rates_and_channels(tmp_path):
    separator, clip = asp(), noise(1, 5 * LENGTH)
    plain = separator.enroll("a", [clip], RATE).vector
    stereo = resample(np.concatenate((clip, -0.5 * clip)), RATE, 44100)
    soundfile.write(tmp_path / "clip.wav", stereo.T, 44100, "FLOAT")
    with open(tmp_path / "clip.wav", "rb") as file:
        data = io.BytesIO(file.read())
    level = separator.enroll("b", [0.75 * clip], RATE).vector  # the mean of the channels
    for given in (tmp_path / "clip.wav", data):
        torch.testing.assert_close(separator.enroll("b", [given]).vector, level, rtol=1e-2, atol=1e-2)
    assert separator.enroll("b", [tmp_path / "clip.wav", clip], RATE).origin.seconds == 20
    assert (plain - separator.enroll("b", [clip], RATE // 2).vector).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["asp", "causal"])
@pytest.mark.parametrize("piece", [2, 4])
def test_long_clips_in_pieces(kind, piece, monkeypatch, tmp_path):
    """A detector's segments are the same wherever pieces end; a model's own vector is nearly so."""
    separator = asp() if kind == "asp" else Separator.from_model(tiny_model(CAUSAL), device="cpu")
    stereo = noise(2, 9 * LENGTH + 777)
    soundfile.write(tmp_path / "clip.wav", stereo.T, RATE, "FLOAT")
    whole = separator.enroll("dog", [stereo], RATE).vector
    monkeypatch.setattr(enrolment, "PIECE_SECONDS", piece)
    for given in (stereo, tmp_path / "clip.wav"):
        found = separator.enroll("dog", [given], RATE).vector
        assert torch.cosine_similarity(found, whole, dim=0) > 0.99
        if kind == "asp":
            torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", [ASP, CAUSAL])
def test_an_hour_needs_no_more_memory_than_a_minute(tmp_path, config):
    with soundfile.SoundFile(tmp_path / "hour.wav", "w", RATE, 1, "PCM_U8") as file:
        minute = noise(1, 60 * RATE)[0]
        for _ in range(60):
            file.write(minute)
    longest = []

    class Counted(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.least_samples = inner, 0

        def embed(self, audio):
            longest.append(audio.shape)
            return torch.ones(len(audio), 8)

    separator = asp() if config is ASP else Separator.from_model(tiny_model(CAUSAL), device="cpu")
    if config is ASP:
        separator._detector.loaded(torch.device("cpu")).model.embed = Counted(None).embed
    else:
        separator.engine.model.embed = Counted(None).embed
    tracemalloc.start()
    prompt = separator.enroll("dog", [tmp_path / "hour.wav"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6  # all of it: 115 MB
    assert max(shape.numel() for shape in longest) <= max(TOGETHER * LENGTH, 60 * RATE)
    assert sum(shape.numel() for shape in longest) == 3600 * RATE
    assert prompt.origin.seconds == 3600 and len(prompt.origin.clips) == 1


def test_clips_that_disagree_are_told(tmp_path, monkeypatch):
    vectors = iter(torch.eye(8)[[0, 0, 1, 0]])
    separator = asp()
    monkeypatch.setattr(describing, "_embed", lambda detector, segments: next(vectors)[None].expand(len(segments), -1))
    for number in range(4):
        soundfile.write(tmp_path / f"{number}.wav", noise(1, LENGTH, number)[0], RATE)
    clips = [tmp_path / f"{number}.wav" for number in range(4)]
    monkeypatch.setattr("ussfast.prompts.origin.LEAST_COSINE", 0.6)
    with pytest.warns(PromptWarning) as caught:
        prompt = separator.enroll("dog", clips)
    (warning,) = caught
    assert warning.filename == __file__
    assert str(warning.message).startswith("'dog': the clips have little in common: their mean cosine is 0.50, 0.6 is")
    assert f"{clips[2]} is least like the others (0.00): drop that one" in str(warning.message)
    assert "\n" not in str(warning.message) and prompt.origin.agreement.clip == str(clips[2])


def test_clips_that_agree_are_not_mentioned():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prompt = asp().enroll("dog", [noise(1, LENGTH, seed) for seed in range(3)], RATE)
    assert prompt.origin.agreement.cosine > LEAST_COSINE


def test_the_robust_average_leaves_out_what_is_odd():
    clips = [noise(1, 2 * LENGTH, seed) for seed in range(4)]
    tone = 0.3 * np.sin(np.arange(2 * LENGTH) * 0.9)[None].astype(np.float32)
    separator = asp()
    good = separator.enroll("dog", clips, RATE).vector
    mean, robust = (separator.enroll("dog", [*clips, tone], RATE, average=how) for how in ("mean", "robust"))
    assert (mean.origin.average, robust.origin.average) == ("mean", "robust")
    assert (robust.vector - good).norm() < 0.5 * (mean.vector - good).norm()
    two = [separator.enroll("dog", [clips[0], tone], RATE, average=how).vector for how in ("mean", "robust")]
    assert torch.equal(*two)
    with pytest.raises(InputError, match="average must be one of mean, robust, got 'median'"):
        separator.enroll("dog", clips, RATE, average="median")


def test_the_folder_query_of_a_model(directory):
    separator, clip = Separator(directory, device="cpu"), noise(1, LENGTH)
    assert separator.can_enroll
    found = separator.enroll("dog", [clip], RATE)
    torch.testing.assert_close(found.vector, asp().enroll("dog", [clip], RATE).vector)
    assert found.origin.detector.fingerprint == Detector(directory / "query", device="cpu").info.fingerprint


def test_a_detector_by_its_place_is_loaded_when_it_is_needed(directory, tmp_path, monkeypatch):
    made = []
    load = checkpoint.load_detector
    monkeypatch.setattr(checkpoint, "load_detector", lambda directory: made.append(directory) or load(directory))
    place = shutil.copytree(directory, tmp_path / "m")
    (place / "query").rename(tmp_path / "listener")
    monkeypatch.chdir(tmp_path)
    separator = Separator("m", device="cpu", detector="listener")
    monkeypatch.chdir("/")
    with pytest.raises(PromptError, match="'residual'"):
        separator.enroll("residual", [noise(1, LENGTH)], RATE)
    assert separator.can_enroll and not made
    for _ in range(2):
        separator.enroll("dog", [noise(1, LENGTH)], RATE)
    assert len(made) == 1
    assert not Separator(place, device="cpu").can_enroll


WAYS = {"pickle": lambda one: pickle.loads(pickle.dumps(one)), "deepcopy": copy.deepcopy, "copy": copy.copy}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("where", ["memory", "directory"])
def test_pickles_and_copies_enroll_too(way, where, directory):
    one = asp() if where == "memory" else Separator(directory, device="cpu")
    first = one.enroll("dog", [noise(1, LENGTH)], RATE)
    other = WAYS[way](one)
    assert other.prompts["dog"].origin == first.origin
    found = other.enroll("cat", [noise(1, LENGTH)], RATE)
    torch.testing.assert_close(found.vector, first.vector)
    assert found.origin.detector == first.origin.detector and "cat" not in one.prompts
    if where == "directory":
        assert len(pickle.dumps(one)) < 40_000  # places, and the clip


def test_a_detector_that_has_changed_is_told(directory, tmp_path):
    place = shutil.copytree(directory, tmp_path / "m")
    data = pickle.dumps(Separator(place, device="cpu"))
    separator = Separator(place, device="cpu")
    shutil.rmtree(place / "query")
    tiny_detector_directory(tmp_path, seed=1).rename(place / "query")
    for changed in (separator, pickle.loads(data)):
        with pytest.raises(CheckpointError, match="has other weights now"):
            changed.enroll("dog", [noise(1, LENGTH)], RATE)


def test_models_and_detectors_that_do_not_fit(directory, tmp_path):
    wide = Detector.from_model(tiny_detector(replace(DETECTOR, channels=(4, 12))), name="wide")
    model = tiny_directory(tmp_path, TUSS)
    cases = [
        (ASP, wide, "detector 'wide' makes vectors of 12 numbers, model 'asp' takes 8"),
        (CAUSAL, wide, "model 'asp' makes prompts of clips itself"),
        (UNCONDITIONAL, wide, "model 'asp' takes no prompts"),
        (ASP, model, "a model that separates"),
        (ASP, "no/such/model", "no model|Hugging Face"),
        (ASP, 7, "not int"),
    ]
    for config, detector, says in cases:
        with pytest.raises(InputError, match=says) as caught:
            Separator.from_model(tiny_model(config), device="cpu", name="asp", detector=detector)
        assert "\n" not in str(caught.value)
    bare = Separator.from_model(tiny_model(ASP), device="cpu", name="asp")
    assert not bare.can_enroll
    with pytest.raises(PromptError, match=r"'asp' needs a detector .* Separator\(..., detector=MODEL\).* of 8 numbers"):
        bare.enroll("dog", [noise(1, LENGTH)], RATE)
    with pytest.raises(InputError, match="makes vectors of 12 numbers"):
        Separator(directory, device="cpu", detector=wide)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (np.zeros((1, LENGTH), np.float32), "clip 2: the query is silent: no segment of 16000 samples"),
        (1e-4 * noise(1, 3 * LENGTH), "clip 2: the query is silent: .* the loudest one has"),
        (np.full((1, LENGTH), np.nan, np.float32), "clip 2: contains NaN, first at sample 0"),
        (noise(1, 700), "clip 2: 0.087 s are too short"),
        (np.zeros((1, 0), np.float32), "clip 2: no samples"),
        (7, "clip 2: a numpy array or torch tensor"),
        ("nan.wav", "nan.wav: contains NaN, first at 1.000 s"),
        ("zero.wav", "zero.wav: the query is silent"),
        ("none.wav", "none.wav: no such file"),
    ],
)
def test_clips_that_give_nothing_are_named(bad, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip = np.zeros(LENGTH, np.float32)
    soundfile.write("zero.wav", clip, RATE, "FLOAT")
    clip[RATE] = np.nan
    soundfile.write("nan.wav", clip, RATE, "FLOAT")
    separator = asp()
    with pytest.raises(InputError, match=says) as caught:
        separator.enroll("dog", [noise(1, LENGTH), bad], RATE)
    assert "\n" not in str(caught.value) and "dog" not in separator.prompts
