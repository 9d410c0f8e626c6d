"""The command for a GPU machine at hand for minutes: its pack, its steps and what it leaves, in miniature on a CPU."""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import tiny_manifest, tiny_recipe

from ussfast.checkpoints.store import load_model
from ussfast.errors import CheckpointError, InputError
from ussfast.train import checkpoints
from ussfast.train.log import read_log
from ussfast.train.run import train_recipe

FOLDER = Path(__file__).parents[2] / "bench/lease"
PYTHON = sys.executable


def script(name):
    spec = importlib.util.spec_from_file_location(f"lease_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def lease():
    return script("lease")


@pytest.fixture
def here(lease, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "ENDED", 1.0)
    return lease.Lease(30, tmp_path / "out", tmp_path / "pack")


def outcomes(path):
    return {step["step"]: step["outcome"] for step in json.loads((path / "lease.json").read_text())["steps"]}


def test_steps_that_fail_or_hang_stop_nothing(here, tmp_path):
    # The step's own child is ended with it, though it ignores Ctrl-C.
    child = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    hangs = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {child!r}]); print(p.pid); p.wait()"
    start = time.monotonic()
    assert not here.step("hangs", [PYTHON, "-c", hangs], 1.5)
    assert time.monotonic() - start < 10
    assert not here.step("fails", [PYTHON, "-c", "raise SystemExit(3)"], 10)
    assert not here.step("missing", ["/no/such/program"], 10)
    assert here.step("works", [PYTHON, "-c", "print('fine')"], 10)
    assert not here.step("late", [PYTHON, "-c", "print('never')"], 0)
    assert outcomes(here.output) == {
        "hangs": "ended after 2 s", "fails": "failed (3)", "works": "ok", "late": "no time left",
        "missing": "not started: [Errno 2] No such file or directory: '/no/such/program'",
    }  # fmt: skip
    log = (here.output / "lease.log").read_text()
    assert "fine" in log and "never" not in log
    pid = next(int(line) for line in log.splitlines() if line.isdigit())
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and alive(pid):
        time.sleep(0.05)
    assert not alive(pid)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_interrupted_step_may_still_write(here, tmp_path):
    code = "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('report')"
    assert not here.step("tests", [PYTHON, "-c", code], 1.0)
    assert "report" in (here.output / "lease.log").read_text()


def test_no_step_outlasts_the_lease(lease, tmp_path):
    short = lease.Lease(lease.ENDED + 1.0, tmp_path / "out", tmp_path / "pack")
    assert not short.step("long", [PYTHON, "-c", "import time; time.sleep(60)"], 50)
    assert outcomes(tmp_path / "out")["long"].startswith("ended after") and 0 < short.left


def test_only_missing_packages_are_unpacked(lease, tmp_path):
    (tmp_path / "wheels").mkdir()
    for name in ("json", "surely_absent"):
        with zipfile.ZipFile(tmp_path / f"wheels/{name}-1.whl", "w") as wheel:
            wheel.writestr(f"{name}/__init__.py", "WHICH = 'wheel'")
            wheel.writestr(f"{name}-1.dist-info/METADATA", "")
    assert lease.unpack_wheels(tmp_path / "wheels", tmp_path / "site") == ["surely_absent-1.whl"]
    assert (tmp_path / "site/surely_absent/__init__.py").is_file() and not (tmp_path / "site/json").exists()


def test_what_is_collected(here):
    """The newest checkpoint takes the place of the one before; what is too much or too large stays behind."""
    for number, size in ((1, 10), (2, 20)):
        folder = here.run / f"step-{number:07d}"
        folder.mkdir(parents=True)
        for name in ("shard-000", "shard-001", "state.json"):
            (folder / name).write_bytes(b"x" * size)
        (here.run / "log.jsonl").write_text("{}\n" * number)
        here.collect()
        assert [p.name for p in here.output.glob("step-*")] == [folder.name]
        assert (here.output / "log.jsonl").read_text() == "{}\n" * number
    (here.run / "kept").mkdir()
    for name in ("config.json", "model.safetensors"):
        (here.run / "kept" / name).write_text(name)
    here.note()
    here.collect()
    files = [p for p in here.output.rglob("*") if p.is_file()]
    assert len(files) == 8 and (here.output / "model/config.json").is_file()
    large = here.run / "step-0000003"
    large.mkdir()
    with open(large / "shard-000", "wb") as file:
        file.truncate(16 * 2**20 + 1)
    here.collect()
    assert [p.name for p in here.output.glob("step-*")] == ["step-0000002"]
    for number in range(4):
        (here.run / "step-0000004").mkdir(exist_ok=True)
        (here.run / "step-0000004" / f"shard-{number}").write_text("")
    here.collect()
    assert "step-0000004: more than 8 files" in here.found["left_out"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A manifest, a recipe file, and a run that took two steps of it."""
    folder = tmp_path_factory.mktemp("trained")
    manifest, recipe = tiny_manifest(folder, seconds=6.0), folder / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(tiny_recipe(optim={"steps": 2}, run={"checkpoint_every": 1})))
    train_recipe(str(recipe), manifest, folder / "run", None, "cpu")
    recipe.write_text(yaml.safe_dump(tiny_recipe(optim={"steps": 5}, run={"checkpoint_every": 1, "validate_every": 5})))
    return manifest, recipe, folder / "run"


@pytest.fixture(scope="module")
def pack():
    return script("pack")


@pytest.fixture
def tree(tmp_path):
    """A repository with a tracked, an untracked and an ignored file."""
    root = tmp_path / "tree"
    root.mkdir()
    for name, size in (("tracked", 1000), ("untracked", 200), ("ignored", 50_000)):
        (root / name).write_bytes(b"x" * size)
    (root / ".gitignore").write_text("ignored\n")
    for command in (["init", "-q"], ["add", "tracked"]):
        subprocess.run(["git", "-C", root, *command], check=True)
    return root


def prepared(pack, monkeypatch, tmp_path, trained, tree, limit, audio=2**20):
    def fetched(folder, python):
        folder.mkdir()
        (folder / f"wheel-{python}.whl").write_bytes(b"w" * 300)

    monkeypatch.setattr(pack, "fetch_wheels", fetched)
    manifest, recipe, run = trained
    return pack.prepare(manifest, tmp_path / "lease", str(recipe), run, audio, limit, "3.12", tree)


def test_a_pack_stays_below_its_limit(pack, monkeypatch, tmp_path, trained, tree):
    whole = prepared(pack, monkeypatch, tmp_path, trained, tree, 2**24)["bytes"]
    assert whole["audio"] < 2**20
    monkeypatch.setattr(pack, "LEAST_AUDIO", whole["audio"] // 4)
    rest = pack.MARGIN + sum(whole.values()) - whole["audio"]
    limit = rest + whole["audio"] * 4 // 5
    found = prepared(pack, monkeypatch, tmp_path, trained, tree, limit)
    sizes = found["bytes"]
    assert sizes["tree"] == 1000 + 200 + len("ignored\n") and sizes["wheels"] == 300
    assert found["state"] == "step-0000002" and (tmp_path / "lease/run/log.jsonl").is_file()
    assert whole["audio"] // 2 < sizes["audio"] <= whole["audio"] * 4 // 5
    assert pack.folder_bytes(tmp_path / "lease") + sizes["tree"] < limit
    assert {p.name for p in (tmp_path / "lease/audio").iterdir()} >= {"manifest.json", "speech", "drums"}
    with pytest.raises(InputError, match="the dev split needs speech of two speakers"):  # what is left has no song
        prepared(pack, monkeypatch, tmp_path, trained, tree, rest + whole["audio"] // 2)
    with pytest.raises(InputError, match="leave 0.0 MiB for audio"):
        prepared(pack, monkeypatch, tmp_path, trained, tree, sizes["run"] + sizes["tree"] + pack.MARGIN + 1000)
    assert (tmp_path / "lease/pack.json").is_file()  # the one before is still there
    assert not (tmp_path / ".lease.new").exists()


def test_a_state_in_half_precision(trained, tmp_path):
    _, _, run = trained
    newest = checkpoints.newest(run)
    checkpoints.shrink(newest, tmp_path / newest.name)
    before, after = (
        {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}
        for folder in (newest, tmp_path / newest.name)
    )
    assert before.keys() == after.keys()
    for name, value in before.items():
        kind = name.partition(".")[0]
        if value.dtype == torch.float32 and value.numel() > 1:
            wanted = {"model": torch.float16, "ema": torch.float16, "optimizer": torch.bfloat16}[kind]
            assert after[name].dtype == wanted
            close = {torch.float16: 1e-3, torch.bfloat16: 8e-3}[wanted]
            torch.testing.assert_close(after[name].float(), value, rtol=close, atol=1e-7)
        else:
            assert torch.equal(after[name], value)
    best = tmp_path / "best"
    checkpoints.save_weights(best, checkpoints_recipe(), {"a": torch.zeros(2)}, {"step": 1})
    with pytest.raises(CheckpointError, match="not a full checkpoint"):
        checkpoints.shrink(best, tmp_path / "other")


def checkpoints_recipe():
    from ussfast.train.recipe import recipe_from_dict

    return recipe_from_dict(tiny_recipe())


def test_a_whole_lease(lease, pack, monkeypatch, tmp_path, trained, tree, capsys):
    """Tests and benches get no time, training ends its five steps: the state goes on from the one that came along."""
    prepared(pack, monkeypatch, tmp_path, trained, tree, pack.MARGIN + 2**21)
    (tmp_path / "lease/wheels/wheel-3.12.whl").unlink()
    monkeypatch.setattr(lease.shutil, "which", lambda name: None)
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setattr(lease, "COPY_EVERY", 0.5)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, map(str, sys.path))))
    options = argparse.Namespace(
        limit=90, output=tmp_path / "out", pack=tmp_path / "lease", recipe=str(trained[1]), rows=4, build=0, tests=0,
        bench=0, only="none",
    )  # fmt: skip
    lease.lease(options)
    out = tmp_path / "out"
    assert outcomes(out) == {"tests": "no time left", "bench": "no time left", "training": "ok"}, (
        out / "lease.log"
    ).read_text()
    assert '"step": "training"' in capsys.readouterr().out
    found = json.loads((out / "lease.json").read_text())
    assert found["missing"]["training"] == [] and 0 < found["seconds"] < 90
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()) == [
        "lease.json", "lease.log", "log.jsonl", "model/config.json", "model/model.safetensors",
        "step-0000005/shard-000.safetensors", "step-0000005/state.json",
    ]  # fmt: skip
    rows = read_log(out)
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5] and "mean" in rows[-1]
    assert load_model(out / "model")[1].source["step"] == 5
    # The state is in full precision, and a run goes on from it.
    weights = load_file(out / "step-0000005/shard-000.safetensors")
    assert {v.dtype for k, v in weights.items() if k.startswith(("model.", "optimizer.", "ema."))} == {torch.float32}
    recipe = tmp_path / "more.yaml"
    recipe.write_text(yaml.safe_dump(tiny_recipe(optim={"steps": 6})))
    train_recipe(str(recipe), trained[0], out, None, "cpu")
    assert checkpoints.newest(out).name == "step-0000006"


def test_training_stops_in_time(trained, tmp_path):
    manifest, recipe, _ = trained
    train_recipe(str(recipe), manifest, tmp_path / "run", None, "cpu", until=time.time() - 1)
    assert checkpoints.newest(tmp_path / "run").name == "step-0000000"
