"""A step of Self-Remixing and RemixIT against recordings of the published code, and its parts one by one."""

import numpy as np
import pytest
import torch
from golden_io import arrays, assert_close, settings

from ussfast.train.remix_losses import SnrPairs
from ussfast.train.remixing import (
    Shuffle,
    assigned,
    consistent,
    loudest,
    remixed_loss,
    taught,
)

NAME = "selfremixing"


def fir(taps: torch.Tensor):
    """[sources, taps] -> a separator, of which output n is x filtered by row n."""
    def separate(x):
        padded = torch.nn.functional.pad(x, (taps.shape[1] - 1, 0))
        return torch.nn.functional.conv1d(padded[:, None], taps.flip(1)[:, None])

    return separate


@pytest.mark.parametrize("case", ["self", "both", "remixit"])
def test_published_step(case):
    inputs, wanted, config = arrays(NAME, "inputs"), arrays(NAME, "outputs"), settings(NAME)["cases"][case]
    taps = inputs["student_fir"].clone().requires_grad_()
    sources = taught(fir(inputs["teacher_fir"]), inputs["mix"], 3, config["shuffler_mixconsis"])
    shuffle = Shuffle(wanted[f"{case}_batch_perms"], wanted.get(f"{case}_channel_perms"))
    found = remixed_loss(
        fir(taps), inputs["mix"], sources, shuffle, SnrPairs(), config["remixit_loss_weight"],
        config["selfremixing_loss_weight"], config["solver_mixconsis"],
    )  # fmt: skip
    found.total.backward()
    assert_close(found.total.detach(), wanted[f"{case}_loss"], 1e-5)
    assert_close(taps.grad, wanted[f"{case}_grad"], 1e-4)


def test_published_parts():
    inputs, wanted = arrays(NAME, "inputs"), arrays(NAME, "outputs")
    out = fir(inputs["teacher_fir"])(inputs["mix"])
    assert_close(out[..., :50], wanted["teacher_out"], 1e-5)
    assert_close(consistent(out, inputs["mix"])[..., :50], wanted["mixture_consistent"], 1e-5)
    assert_close(loudest(inputs["est"], 2)[..., :20], wanted["most_energetic"], 0)
    losses, _ = assigned(SnrPairs()(inputs["est"], inputs["ref"]))
    assert_close(losses.mean(1), wanted["thres_snr_pit"], 1e-5)
