"""Engines of an export directory, on the machine that has the GPU.

python -m ussfast.export.trt DIR [--graph NAME] [--typical frames=500] [--workspace-gb 4] [--timing-cache FILE]
python -m ussfast.export.trt DIR --verify
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ussfast import interrupts
from ussfast.audio.atomic import atomic_write
from ussfast.errors import InputError, UssfastError
from ussfast.export.trt.build import build_engines, verify_engines
from ussfast.export.trt.report import summary, table


def sizes(given: Sequence[str]) -> dict[str, int]:
    """{"frames": 500} of ["frames=500"]."""
    found = {}
    for text in given:
        name, equals, number = text.partition("=")
        if not equals or not number.isdecimal():
            raise InputError(f"--typical must be NAME=NUMBER, such as frames=500, got {text!r}")
        found[name] = int(number)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ussfast.export.trt",
        description="Makes TensorRT engines of the ONNX files of an export directory, for the GPU of this machine.",
    )
    parser.add_argument("directory", type=Path, help="made by python -m ussfast.export MODEL --onnx -o DIRECTORY")
    parser.add_argument("--graph", action="append", metavar="NAME", help="only this one; may be given several times")
    parser.add_argument("--typical", action="append", default=[], metavar="NAME=N", help="size to be fastest for")
    parser.add_argument("--workspace-gb", type=float, metavar="N", help="most GPU memory of a run")
    parser.add_argument("--timing-cache", type=Path, metavar="FILE", help="measurements for further builds")
    parser.add_argument("--device", default="cuda", help="cuda or cuda:N")
    parser.add_argument("--no-check", action="store_true", help="no comparison with onnxruntime, no latency")
    parser.add_argument("--verify", action="store_true", help="builds nothing: compares the engines that there are")
    parser.add_argument("--json", type=Path, metavar="REPORT", help="writes the report there too")
    parser.add_argument("-v", "--verbose", action="store_true", help="shows what TensorRT says")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO if given.verbose else logging.ERROR, format="%(message)s")
    try:
        with interrupts.unwinding():
            if given.verify:
                built = verify_engines(given.directory, graphs=given.graph, device=given.device)
            else:
                built = build_engines(
                    given.directory,
                    graphs=given.graph,
                    typical=sizes(given.typical),
                    workspace_gb=given.workspace_gb,
                    timing_cache=given.timing_cache,
                    progress=not given.quiet,
                    check=not given.no_check,
                    device=given.device,
                )
            if given.json:
                with atomic_write(given.json) as temporary:
                    temporary.write_text(json.dumps(summary(built), indent=1) + "\n")
    except UssfastError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        print("interrupted: the engine that was being built is not there", file=sys.stderr)
        return interrupts.exit_code(interrupt)
    print(table(built))
    return int(not all(engine.good for engine in built))


if __name__ == "__main__":
    sys.exit(main())
