"""`ussfast evaluate` as users run it: its files, every figure of one mixture by hand, bounds, queries and errors."""

import json
import sys

import numpy as np
import pytest
import soundfile
import torch
from tiny import RATE, STEMS, UNCONDITIONAL, noise, tiny_directory, tiny_manifest

from ussfast import Separator
from ussfast.evaluate import report
from ussfast.evaluate.dev import TASKS, DevMixture
from ussfast.evaluate.run import Evaluation, measure
from ussfast.stft import analyze, synthesize

METRICS = ("si_sdr", "si_sdr_improvement", "sdr", "snr", "snr_improvement")
COLUMNS = ("model", "oracle_irm", "oracle_psm", "mixture")


@pytest.fixture(scope="module")
def folder(command, arguments, tmp_path_factory):
    """The files of one run with everything."""
    out = tmp_path_factory.mktemp("out") / "new/folder"
    assert command(*arguments, "--oracle", "--baseline", "mixture", "-o", out) == 0
    return out


@pytest.fixture(scope="module")
def content(folder):
    return json.loads((folder / "evaluation.json").read_text())


def decibels(wanted, rest):
    return 10 * np.log10(np.sum(np.square(wanted)) / np.sum(np.square(rest)))


def figures(estimate, reference, mixture):
    """The metrics, written out."""
    e, s, x = (np.asarray(a, np.float64) for a in (estimate, reference, mixture))
    si = [decibels(a @ s / (s @ s) * s, a - a @ s / (s @ s) * s) for a in (e, x)]
    plain = [decibels(s, s - a) for a in (e, x)]
    halves = [decibels(s[i : i + 2 * RATE], (s - e)[i : i + 2 * RATE]) for i in (0, 2 * RATE)]
    return si[0], si[0] - si[1], np.median(halves), plain[0], plain[0] - plain[1]


def test_every_figure_of_one_mixture(content, directory, mixtures):
    item = mixtures["music"][1]
    separator = Separator(directory, device="cpu")
    config = separator.engine.model.config.stft
    mixed = analyze(torch.from_numpy(item.mixture)[None], config)
    sources = analyze(torch.from_numpy(item.references), config)
    masks = {
        "oracle_irm": sources.abs() ** 2 / (sources.abs() ** 2).sum(0),
        "oracle_psm": (sources.abs() / mixed.abs() * torch.cos(sources.angle() - mixed.angle())).clamp(0, 1),
    }
    estimates = {"model": separator.separate(item.mixture, RATE, prompts=STEMS).stems[:, 0]}
    for name, mask in masks.items():
        spectrum = torch.view_as_real((mask * mixed).nan_to_num())[None]
        estimates[name] = synthesize(spectrum, config, item.mixture.size)[0].numpy()
    estimates["mixture"] = np.stack([item.mixture] * 4)
    scores = [s for s in content["scores"] if (s["task"], s["mixture"]) == ("music", 1)]
    assert [(s["prompt"], s["estimate"]) for s in scores] == [(p, c) for p in STEMS for c in COLUMNS]
    for score in scores:
        j = STEMS.index(score["prompt"])
        expected = figures(estimates[score["estimate"]][j], item.references[j], item.mixture)
        assert [score[m] for m in METRICS] == pytest.approx(list(expected), abs=2e-3), score
    assert {s["si_sdr_improvement"] for s in scores if s["estimate"] == "mixture"} == {0}


def test_figures_of_sources_that_are_alike(separator):
    """Correlated references tell SI-SDR from SNR, and a silent one is not measured."""
    audio = noise(3, 4 * RATE)
    references = np.stack([audio[0] + audio[1], audio[0] - 0.3 * audio[2], 1e-4 * audio[2]])
    item = DevMixture("cinematic", references.sum(0), references, ("speech", "sfxbg", "musicbg"), (0, 1, -1))
    found = Evaluation("tiny", "none", 1, RATE, ("model",))
    measure(separator, [item], found)
    stems = separator.separate(item.mixture, RATE, prompts=item.prompts).stems[:, 0]
    assert [(s.mixture, s.prompt) for s in found.scores] == [(0, "speech"), (0, "sfxbg")]
    for score, stem, reference in zip(found.scores, stems, references, strict=False):
        expected = figures(stem, reference, item.mixture)
        assert [getattr(score, m) for m in METRICS] == pytest.approx(list(expected), abs=1e-3)
        assert abs(score.si_sdr_improvement - score.si_sdr - score.snr_improvement + score.snr) > 1


def test_equal_prompts_count_in_their_best_order(content, directory, mixtures):
    separator = Separator(directory, device="cpu")
    for number, item in enumerate(mixtures["speech_speech"]):
        stems = separator.separate(item.mixture, RATE, prompts=item.prompts).stems[:, 0]
        both = [
            [figures(stem, ref, item.mixture)[0] for stem, ref in zip(order, item.references, strict=True)]
            for order in (stems, stems[::-1])
        ]
        scores = [s for s in content["scores"] if (s["task"], s["mixture"]) == ("speech_speech", number)]
        found = [s["si_sdr"] for s in scores if s["estimate"] == "model"]
        assert found == pytest.approx(max(both, key=sum), abs=1e-3)


def test_averages(content):
    assert list(content["tasks"]) == [*TASKS, "absent"]
    for task in TASKS:
        prompts = content["tasks"][task]
        assert list(prompts)[-1] == "all"
        for prompt, estimates in prompts.items():
            assert tuple(estimates) == COLUMNS
            for estimate, row in estimates.items():
                own = [s for s in content["scores"] if (s["task"], s["estimate"]) == (task, estimate)]
                own = [s for s in own if prompt in ("all", s["prompt"])]
                assert row["sources"] == len(own) > 0
                for metric in METRICS:
                    values = [s[metric] for s in own]
                    assert row[metric] == pytest.approx({"mean": np.mean(values), "median": np.median(values)})
    assert (content["count"], content["sample_rate"], content["seconds"], content["seed"]) == (2, RATE, 5.0, 0)


def test_absent_prompts(content, directory, mixtures):
    separator = Separator(directory, device="cpu")
    levels = []
    for item in mixtures["speech_enhancement"]:
        out = separator.separate(item.mixture, RATE, prompts=("speech", "sfxbg", "drums"))
        levels.append(decibels(out["drums"][0], item.mixture))
    assert [(k["mixture"], k["prompt"]) for k in content["leaks"]] == [(0, "drums"), (1, "drums")]
    assert [k["leak_db"] for k in content["leaks"]] == pytest.approx(levels, abs=1e-3)
    row = {"mixtures": 2, "leak_db": pytest.approx({"mean": np.mean(levels), "median": np.mean(levels)}, abs=1e-3)}
    assert content["tasks"]["absent"] == {"drums": {"model": row}}
    assert not any(score["task"] == "absent" for score in content["scores"])


def test_markdown(folder, content):
    text = (folder / "evaluation.md").read_text()
    assert text.startswith("# tiny\n") and "2 mixtures of 5 s per task at 8000 Hz, seed 0" in text
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    for lines in tables:
        assert len({line.count("|") for line in lines}) == 1
    summary, details, leaks, _ = ([[c.strip() for c in line.split("|")[1:-1]] for line in lines] for lines in tables)
    assert summary[0] == ["task", "SI-SDR improvement (dB)", "per prompt", "oracle_irm", "oracle_psm"]
    row = content["tasks"]["cinematic"]["all"]
    means = [row[name]["si_sdr_improvement"]["mean"] for name in COLUMNS[:3]]
    assert summary[-1][:1] + summary[-1][1:2] + summary[-1][3:] == ["cinematic", *(f"{mean:+.2f}" for mean in means)]
    assert [r[0] for r in summary[2:]] == list(TASKS)
    row = content["tasks"]["music"]["bass"]["oracle_psm"]
    cells = [f"{row[m]['mean']:z.2f} / {row[m]['median']:z.2f}" for m in METRICS]
    assert ["music", "bass", "oracle_psm", "2", *cells] in details
    leak = content["tasks"]["absent"]["drums"]["model"]["leak_db"]
    assert leaks[2:] == [["absent", "drums", "2", f"{leak['mean']:.2f} / {leak['median']:.2f}"]]


def test_box_plot(command, folder, content, arguments, monkeypatch, tmp_path):
    image = pytest.importorskip("matplotlib.image", reason="matplotlib draws the plot")
    pixels = image.imread(folder / "evaluation.png")
    assert pixels.shape[0] > 300 and pixels.shape[1] > 600 and 0.01 < (pixels[..., :3] < 0.9).any(-1).mean() < 0.5
    drawn, plot = [], report.box_plot
    monkeypatch.setattr(report, "box_plot", lambda found: drawn.append(plot(found)) or drawn[0])
    assert command(*arguments, "--baseline", "mixture", "-o", tmp_path) == 0
    axes = drawn[0].axes[0]
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    prompts = [f"{task}\n{prompt}" for task in TASKS for prompt in content["tasks"][task] if prompt != "all"]
    assert ticks == prompts and len(axes.patches) == len(ticks)  # the mixture is 0 everywhere: no boxes
    # The quartiles of two figures are a quarter of the way in.
    tops = [patch.get_extents().transformed(axes.transData.inverted()).y1 for patch in axes.patches]
    place = prompts.index("music\nvocals")
    values = [
        s["si_sdr_improvement"] for s in content["scores"]
        if (s["task"], s["prompt"], s["estimate"]) == ("music", "vocals", "model")
    ]  # fmt: skip
    assert tops[place] == pytest.approx(np.quantile(values, 0.75), abs=1e-6)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["model"]


def test_printed_without_a_folder(command, arguments, content, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # not needed
    assert command(*arguments) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.startswith("| task | SI-SDR improvement (dB) | per prompt |\n")
    assert "| absent | drums |" in out
    assert "oracle" not in out and "| mixture |" not in out and list(tmp_path.iterdir()) == []
    assert command(*arguments, "--json") == 0
    scores = json.loads(capsys.readouterr().out)
    assert list(scores) == list(TASKS) and list(scores["music"]) == [*STEMS, "mean"]
    for task, values in scores.items():
        for prompt, value in values.items():
            row = content["tasks"][task]["all" if prompt == "mean" else prompt]["model"]
            assert value == pytest.approx(row["si_sdr_improvement"]["mean"], abs=1e-6)


@pytest.fixture
def complaint(command, capsys):
    """Runs what must fail with this code; returns the one line that it says."""

    def run(code, *arguments):
        assert command(*arguments) == code
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("ussfast: ") and err.count("\n") == 1, err
        return err

    return run


def test_bad_input(complaint, arguments, manifest, directory, tmp_path):
    items = json.loads(manifest.read_text())["items"]
    cases = {
        "no items of the split 'dev'": json.dumps({"items": [r for r in items if r["split"] == "train"]}),
        "the dev split needs speech of two speakers": json.dumps(
            {"items": [r | {"path": str(manifest.parent / r["path"])} for r in items if r["prompt"] != "sfxbg"]}
        ),
        "broken.json is not a manifest": "{",
        "not a manifest (a table with 'items'): it lacks items": '{"rows": []}',
    }
    for says, text in cases.items():
        (tmp_path / "broken.json").write_text(text)
        swapped = [tmp_path / "broken.json" if a == manifest else a for a in arguments]
        assert says in complaint(2, *swapped)
    unconditional, out = tiny_directory(tmp_path, UNCONDITIONAL), tmp_path / "out"
    err = complaint(2, *arguments, "--baseline", "silence", "-o", out)
    assert "unknown baseline 'silence'; there is: mixture" in err
    assert "takes no prompts" in complaint(2, *[unconditional if a == directory else a for a in arguments], "-o", out)
    assert not out.exists()


def test_silence_is_an_error(complaint, tmp_path, directory):
    manifest = tiny_manifest(tmp_path, seconds=0.1)
    for path in tmp_path.glob("*.wav"):
        soundfile.write(path, np.zeros(800), RATE)
    line = complaint(2, "evaluate", "--data", manifest, "-m", directory, "--device", "cpu", "--count", 1)
    assert "no source is louder than -60 dBFS" in line


def test_where_nothing_can_be_written(complaint, arguments, tmp_path, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure", reason="matplotlib draws the plot")
    (tmp_path / "file").write_text("")
    assert "cannot be used for output" in complaint(1, *arguments, "-o", tmp_path / "file")

    def full(self, path, **settings):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(figure.Figure, "savefig", full)
        assert "No space left on device" in complaint(1, *arguments, "-o", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["evaluation.json", "evaluation.md"]
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    err = complaint(2, *arguments, "-o", tmp_path / "other")
    assert "pip install 'ussfast[evaluate]'" in err and not (tmp_path / "other").exists()
