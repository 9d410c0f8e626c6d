"""A trained model becomes the embedded default of a small tree, or does not."""

import json
import shutil
from pathlib import Path

import pytest
from tiny import CAUSAL, PROMPTS, TUSS, tiny_directory, tiny_manifest
from typer.testing import CliRunner

from ussfast import Separator
from ussfast.checkpoints.store import load_model
from ussfast.evaluate.dev import TASKS


@pytest.fixture
def tree(tmp_path):
    """A tree with an embedded model named tiny, and a trained one of another architecture beside it."""
    root = tmp_path / "tree"
    (root / "ussfast/weights").mkdir(parents=True)
    shutil.copytree(tiny_directory(tmp_path, TUSS), root / "ussfast/weights/default")
    card = "# Old\n\n## How good it is\n\nfair\n\n## Limits\n\n- It is small.\n\n## How it was made\n\nquickly\n"
    (root / "ussfast/weights/default/README.md").write_text(card)
    (root / "ussfast/weights/default/CREDITS.md").write_text("old credits")
    module = "<!-- figures of the embedded model: made by make embed -->\n\nold table\n\n<!-- end of figures -->"
    (root / "README.md").write_text(f"# ussfast\n\nbefore\n\n{module}\n\nafter\n")
    (root / "CHANGELOG.md").write_text("# Changelog\n\n## 0.2 (unreleased)\n\n- A change.\n\n## 0.1\n\n- First.\n")
    model = tiny_directory(tmp_path, CAUSAL, seed=3)
    (model / "CREDITS.md").write_text("new credits")
    return root, model


def evaluation(*values, absent=-15.0, **settings):
    """evaluation.json with these mean improvements of TASKS."""
    tasks = {t: {"all": {"model": {"si_sdr_improvement": {"mean": v}}}} for t, v in zip(TASKS, values, strict=True)}
    tasks["absent"] = {"drums": {"model": {"mixtures": 1, "leak_db": {"mean": absent}}}}
    made = {"model": "tiny", "count": 40, "seconds": 5.0, "seed": 0, "split": "all", "sample_rate": 8000}
    return made | {"manifest": "/somewhere/manifest.json", "tasks": tasks} | settings


OLD = evaluation(6, 0, 1, 7, 5)
BETTER = evaluation(6.5, 0.2, 0.8, 8, 5.5, absent=-16.0, conditions={
    "high_band": {"alone_db": {"mean": -1}, "voice_db": {"mean": -2}, "background_db": {"mean": -12}},
    "after_loud": {"loss_db": {"mean": 0.7}},
})  # fmt: skip


def run(embed, tmp_path, root, model, old=OLD, new=BETTER, **more):
    app = embed.typer.Typer()
    app.command()(embed.main)
    arguments = [str(model), "--root", str(root)]
    for name, content in (("old", old), ("new", new)):
        if content is not None:
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
            arguments += [f"--{name}", str(tmp_path / f"{name}.json")]
    for name, value in more.items():
        arguments += [f"--{name}", str(value)]
    return CliRunner().invoke(app, arguments)


def content(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_the_winner_is_embedded(embed, tree, tmp_path):
    root, model = tree
    before = content(root)
    result = run(embed, tmp_path, root, model)
    assert result.exit_code == 0, result.output
    assert "| mean | +5.67 | +6.17 | +0.50 |" in result.output
    after = content(root)
    assert after.keys() == before.keys() and all(after[name] != before[name] for name in after)
    folder = root / "ussfast/weights/default"
    kept = json.loads((folder / "config.json").read_text())
    assert (kept["name"], kept["weights"]["dtype"], kept["license"]) == ("default", "float16", "CC0-1.0")
    wanted, found = (load_model(d)[0].state_dict() for d in (model, folder))
    assert all((wanted[key] - found[key]).abs().max() < 1e-3 for key in wanted)
    assert Separator(folder, device="cpu").info.architecture == "causal"
    assert (folder / "CREDITS.md").read_text() == "new credits"
    card = (folder / "README.md").read_text()
    for line in (
        "| speech + ambience | +6.5 |", "is 16.0 dB below the mixture", "## Limits\n\n- It is small.\n\n## How it was",
        "Made at random.", "are kept alone and -2.0 dB with a background", "improve by 0.7 dB less", "`causal`",
        "| speech + ambience | +6.00 | +6.50 | +0.50 |", ", ".join(f"`{name}`" for name in PROMPTS),
    ):  # fmt: skip
        assert line in card, (line, card)
    demo = next(line for line in card.splitlines() if line.startswith("The bundled demonstration"))
    assert "speech -" in demo or "speech +" in demo
    assert (
        "old table" not in (root / "README.md").read_text() and "| two speakers | +0.2 |" in after["README.md"].decode()
    )
    assert after["README.md"].startswith(b"# ussfast\n\nbefore\n\n") and after["README.md"].endswith(b"\n\nafter\n")
    rise = "mean of five tasks and the absent prompt +5.7 -> +6.2 dB"
    line = f"- The embedded default model is a new one (`causal`): {rise}."
    changes = f"# Changelog\n\n## 0.2 (unreleased)\n\n- A change.\n{line}\n\n## 0.1\n\n- First.\n"
    assert after["CHANGELOG.md"].decode() == changes
    # Again: the line is replaced, not repeated.
    again = run(embed, tmp_path, root, model, old=OLD | {"model": "default"})
    assert again.exit_code == 0 and content(root)["CHANGELOG.md"].decode() == changes


@pytest.mark.parametrize(
    "new, why",
    [
        (evaluation(6.5, 0.2, 0.6, 8, 5.5), "sfx_sfx falls by 0.40 dB, more than 0.3"),
        (evaluation(9, 9, 9, 9, 9, absent=-14.6), "absent falls by 0.40 dB, more than 0.3"),
        (evaluation(6, 0, 1, 7, 5), "the mean does not rise: +0.00 dB"),
        (evaluation(5.9, 0, 1, 7, 5), "the mean does not rise: -0.02 dB"),
        (evaluation(float("nan"), 9, 9, 9, 9), "speech_enhancement falls by nan dB"),
        (BETTER | {"count": 10}, "differ in count: 40 and 10"),
        (BETTER | {"split": "dev"}, "differ in split: 'all' and 'dev'"),
        (BETTER | {"manifest": "other.json"}, "differ in manifest: 'manifest.json' and 'other.json'"),
        (BETTER | {"model": "huge"}, "the new evaluation is of 'huge', not of 'tiny'"),
        (BETTER | {"tasks": {}}, "not an evaluation of a model with all tasks"),
    ],
)
def test_the_loser_is_not(embed, tree, tmp_path, new, why):
    before = content(tree[0])
    result = run(embed, tmp_path, *tree, new=new)
    assert result.exit_code == 2 and why in result.output
    assert ("| sfx_sfx" in result.output or "| mean | +5.67 |" in result.output) == (" dB" in why)
    assert content(tree[0]) == before


def test_just_within_the_rule(embed):
    old = embed.embed_text.figures(OLD)
    assert embed.check(old, embed.embed_text.figures(evaluation(9, 0, 0.701, 7, 5))) == []


@pytest.mark.parametrize("broken", ["README.md", "CHANGELOG.md", "rename", "credits"])
def test_all_or_nothing(embed, tree, tmp_path, monkeypatch, broken):
    root, model = tree
    if broken == "credits":
        (model / "CREDITS.md").unlink()
    elif broken == "rename":
        rename, calls = embed.os.rename, []

        def failing(source, target):
            calls.append(target)
            if Path(target).name == "CHANGELOG.md" and Path(source).name.startswith(".fresh-"):
                raise OSError(28, "No space left on device")
            rename(source, target)

        monkeypatch.setattr(embed.os, "rename", failing)
    else:
        (root / broken).write_text("nothing of the kind\n")
    before = content(root)
    result = run(embed, tmp_path, root, model)
    assert result.exit_code != 0
    assert content(root) == before and not list(root.rglob(".*"))


def test_it_evaluates_both_itself(embed, tree, tmp_path, monkeypatch):
    """One model twice: equal figures lose, and they are those of the command's own evaluation."""
    root, _ = tree
    data = tmp_path / "data"
    data.mkdir()
    twin = shutil.copytree(root / "ussfast/weights/default", tmp_path / "twin")
    result = run(embed, tmp_path, root, twin, old=None, new=None, data=tiny_manifest(data, seconds=6.0), count=1)
    assert result.exit_code == 2 and "the mean does not rise: +0.00 dB" in result.output
    assert run(embed, tmp_path, root, twin, old=None, new=None).exit_code == 2


def test_the_real_tree_has_its_places(embed):
    root = Path(__file__).parents[2]
    text = (root / "README.md").read_text()
    assert text.count(embed.embed_text.BEGIN) == text.count(embed.embed_text.END) == 1
    assert embed.embed_text.LIMITS.search((root / embed.DEFAULT / "README.md").read_text())
    changed = embed.embed_text.readme(text, BETTER)
    assert changed.split(embed.embed_text.BEGIN)[0] == text.split(embed.embed_text.BEGIN)[0]
    assert changed.split(embed.embed_text.END)[1] == text.split(embed.embed_text.END)[1]
