"""bench/report.py on the JSON that benches write: every figure in the table, one bar per row, clear complaints."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

SOURCE = Path(__file__).parents[2] / "bench/report.py"
ROW = {
    "machine": "Some CPU", "torch": "2.13.0", "threads": 2, "load": 0.1, "model": "tuss-medium", "backend": "reference",
    "seconds": 6.0, "run_seconds": 15.0, "rtf": 2.5, "gflop": 543.4, "gflops": 36.2, "gemm_gflops": 120.0,
    "gemm_share": 0.302, "subject_speedup": {"native": 0.25}, "difference": 0.0, "ready_seconds": 15.5,
    "warm_seconds": 15.1, "loaded_mib": 400.1, "peak_mib": 812.6,
}  # fmt: skip
NATIVE = ROW | {
    "backend": "native", "rtf": 0.625, "gflops": 144.9, "gemm_share": 1.208, "subject_speedup": {"reference": 4.0},
    "difference": 3.2e-6, "peak_mib": 301.0, "ready_seconds": 4.21,
}  # fmt: skip


@pytest.fixture(scope="module")
def report():
    spec = importlib.util.spec_from_file_location("report", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(path, *rows):
    """As pytest-benchmark does; a bench of an op is among them."""
    infos = [{"machine": "Some CPU", "gemm_share": 0.5, "subject_speedup": {}}, *rows]
    path.write_text(json.dumps({"benchmarks": [{"name": "bench", "extra_info": info} for info in infos]}))
    return path


def run(report, *arguments):
    app = typer.Typer()
    app.command()(report.main)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_table(report, tmp_path):
    rows = report.read([write(tmp_path / "a.json", ROW), write(tmp_path / "b.json", NATIVE)])
    lines = report.table(rows).splitlines()
    assert cells(lines[0]) == list(report.COLUMNS) and len(cells(lines[1])) == len(report.COLUMNS)
    common = ["Some CPU", "2", "tuss-medium"]
    assert cells(lines[2]) == [*common, *"reference,6,2.500,36.2,30.2%,1.00x,0.0e+00,813,15.50".split(",")]
    assert cells(lines[3]) == [*common, *"native,6,0.625,144.9,120.8%,4.00x,3.2e-06,301,4.21".split(",")]
    assert lines[5].startswith("torch 2.13.0. The audio is one window. RTF is")


def test_table_and_chart(report, tmp_path, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="matplotlib draws the chart")
    drawn = []
    monkeypatch.setattr(pyplot, "close", drawn.append)
    other = NATIVE | {"model": "default", "rtf": 0.25}
    done = run(report, write(tmp_path / "a.json", ROW, NATIVE, other), "--out", tmp_path / "new/out")
    assert done.exit_code == 0, done.output
    assert done.output.split() == [str(tmp_path / "new/out" / name) for name in ("models.md", "models.png")]
    assert (tmp_path / "new/out/models.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "new/out/models.md").read_text().count("| Some CPU |") == 3
    axes = drawn[0].axes[0]
    bars = {
        group.get_label(): [(round(b.get_x() + b.get_width() / 2, 4), b.get_height()) for b in group]
        for group in axes.containers
    }
    assert bars == {"reference": [(0.7875, 2.5)], "native": [(1.2125, 0.625), (0.2125, 0.25)]}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["default", "tuss-medium"]  # the fastest first
    assert axes.get_title() == "Some CPU\n2 threads" and axes.get_yscale() == "log"
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["reference", "native"]


def test_machines_and_thread_counts_are_told_apart(report, tmp_path, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="matplotlib draws the chart")
    drawn = []
    monkeypatch.setattr(pyplot, "close", drawn.append)
    report.chart(
        [ROW, NATIVE, ROW | {"machine": "Other CPU"}, ROW | {"threads": 1, "rtf": 4.0}], tmp_path / "chart.png"
    )
    panels = drawn[0].axes
    assert [axes.get_title() for axes in panels] == [
        "Some CPU\n1 thread",
        "Other CPU\n2 threads",
        "Some CPU\n2 threads",
    ]
    assert [bar.get_height() for axes in panels for bar in axes.patches] == [4.0, 2.5, 2.5, 0.625]


def test_without_matplotlib_there_is_the_table(report, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = run(report, write(tmp_path / "a.json", ROW), "--out", tmp_path)
    assert done.exit_code == 0 and "no chart: pip install 'ussfast[bench]'" in done.output
    assert (tmp_path / "models.md").is_file() and not (tmp_path / "models.png").exists()


def test_all_results_by_default(report, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write(tmp_path / "b.json", NATIVE)
    write(tmp_path / "a.json", ROW)
    (tmp_path / "peers.json").write_text('{"scores": []}')  # another measurement
    assert run(report, "--out", tmp_path).exit_code == 0
    lines = (tmp_path / "models.md").read_text().splitlines()
    assert [cells(line)[3] for line in lines[2:4]] == ["reference", "native"]


def test_bad_files(report, tmp_path):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    cases = {"gone.json": "cannot be read", "broken.json": "not written by", "list.json": "not written by"}
    for name, says in cases.items():
        with pytest.raises(typer.BadParameter, match=f"{name}: {says}"):
            report.read([tmp_path / name])
    with pytest.raises(typer.BadParameter, match="no model benches in .*ops.json: make bench-models"):
        report.read([write(tmp_path / "ops.json")])
