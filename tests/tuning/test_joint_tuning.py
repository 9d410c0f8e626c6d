"""Joint fine-tuning: a copy of the model learns with the prompt; the model itself stays."""

import pytest
import torch
from easy_sounds import RATE, heeding_model, hiss, tones
from tiny import ASP, noise, tiny_detector_directory, tiny_model

import ussfast
from ussfast import InputError, PromptError
from ussfast.tuning.joint import BANK, save_jointly, tune_jointly
from ussfast.tuning.tuner import sdr

SHORT = {"seconds": 0.5, "mixtures": 16, "held": 8, "every": 10, "batch": 4, "weights_lr": 1e-3}
CLIPS, AROUND = [tones(i) for i in range(5)], [hiss(i) for i in range(4)]


def quality(separator, name):
    mixture = (tones(9) + hiss(9))[None]
    found = separator.separate(mixture, RATE, prompts=name).stems[0]
    return float(sdr(torch.from_numpy(found), torch.from_numpy(tones(9)[None]))[0])


def test_a_copy_learns_and_is_a_model_directory(tmp_path):
    separator = ussfast.Separator.from_model(heeding_model(), device="cpu")
    before = {key: value.clone() for key, value in separator.engine.model.state_dict().items()}
    steps, better = [], []
    made = tune_jointly(
        separator, "tone", CLIPS, AROUND, RATE, steps=60, lr=0.1, on_step=steps.append,
        on_better=better.append, **SHORT,
    )  # fmt: skip
    model = separator.engine.model
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert "tone" not in separator.prompts
    assert made.prompts["tone"].kind == "class" and set(made.prompts) == {*separator.prompts, "tone"}
    changed = made.engine.model.state_dict()
    assert sum(not torch.equal(changed[key], before[key]) for key in before if key != "prompts") > 10
    separator.enroll("tone", CLIPS, RATE)
    assert quality(made, "tone") > quality(separator, "tone") + 3
    assert len(steps) == 60 and len(better) > 1 and steps[-1].best > steps[-1].before + 3
    assert quality(better[-1](), "tone") == pytest.approx(quality(made, "tone"), abs=1e-4)

    save_jointly(made, tmp_path / "mine", None)
    again = ussfast.Separator(tmp_path / "mine", device="cpu")
    assert quality(again, "tone") == pytest.approx(quality(made, "tone"), abs=1e-4)
    assert again.info.source["prompt"] == "tone" and again.info.source["clips"] == 5
    with pytest.raises(InputError, match="there is a model already"):
        save_jointly(made, tmp_path / "mine", None)


def test_no_better_model_no_other_model():
    separator = ussfast.Separator.from_model(heeding_model(), device="cpu")
    made = tune_jointly(
        separator, "tone", CLIPS, AROUND, RATE, steps=9, **SHORT
    )
    theirs = separator.engine.model.state_dict()
    for key, value in made.engine.model.state_dict().items():
        assert torch.equal(value[: len(theirs[key])] if value.dim() else value, theirs[key])
    theirs = {p.data_ptr() for p in separator.engine.model.parameters()}
    assert not theirs & {p.data_ptr() for p in made.engine.model.parameters()}


def test_a_model_without_names_gets_a_bank(tmp_path):
    detector = tiny_detector_directory(tmp_path)
    separator = ussfast.Separator.from_model(tiny_model(ASP), detector=str(detector), device="cpu")
    *clips, beside = (noise(1, 2 * RATE, seed=i)[0] for i in range(3))
    rate = separator.sample_rate
    made = tune_jointly(separator, "tone", clips, [beside], rate, steps=2, **SHORT | {"every": 1})
    assert made.prompts["tone"].kind in ("tuned", "enrolled")
    save_jointly(made, tmp_path / "mine", None)
    again = ussfast.Separator(tmp_path / "mine", device="cpu")
    [prompt] = again.load_prompts(tmp_path / "mine" / BANK)
    assert torch.equal(prompt.vector, made.prompts["tone"].vector)


def test_wrong_names_and_settings():
    separator = ussfast.Separator.from_model(heeding_model(), device="cpu")
    with pytest.raises(PromptError, match="is a class prompt"):
        tune_jointly(separator, "speech", CLIPS, AROUND, RATE, steps=1)
    with pytest.raises(InputError, match="weights_lr"):
        tune_jointly(separator, "tone", CLIPS, AROUND, RATE, steps=1, weights_lr=-1.0)
