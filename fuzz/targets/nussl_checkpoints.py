"""Checkpoints of nussl, changed in settings and weights, byte by byte, and with code in them: none runs, and what is
converted loads."""

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from nussl_files import Call, classes, configuration, content

from fuzz.mutate import changed
from fuzz.states import changed_state, other_entries, saved
from fuzz.trees import changed_tree
from ussfast.checkpoints.store import load_model
from ussfast.convert import convert
from ussfast.errors import CheckpointError

SECONDS, MIB = 20.0, 768


def prepare(folder: Path) -> None:
    return None


def one(context: None, rng: random.Random, folder: Path) -> None:
    victim, kind = folder / "victim", rng.randrange(6)
    with classes() as nussl:
        made: Any = content(nussl)
        if kind == 0:
            made["config"] = json.dumps(changed_tree(json.loads(configuration()), rng))
        elif kind == 1:
            about = made["metadata"]
            if rng.random() < 0.5:
                about["stft_params"] = list(about["stft_params"])
            made["metadata"] = changed_tree(about, rng)
        elif kind == 2:
            half = rng.choice(("layers.", ""))
            state = {k: v for k, v in made["state_dict"].items() if k.startswith(half)}
            made["state_dict"] = changed_state(state, rng)
        elif kind == 3:
            code = Call(rng.choice((os.system, eval, nussl.Compose, nussl.STFTParams)), f"touch {victim}")
            rng.choice((made, made["metadata"], made["state_dict"], made["metadata"]["train_dataset"]))["more"] = code
        data = saved(made, rng.random() < 0.7)
    if kind > 3:
        data = other_entries(data, rng) if rng.random() < 0.8 else changed(data, rng, 3)
    path = folder / "best.model.pth"
    path.write_bytes(data)
    try:
        info = convert(path, folder / "out", format=rng.choice(("nussl", "nussl", "auto")), name="fuzzed")
        model, again = load_model(folder / "out")
        assert again == info and model.parameter_count() == info.parameters
        json.dumps(dict(info.source), allow_nan=False)
    except CheckpointError as error:
        assert kind != 3 or "code" in str(error) or "'more' is something else" in str(error), error
        raise
    finally:
        assert not victim.exists() and not any(name.split(".")[0] == "nussl" for name in sys.modules)
