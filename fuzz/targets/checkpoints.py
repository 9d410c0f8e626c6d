"""Published checkpoints of every format, changed in their settings, in what their files hold, and byte by byte: what is
converted loads."""

import random
from pathlib import Path
from typing import Any

import yaml
from golden_io import settings, weights
from golden_sfc import WHOLE, core, lightning, merged_config

from fuzz.mutate import changed
from fuzz.states import changed_state, saved, write_state
from fuzz.trees import changed_tree
from ussfast.checkpoints.store import load_model
from ussfast.convert import convert

SECONDS, MIB = 20.0, 768

Parts = tuple[str, dict, dict[str, Any], str, bytes]  # file and content of settings, weights, both as they are saved


def prepare(folder: Path) -> list[Parts]:
    espnet = settings("tflocoformer_tiny") | {"encoder_conf": {"n_fft": 128, "hop_length": 64}}
    found: list[Parts] = []
    for name, table, state in (
        ("hparams.yaml", settings("tuss_tiny"), weights("tuss_tiny")),
        ("hparams.yaml", settings("bslocoformer_tiny"), weights("bslocoformer_tiny")),
        ("config.yaml", espnet, weights("tflocoformer_tiny")),
        ("merged_config.yaml", merged_config(WHOLE), lightning(core(WHOLE), core(WHOLE))),
    ):
        found.append((name, table, state, yaml.safe_dump(table), saved(state)))
    return found


def one(context: list[Parts], rng: random.Random, folder: Path) -> None:
    name, table, state, text, data_saved = rng.choices(context, (1, 1, 12, 6))[0]  # the first ones are larger
    source, kind = folder / "exp", rng.randrange(6)
    source.mkdir()
    if kind < 3:
        text = yaml.dump(changed_tree(table, rng), allow_unicode=True)
    data = text.encode("utf-8", "surrogatepass")
    (source / name).write_bytes(changed(data, rng, 3) if kind == 3 else data)
    if kind < 4:
        (source / "model.pth").write_bytes(data_saved)
    else:
        inner = changed_state(state.get("state_dict", state), rng)
        write_state(source, state | {"state_dict": inner} if "state_dict" in state else inner, rng, damaged=kind == 5)
    info = convert(source, folder / "out", name="fuzzed")
    model, again = load_model(folder / "out")
    assert again == info and model.parameter_count() == info.parameters
