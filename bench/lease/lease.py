"""One command for a GPU machine that is at hand for minutes: tests, a short bench, then training until the time is up.

    make gpu-lease LIMIT=570 OUT=lease-out      # or: python3 bench/lease/lease.py --limit 570 -o lease-out

Needs the folder of `make gpu-lease-pack` beside the tree, no network and no installation. Every step has a time of its
own after which it is ended; one that fails, or is ended, stops nothing. The output folder has at most eight files below
16 MiB each: lease.json (what happened, results of tests and benches), lease.log (what the steps printed), log.jsonl of
the run, its newest checkpoint step-*/ to go on from, and model/, its present weights in float16.

Only the standard library is imported here: what else is missing shows in a step and not before the first.
"""

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STEPS = "step-" + 7 * "[0-9]"
MOST_FILES, MOST_BYTES, LOG_BYTES = 8, 16 * 2**20, 4 * 2**20
FOR_TRAINING = ("torch", "numpy", "safetensors", "tqdm", "typer", "yaml", "accelerate", "soundfile", "soxr")
FOR_TESTS = ("pytest", "pytest_benchmark", "hypothesis", "matplotlib", "triton")
# Seconds before the end: the training stops by itself, then it is ended, then results are collected.
STOPS, ENDED = 30.0, 12.0
COPY_EVERY = 60.0


class Lease:
    """The steps so far, on disk at any time."""

    def __init__(self, limit: float, output: Path, pack: Path):
        self.begun, self.limit = time.monotonic(), limit
        self.output, self.pack = output, pack
        self.work = Path(tempfile.mkdtemp(prefix="lease-"))
        self.site, self.run = self.work / "site", self.work / "run"
        self.found: dict[str, Any] = {"limit_s": limit, "steps": []}
        output.mkdir(parents=True, exist_ok=True)
        (output / "lease.log").write_text("")

    @property
    def left(self) -> float:
        return self.limit - (time.monotonic() - self.begun)

    def note(self, **facts: Any) -> None:
        self.found |= facts
        self.found["seconds"] = round(self.limit - self.left, 1)
        write(self.output / "lease.json", json.dumps(self.found, indent=1) + "\n")

    def step(self, name: str, command: list[str], seconds: float, meanwhile: Callable[[], None] = lambda: None) -> bool:
        """Runs a command in the tree for so long at most; whether it succeeded. Nothing that happens is raised."""
        start, seconds = time.monotonic(), min(seconds, self.left - ENDED)
        outcome = "no time left"
        if seconds > 0:
            with open(self.output / "lease.log", "ab") as log:
                log.write(f"\n== {name}: {' '.join(command)}\n".encode())
                log.flush()
                try:
                    outcome = self._ended(command, seconds, log, meanwhile)
                except OSError as error:
                    outcome = f"not started: {error}"
        took = round(time.monotonic() - start, 1)
        self.found["steps"].append({"step": name, "outcome": outcome, "seconds": took, "allowed_s": round(seconds, 1)})
        self.note()
        print(f"{name}: {outcome}, {took} s", flush=True)
        return outcome == "ok"

    def _ended(self, command: list[str], seconds: float, log: Any, meanwhile: Callable[[], None]) -> str:
        path = os.pathsep.join(filter(None, [str(self.site), str(ROOT), os.environ.get("PYTHONPATH")]))
        cores = str(len(os.sched_getaffinity(0)))
        more = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "MAX_JOBS": os.environ.get("MAX_JOBS", cores)}
        # A group of its own, so that what a step has started ends with it; Ctrl-C works there whoever started us.
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | more, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        until, copied = time.monotonic() + seconds, time.monotonic()
        ended = ""
        while process.poll() is None:
            time.sleep(0.1)
            if time.monotonic() - copied > COPY_EVERY:
                meanwhile()
                copied = time.monotonic()
            if time.monotonic() > until:
                # pytest still writes its report when it is interrupted.
                ended = f"ended after {seconds:.0f} s"
                _signal(process, signal.SIGINT)
                try:
                    process.wait(min(5.0, seconds))
                except subprocess.TimeoutExpired:
                    pass
                break
        _signal(process, signal.SIGKILL)
        return ended or ("ok" if process.wait() == 0 else f"failed ({process.returncode})")

    def results(self, *names: str) -> None:
        """Results of tests and benches go into lease.json: files are few."""
        for name in names:
            path = self.work / "results" / f"{name}.json"
            try:
                content = json.loads(path.read_text())
            except (OSError, ValueError):
                continue
            for bench in content.get("benchmarks", []):
                bench.get("stats", {}).pop("data", None)
            self.note(**{name: content})

    def collect(self) -> None:
        """The newest checkpoint, the log and the weights of the run, each in place of an older one."""
        log, steps = self.run / "log.jsonl", sorted(self.run.glob(STEPS))
        sources = [self.run / "kept"]
        if steps and not (self.output / steps[-1].name).is_dir():
            sources.append(steps[-1])
        if log.is_file():
            write(self.output / "log.jsonl", log.read_text())
        for source in sources:
            files = sorted(source.glob("*")) if source.is_dir() else []
            if not files or any(file.stat().st_size > MOST_BYTES for file in files):
                continue
            old = list(self.output.glob(STEPS)) if source in steps else [self.output / "model"]
            target = self.output / (source.name if source in steps else "model")
            others = [f for f in self.output.rglob("*") if f.is_file() and f.parent not in old]
            if len(others) + len(files) > MOST_FILES:
                self.note(left_out=f"{source.name}: more than {MOST_FILES} files")
                continue
            for folder in old:
                shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(source, target)


def write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.replace(path)


def missing(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if importlib.util.find_spec(name) is None]


def unpack_wheels(folder: Path, site: Path) -> list[str]:
    """Unpacks the wheels whose packages this Python lacks, without pip; their names."""
    unpacked = []
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            tops = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" not in name}
            modules = {top.split(".")[0] for top in tops}
            if missing(tuple(modules)):
                archive.extractall(site)
                unpacked.append(wheel.name)
    return unpacked


def lease(options: argparse.Namespace) -> None:
    here = Lease(options.limit, options.output.resolve(), options.pack.resolve())
    python, runner = sys.executable, str(ROOT / "bench/gpu_run.py")
    results = str(here.work / "results")
    try:
        unpacked = unpack_wheels(here.pack / "wheels", here.site)
        sys.path.insert(0, str(here.site))
        importlib.invalidate_caches()
        lacks = {"training": missing(FOR_TRAINING), "tests": missing(FOR_TESTS)}
        here.note(python=sys.version.split()[0], wheels=unpacked, missing=lacks)
        # At most half of the time is for all that is not training.
        share = min(1.0, 0.5 * options.limit / max(1.0, options.build + options.tests + options.bench))
        if shutil.which("nvcc") or os.environ.get("CUDA_HOME"):
            build = [python, "setup.py", "-q", "build_ext", "--inplace"]
            here.step("build", ["env", "USSFAST_BUILD=cuda", *build], share * options.build)
        here.step("tests", [python, runner, "test", "-o", results], share * options.tests)
        here.step("bench", [python, runner, "bench", "-o", results, "-k", options.only], share * options.bench)
        here.results("gpu-test", "gpu-bench")
        until = time.time() + here.left - STOPS
        train = [python, str(ROOT / "bench/lease/train.py"), str(here.pack), str(here.run), str(until)]
        train += ["--recipe", options.recipe, *(["--rows", str(options.rows)] if options.rows else [])]
        if not here.step("training", train, here.left - ENDED, here.collect):
            print("training did not end by itself: its last checkpoint is what there is", flush=True)
        here.collect()
    finally:
        log = here.output / "lease.log"
        if log.stat().st_size > LOG_BYTES:
            log.write_bytes(log.read_bytes()[-LOG_BYTES:])
        here.note()
        shutil.rmtree(here.work, ignore_errors=True)
    print(json.dumps({key: here.found[key] for key in ("seconds", "steps")}, indent=1))


def _signal(process: subprocess.Popen, number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=570, help="seconds after which everything is over (570)")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "lease-out")
    parser.add_argument("--pack", type=Path, default=ROOT / "lease", help="folder of make gpu-lease-pack")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--rows", type=int, help="sources per step, in place of the recipe's")
    parser.add_argument("--build", type=float, default=90, help="seconds for the extension, where there is nvcc (90)")
    parser.add_argument("--tests", type=float, default=90, help="seconds for the tests that need a GPU (90)")
    parser.add_argument("--bench", type=float, default=60, help="seconds for the benches (60)")
    parser.add_argument("--only", default="bench_kernel", help="benches, as -k of pytest")
    options = parser.parse_args()
    if options.limit < ENDED + STOPS:
        parser.error(f"--limit needs {ENDED + STOPS:.0f} s or more")
    lease(options)


if __name__ == "__main__":
    main()
