"""The documentation as a site: it builds without a warning, links lead somewhere, what is made is up to date."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ussfast

ROOT = Path(__file__).parents[1]
NEEDS_MKDOCS = "pip install 'ussfast[docs]'"


def script(name):
    spec = importlib.util.spec_from_file_location(f"site_{Path(name).stem}", ROOT / "scripts" / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for module in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(module, reason=NEEDS_MKDOCS)
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", folder]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    return folder


def test_links_of_the_site_lead_somewhere_and_nothing_is_loaded_from_elsewhere(site):
    assert list(script("site/check.py").problems(site)) == []


def test_every_page_is_on_the_site(site):
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs")).with_suffix(".html").is_file()
    assert (site / "repository/bench/results/streaming.json").is_file()  # docs/streaming.md links to it


def test_the_reference_has_all_public_names(site):
    ids = set().union(*(script("site/check.py").Page(page.read_text()).ids for page in (site / "api").glob("*.html")))
    assert {f"ussfast.{name}" for name in ussfast.__all__ if name != "__version__"} <= ids
    assert {"ussfast.Separator.separate", "ussfast.Separator.tune", "ussfast.Separator.find"} <= ids  # inherited, too


def test_lines_that_stand_for_sections_and_docstrings(site):
    home, reference = (site / "index.html").read_text(), (site / "api/streaming.html").read_text()
    assert "--no-build-isolation" in home and "How to install" not in home
    assert "<code>errors.py</code>" in (site / "architecture.html").read_text()
    assert "<strong>Raises</strong>" in reference and "<code>on_bad</code>" in (site / "api/separator.html").read_text()
    assert ">A limit of attenuation</a>" in (site / "recipes.html").read_text()  # where the page says stems.md


def test_what_is_wrong_with_a_site_is_found(tmp_path):
    check = script("site/check.py")
    (tmp_path / "b.html").write_text('<h1 id="there">b</h1>')
    page = tmp_path / "a.html"
    for content, wrong in [
        ('<a href="b.html#there">', None), ('<a href="https://example.org/x">', None), ('<a href="#">', None),
        ('<a href="c.html">', "links to c.html"), ('<a href="b.html#gone">', "no such place"),
        ('<script src="https://example.org/x.js">', "loads https"), ('<img src="no.png">', "loads no.png"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "loads //"),
    ]:  # fmt: skip
        page.write_text(content)
        found = list(check.problems(tmp_path))
        assert (wrong is None and not found) or (wrong and len(found) == 1 and wrong in found[0]), content
    page.write_text("")
    (tmp_path / "x.css").write_text("@import 'https://example.org/fonts.css';")
    assert list(check.problems(tmp_path)) == ["x.css loads from elsewhere"]
    assert list(check.problems(tmp_path / "empty")) == [f"{tmp_path / 'empty'} has no pages"]


def test_links_out_of_the_pages():
    pytest.importorskip("mkdocs", reason=NEEDS_MKDOCS)
    hooks = script("site/hooks.py")
    text = "[gpu.md](gpu.md#graphs) [all](../bench/NOTES.md) [x](https://example.org)\n```\n[kept](../a.md)\n```\n"
    assert hooks.rewritten(text, "docs/cpu.md", "cpu.md") == (
        "[Graphs](gpu.md#graphs) [all](repository/bench/NOTES.md) [x](https://example.org)\n```\n[kept](../a.md)\n```\n"
    )
    assert hooks.rewritten("[x](../../docs/cpu.md)", "export/web/README.md", "repository/export/web/README.md") == (
        "[x](../../../cpu.md)"
    )
    assert hooks.section("CONTRIBUTING.md", "rooms").startswith("Of `ussfast`")
    assert "## Tests" not in hooks.section("CONTRIBUTING.md", "add-an-op")
    with pytest.raises(ValueError, match="README.md has no section gone"):
        hooks.section("README.md", "gone")


def test_docstrings_become_lists():
    pytest.importorskip("griffe", reason=NEEDS_MKDOCS)
    markdown = script("site/docstrings.py").markdown
    text = "Does it.\n\nArgs:\n    a, b: numbers,\n        <5.\n    all others: see docs/cpu.md.\nReturns:\n    x * y."
    assert markdown(f"{text}\nSource: Some One.", set()) == (
        "Does it.\n\n**Arguments**\n\n- `a`, `b`: numbers, &lt;5.\n- all others: see [cpu](../cpu.md).\n\n"
        "**Returns**: x \\* y.\n\n**Source**: Some One."
    )
    assert markdown("Raises what `add` would.", {"Raises"}) == "Raises what `add` would."
    assert markdown("Raises:\n    InputError.", set()) == "**Raises**\n\n- InputError."
    assert markdown("All of it.\n\nhost: where. port: of it; note: kept.", {"host", "port"}) == (
        "All of it.\n\n- `host`: where.\n- `port`: of it; note: kept."
    )


def test_pages_that_are_made_are_up_to_date(capsys):
    assert script("performance.py").main(["--check"]) == 0, capsys.readouterr().err
    assert script("diagrams.py").main(["--check"]) == 0, capsys.readouterr().err


def test_a_page_that_is_not_up_to_date_is_told(tmp_path, monkeypatch, capsys):
    performance = script("performance.py")
    monkeypatch.setattr(performance, "PAGE", tmp_path / "performance.md")
    performance.PAGE.write_text("old")
    assert performance.main(["--check"]) == 1 and "scripts/performance.py" in capsys.readouterr().err
    assert performance.main([]) == 0 and performance.main(["--check"]) == 0


def test_every_room_is_in_the_map():
    diagrams = script("diagrams.py")
    names = diagrams.rooms((ROOT / "CONTRIBUTING.md").read_text())
    drawn = diagrams.map_of_rooms(names)
    assert len(names) > 25 and all(f">{name}<" in drawn for name in names)
    with pytest.raises(ValueError):
        diagrams.layers(names[1:])
