"""Folders of stems that are easy to tell apart, recipes for them, and trainers on them."""

import json
from dataclasses import replace

import numpy as np
import soundfile
import torch
from tiny import CAUSAL, RATE, TUSS, UNCONDITIONAL

from ussfast.data.stems import StemPool, read_pieces
from ussfast.models.chimera import ChimeraConfig
from ussfast.models.config import to_dict
from ussfast.stft import StftConfig
from ussfast.train.trainer import Trainer
from ussfast.train.transfer_recipe import transfer_from_dict
from ussfast.train.transfer_runs import TransferOptions, begin, stage_recipe, work_of

TONES = {"high": 2500, "low": 300, "mid": 900}
CHIMERA = ChimeraConfig(sample_rate=RATE, stft=StftConfig(128, 32, 128), hidden=12, layers=1, embedding=4)
MODELS = {"chimera": CHIMERA, "bslocoformer": UNCONDITIONAL, "tuss": TUSS, "causal": CAUSAL}


def stem_folder(root, names=tuple(TONES), pieces=2, seconds=3.0, rate=RATE):
    """A folder per piece, in it a file per stem: a tone that wavers and swells."""
    time = np.arange(round(seconds * rate)) / rate
    for piece in range(pieces):
        folder = root / f"piece {piece}"
        folder.mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(names):
            swell = 0.6 + 0.4 * np.sin(2 * np.pi * (1.1 + number / 3 + piece / 5) * time)
            tone = TONES.get(name, 500 * (number + 1))
            audio = 0.2 * swell * np.sin(2 * np.pi * tone * time + 8 * np.sin(3 * time + piece))
            soundfile.write(folder / f"{name}.wav", audio, rate, "FLOAT")
    return root


def stem_recipe(model="chimera", **changes):
    """In its plain form; `changes` go into its tables."""
    recipe = {
        "name": "tiny",
        "kind": "transfer",
        "model": {"architecture": model, **json.loads(json.dumps(to_dict(MODELS[model])))},
        "optim": {
            "steps": 6, "lr": 0.01, "weight_decay": 0.0, "warmup": 0, "schedule": "plateau", "ema": 0.0,
            "autoclip_percentile": 10.0,
        },
        "stems": {"seconds": 0.4, "batch": 3},
        "objective": {"loss": "chimera" if model == "chimera" else "snr"},
        "run": {
            "log_every": 1, "validate_every": 1000, "validate_items": 4, "checkpoint_every": 1000, "tensorboard": False
        },
    }  # fmt: skip
    for table, entries in changes.items():
        recipe[table] = recipe[table] | entries
    return recipe


def stem_pools(folder, rate=RATE):
    return StemPool.load(read_pieces(folder), rate).held_out()


def stem_work(folder, recipe=None, options=None, **replaced):
    """The work of a recipe on the stems of a folder."""
    options = options or TransferOptions(**replaced)
    recipe = stage_recipe(transfer_from_dict(recipe or stem_recipe()), options)
    train, held = stem_pools(folder)
    return work_of(recipe, train, held, begin(recipe, train, options), torch.device("cpu"), options)


def stem_trainer(run, folder, recipe=None, **options):
    return Trainer(stem_work(folder, recipe, TransferOptions(**options)), run)


def only_embedding():
    """A chimera without masks."""
    return replace(CHIMERA, masks=False)
