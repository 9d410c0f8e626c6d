"""Published checkpoints of detectors and of the zero-shot separator, changed in what is beside them, in what they hold,
and byte by byte: what is converted loads."""

import json
import random
from pathlib import Path
from typing import Any, NamedTuple

from golden_detectors import HTSAT, LEVEL, TAGS
from golden_io import settings, weights

from fuzz.mutate import changed
from fuzz.states import changed_state, saved, write_state
from fuzz.trees import changed_tree, written
from ussfast.checkpoints.store import load_detector, load_model, read_info
from ussfast.convert import convert

SECONDS, MIB = 20.0, 768

UNET = "zeroshot_unet_tiny"
# How files are called, whose settings are known by that.
STEMS = ("Cnn14_mAP=0.431", "Cnn14_DecisionLevelMax_mAP=0.385", "htsat_audioset", "zeroshot_asp_full", "model")


class Published(NamedTuple):
    format: str
    table: dict
    state: dict[str, Any]
    data: bytes
    names: str  # class_labels_indices.csv


def prepare(folder: Path) -> list[Published]:
    found = []
    for name, form, prefix in ((TAGS, "panns", ""), (LEVEL, "panns", ""), (HTSAT, "htsat", "sed_model."),
                               (UNET, "zeroshot", "")):  # fmt: skip
        state: dict[str, Any] = {prefix + key: value for key, value in weights(name).items()}
        labels = settings(name).get("classes_num", 4)
        rows = [f'{i},/m/0{i},"Sound {i}, of a thing"' for i in range(labels)]
        state = {"model": state} if form == "panns" else {"state_dict": state, "epoch": 1} if prefix else state
        table = {key: value for key, value in settings(name).items() if key != "weights"}
        found.append(Published(form, table, state, saved(state), "\n".join(["index,mid,display_name", *rows])))
    return found


def one(context: list[Published], rng: random.Random, folder: Path) -> None:
    form, table, state, data, names = rng.choice(context)
    source, kind = folder / "exp", rng.randrange(6)
    source.mkdir()
    stem = rng.choice(STEMS)
    if rng.random() < 0.9:
        (source / "config.json").write_bytes(written(changed_tree(table, rng) if kind < 3 else table, rng))
    if rng.random() < 0.3:
        bad = changed(names.encode(), rng, 3) if rng.random() < 0.7 else names.encode()
        (source / "class_labels_indices.csv").write_bytes(bad)
    if kind < 4:
        (source / f"{stem}.pth").write_bytes(data)
    else:
        outer = next((key for key in ("model", "state_dict") if key in state), None)
        inner = changed_state(state[outer] if outer else state, rng)
        write_state(source, state | {outer: inner} if outer else inner, rng, kind == 5, stem)
    (path,) = (path for path in source.iterdir() if path.stem == stem)
    info = convert(path, folder / "out", format=rng.choice((form, form, "auto")), name="fuzzed")
    network, again = (load_detector if info.detects else load_model)(folder / "out")
    assert again == info == read_info(folder / "out") and network.parameter_count() == info.parameters
    json.dumps(dict(info.source), allow_nan=False)
