"""The causal model as packages of AOTInductor: frames, steps, and the C++ program that runs them."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from aoti_packages import LIMITS, equal, packages, wanted
from tiny import CAUSAL_SMALL as CAUSAL
from tiny import RATE, noise, tiny_model

from ussfast import Separator
from ussfast.engine.backends.aoti import AotiRunner
from ussfast.export import graphs_of
from ussfast.export.networks import as_tensors
from ussfast.models.causal import hop

HOP = CAUSAL.stft.hop
SOURCE = Path(__file__).parents[2] / "export" / "cpp"
PROMPTS = ("speech", "drums", "bass")
LATE = CAUSAL.latency_samples - HOP


@pytest.fixture(scope="module")
def model():
    return tiny_model(CAUSAL).eval()


@pytest.fixture(scope="module")
def graphs(model):
    return {graph.name: graph for mode in ("offline", "step") for graph in graphs_of(model, mode, LIMITS)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model):
    return packages(tmp_path_factory.mktemp("aoti-causal"), model)


@pytest.mark.parametrize("name", ["prompts", "model", "step"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 3, 9), (1, 4, 40), (3, 1, 2), (3, 2, 1)], ids=str)
def test_equals_pytorch_at_all_sizes(folder, graphs, name, sizes):
    inputs = graphs[name].example(3, **dict(zip(("batch", "sources", "frames"), sizes, strict=True)))
    equal(AotiRunner(folder).run(name, inputs), wanted(graphs[name], inputs))


def test_state_carries_on_from_call_to_call(folder, graphs):
    """Frames in three parts give what they give at once; the last part is a single frame."""
    runner, graph = AotiRunner(folder, threads=1), graphs["model"]
    inputs = graph.example(4, batch=2, sources=2, frames=12)
    inputs |= {before: torch.zeros_like(inputs[before]) for before, _ in graph.state}
    whole, masks, state = runner.run("model", inputs), [], {}
    for part in inputs["spec"].split([7, 4, 1], 1):
        found = runner.run("model", inputs | {"spec": part} | state)
        masks.append(found["masks"])
        state = {before: found[after] for before, after in graph.state}
    equal({"masks": torch.cat(masks, 2)}, {"masks": whole["masks"]})
    equal({after: state[before] for before, after in graph.state}, {a: whole[a] for _, a in graph.state})


def test_steps_equal_those_of_the_model(folder, model, graphs):
    """Hop by hop beside `hop.step`, with vectors that the model does not know; what goes in is not changed."""
    runner, rng = AotiRunner(folder), torch.Generator().manual_seed(5)
    vectors = torch.randn(2, 2, CAUSAL.dim, generator=rng)
    asked, mine = runner.run("prompts", {"prompts": vectors}), hop.initial_state(model, 2, 2)
    state = {"context": mine.context, "overlap": mine.overlap}
    state |= dict(zip([n for n, _ in graphs["step"].state][2:], as_tensors(mine.frames), strict=True))
    for _ in range(6):
        audio = torch.randn(2, HOP, generator=rng) * 0.2
        kept = audio.clone()
        with torch.inference_mode():
            out, mine = hop.step(model, audio, mine, model.condition(vectors))
        found = runner.run("step", {"audio": audio, **asked, **state})
        state = {before: found[after] for before, after in graphs["step"].state}
        equal({"out": found["out"]}, {"out": out})
        assert found["next_context"].data_ptr() != audio.data_ptr() and torch.equal(audio, kept)


def test_a_separator_and_its_streams_run_it(folder, model):
    mixture = noise(1, RATE)
    theirs = Separator(folder, PROMPTS, backend="aoti")
    ours = Separator.from_model(model, PROMPTS, device="cpu").separate(mixture, RATE)
    stems = theirs.separate(mixture, RATE)
    for name in PROMPTS:
        assert abs(stems[name] - ours[name]).max() <= 1e-4 * abs(ours[name]).max()


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The C++ program, built."""
    if not shutil.which("cmake") or not shutil.which(os.environ.get("CXX", "g++")):
        pytest.skip("cmake or a C++ compiler is missing")
    build = tmp_path_factory.mktemp("aoti-cpp")
    ninja = ["-G", "Ninja"] if shutil.which("ninja") else []
    prefix = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    for command in (["cmake", *ninja, "-S", SOURCE, "-B", build, prefix], ["cmake", "--build", build]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout
    return build / "ussfast-aoti"


@pytest.fixture(scope="module")
def stems(model):
    """What is wanted of a mixture, [sources, channels, samples]."""
    separator = Separator.from_model(model, PROMPTS, device="cpu")

    def of(mixture):
        found = separator.separate(mixture, RATE)
        return np.stack([found[name] for name in PROMPTS])

    return of


def run(program, *args, **options):
    return subprocess.run([program, *args], capture_output=True, **options)


@pytest.mark.parametrize("channels, samples", [(2, 20 * HOP + 17), (1, HOP), (1, 1)])
@pytest.mark.parametrize("subtype", ["FLOAT", "PCM_16"])
def test_cpp_separates_a_file(program, folder, stems, tmp_path, channels, samples, subtype):
    path = tmp_path / "in.wav"
    soundfile.write(path, noise(channels, samples).T, RATE, subtype=subtype)
    done = run(program, "separate", path, tmp_path / "out/stems", "-d", folder, "-p", ",".join(PROMPTS))
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(p.name for p in (tmp_path / "out/stems").iterdir()) == sorted(f"{name}.wav" for name in PROMPTS)
    expected = stems(soundfile.read(path, dtype="float32", always_2d=True)[0].T)
    for name, rows in zip(PROMPTS, expected, strict=True):
        found, rate = soundfile.read(tmp_path / f"out/stems/{name}.wav", dtype="float32", always_2d=True)
        assert rate == RATE and found.shape == rows.T.shape
        assert abs(found.T - rows).max() <= 1e-4 * abs(expected).max()


@pytest.mark.parametrize("samples", [0, 1, 3 * HOP, 5 * HOP + 11])
def test_cpp_streams(program, folder, stems, samples):
    audio = noise(1, max(samples, 1))[:, :samples]
    done = run(program, "stream", "-d", folder, "-p", ",".join(PROMPTS), "-t", "2", input=audio.tobytes())
    assert done.returncode == 0
    told = done.stderr.decode()
    assert f"speech, drums, bass: 3 x float32 at {RATE} Hz, latency {LATE + HOP} samples (16.0 ms)" in told
    found = np.frombuffer(done.stdout, np.float32).reshape(-1, 3).T
    assert found.shape == (3, samples + LATE)
    if samples:
        expected = stems(audio)[:, 0]
        assert abs(found[:, LATE:] - expected).max() <= 1e-4 * abs(expected).max()


def test_cpp_takes_vectors_from_another_file(program, folder, model, tmp_path):
    """A prompt that is newer than the export, of a name that JSON escapes, beside one that is asked for twice."""
    vector = torch.randn(CAUSAL.dim, generator=torch.Generator().manual_seed(6))
    (tmp_path / "mine.json").write_text(json.dumps({"K\u00e4uzchen \U0001d11e": vector.tolist()}))
    audio = noise(1, 6 * HOP)
    soundfile.write(tmp_path / "in.wav", audio.T, RATE, subtype="FLOAT")
    asked = "K\u00e4uzchen \U0001d11e,speech,speech"
    done = run(
        program, "separate", tmp_path / "in.wav", tmp_path, "-d", folder, "-p", asked, "-v", tmp_path / "mine.json"
    )
    assert (done.returncode, done.stderr) == (0, b"")
    vectors = torch.cat((vector[None], model.prompt_vectors(("speech", "speech"))))
    with torch.inference_mode():
        expected = model.separate(torch.from_numpy(audio), vectors[None])[0]
    for name, row in zip(("K\u00e4uzchen \U0001d11e", "speech", "speech-2"), expected, strict=True):
        found = torch.from_numpy(soundfile.read(tmp_path / f"{name}.wav", dtype="float32")[0])
        assert (found - row).abs().max() <= 1e-4 * expected.abs().max()


def wrong_files(folder, there):
    """Files by what is wrong with them."""
    rows = noise(1, 100).T
    soundfile.write(there / "rate.wav", rows, 2 * RATE)
    soundfile.write(there / "deep.wav", rows, RATE, subtype="PCM_24")
    soundfile.write(there / "good.wav", rows, RATE, subtype="FLOAT")
    soundfile.write(there / "empty.wav", rows[:0], RATE)
    (there / "cut.wav").write_bytes((there / "good.wav").read_bytes()[:300])
    (there / "head.wav").write_bytes(b"RIFF\0\0\0\0WAVE")
    (there / "text.wav").write_text("no audio")
    (there / "list.json").write_text("[1, 2]")
    (there / "half.json").write_text('{"new": [1, 2')
    (there / "deep.json").write_text("[" * 100_000)
    (there / "short.json").write_text('{"new": [1, 2]}')
    (there / "none").mkdir()
    for name, changes in (("onnx", {"kind": "onnx"}), ("later", {"version": 2}), ("offline", {"graphs": {}})):
        (there / name).mkdir()
        said = json.loads((folder / "export.json").read_text()) | changes
        (there / name / "export.json").write_text(json.dumps(said))
    shutil.copytree(folder, there / "broken")
    (there / "broken/step.pt2").write_bytes(b"no package")
    shutil.copytree(folder, there / "gone")
    (there / "gone/prompts.pt2").unlink()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "the first word must be separate or stream"),
        ("separate good.wav out", "-d is missing"),
        ("separate good.wav -d DIR", "separate takes a WAV file and a folder"),
        ("stream good.wav -d DIR", "stream takes options only"),
        ("stream -d DIR -x 1", "unknown option -x"),
        ("stream -d DIR -t 0", "-t must be from 1 to 999"),
        ("stream -d DIR -p speech,,drums", "-p must be names with commas"),
        ("stream -d", "-d needs a value"),
        ("separate no.wav out -d DIR -p speech", "no.wav: cannot be read"),
        ("separate none out -d DIR -p speech", "none: cannot be read"),
        ("separate text.wav out -d DIR -p speech", "text.wav: is no WAV file"),
        ("separate head.wav out -d DIR -p speech", "head.wav: is a WAV file without audio"),
        ("separate cut.wav out -d DIR -p speech", "cut.wav: is cut short"),
        ("separate empty.wav out -d DIR -p speech", "empty.wav: has no samples"),
        ("separate deep.wav out -d DIR -p speech", "only 16-bit PCM and 32-bit float"),
        ("separate rate.wav out -d DIR -p speech", "rate.wav: has 16000 Hz, and the model takes 8000 Hz"),
        ("separate good.wav text.wav -d DIR -p speech", "text.wav: cannot be made"),
        ("separate good.wav out -d none", "none: no exported model (export.json is missing)"),
        ("separate good.wav out -d onnx", "export.json: is of kind onnx: export with --aoti"),
        ("separate good.wav out -d later", "export.json: is of another version"),
        ("separate good.wav out -d offline", 'export.json: has no graph "step"'),
        ("separate good.wav out -d broken -p speech", "broken/step.pt2: cannot be loaded"),
        ("separate good.wav out -d gone -p speech", "gone/prompts.pt2: missing"),
        ("separate good.wav out -d DIR -p cat", 'has no prompt "cat", only bass, drums'),
        ("stream -d DIR -p speech,speech,speech,speech,speech", 'tells at most 4 prompts "speech" apart'),
        ("separate good.wav out -d DIR", "takes 4 prompts at once, not 8"),
        ("separate good.wav out -d DIR -p a -v no.json", "no.json: cannot be read"),
        ("separate good.wav out -d DIR -p a -v list.json", "has something else where a table is needed"),
        ("separate good.wav out -d DIR -p a -v half.json", "half.json: is not JSON: no ]"),
        ("separate good.wav out -d DIR -p a -v deep.json", "deep.json: is not JSON: too many levels"),
        ("separate good.wav out -d DIR -p new -v short.json", "takes other prompt vectors than of 2 numbers"),
        ("separate good.wav out -d DIR -p speech,new -v short.json", "its vectors differ in length"),
    ],
)
def test_cpp_says_what_is_wrong(program, folder, tmp_path, words, said):
    wrong_files(folder, tmp_path)
    args = [folder if word == "DIR" else word for word in words.split()]
    done = run(program, *args, cwd=tmp_path, input=b"")
    lines = done.stderr.decode().splitlines()
    assert done.returncode in (1, 2) and lines[0].startswith("ussfast-aoti: ") and said in lines[0]
    assert done.returncode == 2 or len(lines) == 1
    assert not done.stdout and not list(tmp_path.glob("out/*"))


def test_cpp_says_where_a_stream_ends_inside_a_sample(program, folder):
    done = run(program, "stream", "-d", folder, "-p", "speech", input=noise(1, HOP).tobytes() + b"\0\0")
    assert done.returncode == 1 and b"ended inside a sample" in done.stderr
    assert len(done.stdout) == 4 * (HOP + LATE)
