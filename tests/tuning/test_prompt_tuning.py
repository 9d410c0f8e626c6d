"""Audio prompt tuning: what a prompt learns, and that nothing else changes."""

import numpy as np
import pytest
import torch
from easy_sounds import RATE, heeding_model, hiss, tones
from tiny import ASP, CAUSAL, noise, tiny_model

import ussfast
from ussfast import InputError, PromptError
from ussfast._ext import cpu_isa
from ussfast.models import build
from ussfast.tuning.bundled import FILES, backgrounds
from ussfast.tuning.cases import Case
from ussfast.tuning.config import TuneConfig
from ussfast.tuning.frozen import Ahead, Frozen, twin
from ussfast.tuning.mixtures import Mixtures
from ussfast.tuning.sounds import Sound, clipped, cut, read_sounds
from ussfast.tuning.tuner import Tuner, find_lr, loss_of, sdr, tune


@pytest.fixture
def separator():
    return ussfast.Separator.from_model(heeding_model())


SHORT = {"seconds": 0.5, "mixtures": 16, "held": 8, "every": 10, "batch": 4}


def test_a_prompt_learns_and_nothing_else_changes(separator):
    model = separator.engine.model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    mixture = (tones(9) + hiss(9))[None]
    names = tuple(separator.prompts)[:2]
    other = separator.separate(mixture, RATE, prompts=names).stems
    needed = [p.requires_grad for p in model.parameters()]
    steps = []
    clips, around = [tones(i) for i in range(5)], [hiss(i) for i in range(4)]
    enrolled = separator.prompt_of("tone", clips, RATE)
    prompt = separator.tune("tone", clips, around, RATE, steps=60, on_step=steps.append, lr=0.1, patience=50, **SHORT)
    assert separator.prompts["tone"] is prompt and prompt.kind == "tuned"
    assert len(steps) == 60 and steps[-1].best > steps[0].before + 0.5
    assert prompt.origin.tuning.after == steps[-1].best and prompt.origin.tuning.before == steps[0].before
    assert not torch.equal(prompt.vector, enrolled.vector)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == needed
    assert np.array_equal(separator.separate(mixture, RATE, prompts=names).stems, other)

    def quality(vector):
        separator.prompts.add(ussfast.Prompt("it", vector, "enrolled"))
        found = separator.separate(mixture, RATE, prompts=("it",)).stems[0]
        return float(sdr(torch.from_numpy(found), torch.from_numpy(tones(9)[None]))[0])

    assert quality(prompt.vector) > quality(enrolled.vector) + 0.5


def test_what_is_computed_once_gives_what_the_model_gives():
    for model in (tiny_model(), build(CAUSAL)):
        model.eval()
        audio = torch.from_numpy(noise(2, 4001)) * 0.2
        vector = model.prompt_vectors(model.prompt_names[:1])
        with torch.no_grad():
            want = model.separate(audio, vector)[:, 0]
            frozen = Frozen(model)
            frozen.precision = "float32"
            ahead = frozen.ahead(audio)
            assert torch.allclose(frozen.estimate(ahead, vector[0]), want, atol=1e-5)
            again = Ahead.join([ahead.pick(torch.tensor([1])), ahead.pick(torch.tensor([0]))])
            assert torch.allclose(frozen.estimate(again, vector[0]), want.flip(0), atol=1e-5)
        asked = vector[0].detach().clone().requires_grad_()
        frozen.estimate(ahead, asked).square().sum().backward()
        assert asked.grad.abs().max() > 0
        assert all(p.grad is None for p in [*model.parameters(), *frozen.model.parameters()])


def test_a_twin_shares_memory_and_has_nothing_prepared(separator):
    model = separator.engine.model
    shared = twin(model)
    for (name, mine), theirs in zip(model.named_parameters(), shared.parameters(), strict=True):
        assert theirs.data_ptr() == mine.data_ptr() and not theirs.requires_grad, name
    assert all(getattr(module, "_prepared", None) is None for module in shared.modules())


def test_stopping_keeps_the_best(separator):
    clips = [tones(i) for i in range(5)]

    def stop(step):
        if step.step == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        separator.tune("tone", clips, [hiss(1)], RATE, lr=0.1, on_step=stop, **SHORT)
    kept = separator.prompts["tone"]
    assert kept.kind == "tuned" and kept.origin.tuning.steps <= 30
    assert kept.origin.tuning.after > kept.origin.tuning.before


def test_what_is_held_out_can_speak_against_the_tuned_prompt(separator):
    """A prompt of tones is to learn the noise: tones that decide then get worse, noise gets better."""
    config = TuneConfig(steps=30, lr=0.1, patience=3, **SHORT)
    low, high = [Sound(tones(i), "tone") for i in range(5)], [Sound(hiss(i), "hiss") for i in range(5)]

    def tuned(start, learns, decides, beside):
        rngs = [np.random.default_rng(i) for i in range(6)]
        held = [Mixtures([one], beside, 0.5, RATE, rng) for one, rng in zip(decides, rngs, strict=False)]
        learned = Mixtures(learns, high if learns is low else low, 0.5, RATE, rngs[5])
        with torch.enable_grad():
            return tune(Tuner(Frozen(separator.engine.model), start, learned, held, [[i] for i in range(5)], config))

    start = separator.prompt_of("tone", [tones(i) for i in range(5)], RATE).vector
    of_tones = tuned(start, low, low, high)
    assert of_tones.kept and of_tones.after > of_tones.before + 1 and not torch.equal(of_tones.vector, start)
    wrong = tuned(of_tones.vector, high, low, high)
    assert not wrong.kept and torch.equal(wrong.vector, of_tones.vector) and wrong.before == wrong.after
    assert wrong.steps == 30  # patience is longer than that
    right = tuned(of_tones.vector, high, high, low)
    assert right.kept and right.after > right.before + 1


def test_steps_and_minutes_both_end_it(separator):
    clips, seen = [tones(i) for i in range(3)], []
    separator.tune("tone", clips, [hiss(1)], RATE, steps=2, minutes=60, on_step=seen.append, **SHORT)
    assert [one.step for one in seen] == [1, 2]
    separator.tune("tone", clips, [hiss(1)], RATE, steps=10**6, minutes=0.001, on_step=seen.append, **SHORT)
    assert 2 < len(seen) < 1000
    assert TuneConfig().share(60, 1e9) == 0.5 and TuneConfig(minutes=0.0).share(0, 0.0) == 1.0


def test_a_single_clip_is_trusted_half_the_way(separator):
    """Its crops say how good the tuned prompt is for that clip, not for others of its kind."""
    weights = []

    def way(clips, learner):
        case = Case.of(separator, "tone", clips, [hiss(1)], RATE, "enrolled", {"steps": 10, "lr": 0.1, **SHORT})
        with torch.enable_grad():
            tuner = case.tuner(learner)
            tuner.step(tuner.optimizer(0.1), 1.0)
        learned = tuner.vectors.detach()[0] * tuner.scale - tuner.start
        asked = tuner._asked()[0] - tuner.start
        tuner._first = tuner._highest = np.full_like(tuner._first, -100.0)
        assert tuner.validated() and torch.equal(tuner.found, tuner._asked()[0])
        weights.append(learned.norm())
        return float((asked @ learned) / (learned @ learned))

    frozen = Frozen(separator.engine.model)
    assert way([tones(1, 4)], frozen) == pytest.approx(0.5)
    assert way([tones(1), tones(2)], frozen) == pytest.approx(1)
    frozen.weights = [torch.nn.Parameter(torch.zeros(1))]  # then it is the weights that learn most
    assert way([tones(1, 4)], frozen) == pytest.approx(1)
    assert min(weights) > 0


def test_worse_is_what_chance_does_not_explain(separator):
    tuner = object.__new__(Tuner)
    tuner.config = TuneConfig(doubt=1.0)
    before = np.array([3.0, 5.0, 1.0, 4.0])
    assert not tuner._worse(before + 0.1, before) and tuner._worse(before - 0.1, before)
    assert not tuner._worse(before + np.array([-1, 0.5, -1, 0.9]), before)
    assert tuner._worse(before + np.array([-1, 0.5, -1, -0.9]), before)
    assert tuner._worse(np.array([1.0]), np.array([1.1]))


def test_no_weight_learns_and_the_rate_is_found_first(separator):
    clips, steps = [tones(i) for i in range(4)], []
    separator.tune("tone", clips, [hiss(1)], RATE, steps=10, find_lr=True, on_step=steps.append, **SHORT)
    assert [step.step for step in steps] == list(range(1, 11))
    case = Case.of(separator, "tone", clips, [hiss(1)], RATE, "enrolled", SHORT)
    with torch.enable_grad():
        tuner = case.tuner(Frozen(separator.engine.model))
        before = tuner.vectors.detach().clone()
        found = find_lr(tuner)
    assert 1e-3 <= found <= 0.3 and torch.equal(tuner.vectors.detach(), before)


def test_steps_are_the_same_again(separator):
    clips = [tones(i) for i in range(4)]
    first, second = (separator.tune("tone", clips, None, RATE, steps=10, renew=0, **SHORT).vector for _ in range(2))
    assert torch.equal(first, second)


def test_start(separator):
    clips, own = [tones(1)], tuple(separator.prompts)[0]
    steps = []
    for start in (own, separator.prompts[own]):
        separator.tune("tone", clips, [hiss(1)], RATE, start, steps=1, on_step=steps.append, **SHORT)
    assert steps[0].before == steps[1].before
    for wrong, error in (("nothing", PromptError), (3, InputError), (ussfast.Prompt("x", torch.ones(3)), PromptError)):
        with pytest.raises(error):
            separator.tune("tone", clips, [hiss(1)], RATE, wrong, steps=1, **SHORT)


@pytest.mark.parametrize(
    ("clips", "says"),
    [
        ([], "needs a list of clips"),
        ([np.zeros(RATE, np.float32)], "clip 1 is silent"),
        ([tones(1)[:100]], "clip 1: 0.0.* too short"),
        ([np.full(RATE, np.nan, np.float32)], "clip 1: contains NaN"),
    ],
)
def test_clips_that_cannot_be(separator, clips, says):
    with pytest.raises(InputError, match=says):
        separator.tune("tone", clips, [hiss(1)], RATE, steps=1, **SHORT)
    assert "tone" not in separator.prompts


def test_names_and_settings_that_cannot_be(separator):
    own = tuple(separator.prompts)[0]
    with pytest.raises(PromptError, match="is a class prompt"):
        separator.tune(own, [tones(1)], [hiss(1)], RATE, steps=1)
    for wrong in ({"loss": "mse"}, {"batch": 0}, {"lr": -1.0}, {"nothing": 1}):
        with pytest.raises(InputError):
            separator.tune("tone", [tones(1)], [hiss(1)], RATE, steps=1, **wrong)


def test_losses():
    sounds = torch.from_numpy(noise(3, 2000))
    assert float(loss_of(sounds, sounds, "snr")) == pytest.approx(-30, abs=1e-3)
    assert float(loss_of(0 * sounds, sounds, "l1")) == pytest.approx(1)
    assert float(loss_of(2 * sounds, sounds, "snr")) == pytest.approx(0, abs=0.01)
    assert float(loss_of(1.1 * sounds, sounds, "l1")) == pytest.approx(0.1, rel=1e-4)


def test_mixtures():
    sounds, others = [Sound(tones(i, 0.3), f"{i}") for i in range(3)], [Sound(hiss(1, 2.0), "hiss")]
    mixtures, alone, which = Mixtures(sounds, others, 0.5, RATE, np.random.default_rng(0)).draw(9)
    assert mixtures.shape == alone.shape == (9, RATE // 2) and mixtures.dtype == torch.float32
    assert sorted(which) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    beside = (mixtures - alone).square().sum(1)
    ratio = 10 * torch.log10(beside / alone.square().sum(1))
    assert ((ratio > -8.1) & (ratio < 8.1)).all() and ratio.std() > 1


def test_sounds_are_changed_in_speed_and_colour():
    sound, rng = Sound(tones(1, 3.0), "tone"), np.random.default_rng(0)

    def pitch(audio):
        spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 1 << 16))
        return float(spectrum.argmax() * RATE / (1 << 16))

    own = pitch(sound.audio)
    faster = Mixtures([sound], [sound], 0.5, RATE, rng, semitones=3.0)
    found = [12 * np.log2(pitch(faster._changed(sound.audio)) / own) for _ in range(30)]
    assert -3.2 < min(found) < -1 and 1 < max(found) < 3.2
    coloured = Mixtures([sound], [sound], 0.5, RATE, rng, colour=6.0)
    levels = [np.abs(np.fft.rfft(coloured._changed(hiss(2)))) / np.abs(np.fft.rfft(hiss(2))) for _ in range(10)]
    ratio = 20 * np.log10(np.array(levels)[:, 1:])
    assert ratio.min() >= -6.01 and ratio.max() <= 6.01 and ratio.std() > 1
    plain = Mixtures([sound], [sound], 0.5, RATE, rng)
    assert plain._changed(sound.audio) is sound.audio


def test_what_decides_is_not_what_is_learned():
    many = [Sound(tones(i), f"{i}") for i in range(9)]
    pieces, held = cut(many, RATE, 0.5, 4)
    assert pieces == many and sorted(i for fold in held for i in fold) == list(range(9)) and len(held) == 4
    assert cut(many, RATE, 0.5, 1)[1] == [[3, 7]] and cut(many[:2], RATE, 0.5, 1)[1] == [[1]]
    pieces, held = cut(many[:1], RATE, 0.5, 5)
    assert sum(len(p.audio) for p in pieces) == len(many[0].audio) and held == [[0], [1], [2]]
    short = [Sound(tones(1, 0.4), "short")]
    assert cut(short, RATE, 0.5, 5) == (short, [[]])


def test_long_clips_are_cut_and_clipped_ones_are_known():
    long = np.concatenate([0.01 * tones(1, 20.0), tones(2, 31.0)])
    [sound] = read_sounds([long], RATE, RATE)
    assert len(sound.audio) == 30 * RATE and np.square(sound.audio).mean() > 0.04
    assert clipped([Sound(np.clip(3 * tones(1), -0.5, 0.5), "loud"), Sound(tones(1), "fine")]) == ["loud"]


def test_bundled_backgrounds():
    found = backgrounds(16000)
    assert len(found) == sum(number for _, number, _ in FILES.values())
    assert all(np.square(s.audio).mean() > 1e-4 and np.abs(s.audio).max() <= 1.1 for s in found)


@pytest.mark.skipif(cpu_isa() != "avx512_bf16", reason="other CPUs stay in float32")
def test_models_without_kernels_of_ours_learn_in_bfloat16():
    model = tiny_model(ASP).eval()
    audio, found = torch.from_numpy(noise(2, 4001)) * 0.2, []
    torch.manual_seed(0)
    vector = torch.randn(model.prompt_size)
    for precision in (None, "float32"):
        frozen = Frozen(model, precision)
        asked = vector.clone().requires_grad_()
        out = frozen.estimate(frozen.ahead(audio), asked)
        (out * audio.sign()).sum().backward()
        found.append((out.detach(), asked.grad))
    (narrow, gradient), (wide, expected) = found
    assert not torch.equal(narrow, wide) and torch.nn.functional.cosine_similarity(gradient, expected, 0) > 0.99
    assert torch.allclose(wide, model.separate(audio, vector[None])[:, 0], atol=1e-5)
