"""The training of a lease: the recipe in bfloat16 until a given time, from the state that came along.

    python bench/lease/train.py PACK RUN UNTIL --recipe default        # lease.py calls it

PACK is the folder of pack.py, RUN where to train (outside of it), UNTIL a time.time().
"""

import shutil
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer
import yaml

from ussfast.train.export import keep_newest
from ussfast.train.run import train_recipe

ROOT = Path(__file__).parents[2]


def lease_recipe(name: str, rows: int | None) -> dict:
    """The recipe in its plain form, for a short time on a GPU: bfloat16, and no comparison of averages at the end."""
    path = Path(name) if Path(name).is_file() else resources.files("ussfast.train") / "recipes" / f"{name}.yaml"
    recipe = yaml.safe_load(path.read_text())
    recipe["run"] = recipe.get("run", {}) | {"precision": "bf16", "average": False, "tensorboard": False}
    if rows is not None:
        recipe["mix"] = recipe.get("mix", {}) | {"rows": rows}
    return recipe


def main(
    pack: Annotated[Path, typer.Argument()],
    run: Annotated[Path, typer.Argument()],
    until: Annotated[float, typer.Argument()],
    recipe: Annotated[str, typer.Option()] = "default",
    start: Annotated[Path, typer.Option(help="Weights to begin with where no state came along.")] = ROOT
    / "training/default",
    rows: Annotated[int | None, typer.Option(help="Sources per step, in place of the recipe's.")] = None,
    device: Annotated[str, typer.Option()] = "auto",
) -> None:
    run.mkdir(parents=True, exist_ok=True)
    if (pack / "run").is_dir():
        shutil.copytree(pack / "run", run, dirs_exist_ok=True)
    own = run / "recipe.yaml"
    own.write_text(yaml.safe_dump(lease_recipe(recipe, rows)))
    train_recipe(
        str(own), pack / "audio/manifest.json", run, None, device, start=start if start.is_dir() else None, until=until
    )
    print(keep_newest(run, run / "kept"))


if __name__ == "__main__":
    typer.run(main)
