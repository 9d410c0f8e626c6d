"""SFC instances of tests/golden as their publisher's files, and through the converter as models."""

import tempfile
from functools import cache
from pathlib import Path

import torch
import yaml
from golden_io import settings, weights
from torch import Tensor

from ussfast.checkpoints.store import load_model
from ussfast.convert import convert
from ussfast.models.bslocoformer import BsLocoformer

WHOLE = "sfc_bslocoformer_tiny"  # the instances of encoder and decoder alone take their blocks from it


def core(name: str) -> dict[str, Tensor]:
    """The separator's tensors under the names that it has for them."""
    found = {key.removeprefix("model."): value for key, value in weights(name).items() if "window" not in key}
    if "separator" in settings(name):
        return found
    return {key: value for key, value in weights(WHOLE).items() if key.startswith("blocks.")} | found


def merged_config(name: str) -> dict:
    """Settings of a whole model, nested like those of a recipe; the wrapper's are made up where there was none."""
    given = settings(name)
    n_fft, rate = given["common"]["n_fft"], given["common"]["sample_rate"]
    wrapper = {"n_fft": n_fft, "hop_length": n_fft // 4, "fs": rate, "scaling": True, "css_segment_size": 12}
    ends = {**given["common"], **given["attn"], "n_chan": given["n_chan"]}
    return {
        "seed": 2026,
        "model": {
            "separator": given.get("separator", settings(WHOLE)["separator"]) | {"n_chan": 7},  # not used upstream
            "encoder": {"class": "Encoder", "args": ends},
            "decoder": {"class": "Decoder", "args": ends | {"n_src": given["n_src"]}},
        },
        "wrappers": [given.get("wrapper", wrapper)],
    }


def lightning(state: dict[str, Tensor], raw: dict[str, Tensor]) -> dict:
    """A training checkpoint: `state` as running averages and `raw`, with what else there is beside them."""
    window = torch.hann_window(8)
    entries = {f"model.model.{key}": value for key, value in raw.items()}
    entries |= {f"ema_model.module.model.{key}": value for key, value in state.items()}
    for prefix in ("model.", "ema_model.module."):
        entries |= {f"{prefix}stft.0.window": window, f"{prefix}istft.window": window}
    entries |= {"stft.0.window": window, "ema_model.n_averaged": torch.tensor(7)}
    entries["ema_model.module.model.encoder.indices"] = torch.arange(4)
    return {"epoch": 3, "state_dict": entries, "lr_schedulers": []}


def publish(folder: Path, name: str) -> Path:
    """A recipe's directory with one training checkpoint, whose raw copy is twice the averaged one."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "merged_config.yaml").write_text(yaml.safe_dump(merged_config(name)))
    state = core(name)
    doubled = {key: 2 * value for key, value in state.items()}
    torch.save(lightning(state, doubled), folder / "checkpoints" / "epoch=3.ckpt")
    return folder


@cache
def sfc_model(name: str) -> BsLocoformer:
    with tempfile.TemporaryDirectory() as place:
        convert(publish(Path(place) / "recipe", name), Path(place) / "model")
        model = load_model(Path(place) / "model")[0]
    assert isinstance(model, BsLocoformer)
    return model
