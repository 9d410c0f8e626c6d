"""Options that several commands share."""

from enum import StrEnum
from typing import Annotated

import typer


class Channels(StrEnum):
    linked = "linked"
    independent = "independent"


Model = Annotated[str, typer.Option("--model", "-m", help="default, a model directory, or owner/name on the Hub.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or int8 (CPU, not for causal models).")]
Backend = Annotated[str, typer.Option(help="auto, native or reference.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
MaxAttenuation = Annotated[
    float | None,
    typer.Option(metavar="DB", min=0, help="Push nothing further down than this, in any stem; no limit if not given."),
]
SumToMixture = Annotated[
    bool,
    typer.Option("--sum-to-mixture", help="The prompts are all there is: share out the rest, so that stems add up."),
]
_CHANNELS = "independent: masks for each channel; linked: the same for all, in less time."
Linking = Annotated[Channels, typer.Option("--channels", "--stereo", help=_CHANNELS)]
StreamLinking = Annotated[Channels, typer.Option("--stereo", help=_CHANNELS)]  # --channels says how many there are
