"""`Separator.to`. The CPU is also called cpu:0, which is another device to torch: moves need no GPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import CAUSAL, RATE, SHORT, STEREO, TUSS, UNCONDITIONAL, noise, tiny_model

from ussfast import DeviceError, PromptError, SegmentPolicy, Separator

CONFIGS = {"causal": CAUSAL, "tuss": TUSS, "stereo": STEREO, "unconditional": UNCONDITIONAL}


def made(config, **settings):
    prompts = ("speech", "sfx") if config in (CAUSAL, TUSS) else ()
    return Separator.from_model(tiny_model(config), prompts, **({"device": "cpu"} | SHORT | settings))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("device", ["cpu:0", torch.device("cpu", 0)])
def test_the_same_elsewhere(name, device):
    here, audio = made(CONFIGS[name]), noise(2, 9000)
    before = here.separate(audio, RATE).stems
    there = here.to(device)
    assert there is not here and there.engine.device == torch.device("cpu:0") and here.engine.device.index is None
    assert (there.info, there.default_prompts, there.labels()) == (here.info, here.default_prompts, here.labels())
    np.testing.assert_array_equal(there.separate(audio, RATE).stems, before)
    with torch.no_grad():
        for parameter in there.engine.model.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(here.separate(audio, RATE).stems, before)


def test_it_stays_where_it_is():
    here = made(TUSS)
    assert here.to("cpu") is here and here.to(torch.device("cpu")) is here
    if not torch.cuda.is_available():
        assert here.to("auto") is here


def test_settings_and_windows_go_along():
    here = made(TUSS, backend="reference", dtype="bf16", batch=3)
    here.policy = SegmentPolicy(0.3, 0.1)
    there = here.to("cpu:0")
    assert there.policy == here.policy and there.settings.device == "cpu:0" and here.settings.device == "cpu"
    assert (there.engine.backend, there.engine.precision, there.engine.batch) == ("reference", "bfloat16", 3)


def test_enrolled_prompts_go_along_and_new_ones_stay():
    here, audio = made(CAUSAL), noise(1, 4000)
    here.enroll("dog", [audio], RATE)
    here.prompts.add(replace(here.prompts["dog"], name="tuned dog", kind="tuned"))
    there = here.to("cpu:0")
    assert there.prompts["tuned dog"].kind == "tuned"
    prompt = there.prompts["dog"]
    assert prompt.kind == "enrolled" and torch.equal(prompt.vector.cpu(), here.prompts["dog"].vector)
    outs = [s.separate(audio, RATE, prompts=("speech", "dog")).stems for s in (here, there)]
    np.testing.assert_array_equal(*outs)
    there.enroll("cat", [audio], RATE)
    assert "cat" not in here.prompts
    with pytest.raises(PromptError, match="unknown prompt 'cat'"):
        here.separate(audio, RATE, prompts="cat")


def test_streams_under_way_go_on():
    here, audio = made(CAUSAL), noise(1, 6000)
    session, alone = (s.session(RATE, channels=1) for s in (here, made(CAUSAL)))
    for part in np.array_split(audio, 3, 1):
        np.testing.assert_array_equal(session.push(part).stems, alone.push(part).stems)
        here.to("cpu:0").session(RATE).push(part)


@pytest.mark.parametrize(
    ("device", "says"),
    [("gpu", "unknown device 'gpu'; use auto, cpu, cuda"), ("meta", "'meta' is not supported"), ("cuda:99", "cuda:99")],
)
def test_devices_that_are_not_there(device, says):
    here = made(TUSS)
    with pytest.raises(DeviceError, match=says):
        here.to(device)
    assert here.separate(noise(1, 900), RATE).stems.any()
