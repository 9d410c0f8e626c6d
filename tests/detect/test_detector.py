"""`ussfast.Detector`: outputs of the model for a clip that fits it, any kind of audio."""

import copy
import io
import pickle

import numpy as np
import pytest
import soundfile
import torch
from golden_detectors import HTSAT, LEVEL, TAGS
from golden_io import arrays
from short_detector import RATE, SECOND, golden_copy, model_says, shortened
from tiny import noise, tiny_directory, tiny_model

import ussfast
from ussfast import AudioError, CheckpointError, DeviceError, InputError, UssfastError
from ussfast.audio import resample
from ussfast.checkpoints.store import save_model
from ussfast.models._folded import has_bfloat16


def test_a_clip_that_fits_gives_what_the_model_gives(detector):
    for samples in (RATE // 2, 31680):  # the window
        clip = noise(1, samples)
        expected = model_says(detector, clip)
        assert np.array_equal(detector.tag(clip, RATE), expected.tags[0].numpy())
        assert np.array_equal(detector.frames(clip, RATE), expected.frames[0].numpy())
        assert np.array_equal(detector.embed(clip[0], RATE), expected.embedding[0].numpy())
        assert detector.frames(clip, RATE).shape == (1 + samples // 320, len(detector.labels))
        assert detector.tag(clip, RATE).dtype == detector.frames(clip, RATE).dtype == np.float32


@pytest.mark.parametrize("name", [LEVEL, HTSAT])
def test_bfloat16_is_near_stays_so_in_copies_and_is_not_the_default(name):
    clip = noise(1, RATE // 2)
    wide = ussfast.Detector.from_model(golden_copy(name, segment_seconds=SECOND))
    narrow = ussfast.Detector.from_model(golden_copy(name, segment_seconds=SECOND), dtype="bf16")
    want, found = wide.tag(clip, RATE), narrow.tag(clip, RATE)
    assert np.abs(found - want).max() < 0.02
    if has_bfloat16(narrow.device):
        assert not np.array_equal(found, want)
    assert np.array_equal(pickle.loads(pickle.dumps(narrow)).tag(clip, RATE), found)
    for wrong in ("int8", None, "half"):
        with pytest.raises(InputError, match="dtype must be one of auto, float32, fp32, bfloat16, bf16, got"):
            ussfast.Detector.from_model(golden_copy(name), dtype=wrong)


def test_published_outputs():
    clips, want = arrays(TAGS, "inputs")["wave"].numpy(), arrays(LEVEL, "outputs")
    detector = ussfast.Detector.from_model(golden_copy(LEVEL))
    for clip, tags, frames in zip(clips, want["clipwise_output"], want["framewise_output"], strict=True):
        np.testing.assert_allclose(detector.tag(clip, RATE), tags, atol=2e-5)
        np.testing.assert_allclose(detector.frames(clip, RATE), frames, atol=2e-5)
    detector, want = ussfast.Detector.from_model(golden_copy(HTSAT)), arrays(HTSAT, "outputs")
    for name in ("seg2s", "clip10s"):
        clip = arrays(HTSAT, "inputs")[name].numpy()
        np.testing.assert_allclose(detector.tag(clip, RATE), want[f"{name}_clipwise"], atol=2e-5)
        np.testing.assert_allclose(detector.embed(clip, RATE), want[f"{name}_latent"], atol=1e-4)


def test_htsat_of_any_length():
    detector = ussfast.Detector.from_model(golden_copy(HTSAT))
    for samples in (1, 5000, 330_000):
        assert len(detector.frames(noise(1, samples), RATE)) == 1 + samples // 320


def test_a_clip_that_is_too_short_is_repeated(detector):
    clip = noise(1, 3000)
    least = detector.model.least_samples
    assert least > 3000
    expected = model_says(detector, np.tile(clip, (1, 4))[:, :least])
    assert np.array_equal(detector.tag(clip, RATE), expected.tags[0].numpy())
    assert np.array_equal(detector.frames(clip, RATE), expected.frames[0, :10].numpy())
    assert np.isfinite(detector.embed(clip[:, :1], RATE)).all()


def test_events_are_those_of_the_frames(detector):
    audio = noise(1, 100_123, seed=1)
    scores = detector.frames(audio, RATE)
    label = int(scores.std(0).argmax())
    threshold = float(np.quantile(scores[:, label], 0.6))
    events = detector.detect(
        audio, RATE, threshold=threshold, low=threshold, minimum=0, gap=0, labels=detector.labels[label]
    )
    rows = scores[:, label] > threshold
    covered = np.zeros_like(rows)
    for event in events:
        assert event.label == detector.labels[label] and event.score > threshold
        covered[round(event.onset / 0.01) : round(event.offset / 0.01)] = True
    assert events and np.array_equal(covered[:-1], rows[:-1])
    assert not detector.detect(audio, RATE, threshold=1)
    everything = detector.detect(audio, RATE, threshold=0)
    assert {e.label for e in everything} == set(detector.labels)
    assert {(e.onset, e.offset) for e in everything} == {(0.0, round(100_123 / RATE, 6))}


def test_files_open_files_rates_and_channels(detector, tmp_path):
    audio = noise(2, 66_000, seed=2)
    path = tmp_path / "a.wav"
    soundfile.write(path, audio.T, 44100, subtype="FLOAT")
    of_file = detector.frames(path)
    assert np.array_equal(detector.frames(str(path)), of_file)
    assert np.array_equal(detector.frames(io.BytesIO(path.read_bytes())), of_file)
    np.testing.assert_allclose(detector.frames(audio, 44100), of_file, atol=1e-4)
    native = resample(audio, 44100, RATE)
    loudest = native[np.square(native).sum(1).argmax()]
    one = np.mean([row * (1 if row @ loudest >= 0 else -1) for row in native], 0)
    np.testing.assert_allclose(detector.tag(one, RATE), detector.tag(path), atol=0.05)
    assert detector.detect(path, threshold=0.2) == detector.detect(str(path), threshold=0.2)


def test_channels_of_opposite_phase_do_not_cancel(detector):
    clip = noise(1, 20_000)
    both = np.concatenate((clip, -clip))
    np.testing.assert_allclose(detector.tag(both, RATE), detector.tag(clip, RATE), atol=1e-5)
    assert np.array_equal(both[1], -clip[0]), "the caller's array stays as it is"


def test_tensors_and_arrays_that_cannot_be_written(detector):
    clip = noise(1, 20_000)
    expected = detector.tag(clip, RATE)
    clip.setflags(write=False)
    assert np.array_equal(detector.tag(clip, RATE), expected)
    assert np.array_equal(detector.tag(torch.from_numpy(clip.copy()), RATE), expected)


def test_silence_is_no_error(detector):
    tags = detector.tag(np.zeros(40_000, np.float32), RATE)
    assert np.isfinite(tags).all() and tags.min() >= 0 and tags.max() <= 1
    assert isinstance(detector.detect(np.zeros(40_000, np.float32), RATE), list)


@pytest.mark.parametrize(
    ("audio", "rate", "says"),
    [
        (np.zeros(0, np.float32), RATE, "no samples"),
        (np.array([0.0, np.nan], np.float32), RATE, "contains NaN"),
        (np.full(5000, 1e20, np.float32), RATE, "the audio is damaged"),
        (np.zeros(5000, np.float32), None, "sample_rate is missing"),
        (np.zeros(5000, np.float32), 0, "sample_rate must be"),
        (np.zeros(1, np.float32), 768_000, "too short"),
        ("no such file.wav", None, "no such file"),
        (5, RATE, "numpy array or torch tensor"),
    ],
)
def test_bad_audio(detector, audio, rate, says):
    for call in (detector.tag, detector.frames, detector.embed, detector.detect):
        with pytest.raises(InputError, match=says):
            call(audio, rate)


def test_a_file_has_a_rate_of_its_own(detector, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(1, 4000).T, RATE)
    with pytest.raises(InputError, match="a file has its own"):
        detector.tag(tmp_path / "a.wav", RATE)
    (tmp_path / "empty.wav").touch()
    with pytest.raises(AudioError, match="empty file"):
        detector.tag(tmp_path / "empty.wav")


def test_labels(detector):
    assert detector.columns() == list(range(len(detector.labels)))
    last, first = detector.labels[-1], detector.labels[0]
    assert detector.columns([last, first, last]) == [len(detector.labels) - 1, 0]
    with pytest.raises(InputError, match=f"label '{last}x'; did you mean '{last}'"):
        detector.detect(noise(1, 4000), RATE, labels=f"{last}x")
    with pytest.raises(InputError, match=f"it knows {len(detector.labels)}, such as"):
        detector.columns(["@@@@@@@@@@@@"])
    with pytest.raises(InputError, match="no labels are asked for"):
        detector.columns([])


def test_a_model_that_tags_whole_clips():
    detector = ussfast.Detector.from_model(shortened(TAGS), name="tags")
    audio = noise(1, 50_000)
    assert detector.tag(audio, RATE).shape == (len(detector.labels),)
    assert detector.embed(audio, RATE).shape == (detector.model.embedding_dim,)
    for call in (detector.frames, detector.detect):
        with pytest.raises(InputError, match="'tags' tags whole clips"):
            call(audio, RATE)


def test_directories(detector, tmp_path):
    save_model(tmp_path / "m", shortened(), name="small", license="CC0-1.0", source={"made": "at random"})
    loaded = ussfast.Detector(tmp_path / "m", device="cpu")
    clip = noise(1, 50_000)
    assert np.array_equal(loaded.frames(clip, RATE), detector.frames(clip, RATE))
    assert (loaded.sample_rate, loaded.frame_seconds) == (RATE, 0.01)
    assert repr(loaded) == f"Detector(small; {len(loaded.labels)} labels; 32000 Hz on cpu)"


def test_models_that_are_no_detectors(tmp_path):
    with pytest.raises(CheckpointError, match="a model that separates"):
        ussfast.Detector(tiny_directory(tmp_path))
    with pytest.raises(CheckpointError, match="no model"):
        ussfast.Detector(tmp_path / "nowhere")
    with pytest.raises(InputError, match="made of a model that detects"):
        ussfast.Detector.from_model(tiny_model())
    with pytest.raises(DeviceError, match="unknown device"):
        ussfast.Detector.from_model(shortened(), device="abacus")


def test_results_that_are_not_finite_are_an_error():
    model = shortened()
    with torch.no_grad():
        model.out.bias.fill_(float("nan"))
    with pytest.raises(UssfastError, match="not finite"):
        ussfast.Detector.from_model(model).tag(noise(1, 20_000), RATE)


def test_pickles_and_copies(detector):
    clip = noise(1, 50_000)
    for twin in (copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))):
        assert np.array_equal(twin.frames(clip, RATE), detector.frames(clip, RATE))
