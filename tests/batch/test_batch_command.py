"""`ussfast batch` with Ray: errors that stay with their file, what is done once, interrupts, and what is left."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile
from commands import record, run
from deadly import Deadly
from tiny import CAUSAL, RATE, files_in, noise, tiny_directory

from ussfast.audio import OutputFormat
from ussfast.batch.cluster import started
from ussfast.batch.listing import Listing
from ussfast.batch.places import Place
from ussfast.batch.report import Report
from ussfast.batch.run import Pool
from ussfast.batch.run import run as run_batch
from ussfast.batch.task import Task

pytest.importorskip("ray", reason="Ray runs collections")

LONG = 8  # files of a command that takes a while


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_directory(tmp_path_factory.mktemp("models"), CAUSAL)


@pytest.fixture(scope="module")
def ray_here():
    """Ray with two cores, for all commands of this process; its workers find modules of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        with started(None, 2):
            import ray

            yield ray


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ussfast.cli.progress.EVERY_SECONDS", 1e9)  # no lines about progress on a slow machine
    return tmp_path


def rows(report="out/.ussfast-report"):
    lines = [line for path in Path(report, "results").glob("*.jsonl") for line in path.read_text().splitlines()]
    return sorted(map(json.loads, lines), key=lambda row: row["input"])


def summary(report="out/.ussfast-report"):
    return json.loads(Path(report, "report.json").read_text())


def processes_of(text):
    """Those with the text in their command line or environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (path / "cmdline").read_bytes() + (path / "environ").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def wait_until(what, seconds=300.0):
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.05)


def test_a_corrupt_file_in_200(ray_here, folder, model, capsys):
    for number in range(199):
        record(f"in/{number % 7}/ü {number}.wav", samples=400, seed=number)
    Path("in/3/bad.wav").write_bytes(b"RIFF no audio")
    command = ("batch", "in", "-m", model, "-p", "speech,sfx", "--stem", "speech", "-o", "out", "--workers", 2)
    code, out, err = run(capsys, *command, "--json")
    told = json.loads(out)
    assert code == 2 and err.count("\n") == 1 and "in/3/bad.wav: libsndfile could not read it" in err
    assert (told["inputs"], told["done"], told["skipped"], told["failed"], told["complete"]) == (200, 199, 0, 1, True)
    assert told["workers"] == 2 and told["hours_per_hour"] > 0
    found = rows()
    assert len(found) == 200 and sum(row["status"] == "done" for row in found) == 199
    (bad,) = [row for row in found if row["error"]]
    assert [json.loads(line) for line in Path("out/.ussfast-report/failures.jsonl").open()] == [bad]
    assert bad["input"] == str(folder / "in/3/bad.wav") and bad["outputs"] == {}
    stems = [row["outputs"]["speech"] for row in found if not row["error"]]
    assert len(set(stems)) == 199 and all(soundfile.info(stem).frames == 400 for stem in stems)
    assert f"{folder}/out/3/ü 3/speech.wav" in stems
    before = {path: os.stat(path).st_mtime_ns for path in stems}
    # Again: nothing is done twice, and what has been mended is done.
    record("in/3/bad.wav", samples=400)
    code, out, err = run(capsys, *command)
    assert (code, err) == (0, "") and out.startswith("1 of 200 files") and "199 were complete, 0 failed" in out
    assert {path: os.stat(path).st_mtime_ns for path in stems} == before
    assert {row["fingerprint"] is None for row in rows()} == {False} and summary()["skipped"] == 199


def test_stems_are_those_of_separate(ray_here, folder, model, capsys):
    for name in ("a", "deep/b"):
        record(f"in/{name}.wav", samples=5000)
    options = ("in", "-m", model, "-p", "speech", "-p", "sfx", "--residual", "--format", "flac")
    assert run(capsys, "batch", *options, "-o", "many", "--report", "told", "-j", 2)[0] == 0
    assert run(capsys, "separate", *options, "-o", "few")[0] == 0
    assert files_in(folder / "many") == files_in(folder / "few") and len(files_in(folder / "few")) == 6
    for path in files_in(folder / "few"):
        assert (folder / "many" / path).read_bytes() == (folder / "few" / path).read_bytes()
    assert summary("told")["done"] == 2


def test_a_file_that_ends_its_worker_fails_alone(ray_here, folder, model):
    for name in ("a", "deadly", "once", "z"):
        record(f"in/{name}.wav")
    listing = Listing(["in"], [], Place("out"), "{name}/{label}.wav", OutputFormat())
    task = Task(str(folder / "out"), ("speech",), "{name}/{label}.wav", False, None, OutputFormat())
    report = run_batch(
        listing, task, lambda: Deadly(model, device="cpu"), Report(folder / "told"), Pool(workers=1, device="cpu")
    )
    assert (report.summary.done, report.summary.failed, report.worst) == (3, 1, 1)
    (bad,) = [row for row in rows("told") if row["error"]]
    assert bad["input"].endswith("deadly.wav") and "its worker has ended twice" in bad["error"]
    assert files_in(folder / "out") == ["a/speech.wav", "once/speech.wav", "z/speech.wav"]


def test_what_is_wrong_is_said_before_anything_is_separated(ray_here, folder, model, capsys):
    record("in/a.wav")
    base = ("batch", "in", "-m", model, "-o", "out")
    for arguments, code, says in (
        ((*base, "-p", "speach"), 2, "unknown prompt 'speach'"),
        ((*base, "-p", "speech", "--workers", 99), 2, "99 workers need as many cores, and Ray has 2"),
        ((*base, "-p", "speech", "--device", "cuda:1"), 2, "Ray gives out GPUs"),
        ((*base, "-p", "speech", "--device", "cuda"), 2, "Ray has found no GPU"),
        ((*base, "-p", "speech", "--template", "{colour}.wav"), 2, "may use"),
        (("batch", "-p", "speech"), 2, "no inputs"),
        (("batch", "gone", "-m", model, "-p", "speech", "-o", "out"), 2, "gone: no such file"),
        (("batch", "in", "-m", model, "-p", "speech", "-o", "memory://o"), 2, "--report DIR is needed"),
    ):
        found, out, err = run(capsys, *arguments)
        assert found == code and says in err and err.count("\n") == 1, (arguments, out, err)
    assert not list((folder / "out").rglob("*.wav"))


@pytest.fixture
def begin(folder):
    """Begins the command in a process; returns once a file is complete and another one under way."""
    running = []

    def start(*arguments, **more):
        command = [sys.executable, "-m", "ussfast", "batch", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
        running.append(process)
        out = folder / "out"
        wait_until(
            lambda: process.poll() is not None or (any(out.rglob("speech.wav")) and any(out.rglob(".ussfast-*.wav")))
        )
        assert process.poll() is None, process.communicate()
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def long(folder, model):
    """A command that takes a while."""
    for number in range(LONG):
        path = folder / f"in/{number}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, noise(1, 800_000, seed=number).T, RATE)
    return "in", "-m", str(model), "-p", "speech", "-o", "out", "--workers", "2", "-q"


def test_an_interrupt_stops_all_workers(ray_here, folder, long, begin):
    process = begin(*long, "--address", ray_here.get_runtime_context().gcs_address)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143 and err == ""
    assert not list((folder / "out").rglob(".ussfast-*.wav"))  # nothing half-written
    assert summary()["complete"] is False and 0 < len(list((folder / "out").rglob("speech.wav"))) < LONG


def test_a_killed_run_goes_on_where_it_was(ray_here, folder, long, begin, capsys):
    """With a Ray of its own, from a folder that cannot be written to; not a process of it is left."""
    mark = f"USSFAST_TEST_MARK={os.getpid()}-{time.monotonic_ns()}"
    nowhere = folder / "nowhere"
    nowhere.mkdir(mode=0o555)
    absolute = [str(folder / word) if word in ("in", "out") else word for word in long]
    env = os.environ | dict([mark.split("=")])
    process = begin(*absolute, cwd=nowhere, env=env)
    assert len(processes_of(mark)) > 3  # this is how they are found
    process.kill()
    process.communicate(timeout=120)
    wait_until(lambda: not processes_of(mark))
    before = {path: os.stat(path).st_mtime_ns for path in (folder / "out").rglob("speech.wav")}
    assert 0 < len(before) < LONG
    complete = [path for path in before if list(path.parent.glob(".ussfast.*.json"))]
    assert len(complete) >= len(before) - 2  # one of each worker may lack its record
    code, out, err = run(capsys, "batch", *long)
    assert (code, err) == (0, "") and summary()["done"] == LONG - len(complete)
    assert all(os.stat(path).st_mtime_ns == before[path] for path in complete)
    assert [path for path in files_in(folder / "out") if path.endswith(".wav")] == sorted(
        f"{n}/speech.wav" for n in range(LONG)
    )
    assert len(rows()) == LONG and {row["status"] for row in rows()} == {"done", "skipped"}
