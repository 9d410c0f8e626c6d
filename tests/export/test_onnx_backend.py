"""Separators that run exported models: files, streams, and what they refuse."""

import json
import shutil

import numpy as np
import pytest
import torch
from tiny import CAUSAL_SMALL as CAUSAL
from tiny import RATE, TUSS, noise, tiny_directory, tiny_model
from typer.testing import CliRunner

from ussfast import Separator
from ussfast.checkpoints.exported import read_exported
from ussfast.cli.main import app
from ussfast.engine.backends.onnx import OnnxRunner
from ussfast.errors import CheckpointError, DeviceError, InputError, PromptError
from ussfast.export import Limits, export_onnx

pytestmark = pytest.mark.slow
LIMITS = Limits(seconds=1.0, prompts=4, batch=2)
SHORT = {"segment": 0.8, "overlap": 0.2}


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    folder = tmp_path_factory.mktemp("causal") / "export"
    export_onnx(tiny_model(CAUSAL), folder, limits=LIMITS, name="small", check=True)
    return folder


@pytest.fixture(scope="module")
def tuss(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuss") / "export"
    export_onnx(tiny_model(TUSS), folder, limits=LIMITS)
    return folder


def close(found, wanted):
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("kind, config, settings", [("causal", CAUSAL, {}), ("tuss", TUSS, SHORT)])
def test_files_as_by_pytorch(request, kind, config, settings):
    folder = request.getfixturevalue(kind)
    here = Separator.from_model(tiny_model(config).eval(), device="cpu", dtype="float32", **settings)
    there = Separator(folder, backend="onnx", **settings)
    assert there.info.parameters == here.info.parameters and there.info.prompts == here.info.prompts
    # Three channels, while two items fit into a call, and longer than what does.
    audio = noise(3, 3 * RATE + 77)
    for prompts in (("speech",), ("speech", "sfx", "drums"), ("speech", "sfx", "drums", "bass")):
        close(there.separate(audio, RATE, prompts=prompts).stems, here.separate(audio, RATE, prompts=prompts).stems)
    linked = {"channels": "linked", **settings}
    close(
        Separator(folder, **linked).separate(audio, RATE, prompts=("speech", "sfx")).stems,
        Separator.from_model(tiny_model(config).eval(), device="cpu", dtype="float32", **linked)
        .separate(audio, RATE, prompts=("speech", "sfx")).stems,
    )  # fmt: skip


def test_equal_prompts_are_told_apart(causal):
    here = Separator.from_model(tiny_model(CAUSAL).eval(), device="cpu", dtype="float32")
    audio = noise(1, RATE)
    close(
        Separator(causal).separate(audio, RATE, prompts=("speech", "speech")).stems,
        here.separate(audio, RATE, prompts=("speech", "speech")).stems,
    )


@pytest.mark.parametrize("kind, config", [("causal", CAUSAL), ("tuss", TUSS)])
def test_streams_as_by_pytorch(request, kind, config):
    settings = {} if kind == "causal" else SHORT
    here = Separator.from_model(tiny_model(config).eval(), ("speech", "sfx"), device="cpu", dtype="float32", **settings)
    there = Separator(request.getfixturevalue(kind), ("speech", "sfx"), **settings)
    audio, sizes = noise(2, 2 * RATE), (1, 700, 64, 3000, 129)

    def streamed(separator):
        at, chunks = 0, []
        while at < audio.shape[1]:
            size = sizes[len(chunks) % len(sizes)]
            chunks.append(audio[:, at : at + size])
            at += size
        return np.concatenate([piece.stems for piece in separator.stream(chunks, RATE)], -1)

    close(streamed(there), streamed(here))


def test_prompts_change_and_are_new(causal):
    """A vector that no export ever saw, given while a stream runs."""
    here = Separator.from_model(tiny_model(CAUSAL).eval(), device="cpu", dtype="float32")
    there, audio = Separator(causal), noise(1, RATE)
    vector = torch.randn(CAUSAL.dim, generator=torch.Generator().manual_seed(4))
    found = []
    for separator in (here, there):
        from ussfast.prompts.bank import Prompt

        separator.prompts.add(Prompt("mine", vector, "tuned"))
        with separator.session(RATE, prompts=("speech",)) as session:
            first = session.push(audio[:, : RATE // 2])
            session.set_prompts(("mine",))
            rest = [session.push(audio[:, RATE // 2 :]), session.flush()]
        found.append(np.concatenate([piece["mine"] for piece in rest if piece is not None and "mine" in piece], -1))
        assert first is not None
    close(found[1], found[0])


def test_what_an_export_cannot(causal, tuss, directory):
    with pytest.raises(CheckpointError, match="backend 'onnx' runs exported models, and .* is none"):
        Separator(directory, backend="onnx")
    with pytest.raises(CheckpointError, match="an exported model, which backend 'native' cannot run: use auto"):
        Separator(causal, backend="native")
    with pytest.raises(DeviceError, match="exported models have theirs in the graph, this one fp32"):
        Separator(causal, dtype="bf16")
    with pytest.raises(PromptError, match="takes 4 prompts at once, not 5: export it with more"):
        Separator(causal, ("speech", "sfx", "drums", "bass", "other")).separate(noise(1, RATE), RATE)
    with pytest.raises(InputError, match="takes 1.01 s at once: use a shorter segment, or export"):
        Separator(tuss, ("speech",), segment=2.0, overlap=0.5).separate(noise(1, 3 * RATE), RATE)
    assert not Separator(causal).can_enroll
    with pytest.raises(PromptError):
        Separator(causal).enroll("mine", [noise(1, RATE)], RATE)


def test_damaged_exports(causal, tmp_path):
    def broken(change):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(causal, folder)
        change(folder)
        return folder

    def edit(**changes):
        def change(folder):
            data = json.loads((folder / "export.json").read_text())
            (folder / "export.json").write_text(json.dumps(data | changes))

        return change

    graphs = json.loads((causal / "export.json").read_text())["graphs"]
    elsewhere = {"model": graphs["model"] | {"file": "../model.onnx"}}
    for change, words in (
        (lambda f: (f / "export.json").unlink(), "not a ussfast model directory|no exported model"),
        (lambda f: (f / "export.json").write_text("{"), "export.json: "),
        (edit(version=2), "this ussfast reads 'ussfast-export', version 1"),
        (edit(graphs={"step": graphs["step"], "prompts": graphs["prompts"]}), "no graph for mode offline"),
        (edit(graphs=elsewhere), "must be a file of the same folder"),
        (lambda f: (f / "prompts.json").write_text("[]"), "not a table of vectors"),
        (lambda f: (f / "prompts.json").unlink(), "no vectors of"),
        (edit(kind="wav"), "kind must be one of"),
    ):
        with pytest.raises(CheckpointError, match=words):
            Separator(broken(change), ("speech",))
    for change, words in (
        (lambda f: (f / "model.onnx").unlink(), "model.onnx: missing: export the model again"),
        (lambda f: (f / "model.onnx").write_bytes(b"x"), "not the file that export.json means"),
    ):
        with pytest.raises(CheckpointError, match=words):
            Separator(broken(change), ("speech",)).separate(noise(1, RATE), RATE)


def test_a_runner_by_itself(causal):
    runner = OnnxRunner(causal, threads=1, arena=False)
    vectors = torch.randn(1, 2, CAUSAL.dim)
    found = runner.run("prompts", {"prompts": vectors})
    assert list(found) == ["scale", "shift"] and found["scale"].dtype == torch.float32
    for given, words in (
        ({}, "needs prompts .*, got nothing"),
        ({"prompts": torch.randn(2, CAUSAL.dim)}, "needs prompts"),
        ({"prompts": torch.randn(1, 2, CAUSAL.dim + 1)}, "needs prompts"),
        ({"prompts": torch.randn(1, 5, CAUSAL.dim)}, "takes 1 to 4 sources, got 5: export it with other limits"),
        ({"prompts": torch.randn(3, 2, CAUSAL.dim)}, "takes 1 to 2 batch, got 3"),
    ):
        with pytest.raises(InputError, match=words):
            runner.run("prompts", given)
    with pytest.raises(CheckpointError, match="has no graph 'else'"):
        runner.run("else", {})
    about = read_exported(causal)
    assert (about.name, about.latency_samples, about.hop) == ("small", CAUSAL.latency_samples, CAUSAL.stft.hop)


def test_copies_and_moves(causal):
    import copy
    import pickle

    one = Separator(causal, ("speech",))
    wanted = one.separate(noise(1, RATE), RATE).stems
    for other in (pickle.loads(pickle.dumps(one)), copy.copy(one), one.to("cpu")):
        np.testing.assert_array_equal(other.separate(noise(1, RATE), RATE).stems, wanted)
        assert other.engine.backend == "onnx"


def test_prompts_of_the_model_itself(causal, tmp_path):
    """What the exported model enrolled or tuned, the export takes; it learns nothing itself."""
    here, there = Separator.from_model(tiny_model(CAUSAL).eval(), device="cpu", dtype="float32"), Separator(causal)
    here.enroll("mine", [noise(1, RATE)], RATE)
    here.save_prompts(tmp_path / "bank.safetensors")
    there.load_prompts(tmp_path / "bank.safetensors")
    audio = noise(1, RATE, seed=3)
    close(there.separate(audio, RATE, prompts="mine").stems, here.separate(audio, RATE, prompts="mine").stems)
    with pytest.raises(PromptError, match="cannot be tuned by an exported model"):
        there.tune("other one", [noise(1, RATE)], sample_rate=RATE)
    with there.session(RATE, prompts="speech") as session, pytest.raises(PromptError, match="by an exported model"):
        session.tune("other one", [noise(1, RATE)], sample_rate=RATE)


def test_the_command_line_takes_exports(causal, tmp_path):
    import soundfile

    soundfile.write(tmp_path / "in.wav", noise(1, RATE)[0], RATE)
    given = ["separate", tmp_path / "in.wav", "-m", causal, "-p", "speech", "-o", tmp_path / "out", "--backend", "onnx"]
    done = CliRunner().invoke(app, list(map(str, given)))
    assert done.exit_code == 0, done.output
    found, rate = soundfile.read(tmp_path / "out" / "in" / "speech.wav")
    assert (len(found), rate) == (RATE, RATE) and np.abs(found).max() > 0


def test_a_model_directory_is_still_one(tmp_path):
    assert Separator(tiny_directory(tmp_path), ("speech",)).engine.backend == "native"
