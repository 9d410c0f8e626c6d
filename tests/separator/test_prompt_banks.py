"""Prompts of a separator in files: saved, loaded into it again, refused by others, embedded anew for them."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import (
    ASP,
    CAUSAL,
    DETECTOR,
    PROMPTS,
    RATE,
    TUSS,
    files_in,
    noise,
    tiny_detector,
    tiny_detector_directory,
    tiny_directory,
    tiny_model,
)  # fmt: skip

from ussfast import CheckpointError, Detector, InputError, Prompt, PromptError, Separator
from ussfast.prompts.bank_file import read_saved, save
from ussfast.prompts.files import read_bank, refresh
from ussfast.prompts.origin import Mark, Origin

SECONDS = 4
CLIPS = [noise(1, SECONDS * RATE, seed) for seed in range(3)]


def causal(seed=0, **settings):
    return Separator.from_model(tiny_model(CAUSAL, seed), name=f"causal-{seed}", device="cpu", **settings)


def asp(seed=0, detector_seed=0):
    detector = Detector.from_model(tiny_detector(seed=detector_seed), name=f"tags-{detector_seed}", device="cpu")
    return Separator.from_model(tiny_model(ASP, seed), name=f"asp-{seed}", device="cpu", detector=detector)


@pytest.mark.parametrize("make", [causal, asp])
def test_saved_and_loaded(make, tmp_path):
    one, other = make(), make()
    one.enroll("dog", CLIPS, RATE, average="robust")
    one.enroll("cat", CLIPS[:1], RATE)
    one.prompts.add(Prompt("raw", torch.arange(8.0), "enrolled"))
    one.save_prompts(tmp_path / "bank")
    loaded = other.load_prompts(str(tmp_path / "bank"))
    assert [p.name for p in loaded] == ["dog", "cat", "raw"]
    for prompt in loaded:
        mine = one.prompts[prompt.name]
        assert other.prompts[prompt.name] is prompt and prompt.kind == "enrolled"
        assert torch.equal(prompt.vector, mine.vector) and prompt.vector.dtype == torch.float32
        if mine.origin is None:
            assert prompt.origin is None
        else:
            assert prompt.origin == replace(mine.origin, agreement=None)
    mixture = noise(1, 9000)
    for name in ("dog", "raw"):
        np.testing.assert_array_equal(*(s.separate(mixture, RATE, prompts=name).stems for s in (one, other)))
    # What was loaded is saved as it is.
    other.save_prompts(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "bank").read_bytes()


def test_some_of_them_and_without_clips(tmp_path):
    one = causal()
    for name in ("dog", "cat", "owl"):
        one.enroll(name, CLIPS[:2], RATE)
    one.save_prompts(tmp_path / "bank", ["owl", "dog", "owl"], clips=False)
    info = read_bank(tmp_path / "bank")
    assert [(p.name, p.clips, p.count, p.seconds) for p in info.prompts] == [("owl", (), 2, 8.0), ("dog", (), 2, 8.0)]
    assert info.bytes < 3000 and one.prompts["dog"].origin.clips
    other = causal()
    assert [p.name for p in other.load_prompts(tmp_path / "bank", "dog")] == ["dog"]
    assert "owl" not in other.prompts
    with pytest.raises(PromptError, match="bank: no prompt 'cat' in it; there are owl, dog"):
        other.load_prompts(tmp_path / "bank", ["owl", "cat"])
    assert "owl" not in other.prompts


def test_what_cannot_be_saved(tmp_path):
    one = causal()
    one.enroll("dog", CLIPS[:1], RATE)
    for names, says in (
        ("speech", "'speech' is a class prompt: it comes with the model"),
        (["dog", "cat"], "unknown prompt 'cat'"),
        ([], "no enrolled prompts to save"),
        ([7], "prompts are names"),
    ):
        with pytest.raises(PromptError, match=says):
            one.save_prompts(tmp_path / "bank", names)
    with pytest.raises(PromptError, match="no enrolled prompts to save"):
        causal().save_prompts(tmp_path / "bank")
    assert not files_in(tmp_path)


def test_another_model_is_named(tmp_path):
    one = causal()
    one.enroll("dog", CLIPS[:1], RATE)
    one.save_prompts(tmp_path / "bank")
    for other in (causal(seed=1), asp(), Separator.from_model(tiny_model(TUSS), name="tuss", device="cpu")):
        says = rf"bank: .*'causal-0' \(\w+\), not of '{other.info.name}' .*prompts refresh"
        with pytest.raises(PromptError, match=says) as caught:
            other.load_prompts(tmp_path / "bank")
        assert "\n" not in str(caught.value) and "dog" not in other.prompts


def test_another_detector_is_named(tmp_path):
    one = asp()
    one.enroll("dog", CLIPS[:1], RATE)
    one.save_prompts(tmp_path / "bank")
    with pytest.raises(PromptError, match=r"'dog' is that of detector 'tags-0' \(\w+\), not of 'tags-1' .*refresh"):
        asp(detector_seed=1).load_prompts(tmp_path / "bank")
    bare = Separator.from_model(tiny_model(ASP), name="asp-0", device="cpu")
    (prompt,) = bare.load_prompts(tmp_path / "bank")  # of the same model: no detector is needed for what is made
    assert prompt.origin.detector.name == "tags-0"


def test_a_saved_model_has_the_same_mark_wherever_it_is(tmp_path):
    place = tiny_directory(tmp_path, CAUSAL)
    one = Separator(place, device="cpu")
    one.enroll("dog", CLIPS[:1], RATE)
    one.save_prompts(tmp_path / "bank")
    assert read_bank(tmp_path / "bank").model == Mark("tiny", one.info.fingerprint)
    shutil.copytree(place, tmp_path / "elsewhere")
    Separator(tmp_path / "elsewhere", device="cpu").load_prompts(tmp_path / "bank")


@pytest.mark.parametrize("config", [CAUSAL, ASP])
@pytest.mark.parametrize("dtype", ["bf16", "float32"])
def test_a_model_in_memory_has_the_same_mark_however_it_runs(dtype, config):
    plain = Separator.from_model(tiny_model(config), device="cpu", backend="reference")
    other = Separator.from_model(tiny_model(config), device="cpu", dtype=dtype)
    if config is ASP:
        other.prompts.add(Prompt("sfx", torch.ones(8), "enrolled"))
    other.separate(noise(1, 9000), RATE, prompts="sfx")
    assert plain.mark == other.mark
    assert plain.mark != Separator.from_model(tiny_model(config, seed=1), device="cpu").mark


def test_the_mark_of_a_detector_does_not_depend_on_its_use():
    one = asp()
    before = one.enroll("a", CLIPS[:1], RATE).origin.detector
    assert asp().enroll("b", CLIPS[1:], RATE).origin.detector == before
    assert asp(detector_seed=1).enroll("b", CLIPS[1:], RATE).origin.detector != before


def test_names_of_class_prompts_are_refused(tmp_path):
    one = causal()
    prompt = one.enroll("dog", CLIPS[:1], RATE)
    save(tmp_path / "bank", one.mark, [
        s for name in ("cat", "sfx") for s in [replace(read(one, tmp_path), name=name)]
    ])  # fmt: skip
    with pytest.raises(PromptError, match="bank: 'sfx' is a class prompt of this model; choose another name"):
        one.load_prompts(tmp_path / "bank")
    assert "cat" not in one.prompts and one.prompts["dog"] is prompt


def read(separator, folder):
    separator.save_prompts(folder / "one")
    return read_saved(folder / "one")[1][0]


def test_a_vector_of_another_size(tmp_path):
    one = causal()
    one.enroll("dog", CLIPS[:1], RATE)
    wrong = replace(read(one, tmp_path), vector=np.ones(5, np.float32))
    save(tmp_path / "bank", one.mark, [wrong])
    with pytest.raises(PromptError, match="bank: 'dog': a vector of 8 numbers is needed"):
        one.load_prompts(tmp_path / "bank")


@pytest.mark.parametrize("make", [causal, asp])
def test_refreshed_for_another_model(make, tmp_path):
    one = make()
    one.enroll("dog", CLIPS, RATE)
    one.enroll("cat", [CLIPS[0][:, :9000]], RATE, average="robust")
    one.save_prompts(tmp_path / "old")
    old = (tmp_path / "old").read_bytes()
    other = make(1, detector_seed=1) if make is asp else make(1)
    info = refresh(tmp_path / "old", other, tmp_path / "new")
    assert (tmp_path / "old").read_bytes() == old and not len(other.prompts) - len(make(1).prompts)
    assert info.model == other.mark and [p.name for p in info.prompts] == ["dog", "cat"]
    (dog, cat) = other.load_prompts(tmp_path / "new")
    expected = other.prompt_of("x", CLIPS, RATE).vector
    assert torch.cosine_similarity(dog.vector, expected, dim=0) > 0.99
    before = one.prompts["dog"].origin
    assert (dog.origin.clips, dog.origin.count, dog.origin.seconds) == (before.clips, before.count, before.seconds)
    assert cat.origin.average == "robust"
    if make is asp:
        assert dog.origin.detector.name == "tags-1"
    refresh(tmp_path / "old", other)  # in its place
    assert (tmp_path / "old").read_bytes() == (tmp_path / "new").read_bytes()


def test_refreshing_what_has_clips_of_several_rates(tmp_path):
    one = causal()
    low = noise(1, 4 * 4000, 9)
    prompt = one.enroll("dog", CLIPS[:1], RATE)
    clips = (*prompt.origin.clips, *one.enroll("low", [low], 4000).origin.clips)
    one.prompts.add(replace(prompt, origin=replace(prompt.origin, clips=clips, count=2)))
    one.save_prompts(tmp_path / "bank", "dog")
    refresh(tmp_path / "bank", one)
    (found,) = one.load_prompts(tmp_path / "bank")
    expected = (prompt.vector + one.prompts["low"].vector) / 2
    assert torch.cosine_similarity(found.vector, expected, dim=0) > 0.99


def test_what_cannot_be_refreshed(tmp_path):
    one = causal()
    for name in ("dog", "cat"):
        one.enroll(name, CLIPS[:1], RATE)
    one.save_prompts(tmp_path / "bare", clips=False)
    one.prompts.add(Prompt("raw", torch.ones(8), "enrolled"))
    one.save_prompts(tmp_path / "raw")
    one.save_prompts(tmp_path / "bank", "dog")
    renamed = Separator.from_model(tiny_model(replace(CAUSAL, prompts=(*PROMPTS[1:], "dog"))), device="cpu")
    damaged = Origin(1, 1.0, "mean", (b"rubbish",))
    save(tmp_path / "damaged", one.mark, [replace(read(one, tmp_path), origin=damaged)])
    tuss = Separator.from_model(tiny_model(TUSS), device="cpu")
    cases = [
        ("bare", one, PromptError, "bare: no clips are kept of 'dog', 'cat': enroll"),
        ("raw", one, PromptError, "raw: no clips are kept of 'raw': enroll"),
        ("bank", renamed, PromptError, "bank: 'dog' is a class prompt of this model"),
        ("bank", tuss, PromptError, "bank: model 'model' makes no prompts from clips"),
        ("damaged", one, InputError, "damaged: 'dog': clip 1 cannot be decoded"),
        ("none", one, CheckpointError, "none: no such file"),
    ]
    before = files_in(tmp_path)
    for name, separator, kind, says in cases:
        with pytest.raises(kind, match=says) as caught:
            refresh(tmp_path / name, separator, tmp_path / "new")
        assert "\n" not in str(caught.value)
    assert files_in(tmp_path) == before


def test_prompts_made_by_a_place_and_in_memory_are_of_the_detector_they_were_made_by(tmp_path):
    place = tiny_detector_directory(tmp_path)
    one = Separator.from_model(tiny_model(ASP), name="asp", device="cpu", detector=place)
    one.enroll("dog", CLIPS[:1], RATE)
    one.save_prompts(tmp_path / "bank")
    again = Separator.from_model(tiny_model(ASP), name="asp", device="cpu", detector=Detector(place, device="cpu"))
    again.load_prompts(tmp_path / "bank")
    assert read_bank(tmp_path / "bank").prompts[0].detector.name == "tiny"
    assert DETECTOR.embedding_dim == read_bank(tmp_path / "bank").size
