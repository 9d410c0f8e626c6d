"""Tasks, stems that are chosen, prompts with commas, and what `ussfast models` says."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from commands import run
from tiny import CAUSAL, RATE, files_in, noise, tiny_directory

import ussfast
from ussfast.checkpoints.names import PRESET_FAMILIES, embedded, glance, is_preset
from ussfast.models.presets import PRESETS
from ussfast.prompts.tasks import TASKS


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with a recording at another rate than the model's in it."""
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", noise(1, 9000).T, 2 * RATE, subtype="FLOAT")
    return tmp_path


def load(path):
    return soundfile.read(path, dtype="float32", always_2d=True)[0].T


def test_tasks_fit_the_embedded_model():
    assert {"denoise", "dialogue", "effects", "music"} <= TASKS.keys()
    assert (TASKS["denoise"].prompts, TASKS["denoise"].keep) == (("speech", "sfxbg"), ("speech",))
    seen = [glance(path, name) for name, path in embedded().items()]  # a detector is none of these models
    known = [set(model.prompts) for model in seen if model is not None]
    assert known
    for task in TASKS.values():
        assert set(task.keep) <= set(task.prompts) and len(set(task.prompts)) == len(task.prompts)
        assert all(set(task.prompts) <= prompts for prompts in known)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_asks_for_all_and_keeps_some(model, folder, capsys, name):
    code, out, err = run(capsys, "separate", "a.wav", "-m", model, "--task", name)
    assert (code, err) == (0, "")
    assert sorted(out.splitlines()) == sorted(f"separated/a/{label}.wav" for label in TASKS[name].keep)
    expected = ussfast.Separator(model, TASKS[name].prompts).separate("a.wav")
    for label in TASKS[name].keep:
        np.testing.assert_allclose(load(f"separated/a/{label}.wav"), expected[label], atol=1e-5)


def test_prompts_with_commas(model, folder, capsys):
    code, out, _ = run(capsys, "separate", "a.wav", "-m", model, "-p", "speech, sfx", "-p", "sfx")
    assert code == 0 and out.splitlines() == [f"separated/a/{label}.wav" for label in ("speech", "sfx-1", "sfx-2")]


@pytest.mark.parametrize("options", [("--stem", "bass"), ("--stem", "bass", "--residual"), ("--stem", "residual")])
def test_only_the_chosen_stems_are_written(model, folder, capsys, options):
    labels = [label for label in ("bass", "residual") if label in " ".join(options)]
    base = ("separate", "a.wav", "-m", model, "-p", "speech,sfx,bass")
    code, out, _ = run(capsys, *base, *options, "--json")
    assert code == 0
    assert json.loads(out)[0]["stems"] == {label: f"separated/a/{label}.wav" for label in labels}
    assert files_in(Path("separated/a")) == [f"{label}.wav" for label in labels]
    whole = ussfast.Separator(model, ("speech", "sfx", "bass")).separate("a.wav")
    for label in labels:
        wanted = whole.residual if label == "residual" else whole[label]
        np.testing.assert_allclose(load(f"separated/a/{label}.wav"), wanted, atol=1e-5)


def test_a_stem_chosen_twice_and_in_any_order_is_written_in_the_order_of_the_prompts(model, folder, capsys):
    base = ("separate", "a.wav", "-m", model, "-p", "speech,sfx,bass", "--template", "{index}-{label}")
    code, out, _ = run(capsys, *base, "--stem", "bass", "--stem", "speech", "--stem", "bass")
    assert code == 0 and out.splitlines() == ["separated/1-speech.wav", "separated/2-bass.wav"]
    whole = ussfast.Separator(model, ("speech", "sfx", "bass")).separate("a.wav")
    np.testing.assert_allclose(load("separated/2-bass.wav"), whole["bass"], atol=1e-5)


def test_one_kept_stem_needs_no_label_in_its_name(model, folder, capsys):
    code, out, _ = run(capsys, "separate", "a.wav", "-m", model, "--task", "denoise", "--template", "{name}-clean.flac")
    assert (code, out) == (0, "separated/a-clean.flac\n")


def test_a_stem_besides_a_task(model, folder, capsys):
    code, out, _ = run(capsys, "separate", "a.wav", "-m", model, "--task", "denoise", "--stem", "sfxbg")
    assert (code, out) == (0, "separated/a/sfxbg.wav\n")


def test_stems_of_separate_file(model, folder):
    separator = ussfast.Separator(model, ("speech", "sfx"))
    assert separator.separate_file("a.wav", "out", stems=["sfx"]) == [Path("out/sfx.wav")]
    for stems, says in ((["bass"], "no stem 'bass'; there are speech, sfx, residual"), ([], "no stem is chosen")):
        with pytest.raises(ussfast.InputError, match=says):
            separator.separate_file("a.wav", "out", stems=stems)


def test_a_suffix_in_the_name_of_the_input_is_not_the_templates(model, folder, capsys):
    Path("a.wav").rename("a.mp3.wav")
    code, out, _ = run(capsys, "separate", "a.mp3.wav", "-m", model, "-p", "speech", "--template", "{label}_{name}")
    assert (code, out) == (0, "separated/speech_a.mp3.wav\n")


def test_models_says_what_can_be_used_for_what(tmp_path, capsys, monkeypatch):
    for name, config in (("live", CAUSAL), ("windows", None)):
        (tiny_directory(tmp_path, config) if config else tiny_directory(tmp_path)).rename(tmp_path / name)
    monkeypatch.setattr("ussfast.checkpoints.names.EMBEDDED", tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "nothing"))
    facts = json.loads(run(capsys, "models", "--json")[1])
    live, windows = (next(m for m in facts["models"] if m["name"] == name) for name in ("live", "windows"))
    assert (live["causal"], live["latency_seconds"]) == (True, CAUSAL.stft.n_fft / RATE)
    assert live["bytes"] == sum(p.stat().st_size for p in (tmp_path / "live").iterdir())
    session = ussfast.Separator(tmp_path / "windows", "speech").session(RATE)
    assert (windows["causal"], windows["latency_seconds"]) == (False, session.latency)
    assert facts["tasks"]["denoise"] == {"prompts": ["speech", "sfxbg"], "keep": ["speech"]}
    code, out, err = run(capsys, "models")
    assert (code, err) == (0, "") and "  causal, latency of a stream 16 ms\n" in out
    assert "  not causal, latency of a stream 6 s\n" in out and f"{live['bytes'] / 2**20:.1f} MiB, {RATE} Hz)" in out
    for name, task in TASKS.items():
        assert f"  {name}" in out and task.help in out


def test_presets_are_known_by_their_families():
    assert all(name.startswith(PRESET_FAMILIES) and is_preset(name) for name in PRESETS)
    assert not is_preset("tuss-tiny") and not is_preset("default")


@pytest.mark.parametrize("options", [(), ("--residual",)])
def test_a_task_of_a_stream_writes_what_it_keeps(model, folder, capsys, options):
    base = ("stream", "a.wav", "-m", model, "--fast", "--latency", 0.5, "-o", "out")
    code, out, err = run(capsys, *base, "--task", "denoise", *options)
    assert (code, err) == (0, "")
    assert out.splitlines() == ["out/speech.wav", *(["out/residual.wav"] if options else [])]
    assert sorted(p.name for p in Path("out").iterdir()) == sorted(Path(line).name for line in out.splitlines())
    assert run(capsys, *base[:-1], "all", "-p", "speech,sfxbg", *options)[0] == 0
    for line in out.splitlines():
        np.testing.assert_array_equal(load(line), load(f"all/{Path(line).name}"))


def test_a_task_of_a_stream_chooses_what_is_put_out(model, folder, capsysbinary):
    base = ("stream", "a.wav", "-m", model, "--fast", "--latency", 0.5)
    outputs = []
    for options in (("--task", "denoise"), ("-p", "speech,sfxbg", "--stem", "speech"), ("--task", "denoise", "--all")):
        code, out, _ = run(capsysbinary, *base, *options)
        assert code == 0
        outputs.append(out)
    assert outputs[0] == outputs[1] and len(outputs[0]) == 2 * 9000 and len(outputs[2]) == 2 * len(outputs[0])
    code, _, err = run(capsysbinary, *base, "--task", "music")
    assert code == 2 and b"several stems (vocals, bass, drums, other)" in err


def test_a_stream_with_windows_says_how_late_it_is(model, folder, capsys):
    live = tiny_directory(folder, CAUSAL)
    for directory, options, late in (
        (model, (), True), (model, ("--latency", 0.5), False), (model, ("--json",), False), (live, (), False),
    ):  # fmt: skip
        code, _, err = run(capsys, "stream", "a.wav", "-m", directory, "-p", "speech", "--fast", "-o", "out", *options)
        assert code == 0 and ("is not causal: what comes out is 6.0 s late; --latency SECONDS" in err) == late
        assert err.count("\n") == (1 if late or options == ("--json",) else 0)


def test_the_readme_lists_the_tasks():
    text = (Path(__file__).parents[2] / "README.md").read_text()
    for name, task in TASKS.items():
        kept = "all" if task.keep == task.prompts else ", ".join(task.keep)
        assert f"| `{name}` | {', '.join(task.prompts)} | {kept} |" in text
