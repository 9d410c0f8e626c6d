"""What a run leaves for people to look at."""

import json
import shlex
import sys
from pathlib import Path

import pytest
import torch
from running import trainer_in

from ussfast.errors import InputError, OutputError
from ussfast.train import curve, parallel, run
from ussfast.train.console import Console
from ussfast.train.log import RunLog, read_log, validation_table


def row(step, **more):
    return {"step": step, "loss": 1.0 / step, "hours": 0.1, "lr": 1e-3, "mixtures_per_second": 2.5} | more


def validated(step, value):
    return {"step": step, "si_sdr_improvement": {"music": value, "sfx_sfx": -value}, "mean": 0.5}


def test_rows_of_a_run(tmp_path, pool, dev):
    trainer = trainer_in(tmp_path, pool, dev, run={"log_every": 2, "validate_every": 4, "tensorboard": True})
    rows, each = [], []
    trainer.run(report=rows.append, each_step=each.append)
    assert [r["step"] for r in rows] == [2, 4, 4] and rows == read_log(tmp_path)
    assert [r["step"] for r in each] == [1, 2, 3, 4]
    assert rows[0]["loss"] == pytest.approx((each[0]["loss"] + each[1]["loss"]) / 2)
    assert rows[0]["grad_norm"] == pytest.approx((each[0]["grad_norm"] + each[1]["grad_norm"]) / 2)
    assert rows[1]["lr"] == trainer.learning_rate(3) and rows[1]["clip"] == 5.0 and "skipped" not in rows[1]
    assert 0 < rows[1]["mixtures_per_second"] and rows[1]["hours"] > rows[0]["hours"] > 0
    events = board(tmp_path / "tb")
    assert [e.value for e in events.Scalars("train/loss")] == pytest.approx([rows[0]["loss"], rows[1]["loss"]])
    assert {"train/lr", "train/grad_norm", "train/clip", "validation/music"} <= set(events.Tags()["scalars"])
    assert events.Scalars("validation/mean")[0].value == pytest.approx(rows[2]["mean"])
    assert "| 4 |" in (tmp_path / "validation.md").read_text()


def board(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload()


@pytest.mark.parametrize("steps", [3, 5])
def test_a_run_that_ends_within_an_interval_logs_its_last_steps(tmp_path, pool, steps):
    trainer = trainer_in(tmp_path, pool, run={"log_every": 4}, optim={"steps": steps})
    each = []
    trainer.run(each_step=each.append)
    rows = read_log(tmp_path)
    assert [row["step"] for row in rows] == ([3] if steps == 3 else [4, 5])
    own = [row["loss"] for row in each][-1 if steps == 5 else 0 :]
    assert rows[-1]["loss"] == pytest.approx(sum(own) / len(own))


def test_a_run_that_is_out_of_time_leaves_a_log(tmp_path, pool, monkeypatch):
    trainer = trainer_in(tmp_path, pool, run={"log_every": 50}, optim={"steps": 100})
    monkeypatch.setattr(parallel, "mains", lambda accelerator, late: trainer.step == 2)
    assert trainer.run(1e6) is False
    assert [row["step"] for row in read_log(tmp_path)] == [2]
    again = trainer_in(tmp_path, pool, run={"log_every": 3}, optim={"steps": 4})
    again.run()
    assert [row["step"] for row in read_log(tmp_path)] == [2, 3, 4]


def test_steps_that_were_skipped_are_counted(tmp_path, pool):
    trainer = trainer_in(tmp_path, pool, run={"log_every": 4})
    draw = trainer.work.mixer.batch

    def broken():
        batch = draw()
        if trainer.step == 1:
            batch.mixture[0, 100] = torch.nan
        return batch

    trainer.work.mixer.batch = broken
    trainer.run()
    (only,) = read_log(tmp_path)
    assert only["skipped"] == 1 and only["loss"] == only["loss"] and only["grad_norm"] > 0


def test_a_log_goes_on_where_the_checkpoint_is(tmp_path):
    log = RunLog(tmp_path, 0, False)
    for r in (row(1), row(2), validated(2, 1.0), row(3), validated(3, 2.0)):
        log.write(r)
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    again = RunLog(tmp_path, 2, False)
    assert again.rows == read_log(tmp_path) == [row(1), row(2), validated(2, 1.0)]
    again.write(validated(3, 5.0))
    assert (tmp_path / "log.jsonl").read_text().count("\n") == 4
    assert read_log(tmp_path)[-1] == validated(3, 5.0) and read_log(tmp_path / "none") == []
    assert (tmp_path / "validation.md").read_text() == validation_table(again.rows)


def test_validation_table():
    lines = validation_table([row(1), validated(1, 2.0), validated(9, -3.456)]).splitlines()
    assert lines[2:] == [
        "| step | music | sfx_sfx | mean |", "|---|---|---|---|", "| 1 | +2.00 | -2.00 | +0.50 |",
        "| 9 | -3.46 | +3.46 | +0.50 |",
    ]  # fmt: skip


def test_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"pip install 'ussfast\[train\]', or set it to false"):
        RunLog(tmp_path, 0, True)


def test_console_lines(capsys):
    console = Console(10, 0)
    console.step(row(1) | {"loss": 1.0})
    console.row(row(2))
    console.row(row(2, loss=None))
    console.row(validated(2, 1.0))
    console.close()
    out, err = capsys.readouterr()
    assert err == "" and out.count("\n") == 3
    assert "step 2: loss 0.500, 0.10 h, 2.5 mixtures/s" in out and "loss not finite" in out
    assert "SI-SDR improvement music +1.00  sfx_sfx -1.00  mean +0.50 dB" in out


def test_figures_of_other_kinds_of_training(capsys):
    row = {"step": 3, "average_precision": {"dog": 0.25, "rain": 1.0}, "mean": 0.625}
    assert validation_table([row]).splitlines()[0].startswith("Average precision of each label")
    assert validation_table([row]).splitlines()[-1] == "| 3 | 0.250 | 1.000 | 0.625 |"
    console = Console(10, 0, "clips")
    console.row(row)
    console.row(row | {"average_precision": {str(i): 0.5 for i in range(7)}})
    console.row({"step": 4, "sdr": {"mixture": 1.5, "clean": 20.0}, "mean": 1.5})
    lines = [line.split(": ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "average precision dog 0.250  rain 1.000  mean 0.625",
        "average precision of 7  mean 0.625",
        "SDR mixture +1.50  clean +20.00  mean +1.50 dB",
    ]


def test_console_is_never_silent_for_long(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])
    console = Console(90, 0)
    for step in range(1, 10):
        now[0] += 12.0
        console.step(row(step))
        if step == 4:
            console.row(row(4))
    lines = capsys.readouterr().out.splitlines()
    # At 36 s; after the row at 48 s not before 78 s, which is step 7 at 84 s.
    assert [line.split("step ")[1].split(":")[0] for line in lines] == ["3 of 90", "4", "7 of 90"]
    assert "loss 0.333 in this one, 2.5 mixtures/s" in lines[0]


@pytest.mark.parametrize("finished", [False, True])
def test_the_last_line_says_how_to_go_on(finished):
    job = run.Job("my recipe.yaml", Path("m.json"), Path("runs/a b"), None, "cpu", 90)
    line = run._last_line(finished, 12, job, 90)
    if finished:
        assert line.endswith("model: runs/a b/model; to use it: ussfast separate FILE -m 'runs/a b/model'")
    else:
        assert line.startswith("stopped at step 12 of 90; model: runs/a b/model; to go on: ussfast train 'my recipe")
        assert shlex.split(line.split("go on: ")[1]) == [
            "ussfast", "train", "my recipe.yaml", "--data", "m.json", "-o", "runs/a b", "--steps", "90", "--device",
            "cpu",
        ]  # fmt: skip


def test_console_with_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    console = Console(10, 4)
    console.step(row(5))
    console.row(row(5))
    console.row(validated(5, 1.0))
    console.close()
    out, err = capsys.readouterr()
    assert "5/10" in err and "loss 0.20, lr 1.0e-03, 2.5 mixtures/s" in err
    assert out.count("\n") == 1 and "SI-SDR improvement" in out


def test_curves(tmp_path, capsys):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text("\n".join(map(json.dumps, (row(1), row(2), validated(2, 1.0)))))
    arguments = [str(tmp_path / "one"), str(tmp_path / "two"), "-o"]
    assert curve.main([*arguments, str(tmp_path / "both.png")]) == 0
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    assert curve.main([*arguments, str(tmp_path / "both.doc")]) == 2
    assert "both.doc: images can be" in capsys.readouterr().err
    assert curve.main([str(tmp_path), "-o", str(tmp_path / "x.png")]) == 2
    assert "no log.jsonl with rows" in capsys.readouterr().err
    with pytest.raises(OutputError):
        curve.plot([tmp_path / "one"], tmp_path / "missing" / "x.png")


def test_improvement_over_audio(tmp_path, capsys):
    rows = [
        row(20, hours=0.5, mixtures_per_second=2.0), validated(20, 1.0), row(40, hours=1.5, mixtures_per_second=1.0),
        row(60, hours=1.6, mixtures_per_second=3.0, loss=None), validated(60, 2.0),
    ]  # fmt: skip
    # 3600 mixtures in the first half hour, as many in the next hour, 1080 in a tenth of one.
    expected = [(3600 * 2.5, 0.5), (pytest.approx(8280 * 2.5), 0.5)]
    assert curve.improvement_over_audio(rows, 2.5) == expected
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    logs, output = [str(tmp_path / f"{name}.jsonl") for name in ("one", "two")], ["-o", str(tmp_path / "both.png")]
    audio = ["--over", "audio", "--reference", logs[1]]
    assert curve.main([*logs, *output, *audio, "--seconds", "3", "2.5"]) == 0
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    assert curve.main([*logs, *output, *audio]) == 0
    assert curve.main([*logs, *output, *audio, "--seconds", "3", "2", "1"]) == 2
    assert "got 3 for 2 runs" in capsys.readouterr().err
    (tmp_path / "three.jsonl").write_text(json.dumps(row(1)))
    assert curve.main([str(tmp_path / "three.jsonl"), *output, *audio]) == 2
    assert "no validation in its log" in capsys.readouterr().err


def test_what_the_curves_show(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(curve, "_save", lambda figure, output: figures.append(figure))
    rows = [row(1, hours=1.0, mixtures_per_second=1.0), validated(1, 1.0)]
    (tmp_path / "one.jsonl").write_text("\n".join(map(json.dumps, rows)))
    last = rows[:1] + [validated(1, 1.0) | {"mean": 3.25}]
    (tmp_path / "old.jsonl").write_text("\n".join(map(json.dumps, last)))
    curve.plot_over_audio([tmp_path / "one.jsonl"], tmp_path / "x.png", [3.0], tmp_path / "old.jsonl")
    axes = figures[0].axes[0]
    assert [list(map(float, line.get_xdata())) for line in axes.lines] == [[10800.0], [0.0, 1.0]]
    assert list(axes.lines[0].get_ydata()) == [0.5] and list(axes.lines[1].get_ydata()) == [3.25, 3.25]
    said = [text.get_text() for text in axes.get_legend().get_texts()]
    assert said == ["one, mixtures of 3 s", "old, at its end: 3.25 dB"]


def test_the_last_step_is_validated_whatever_the_interval(tmp_path, pool, dev):
    trainer = trainer_in(tmp_path, pool, dev, optim={"steps": 3}, run={"log_every": 2, "validate_every": 2})
    trainer.run()
    assert [r["step"] for r in read_log(tmp_path) if "mean" in r] == [2, 3]
    assert {step for step, _ in trainer.kept} == {2, 3} and trainer.last["loss"] == trainer.last["loss"]


def test_a_run_that_stops_early_is_not_validated_for_it(tmp_path, pool, dev):
    trainer = trainer_in(tmp_path, pool, dev, optim={"steps": 3}, run={"validate_every": 2})
    trainer.run(max_minutes=0)
    assert trainer.step == 0 and not trainer.kept
