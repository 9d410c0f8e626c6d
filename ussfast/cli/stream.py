"""`ussfast stream`: separation while audio arrives. Heavy imports happen inside."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ussfast.cli.options import (
    Backend,
    Bank,
    Channels,
    Device,
    Dtype,
    Example,
    Learn,
    MaxAttenuation,
    Model,
    Prompts,
    Query,
    QueryDetector,
    SavePrompts,
    StreamLinking,
    SumToMixture,
    Task,
)  # fmt: skip
from ussfast.cli.telling import note
from ussfast.errors import InputError


class RawFormat(StrEnum):
    s16le = "s16le"
    s24le = "s24le"
    f32le = "f32le"


class OnBad(StrEnum):
    silence = "silence"
    raise_ = "raise"


def stream(
    input: Annotated[
        str | None, typer.Argument(metavar="[INPUT]", help="An audio file, or - for raw PCM on standard input.")
    ] = None,
    prompt: Prompts = None,
    task: Task = None,
    query: Query = None,
    example: Example = None,
    learn: Learn = None,
    save_prompts: SavePrompts = None,
    bank: Bank = None,
    detector: QueryDetector = None,
    stem: Annotated[
        str | None, typer.Option(metavar="NAME", help="Put out this stem; 'residual' for what no stem took.")
    ] = None,
    all_stems: Annotated[
        bool, typer.Option("--all", help="Put out all stems as channels: the first stem's, then the second's, ...")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Write a WAV per stem, instead of standard output."),
    ] = None,
    residual: Annotated[bool, typer.Option("--residual", help="With -o: also write what no stem took.")] = False,
    rate: Annotated[
        int | None, typer.Option(min=1, help="Of raw PCM, in Hz; live: the input device's own if not given.")
    ] = None,
    channels: Annotated[int | None, typer.Option(min=1, help="Of raw PCM or the input device; 1 if not given.")] = None,
    format: Annotated[RawFormat, typer.Option(help="Of raw PCM, in and out.")] = RawFormat.s16le,
    fast: Annotated[bool, typer.Option("--fast", help="Read a file without waiting, not at its own pace.")] = False,
    on_bad: Annotated[OnBad, typer.Option(help="What NaN or infinity in the input becomes.")] = OnBad.silence,
    live: Annotated[bool, typer.Option("--live", help="Listen to a sound device and play to one.")] = False,
    input_device: Annotated[str | None, typer.Option(metavar="DEVICE", help="Live: index or part of a name.")] = None,
    output_device: Annotated[str | None, typer.Option(metavar="DEVICE", help="Live: index or part of a name.")] = None,
    virtual: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Live: put it out as a microphone of this name (PulseAudio, PipeWire)."),
    ] = None,
    list_devices: Annotated[bool, typer.Option("--list-devices", help="List sound devices and stop.")] = False,
    block: Annotated[
        float | None,
        typer.Option(metavar="MS", help="Live: of the sound device, in ms; the model's hop (20 at most) if not given."),
    ] = None,
    statistics: Annotated[
        bool, typer.Option("--statistics", "--stats", help="A line every second on standard error, one at the end.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Statistics as JSON lines.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No lines about what is learned, or how late a model is.")
    ] = False,
    latency: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Of models that are not causal; less costs more.")
    ] = None,
    max_attenuation: MaxAttenuation = None,
    sum_to_mixture: SumToMixture = False,
    stereo: StreamLinking = Channels.independent,
    threads: Annotated[int, typer.Option(min=1, help="Of the CPU.")] = 1,
    model: Model = "default",
    device: Device = "auto",
    dtype: Dtype = "auto",
    backend: Backend = "auto",
) -> None:
    """Separate audio while it arrives: raw PCM from standard input to standard output, a file, or live."""
    if list_devices:
        from ussfast.streaming.live import devices

        print(devices.table(devices.load()))
        return
    _check_input(live, input, rate, channels, fast, input_device, output_device, block, virtual)
    if stem is not None and all_stems:
        raise InputError("--stem and --all exclude each other")
    if residual and output is None:
        raise InputError("--residual is a file: it needs -o DIR; to put the residual out, --stem residual")

    from ussfast.cli import checks
    from ussfast.cli.learned import Learned
    from ussfast.cli.queries import Queries
    from ussfast.engine.threads import check_threads
    from ussfast.streaming.live import outputs, sources

    check_threads(threads)
    named, kept = checks.asked(prompt, task)
    queries = Queries.of(bank, query, example, detector, learn)
    learned = Learned(queries.learned, save_prompts, tell=not quiet and not as_json)
    prompts = queries.asked(named)
    kept = kept and (*kept, *queries.clips)
    if output is not None:
        checks.output_folder(output)
    elif kept is not None and len(kept) == 1 and stem is None and not all_stems:
        stem = kept[0]
    chosen = output is None or stem is not None or all_stems
    for place, given in (("--output-device", output_device), ("--virtual", virtual)):
        if given is not None and not chosen:
            raise InputError(f"with -o alone nothing is played: choose what goes to {place} with --stem or --all")
    source: Any = None
    if not live and input in (None, "-"):
        assert rate is not None
        source = sources.PipeSource(sys.stdin, rate, channels or 1, format.value)
    elif not live:
        source = sources.FileSource(checks.file_argument(str(input)), fast)
    if not live and chosen:
        outputs.check_standard_output()
    facts = checks.model(model, device, dtype, backend)
    if facts is not None and facts.causal and latency is not None:
        raise InputError(f"--latency is for models that are not causal; {model!r} is, and has a latency of its own")
    labels = queries.labels(facts, prompts)
    if labels is not None and chosen:
        outputs.Selection(labels, stem, all_stems)

    # Torch takes its time: what is wrong with the input came first.
    from ussfast.streaming.live import command
    from ussfast.streaming.live.card import Card

    def open_session(sample_rate: int, channels: int) -> Any:
        from ussfast.separator import Separator

        separator: Any = Separator(
            model, device=device, dtype=dtype, backend=backend, max_attenuation=max_attenuation,
            sum_to_mixture=sum_to_mixture, channels=stereo.value, detector=detector,
        )  # fmt: skip
        queries.give(separator, prompts)
        session = separator.session(
            sample_rate, prompts=prompts, channels=channels, on_bad=on_bad.value, latency=latency, threads=threads
        )
        if facts is not None and not facts.causal and latency is None and not as_json and not quiet:
            note(
                f"model {model!r} is not causal: what comes out is {session.latency:.1f} s late; "
                "--latency SECONDS asks for less, and a causal model such as the default has far less"
            )
        learned.begin(separator, session)
        return session

    shown = "json" if as_json else "text" if statistics else None
    to = command.Destination(stem, all_stems, output, residual, shown, kept, tuple(queries.files))
    try:
        if live:
            card = Card(input_device, output_device, rate, channels or 1, plays=to.chosen and virtual is None)
            command.live(card, open_session, to, None if block is None else block / 1000, virtual)
        else:
            command.from_source(source, open_session, to, format.value)
    finally:
        learned.end()


def _check_input(
    live: bool,
    input: str | None,
    rate: int | None,
    channels: int | None,
    fast: bool,
    input_device: str | None,
    output_device: str | None,
    block: float | None,
    virtual: str | None,
) -> None:
    """InputError for options of another kind of input, or one that this kind needs."""
    only_live = {
        "--input-device": input_device, "--output-device": output_device, "--block": block, "--virtual": virtual
    }  # fmt: skip
    if live:
        if virtual is not None:
            from ussfast.streaming.live.virtual import check

            _refuse("is not for --virtual, which is heard by other programs alone", {"--output-device": output_device})
            check(virtual)
        _refuse("is not for --live", {"INPUT": input, "--fast": fast})
        if block is not None and not 0 < block <= 1000:
            raise InputError(f"--block must be above 0 and at most 1000 ms, not {block:g}")
        return
    _refuse("is for --live only", only_live)
    if input in (None, "-"):
        _refuse("is for files; raw PCM is never waited for", {"--fast": fast})
        if rate is None:
            raise InputError("raw PCM does not tell its sample rate: give --rate, in Hz")
    else:
        _refuse("is for raw PCM; a file has its own", {"--rate": rate, "--channels": channels})


def _refuse(why: str, given: dict[str, Any]) -> None:
    for name, value in given.items():
        if value not in (None, False):
            raise InputError(f"{name} {why}")
