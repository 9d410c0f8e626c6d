"""`ussfast bench` and what it measures with: the figures must belong together; how large they are is the machine's."""

import json
import os
import threading

import numpy as np
import pytest
import torch
from tiny import PROMPTS, RATE, STACK, UNCONDITIONAL, tiny_directory, tiny_model

from ussfast import Separator
from ussfast.cli.main import main
from ussfast.errors import InputError
from ussfast.models.asp_unet import AspUnetConfig
from ussfast.models.bslocoformer import BsLocoformerConfig
from ussfast.models.presets import PRESETS
from ussfast.ops import rms_group_norm, use_reference
from ussfast.ops._op import OPS, OpSpec, record_ops
from ussfast.profiling.flops import model_flop
from ussfast.profiling.profile import REST, Row, measure, one_window, profile, prompts_of, table

SECONDS = 0.25


def run(capsys, *arguments):
    """Exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as exit:
        main(["bench", *map(str, arguments)])
    return (exit.value.code or 0, *capsys.readouterr())


def facts(capsys, *arguments):
    code, out, err = run(capsys, *arguments, "--seconds", SECONDS, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def complaint(capsys, *arguments):
    """The one line of a run that fails for bad input."""
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "") and err.startswith("ussfast: ") and err.count("\n") == 1
    return err


def test_figures_belong_together(directory, separator, capsys):
    found = facts(capsys, directory, "-p", "speech", "-p", "drums", "-p", "drums")
    assert found["prompts"] == ["speech", "drums", "drums"] and found["backend"] == "native"
    assert found["gflop"] * 1e9 == model_flop(separator.engine.model.config, round(SECONDS * RATE), 3)
    assert found["rtf"] == pytest.approx(found["run_seconds"] / SECONDS)
    assert found["gflops"] == pytest.approx(found["gflop"] / found["run_seconds"])
    assert found["gemm_share"] == pytest.approx(found["gflops"] / found["gemm_gflops"])
    assert found["machine"] and found["torch"] == torch.__version__ and "profile" not in found


def test_text(directory, capsys):
    code, out, err = run(capsys, directory, "--seconds", SECONDS, "--backend", "reference", "--dtype", "bfloat16")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 4 and lines[0] == "tiny: speech, sfx; reference, dtype bfloat16"
    assert lines[2].startswith("RTF ") and "0.25 s of audio" in lines[2] and "GFLOP/s" in lines[3]


def test_profile_in_text(directory, capsys):
    code, out, _ = run(capsys, directory, "--seconds", SECONDS, "--profile")
    lines = out.splitlines()
    assert code == 0 and lines[5].split() == ["op", "calls", "time", "GFLOP/s"]
    assert any(line.startswith("rms_group_norm ") for line in lines[6:]) or "locoformer" in out
    assert lines[-1].startswith(REST) and lines[-1].count("%") == 1


def test_profile_in_json(directory, capsys):
    rows = facts(capsys, directory, "--profile")["profile"]
    assert [row["op"] for row in rows][-1] == REST and rows[-1]["calls"] is None
    assert {row["op"] for row in rows[:-1]} <= OPS.keys() and all(row["calls"] > 0 for row in rows[:-1])
    assert sum(row["share"] for row in rows) == pytest.approx(1)


def test_models_without_prompts(tmp_path, capsys):
    found = facts(capsys, tiny_directory(tmp_path, UNCONDITIONAL))
    assert found["prompts"] == [] and found["gflop"] * 1e9 == model_flop(UNCONDITIONAL, round(SECONDS * RATE), 3)


def test_presets(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRESETS, "tuss-of-tests", UNCONDITIONAL)
    assert facts(capsys, "tuss-of-tests")["model"] == "tuss-of-tests"
    tiny_directory(tmp_path).rename(tmp_path / "tuss-of-tests")  # a directory of that name comes first
    assert facts(capsys, "tuss-of-tests")["model"] == "tiny"


def test_a_preset_whose_prompts_are_vectors_gets_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = AspUnetConfig(encoder_channels=(2, 3), center_channels=4, latent_dim=5)
    monkeypatch.setitem(PRESETS, "asp-of-tests", config)
    found = facts(capsys, "asp-of-tests")
    assert found["gflop"] * 1e9 == model_flop(config, round(SECONDS * 32000), 1)


def test_threads_are_set_and_given_back(directory, capsys):
    before, other = torch.get_num_threads(), os.cpu_count() if torch.get_num_threads() == 1 else 1
    assert facts(capsys, directory, "--threads", other)["threads"] == other
    assert torch.get_num_threads() == before
    assert "at most the" in complaint(capsys, directory, "--threads", os.cpu_count() + 1)


def test_bad_input(directory, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "or a preset, did you mean tuss-medium" in complaint(capsys, "tuss-medum")
    assert "no model 'nothing'" in complaint(capsys, "nothing")
    assert "unknown prompt 'speach'" in complaint(capsys, directory, "-p", "speach")
    assert "takes no prompts" in complaint(capsys, "tflocoformer-s", "-p", "speech")
    for seconds in ("0", "-1", "nan", "inf"):
        assert "seconds must be above 0 and finite" in complaint(capsys, directory, "--seconds", seconds)
    assert "segment must be at least 0.01 s" in complaint(capsys, directory, "--seconds", "0.00001")
    assert "dtype must be one of" in complaint(capsys, directory, "--dtype", "float8")
    assert "backend must be one of" in complaint(capsys, directory, "--backend", "fast")
    for option in ("--rounds", "--threads"):
        assert run(capsys, directory, option, "0")[0] == 2


def test_one_window_only(separator):
    with pytest.raises(InputError, match=r"1 s: one window is measured, .* segment of 0.4 s"):
        one_window(separator, 1.0)
    published = Separator.from_model(tiny_model(), segment=1.0, stitch="published")
    with pytest.raises(InputError, match="published stitching"):
        one_window(published, 0.5)


def test_a_run_is_one_window(separator, monkeypatch):
    windows = []
    real = separator.engine.run
    monkeypatch.setattr(separator.engine, "run", lambda audio, *rest: windows.append(audio) or real(audio, *rest))
    result = one_window(separator, SECONDS)[0]()
    assert [w.shape for w in windows] == [(1, round(SECONDS * RATE))] and result.labels == ("speech", "sfx")
    assert np.abs(result.stems).max() > 0


def test_default_prompts():
    assert prompts_of(Separator.from_model(tiny_model())) == PROMPTS[:2]
    assert prompts_of(Separator.from_model(tiny_model(), ("bass",))) == ("bass",)
    assert prompts_of(Separator.from_model(tiny_model(UNCONDITIONAL))) == ()


def test_from_python(separator):
    speed = measure(separator, SECONDS, rounds=1)
    assert speed.share == pytest.approx(speed.rate / speed.gemm_rate) and speed.rtf > 0
    rows = profile(separator, SECONDS, repeats=2)
    assert rows[-1].op == REST and sum(row.share for row in rows) == pytest.approx(1)


def test_table():
    rows = [Row("attention", 12, 0.5, 2.5e9), Row("norm", 3, 0.1, None), Row(REST, None, 0.4, 1e9)]
    assert table(rows).splitlines() == [
        "op               calls   time  GFLOP/s",
        "attention           12  50.0%      2.5",
        "norm                 3  10.0%",
        "everything else         40.0%      1.0",
    ]


def test_recording_ops():
    x, weight = torch.randn(4, 8), torch.ones(8)
    with record_ops() as calls:
        expected = rms_group_norm(x, weight, 2)
        with use_reference():
            torch.testing.assert_close(rms_group_norm(x, weight, 2), expected)
        with record_ops() as inner:
            rms_group_norm(x, weight, 2)
    rms_group_norm(x, weight, 2)
    assert [call.name for call in calls] == ["rms_group_norm"] * 2 and len(inner) == 1
    assert all(call.seconds > 0 and call.flop == 0 for call in calls)


def test_an_op_inside_an_op_is_part_of_it():
    norm = OPS["rms_group_norm"]
    outer = OpSpec("outer", "", lambda x, w: norm(x, w, 2, 1e-5), norm.samples, flop=lambda x, w: 7 * x.numel())
    with record_ops() as calls, use_reference():
        outer(torch.randn(4, 8), torch.ones(8))
        norm(torch.randn(4, 8), torch.ones(8), 2, 1e-5)
    assert [(call.name, call.flop) for call in calls] == [("outer", 7 * 32), ("rms_group_norm", 0)]


def test_recording_ends_with_an_error_and_stays_in_its_thread():
    x, weight = torch.randn(4, 8), torch.ones(8)
    with pytest.raises(RuntimeError), use_reference(), record_ops() as calls:
        OPS["rms_group_norm"](x, torch.ones(5), 2, 1e-5)
    rms_group_norm(x, weight, 2)
    with record_ops() as others:
        thread = threading.Thread(target=rms_group_norm, args=(x, weight, 2))
        thread.start()
        thread.join()
    assert calls == others == []


def test_a_model_run_counts_the_operations_of_its_ops():
    """Ops never claim more than the model has; what is left are the products outside of ops."""
    config = BsLocoformerConfig(
        RATE, UNCONDITIONAL.stft, 2, STACK, STACK, bands=UNCONDITIONAL.bands, decoder_expansion=1
    )
    separator = Separator.from_model(tiny_model(config), segment=1.0)
    call, flop = one_window(separator, SECONDS)
    with record_ops() as calls:
        call()
    assert calls and 0 <= sum(c.flop for c in calls) <= flop
