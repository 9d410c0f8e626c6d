"""Options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ussfast.checkpoints.names import DETECTOR, embedded, glance
from ussfast.prompts.tasks import TASKS, described


def _names_of_default() -> str:
    """What to say about the prompts of the embedded default, if there is one."""
    directory = embedded().get("default")
    found = glance(directory, "default") if directory else None
    return f" The default model knows {', '.join(found.prompts)}." if found else ""


def _model_names() -> list[str]:
    return [name for name in embedded() if name != DETECTOR]


def _detector_names() -> list[str]:
    return [name for name in embedded() if name == DETECTOR]


def _task_names() -> list[str]:
    return list(TASKS)


_MODELS = ", ".join(dict.fromkeys(("default", *_model_names())))
_TASKS = "; ".join(f"{name} ({described(name)})" for name in TASKS)

Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help=f"{_MODELS}, a model directory, or owner/name on the Hub.", autocompletion=_model_names
    ),
]
DetectorModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="A detector: a model directory, or owner/name on the Hub; the embedded one if not given.",
        autocompletion=_detector_names,
    ),
]
Threshold = Annotated[float, typer.Option(help="An event begins where the score is above this.")]
Low = Annotated[
    float | None, typer.Option(help="It goes on while the score is above this; half of --threshold if not given.")
]
Minimum = Annotated[float, typer.Option(metavar="SECONDS", help="Drop events that are shorter.")]
Gap = Annotated[float, typer.Option(metavar="SECONDS", help="Fill gaps that are shorter, before that.")]
Prompts = Annotated[
    list[str] | None,
    typer.Option("--prompt", "-p", help=f"A sound to separate; repeat for more, or a,b.{_names_of_default()}"),
]
Task = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="NAME",
        help=f"Prompts by purpose, and after -> the stems that are kept of them, in place of -p: {_TASKS}.",
        autocompletion=_task_names,
    ),
]
Bank = Annotated[
    list[Path] | None,
    typer.Option("--bank", metavar="FILE", help="Prompts of ussfast enroll, to be named with -p; repeat for more."),
]
Query = Annotated[
    list[str] | None,
    typer.Option("--query", metavar="CLIP", help="Also separate what sounds like this file; repeat for more sounds."),
]
Example = Annotated[
    list[str] | None,
    typer.Option(
        "--example", metavar="NAME=CLIP", help="As --query, under this name; several clips of a name are one sound."
    ),
]
Learn = Annotated[
    list[str] | None,
    typer.Option(
        "--learn",
        metavar="NAME=PATH",
        help="Also separate what sounds like a file, or the files in a folder, and get better at it meanwhile; repeat.",
    ),
]
SavePrompts = Annotated[
    Path | None,
    typer.Option("--save-prompts", metavar="FILE", help="What was learned, at the end, for --bank; a new file."),
]
QueryDetector = Annotated[
    str | None,
    typer.Option(
        "--detector", metavar="MODEL", help="What makes prompts of clips where the model cannot: a model directory."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or int8 (CPU, not for causal models).")]
Backend = Annotated[str, typer.Option(help="auto, native, reference; of exported models onnx, trt or aoti.")]


class Stitch(StrEnum):
    fade = "fade"
    published = "published"


class FileFormat(StrEnum):
    wav = "wav"
    flac = "flac"
    mp3 = "mp3"
    ogg = "ogg"
    opus = "opus"


class Channels(StrEnum):
    linked = "linked"
    independent = "independent"


class ClipMode(StrEnum):
    clamp = "clamp"
    rescale = "rescale"
    none = "none"


Format = Annotated[FileFormat | None, typer.Option(help="Of the stems; WAV if nothing says otherwise.")]
BitDepth = Annotated[
    int | None, typer.Option(help="16, 24, or 32 (float, WAV only); 32 for WAV and 24 for FLAC if not given.")
]
Bitrate = Annotated[
    int | None,
    typer.Option(metavar="KBITS", help="kbit/s. MP3: constant; Opus: the mean, 96 for each channel if not given."),
]
Quality = Annotated[
    float | None,
    typer.Option(metavar="0..10", help="Variable bit rate of MP3 and Ogg, 10 is best; 8 if not given."),
]
Clip = Annotated[
    ClipMode | None,
    typer.Option(
        help="Samples beyond full scale: clamp each, rescale all stems of a file by one factor, or none; "
        "none for float WAV, else clamp, if not given."
    ),
]
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
Stem = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Write only this stem; repeat for more. 'residual' is what no stem took."),
]
Segment = Annotated[float | None, typer.Option(help="Window for long audio, in seconds.")]
Overlap = Annotated[float | None, typer.Option(help="Shared by neighbouring windows, in seconds.")]
Stitching = Annotated[Stitch | None, typer.Option(help="How windows are joined; fade if not given.")]
LookAhead = Annotated[
    float | None, typer.Option(help="Right-hand context in seconds: windows as for live audio.")
]
Batch = Annotated[
    int | None, typer.Option(min=1, help="Windows to compute at once; 8 on a GPU and 1 on a CPU if not given.")
]
Template = Annotated[
    str, typer.Option(help="Names of stems under DIR: {name} and {suffix} of the input, {label}, {index}.")
]
Residual = Annotated[bool | None, typer.Option("--residual/--no-residual", help="Also write what no stem took.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
TEMPLATE = "{name}/{label}.wav"
