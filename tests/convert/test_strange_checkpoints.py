"""Published checkpoints that strangers may have made: refused in one line, before they cost memory or time."""

import zipfile

import pytest
import safetensors.torch
import torch
import yaml
from golden_io import settings, weights
from golden_sfc import WHOLE, core, lightning, merged_config

from ussfast.convert import convert
from ussfast.errors import CheckpointError

KINDS = {"tuss": ("tuss_tiny", "hparams.yaml"), "espnet": ("tflocoformer_tiny", "config.yaml")}


def published(folder, kind, change=None, text=None, data=None):
    """Settings with `change` done to them, or this text, and weights, or this data, as a .pth."""
    folder.mkdir()
    if kind == "sfc":
        table, state, name = merged_config(WHOLE), lightning(core(WHOLE), core(WHOLE)), "merged_config.yaml"
    else:
        instance, name = KINDS[kind]
        table, state = settings(instance), {k: v.float() for k, v in weights(instance).items()}
    if change is not None:
        change(table)
    (folder / name).write_text(yaml.safe_dump(table) if text is None else text)
    torch.save(state if data is None else data, folder / "model.pth")
    return folder


def refused(folder, says):
    with pytest.raises(CheckpointError, match=says) as caught:
        convert(folder, folder.parent / "out")
    text = str(caught.value)
    assert text.isprintable() and len(text) < 1500 and not (folder.parent / "out").exists()


def at(*path, value):
    def change(table):
        *way, last = path
        for step in way:
            table = table[step]
        table[last] = value

    return change


CONF = ("model_conf", "conf_cond_tse_module")


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        ("tuss", at("model_conf", "nblocks_cross_prompt_module", value=10**8), "blocks must be 1 to 1000"),
        ("tuss", at("model_conf", "nblocks_cross_prompt_module", value=900), "missing keys"),
        ("tuss", at("model_conf", "sample_rate", value=10**400), "more than 64 bits"),
        ("tuss", at("model_conf", "prompts", value=["a\nb"]), "can be printed"),
        ("tuss", at("encoder_conf", "fft_size", value=10**9), "n_fft must be 2 to 16384"),
        ("tuss", at(*CONF, "emb_dim", value=0), "dim must be 1 to 16384, got 0"),
        ("tuss", at(*CONF, "eps", value=float("nan")), "eps must be a finite number"),
        ("tuss", at(*CONF, "eps", value="nan"), "eps must be a finite number"),
        ("tuss", at(*CONF, "eps", value=10**400), "more than 64 bits"),
        ("tuss", at("css_conf", value={"segment_size": float("inf")}), "segment_size must be a finite number"),
        ("tuss", at("model_name", value="x" * 3000), r"model_name 'x{59}\.\.\. is not supported"),
        ("espnet", at("separator_conf", "n_layers", value=10**8), "blocks must be 1 to 1000"),
        ("espnet", at("separator_conf", "num_spk", value=10**8), "sources must be 1 to 256"),
        ("espnet", at("separator_conf", "ffn_hidden_dim", value=[10**9] * 2), "hidden must be 1 to 16384"),
        ("sfc", at("model", "separator", "eps", value=float("inf")), "eps must be a finite number"),
        ("sfc", at("wrappers", 0, "fs", value=10**30), "sample_rate|sample rates"),
        ("sfc", at("wrappers", 0, "hop_length", value=1), "n_fft <= 64 hop"),
    ],
)
def test_settings_beyond_reason(tmp_path, kind, change, says):
    refused(published(tmp_path / "exp", kind, change), says)


def test_prompts_of_several_kinds(tmp_path):
    def change(table):
        count = table["model_conf"]["num_spk"] = 3
        once = {name: {"num_appear": 1} for name in ("a", 1, "b")}
        table.update(prompts=once, num_srcs_and_weights={count: 1}, sort_prompts=True, model_name="bslocoformer_stack")

    refused(published(tmp_path / "exp", "tuss", change), "hparams.model_conf has no table 'config_first_block'")


@pytest.mark.parametrize("rate", ["\u00b2k", "1_0k", "k", "9" * 5000, "-8k", "\u0663k", "8kk"])
def test_rates_that_are_none(tmp_path, rate):
    def change(table):
        table.pop("sample_rate", None)
        table.update(fs=rate)

    refused(published(tmp_path / "exp", "espnet", change), "gives no sample rate")


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("sfc", LAUGHS, "more than 200000 values"),
        ("sfc", "&a {b: *a}", "nested deeper"),
        ("tuss", "model: {a: 2020-99-99}", "not readable as YAML"),
        ("espnet", "separator: !!int abc", "not readable as YAML"),
        ("tuss", "", "a table of settings is expected"),
    ],
)
def test_yaml_beyond_reason(tmp_path, kind, text, says):
    refused(published(tmp_path / "exp", kind, text=text), says)


def with_sos(value):
    """The weights of TUSS with another of them."""
    name = next(name for name in weights("tuss_tiny") if name.endswith("sos_token"))
    return {k: v.float() for k, v in weights("tuss_tiny").items()} | {name: value}


SOS = next(value.float() for name, value in weights("tuss_tiny").items() if name.endswith("sos_token"))
WIDE = torch.zeros(4)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"a": WIDE.as_strided((10**6, 10**6), (0, 0))}, "'a' is no ordinary tensor: its numbers are not"),
        ({"a": WIDE.expand(2, 4)}, "'a' is no ordinary tensor"),
        ({"a": torch.zeros(10).unfold(0, 4, 1)}, "'a' is no ordinary tensor"),
        ({"a": torch.eye(3).to_sparse()}, "'a' is no ordinary tensor"),
        ({"a": torch.zeros(3, device="meta")}, "'a' is no ordinary tensor"),
        ({"a": WIDE, 3: WIDE}, "not a table of tensors: 3 is something else"),
        ({1: WIDE}, "not a table of tensors: 1 is something else"),
        ({("a", 1): WIDE}, "not a table of tensors: a tuple of 2 is something else"),
        ({"a\nb" * 1000: 1}, "is something else"),
        (dict.fromkeys(map(str, range(500)), torch.zeros(10**5)), "share .* bytes, but would need 200000000"),
        ({"a": WIDE.to(torch.complex64)}, "'a' is of type torch.complex64"),
        ({"a": WIDE.to(torch.float8_e4m3fn)}, "'a' is of type torch.float8_e4m3fn"),
        (with_sos(SOS * float("nan")), "the weights are not finite: sos"),
        (with_sos(SOS.long()), "wrong type: sos int64"),
    ],
    ids=[
        "terabytes", "expanded", "overlapping", "sparse", "meta", "mixed keys", "whole keys", "pairs",
        "long keys", "shared", "complex", "float8", "nan", "int64",
    ],
)  # fmt: skip
def test_weights_beyond_reason(tmp_path, data, says):
    refused(published(tmp_path / "exp", "tuss", data=data), says)


def test_tensors_in_other_orders_and_with_a_second_name(tmp_path):
    """What people do save: transposed, shared, and old files."""
    state = {k: v.float() for k, v in weights("tuss_tiny").items()}
    turned = {k: v.mT.contiguous().mT if v.dim() > 1 else v for k, v in state.items()}
    for number, data in enumerate((turned, {f"model.{k}": v for k, v in state.items()})):
        convert(published(tmp_path / str(number), "tuss", data=data), tmp_path / f"out{number}")
    folder = published(tmp_path / "old", "tuss")
    torch.save(state, folder / "model.pth", _use_new_zipfile_serialization=False)
    convert(folder, tmp_path / "out2")
    stored = [(tmp_path / f"out{i}" / "model.safetensors").read_bytes() for i in range(3)]
    assert stored[0] == stored[1] == stored[2]


def repacked(path, method, change=lambda name, data: data):
    with zipfile.ZipFile(path) as old:
        parts = {name: change(name, old.read(name)) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", method) as new:
        for name, data in parts.items():
            new.writestr(name, data)


def test_packed_and_lying_archives(tmp_path):
    folder = published(tmp_path / "exp", "tuss", data={"a": torch.zeros(1000)})
    repacked(folder / "model.pth", zipfile.ZIP_DEFLATED)
    refused(folder, "damaged, or not a PyTorch checkpoint")
    torch.save({"a": torch.zeros(1000)}, folder / "model.pth")
    count, more = b"M\xe8\x03", b"J\x00\x00\x00\x10"  # 1000, 2**28
    repacked(folder / "model.pth", zipfile.ZIP_STORED, lambda name, data: data.replace(count, more))
    refused(folder, "damaged, or not a PyTorch checkpoint|no ordinary tensor")


def tuples(kind):
    """A pickle of a table whose key takes hours to hash, or ends the process."""
    if kind == "wide":
        pairs = b"".join(b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(60))
        return b"\x80\x02}K\x01q\x00" + pairs + b"K\x01s."
    return b"\x80\x02})" + b"\x85" * 10**6 + b"K\x01s."


@pytest.mark.parametrize("kind", ["wide", "deep"])
def test_keys_that_cannot_be_hashed(tmp_path, kind):
    folder = published(tmp_path / "exp", "tuss", data={"a": WIDE})
    pickled = tuples(kind)
    change = lambda name, data: pickled if name.endswith("data.pkl") else data  # noqa: E731
    repacked(folder / "model.pth", zipfile.ZIP_STORED, change)
    refused(folder, "damaged, or not a PyTorch checkpoint")
    old = tmp_path / "old"
    torch.save({"a": WIDE}, old, _use_new_zipfile_serialization=False)
    magic = old.read_bytes()
    starts = [i + 1 for i in range(len(magic)) if magic[i : i + 3] == b".\x80\x02"]
    (folder / "model.pth").write_bytes(magic[: starts[2]] + pickled + magic[starts[3] :])
    refused(folder, "damaged, or not a PyTorch checkpoint")


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("encoder.block.mixer.kv_proj.weight", (3, 8)),
        ("encoder.block.mixer.kv_proj.weight", (0, 8)),
        ("encoder.input_conv.0.weight", (0, 0, 0, 0)),
        ("decoder.output_conv.weight", (8, 5, 1, 1)),
        ("blocks.0.freq_path.ffn.0.conv1d.weight", (0, 0, 0)),
        ("encoder.block.mixer.pos_bias.pos_bias", (1, 0, 0, 0)),
    ],
)
def test_shapes_of_nothing(tmp_path, key, shape):
    state = core(WHOLE) | {key: torch.zeros(shape)}
    assert key in core(WHOLE)
    refused(published(tmp_path / "exp", "sfc", data=lightning(state, state)), "model.pth: ")


def test_safetensors_beyond_reason(tmp_path):
    folder = published(tmp_path / "exp", "tuss")
    (folder / "model.pth").unlink()
    for data, says in (
        (b"\xff" * 100, "not readable as safetensors"),
        (safetensors.torch.save({"a": torch.zeros(3, dtype=torch.complex64)}), "'a' is of type torch.complex64"),
        (safetensors.torch.save({"a": torch.zeros(3).to(torch.float8_e5m2)}), "'a' is of type torch.float8_e5m2"),
    ):
        (folder / "model.safetensors").write_bytes(data)
        refused(folder, says)
