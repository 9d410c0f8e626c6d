"""Prepares the folder that `make gpu-lease` needs on a GPU machine without a network.

    make gpu-lease-pack DATA=DATA/manifest.json RUN=runs/default       # makes lease/, which git ignores

`audio/` has a part of the training and dev audio as a Vorbis pack, `wheels/` what a Python with torch and the usual
packages lacks for training (WHEELS), `run/` the newest state of a run in half precision (`checkpoints.shrink`). All
that travels, tracked files included, stays below --limit: audio gets what the rest leaves, up to --audio.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from ussfast.data.pack import PackSettings, pack, parse_size
from ussfast.data.pool import AudioPool, read_manifest
from ussfast.errors import InputError, UssfastError
from ussfast.evaluate.dev import dev_mixtures
from ussfast.train import checkpoints
from ussfast.train.recipe import Recipe, load_recipe

ROOT = Path(__file__).parents[2]
# With these go numpy, safetensors, tqdm, typer, PyYAML and accelerate, which images with torch have.
WHEELS = ("soundfile==0.14.0", "cffi==2.1.1", "pycparser==2.23", "soxr==1.1.0")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
LEAST_AUDIO, MARGIN = 4 * 2**20, 2**19


def tree_bytes(root: Path) -> int:
    """Of all files that are tracked, or that are neither tracked nor ignored."""
    listed = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, check=True, stdout=subprocess.PIPE).stdout.decode().split("\0")
    return folder_bytes(*(root / name for name in names if name))


def folder_bytes(*paths: Path) -> int:
    """Of files, and of all files in folders; what is not there counts nothing."""
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in files if file.is_file())


def fetch_wheels(folder: Path, python: str) -> None:
    """Wheels for CPython `python` (3.12) on x86-64 Linux, through pip."""
    folder.mkdir()
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    command += ["--python-version", python, "--implementation", "cp"]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    if subprocess.run([*command, *WHEELS]).returncode:
        raise InputError(f"pip could not fetch {', '.join(WHEELS)} for Python {python}")


def copy_run(run: Path, folder: Path, recipe: Recipe) -> str:
    """The newest state of a run, and its log; returns the state's name."""
    newest = checkpoints.newest(run)
    if newest is None:
        raise InputError(f"{run}: no checkpoint to go on from")
    checkpoints.load(newest, recipe)  # another model is told now and not on the machine
    folder.mkdir()
    checkpoints.shrink(newest, folder / newest.name)
    if (run / "log.jsonl").is_file():
        shutil.copyfile(run / "log.jsonl", folder / "log.jsonl")
    return newest.name


def pack_audio(manifest: Path, folder: Path, size: int, recipe: Recipe) -> None:
    """Training and dev audio in `size` bytes; InputError if no development mixtures can be made of what fits."""
    rate = recipe.model.sample_rate
    pack(manifest, folder, PackSettings(size, rate, ("train", "dev"), recipe.license_classes))
    dev = [item for item in read_manifest(folder / "manifest.json") if item.split == "dev"]
    if dev:
        next(dev_mixtures(AudioPool.load(dev, rate), 1))


def prepare(
    manifest: Path, output: Path, recipe_name: str, run: Path | None, audio: int, limit: int, python: str, root: Path
) -> dict[str, object]:
    """Makes the folder `output`, complete or not at all; returns what is in it, in bytes."""
    recipe, fresh = load_recipe(recipe_name), output.with_name(f".{output.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    tree = tree_bytes(root)
    fresh.mkdir()
    try:
        fetch_wheels(fresh / "wheels", python)
        state = copy_run(run, fresh / "run", recipe) if run is not None else None
        room = limit - MARGIN - tree - folder_bytes(fresh)
        if room < min(LEAST_AUDIO, audio):
            raise InputError(f"tracked files, wheels and the run's state leave {room / 2**20:.1f} MiB for audio")
        pack_audio(manifest, fresh / "audio", min(audio, room), recipe)
        sizes = {path.name: folder_bytes(path) for path in sorted(fresh.iterdir())}
        found = {"recipe": recipe_name, "state": state, "bytes": sizes | {"tree": tree}}
        (fresh / "pack.json").write_text(json.dumps(found, indent=1) + "\n")
        shutil.rmtree(output, ignore_errors=True)
        fresh.rename(output)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return found


def main(
    manifest: Annotated[Path, typer.Argument(help="manifest.json of the training audio.")],
    run: Annotated[Path | None, typer.Option(help="Run folder whose newest state goes along.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make or replace.")] = ROOT / "lease",
    recipe: Annotated[str, typer.Option(help="Name or file of the recipe to train.")] = "default",
    audio: Annotated[str, typer.Option(help="At most, of audio.")] = "24MiB",
    limit: Annotated[str, typer.Option(help="Of all that travels.")] = "64MiB",
    python: Annotated[str, typer.Option(help="Version of the machine's Python.")] = "3.12",
) -> None:
    """Makes the folder of audio, wheels and state that make gpu-lease needs."""
    try:
        if output.exists() and not (output / "pack.json").is_file():
            raise InputError(f"{output}: exists and was not made by this command")
        sizes = parse_size(audio), parse_size(limit)
        found = prepare(manifest, output, recipe, run, *sizes, python, ROOT)
    except UssfastError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    typer.run(main)
