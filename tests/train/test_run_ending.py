"""A run that is ended by a signal leaves whole checkpoints and nothing half-written, and goes on from there."""

import json
import signal
import subprocess
import sys
import time

import pytest
import yaml
from tiny import tiny_manifest, tiny_recipe

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.mark.parametrize("number", CODES)
def test_a_run_that_is_ended_goes_on(tmp_path, number):
    recipe = tiny_recipe(optim={"steps": 100_000}, run={"checkpoint_every": 2})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run, data = tmp_path / "run", tiny_manifest(tmp_path, seconds=0.5)
    command = [sys.executable, "-m", "ussfast", "train", str(tmp_path / "recipe.yaml")]
    command += ["--data", str(data), "-o", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while not list(run.glob("step-*")):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        process.send_signal(number)
        err = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == CODES[number] and "Traceback" not in err, err
    assert not list(tmp_path.rglob(".*"))
    steps = max(int(path.name[5:]) for path in run.glob("step-*"))
    again = subprocess.run([*command, "--steps", str(steps + 1)], capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert json.loads((run / "log.jsonl").read_text().splitlines()[-1])["step"] == steps + 1
