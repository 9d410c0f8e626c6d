"""Training audio: manifests, and crops against plain slicing."""

import json

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import RATE, TONE, tiny_manifest

from ussfast.data.pool import AudioPool, Item, read_manifest
from ussfast.errors import AudioError, InputError


def item(**changes):
    facts = {"path": "x.wav", "prompt": "speech", "group": "g", "split": "train", "license_class": "permissive"}
    return Item(**(facts | {"native_rate": RATE} | changes))


def test_read_manifest(tmp_path):
    items = read_manifest(tiny_manifest(tmp_path, seconds=0.1))
    assert len(items) == 2 * 2 * len(TONE) and {i.split for i in items} == {"train", "dev"}
    assert items[0] == item(path=str(tmp_path / "train-speech-0.wav"), group="speaker 0", speaker="speaker 0")
    drums = next(i for i in items if i.prompt == "drums")
    assert drums.group == drums.song == "song 0"
    sfx = next(i for i in items if i.prompt == "sfx")
    assert sfx.group == sfx.label == "label 0" and (drums.label, drums.speaker, sfx.speaker) == (None,) * 3


GOOD = {"path": "a.wav", "prompt": "sfx", "split": "train", "license_class": "free-use", "sample_rate": 8000}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (json.dumps({"items": [GOOD, {k: v for k, v in GOOD.items() if k != "split"}]}), r"items\[1\] lacks split"),
        (json.dumps({"items": [GOOD | {"sample_rate": "fast"}]}), "'fast'"),
        (json.dumps({"rows": []}), "lacks items"),
        (json.dumps([GOOD]), "is not a manifest"),
        (json.dumps({"items": {"a": GOOD}}), "is not a manifest"),
        ("{", "is not a manifest"),
        ("", "is not a manifest"),
    ],
)
def test_manifests_that_are_none(tmp_path, text, says):
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(InputError, match=says) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)


def test_manifests_and_audio_that_are_missing(tmp_path):
    with pytest.raises(InputError, match=r"gone\.json: no such manifest"):
        read_manifest(tmp_path / "gone.json")
    with pytest.raises(InputError, match="no such manifest"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"items": [GOOD]}))
    with pytest.raises(AudioError, match=r"a\.wav: no such file"):
        AudioPool.load(read_manifest(tmp_path / "manifest.json"), RATE)
    with pytest.raises(InputError, match="no audio of the split"):
        AudioPool.load([], RATE)


def pool_of(*lengths):
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(-1.2, 1.2, n).astype(np.float32) for n in lengths]
    return AudioPool([item() for _ in arrays], arrays, RATE), [np.clip(a, -1, 32767 / 32768) for a in arrays]


@settings(max_examples=200, deadline=None)
@given(
    crops=st.lists(st.tuples(st.integers(0, 3), st.integers(-300, 700)), min_size=1, max_size=6),
    count=st.integers(1, 400),
)
def test_crops_are_slices_of_silence_sound_silence(crops, count):
    pool, arrays = POOL
    index, offset = np.array(crops).T
    got = pool.crops(index, offset, count).numpy()
    assert got.shape == (len(crops), count) and got.dtype == np.float32
    for row, (which, start) in zip(got, crops, strict=True):
        padded = np.pad(arrays[which], (1000, 2000))
        np.testing.assert_allclose(row, padded[1000 + start : 1000 + start + count], atol=0.5 / 32768 + 1e-7)


POOL = pool_of(500, 1, 37, 260)


def test_power_tells_sound_from_silence():
    arrays = [np.zeros(8000, np.float32)]
    arrays[0][4000:6000] = 0.5
    pool = AudioPool([item()], arrays, RATE)
    assert pool.power(0, 4000, 2000) == pytest.approx(0.25)
    assert pool.power(0, 0, 8000) == pytest.approx(0.0625)
    assert pool.power(0, 0, 3600) == pool.power(0, 6400, 1600) == 0


def test_load_converts_rate_and_takes_the_first_channel(tmp_path):
    time = np.arange(16000) / 16000
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(tmp_path / "x.wav", np.stack([tone, 0 * tone], 1), 16000)
    pool = AudioPool.load([item(path=str(tmp_path / "x.wav"))], RATE)
    assert pool.length.tolist() == [8000] and str(pool.samples.dtype) == "torch.int16"
    middle = pool.crops(np.array([0]), np.array([1000]), 6000)[0].numpy()
    np.testing.assert_allclose(middle, tone[2000:14000:2], atol=1e-3)
