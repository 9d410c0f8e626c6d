"""What may import what: the map in CONTRIBUTING.md, from the ground up."""

import ast
import re
from pathlib import Path

import ussfast

ROOT = Path(ussfast.__file__).parent
MAP = Path(__file__).parents[1] / "CONTRIBUTING.md"


def rooms() -> list[str]:
    """The rooms of the map, the lowest first."""
    table = MAP.read_text().partition("## Rooms")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(\w+)[/`.]", table, re.M)


def room_of(module: str) -> str:
    """ "" for the package itself."""
    return (module.split(".") + [""])[1]


def imports(path: Path) -> set[str]:
    """Modules of ours that a file imports, anywhere in it but for the sake of types."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    skipped = {
        id(node) for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING" for node in ast.walk(block)
    }  # fmt: skip
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "ussfast":
            found |= {f"ussfast.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name for name in found if name == "ussfast" or name.startswith("ussfast.")}


def upward(path: Path, order: list[str]) -> list[str]:
    """What a file imports from a room above its own."""
    relative = path.relative_to(ROOT)
    # A room's own way in is as high as that of the package.
    own = "__main__" if path.name == "__main__.py" else relative.parts[0].removesuffix(".py")
    if own not in order:
        return [f"{relative}: not on the map"]
    above = set(order[order.index(own) + 1 :])
    return [f"{relative} imports {name}" for name in sorted(imports(path)) if room_of(name) in above]


def test_nothing_imports_upwards():
    order = rooms()
    assert {"ops", "models", "engine", "cli"} <= set(order)
    there = {p.name.removesuffix(".py") for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert there - {"__init__"} == set(order), "the map and the package have different rooms"
    files = [p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py"]
    assert not [fault for path in files for fault in upward(path, order)]


def test_an_upward_import_is_found(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "audio").mkdir()
    path = tmp_path / "audio/reading.py"
    path.write_text("def f():\n    from ussfast.engine import engine\n    import ussfast.errors\n")
    assert upward(path, ["errors", "audio", "engine"]) == ["audio/reading.py imports ussfast.engine"]
