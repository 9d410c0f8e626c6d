"""Recipes of export/: shell scripts that call our commands, and files that speak of what there is."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [ROOT / "export/tensorrt/engines.sh", ROOT / "export/tensorrt/verify.sh", ROOT / "export/triton/serve.sh"]


@pytest.fixture
def machine(tmp_path):
    """Programs that write down how they were called."""
    folder, log = tmp_path / "bin", tmp_path / "log"
    folder.mkdir()

    def program(name, text):
        path = folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    program("nvidia-smi", 'printf "0\\n1\\n"')
    called = "python gpu=$CUDA_VISIBLE_DEVICES order=$CUDA_DEVICE_ORDER $*"
    program("python", f'echo "{called}" >> {log}; exit ${{FAILS:-0}}')
    program("docker", f'echo "docker $*" >> {log}')
    env = {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHON": "python", "CUDA_VISIBLE_DEVICES": ""}

    def run(script, *arguments, **more):
        done = subprocess.run([script, *arguments], env=env | more, cwd=tmp_path, capture_output=True, text=True)
        return done, log.read_text().splitlines() if log.exists() else []

    return run


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_programs_that_a_shell_can_read(script):
    assert os.access(script, os.X_OK)
    subprocess.run(["sh", "-n", script], check=True)


def test_every_gpu_gets_engines(machine):
    done, called = machine(SCRIPTS[0], "DIR", "--typical", "frames=9")
    assert not done.returncode
    words = "order=PCI_BUS_ID -m ussfast.export.trt DIR --typical frames=9"
    assert called == [f"python gpu={gpu} {words}" for gpu in (0, 1)]


def test_the_first_failure_ends_it(machine):
    done, called = machine(SCRIPTS[0], "DIR", FAILS="1")
    assert done.returncode == 1 and len(called) == 1


def test_engines_are_verified_on_every_gpu(machine):
    done, called = machine(SCRIPTS[1], "DIR")
    assert not done.returncode and [call.split("-m ")[1] for call in called] == ["ussfast.export.trt DIR --verify"] * 2


def test_a_repository_is_written_and_served(machine, tmp_path):
    (tmp_path / "repository").mkdir()
    done, called = machine(SCRIPTS[2], "DIR", "repository", "--engines", TRITON_IMAGE="server:1")
    assert not done.returncode, done.stderr
    assert called[0].endswith("-m ussfast.export.triton_server DIR -o repository --engines")
    assert f"-v {tmp_path}/repository:/models:ro server:1 tritonserver --model-repository=/models" in called[1]


def test_what_is_missing_is_told(machine):
    for script, arguments in ((SCRIPTS[0], []), (SCRIPTS[2], ["DIR"]), (SCRIPTS[2], ["DIR", "REPOSITORY"])):
        done, called = machine(script, *arguments)
        assert done.returncode and not called
        assert "usage" in done.stderr or "the image of the server" in done.stderr


def test_the_image_installs_an_extra_that_there_is():
    text = (ROOT / "export/tensorrt/Dockerfile").read_text()
    (extra,) = re.findall(r"/src\[(\w+)\]", text)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(package.startswith("tensorrt") for package in extras[extra])
    (module,) = re.findall(r'ENTRYPOINT \["python", "-m", "([\w.]+)"\]', text)
    assert (ROOT / module.replace(".", "/") / "__main__.py").is_file()


def test_recipes_are_listed_where_they_lie():
    for folder in ("tensorrt", "triton"):
        text = (ROOT / "export" / folder / "README.md").read_text()
        for path in (ROOT / "export" / folder).iterdir():
            assert path.name == "README.md" or path.name in text, path
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            assert (ROOT / "export" / folder / target).exists(), target
