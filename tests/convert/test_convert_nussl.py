"""Checkpoints of nussl: tensors, settings and objects of its classes in one pickle, of which no class is looked for."""

import builtins
import json
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from chimera_models import CONFIG, tiny
from nussl_files import configuration, filled, save
from typer.testing import CliRunner

from ussfast import Separator
from ussfast.checkpoints.store import load_model
from ussfast.cli.main import app
from ussfast.convert import convert
from ussfast.convert.nussl import belongs
from ussfast.errors import CheckpointError
from ussfast.stft import StftConfig

LABELS = ("accompaniment", "vocals")
SECONDS = 400 * 32 / 8000


def same(directory, **changes):
    model, info = load_model(directory)
    assert model.config == replace(CONFIG, **{"labels": LABELS, "segment_seconds": SECONDS} | changes)
    want = tiny().state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, want[key]), key
    return info


def refused(path, says, tmp_path):
    with pytest.raises(CheckpointError, match=says) as caught:
        convert(path, tmp_path / "out", format="nussl")
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_a_checkpoint(tmp_path, zipped):
    path = save(tmp_path / "best.model.pth", zipped=zipped)
    assert "nussl" not in sys.modules and belongs(path)
    info = convert(path, tmp_path / "out", license="MIT")  # what is in it tells the format
    assert "nussl" not in sys.modules
    assert info == same(tmp_path / "out")
    assert (info.architecture, info.labels, info.sample_rate) == ("chimera", LABELS, 8000)
    assert info.source["format"] == "nussl" and info.source["nussl_version"] == "1.1.9"
    found = Separator(tmp_path / "out", device="cpu").separate(np.ones((1, 4000), np.float32) * 0.1, 8000)
    assert found.labels == LABELS


@pytest.mark.parametrize("half", ["layers.", ""])
def test_one_half_of_the_doubled_weights_is_enough(tmp_path, half):
    def keep(made, _):
        state = made["state_dict"]
        made["state_dict"] = {k: v for k, v in state.items() if k.startswith("layers.") == bool(half)}

    convert(save(tmp_path / "a.pth", keep), tmp_path / "out")
    same(tmp_path / "out")


def test_halves_that_differ(tmp_path):
    def change(made, _):
        made["state_dict"]["mask.linear.bias"] = made["state_dict"]["mask.linear.bias"] + 1

    refused(save(tmp_path / "a.pth", change), "mask.linear.bias is there twice, with other numbers", tmp_path)


def test_the_order_of_sources_is_free_after_training_with_permutations(tmp_path):
    path = save(tmp_path / "a.pth", lambda made, _: made.update(loss_dictionary={"PermutationInvariantLoss": {}}))
    convert(path, tmp_path / "out")
    same(tmp_path / "out", labels=())


@pytest.mark.parametrize("names", [("a", "b", "c"), ("a", "a"), ("a", 3)])
def test_names_that_are_not_those_of_all_sources(tmp_path, names):
    convert(save(tmp_path / "a.pth", names=names), tmp_path / "out")
    same(tmp_path / "out", labels=())


def test_only_embeddings(tmp_path):
    def change(made, _):
        made["state_dict"] = {k: v for k, v in made["state_dict"].items() if "mask" not in k}
        table = json.loads(made["config"])
        for name in ("mask", "estimates"):
            del table["modules"][name]
        table["connections"] = [edge for edge in table["connections"] if edge[0] in table["modules"]]
        made["config"] = json.dumps(table)

    convert(save(tmp_path / "a.pth", change, names=("a", "b", "c")), tmp_path / "out")
    same(tmp_path / "out", masks=False, labels=(), sources=3)


def test_only_masks_with_the_configuration_in_the_metadata(tmp_path):
    def change(made, _):
        made["state_dict"] = {k: v for k, v in made["state_dict"].items() if "embedding" not in k}
        table = json.loads(made.pop("config"))
        del table["modules"]["embedding"]
        table["connections"] = [edge for edge in table["connections"] if edge[0] in table["modules"]]
        made["metadata"]["config"] = table

    convert(save(tmp_path / "a.pth", change), tmp_path / "out")
    same(tmp_path / "out", embedding=0, embedding_activation=("sigmoid", "unit_norm"))


def test_sizes_that_nussl_chooses_itself(tmp_path):
    """32 ms at 4000 Hz are 128 samples."""

    def change(made, nussl):
        made["metadata"].update(sample_rate=4000, stft_params=nussl.STFTParams(None, None, None))

    path = save(tmp_path / "a.pth", change)
    convert(path, tmp_path / "out")
    same(tmp_path / "out", sample_rate=4000, stft=StftConfig(128, 32, 128, normalize="window"), segment_seconds=3.2)


def test_the_best_checkpoint_of_a_run(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    save(folder / "best.model.pth")
    save(folder / "latest.model.pth", lambda made, _: made["state_dict"].clear())
    convert(tmp_path / "run", tmp_path / "out")
    same(tmp_path / "out")
    save(folder / "epoch3.model.pth")
    with pytest.raises(CheckpointError, match="2 files of weights, each with settings: give one of them"):
        convert(tmp_path / "run", tmp_path / "other")


def test_the_command(tmp_path):
    path = save(tmp_path / "a.pth")
    done = CliRunner().invoke(app, ["convert", str(path), str(tmp_path / "out"), "--format", "nussl"])
    assert done.exit_code == 0, done.output
    assert "chimera, 0.02 M parameters, 8000 Hz" in done.output


class Call:
    """Unpickled as code, it calls a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def touching(place):
    return Call(os.system, f"touch {place}")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("where", ["metadata", "transforms", "arguments", "weights", "top"])
def test_code_in_a_checkpoint_never_runs(tmp_path, where, zipped):
    victim = tmp_path / "victim"

    def change(made, nussl):
        if where == "metadata":
            made["metadata"]["train_dataset"]["folder"] = touching(victim)
        elif where == "transforms":
            made["metadata"]["train_dataset"]["transforms"].transforms.append(touching(victim))
        elif where == "arguments":  # of a class of nussl's
            made["metadata"]["stft_params"] = nussl.STFTParams(touching(victim), 32, "hann")
        elif where == "weights":
            made["state_dict"]["mask.linear.bias"] = touching(victim)
        else:
            made["anything"] = [touching(victim)]

    path = save(tmp_path / "a.pth", change, zipped=zipped)
    refused(path, r"contains code \((posix|os).system\) and will not be loaded", tmp_path)
    assert not victim.exists()


@pytest.mark.parametrize("function", [builtins.eval, builtins.exec, builtins.getattr, __import__])
def test_what_python_itself_has(tmp_path, function):
    path = save(tmp_path / "a.pth", lambda made, _: made["metadata"].update(val_dataset=Call(function, "1")))
    refused(path, "contains code", tmp_path)


def test_a_class_of_nussl_does_nothing_with_what_it_is_called_with(tmp_path, monkeypatch):
    """Neither is a module of that name imported, nor what it would be called with, or filled with, used."""
    (tmp_path / "nussl.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)

    def change(made, nussl):
        made["metadata"]["more"] = Call(nussl.Compose, "touch", tmp_path.name)
        made["metadata"]["val_dataset"] = filled(nussl.SumSources, __dict__={"a": 1}, args=(), __class__="int")

    convert(save(tmp_path / "a.pth", change), tmp_path / "out")
    same(tmp_path / "out")
    assert not (tmp_path / "imported").exists() and "nussl" not in sys.modules


def altered(change):
    return lambda made, _: made.update(config=configuration(change))


def argument(module, **values):
    return lambda t: t["modules"][module].setdefault("args", {}).update(values)


UNSUPPORTED = {
    "'mask' is a 'Mixer', which is not supported": lambda t: t["modules"]["mask"].update({"class": "Mixer"}),
    "'other' is a Embedding, which is not supported: a C": lambda t: t["modules"].update(other=t["modules"]["mask"]),
    "config.modules has no normalization": lambda t: t["modules"].pop("normalization"),
    "config.modules has no embedding": lambda t: [t["modules"].pop(name) for name in ("mask", "embedding")],
    "'mask' is not connected as in a ChimeraNet": lambda t: t["connections"][4].__setitem__(1, ["normalization"]),
    "config.connections has none of mask": lambda t: t["connections"].pop(4),
    "connections.0. must be a module and": lambda t: t["connections"][0].append(1),
    "embedding.args.num_audio_channels must be one of": argument("embedding", num_audio_channels=2),
    "embedding.args.dim_to_embed must be -1, got 2": argument("embedding", dim_to_embed=2),
    "normalization.args.num_features = 65 is not supported": argument("normalization", num_features=65),
    r"rnn_type must be one of \['lstm', 'gru'\], got 'rnn'": argument("recurrent_stack", rnn_type="rnn"),
    "recurrent_stack.args.residual is not supported": argument("recurrent_stack", residual=True),
    "mask_activation.0. must be one of": argument("mask", activation="gelu"),
    "num_features is 64, but the transform has 65 bins": argument("recurrent_stack", num_features=64),
    "not those of the configured ChimeraNet: 8 missing keys": argument("recurrent_stack", num_layers=3),
    r"rnn.weight_hh_l0 \[48, 12\] instead of \[52, 13\]": argument("recurrent_stack", hidden_size=13),
}


@pytest.mark.parametrize("says", UNSUPPORTED)
def test_other_networks_are_named(tmp_path, says):
    refused(save(tmp_path / "a.pth", altered(UNSUPPORTED[says])), says, tmp_path)


WRONG = {
    "not a checkpoint of nussl": lambda made, _: made.pop("metadata"),
    "state_dict and metadata are needed": lambda made, _: made.update(state_dict=[1]),
    "config: not readable as JSON": lambda made, _: made.update(config="{"),
    "config must be a table": lambda made, _: made.update(config=None),
    "sample_rate must be an? int": lambda made, _: made["metadata"].update(sample_rate="8000"),
    "num_channels must be one of": lambda made, _: made["metadata"].update(num_channels=2),
    "stft_params must be window_length": lambda made, _: made["metadata"].update(stft_params=7),
    "window_type must be one of": lambda made, nussl: made["metadata"].update(
        stft_params=nussl.STFTParams(128, 32, "hamming")
    ),
    "no ordinary tensor": lambda made, _: made["state_dict"].update(more=torch.zeros(1).expand(9)),
    "not a table of tensors: 'more' is": lambda made, nussl: made["state_dict"].update(more=nussl.Compose()),
    "1 unexpected keys": lambda made, _: made["state_dict"].update(more=torch.zeros(1)),
    "not finite": lambda made, _: [v.fill_(float("nan")) for k, v in made["state_dict"].items() if "mask" in k],
}


@pytest.mark.parametrize("says", WRONG)
def test_what_is_wrong_is_said(tmp_path, says):
    refused(save(tmp_path / "a.pth", WRONG[says]), says, tmp_path)


def test_other_files_are_none_of_these(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"nothing")
    assert not belongs(tmp_path / "a.pth") and not belongs(tmp_path)
    torch.save({"a": torch.zeros(2)}, tmp_path / "b.pth")
    assert not belongs(tmp_path / "b.pth")
    refused(tmp_path / "a.pth", "damaged, or not a PyTorch checkpoint", tmp_path)
    refused(tmp_path / "b.pth", "not a checkpoint of nussl", tmp_path)
