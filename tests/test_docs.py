"""What pages say: commands are those that there are; the cheap ones and all Python run as they are written there."""

import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path

import docs_pages as pages
import numpy as np
import pytest
import soundfile
import torch
import typer
from docs_pages import ROOT
from golden_detectors import LEVEL, golden_detector
from tiny import ASP, tiny_detector_directory, tiny_directory

import ussfast
from ussfast.audio.jobs import Job
from ussfast.checkpoints.store import save_model
from ussfast.cli.main import app, main
from ussfast.cli.many_files import Result

COMMANDS = [command for page in pages.PAGES for command in pages.commands(page)]
LISTED = pytest.mark.parametrize("command", COMMANDS, ids=str)
RATE = 44100
CONVERTED = "models/tuss-medium"  # as README.md converts it; a tiny model stands in
DETECTOR = "models/cnn14-dlmax"  # the same for docs/detect.md


def parsed(arguments):
    """The context of the command that takes these arguments; raises what is wrong with them."""
    command, rest = typer.main.get_command(app), list(arguments)
    while rest and rest[0] in getattr(command, "commands", ()):
        command = command.commands[rest.pop(0)]
        usual = getattr(command, "usual", None)
        if usual and rest and rest[0] not in command.commands:
            rest.insert(0, usual)  # as the command line does
    assert not rest or rest[0].startswith("-") or not hasattr(command, "commands"), f"no such command: {rest[0]}"
    return command.make_context(command.name, rest)


def check_script(path, words):
    source = path.read_text()
    for word in words:
        if option := re.match(r"--?([a-z][\w-]*)", word):
            name = option[1].replace("-", "_")
            assert word.split("=")[0] in source or re.search(rf"\b{name}\b", source), f"{path} has no {word}"


@LISTED
def test_commands_are_those_that_there_are(command):
    if command.ussfast is not None:
        try:
            parsed(command.ussfast)
        except SystemExit as done:  # --version and the like
            assert not done.code
    elif command.program == "make":
        makefile = (ROOT / "Makefile").read_text()
        for word in command.words[1:]:
            name, assigned, _ = word.partition("=")
            where = rf"\$\(?({name})\b|\b{name} \?=|\(or \$\({name}" if assigned else rf"(?m)^{name}:"
            assert re.search(where, makefile), f"the Makefile has no {name}"
    elif command.program in ("python", "torchrun"):
        words = command.words[1:]
        if words[0] == "-m" and words[1] == "pytest":
            places = [word for word in words[2:] if "/" in word]
            assert places and all((ROOT / place).exists() for place in places)
        elif words[0] == "-m":
            spec = importlib.util.find_spec(words[1])
            assert spec is not None
            main = Path(spec.origin).with_name("__main__.py")  # of a package
            check_script(main if spec.submodule_search_locations and main.exists() else Path(spec.origin), words[2:])
        else:
            check_script(ROOT / words[0], words[1:])
    elif command.program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for word in command.words:
            for listed in re.findall(r"^(?:ussfast|\.)\[(.*)\]$", word):
                assert set(listed.split(",")) <= set(extras)
    else:
        assert command.program in pages.OTHERS, "not a program that pages call"


def test_a_wrong_command_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Text\n\n    A=1 .venv/bin/ussfast separate a.wav --promt x \\\n      -o y | aplay -q   # says\n\n    +--+\n"
    )
    first, second = pages.commands(page)
    assert first.words == ("ussfast", "separate", "a.wav", "--promt", "x", "-o", "y") and second.words == (
        "aplay",
        "-q",
    )
    for wrong in (first.ussfast, ("separate", "a.wav", "--clip", "hard"), ("seperate",), ("separate",)):
        with pytest.raises(Exception, match="(?i)no such|not one of|missing"):
            parsed(wrong)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    tiny_directory(tmp_path / "models").rename(tmp_path / CONVERTED)
    tiny_directory(tmp_path / "models", ASP).rename(tmp_path / "models/zeroshot")
    tiny_detector_directory(tmp_path / "models").rename(tmp_path / "models/htsat")
    model = golden_detector(LEVEL)
    save_model(tmp_path / DETECTOR, model, name="detector", license="CC0-1.0", source={"made": "at random"})
    return tmp_path


def record(path, seconds=0.5, channels=2):
    """A short recording, or a folder with one."""
    if not path.suffix:
        path.mkdir(parents=True, exist_ok=True)
        path = path / "one.wav"
    audio = 0.1 * np.random.default_rng(0).standard_normal((round(seconds * RATE), channels))
    soundfile.write(path, audio.astype(np.float32), RATE)


def cheap(command):
    """Whether it separates files with the embedded model, or a converted one."""
    arguments = command.ussfast or ("",)
    model = arguments[arguments.index("-m") + 1] if "-m" in arguments else "default"
    if "--everything" in arguments:  # in noise there is nothing to be found
        return False
    from_file = arguments[0] == "separate" or (arguments[0] == "stream" and arguments[1].endswith(".wav"))
    return from_file and model in ("default", CONVERTED)


@pytest.mark.parametrize("command", [c for c in COMMANDS if cheap(c)], ids=str)
def test_files_are_separated_as_pages_say(command, folder, capsysbinary):
    if "--plot" in command.words:
        pytest.importorskip("matplotlib", reason="matplotlib draws")
    params = parsed(command.ussfast).params
    for name in params.get("inputs") or [params["input"]]:
        record(folder / name)
    for name in [*(params["query"] or []), *(word.partition("=")[2] for word in params["example"] or [])]:
        record(folder / name)
    for bank in params["bank"] or []:
        record(folder / "clip.wav")
        separator = ussfast.Separator("default")
        separator.enroll("dog", [folder / "clip.wav"])
        separator.save_prompts(bank)
    with pytest.raises(SystemExit) as exit:
        main(list(command.ussfast))
    out, err = capsysbinary.readouterr()
    assert not exit.value.code, err
    if "stream" in command.words and "-o" not in command.words:
        assert len(out) == round(0.5 * RATE) * 4  # PCM: two channels of 16 bits
        return
    written = out.decode().split()
    assert written and all((folder / path).is_file() for path in written)


@pytest.mark.parametrize("page", [p for p in pages.PAGES if pages.python_blocks(p)], ids=lambda page: page.name)
def test_python_runs(page, folder, monkeypatch):
    tune, blocks = ussfast.Separator.tune, pages.python_blocks(page)
    # Clips of noise have no end of learning before the last step.
    few = {"steps": 5, "mixtures": 8, "held": 4}
    monkeypatch.setattr(ussfast.Separator, "tune", lambda *args, **more: tune(*args, **few | more))
    for name in re.findall(r'"([\w-]+\.(?:wav|flac|mp3))"', "\n".join(blocks)):
        record(folder / name)
    if "plot(" in "\n".join(blocks):
        pytest.importorskip("matplotlib", reason="matplotlib draws")
    noise = np.random.default_rng(0).standard_normal(4800).astype(np.float32) * 0.1
    played = []
    space = {
        "chunks": [noise] * 3, "chunk": noise, "chunk_a": noise, "chunk_b": noise, "play": lambda *a: played.append(a),
        "audio": torch.from_numpy(noise[:4608].copy())[None],
    }  # fmt: skip
    for block in blocks:
        if "import ussfast" not in block and "sep" not in space:
            exec("import ussfast; sep = ussfast.Separator('default', ('speech', 'sfxbg'))", space)
        exec(compile(block, str(page), "exec"), space)
    assert bool(played) == ("play(" in "\n".join(blocks))


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in pages.links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        assert not anchor or anchor in pages.anchors(file), target


def test_readme_lists_every_page():
    """Those of a folder are on its index."""
    lists = [ROOT / "README.md", ROOT / "docs/api/index.md"]
    linked = {(page.parent / target.partition("#")[0]).resolve() for page in lists for target in pages.links(page)}
    assert {page for page in pages.PAGES if page.name != "README.md"} <= linked


def test_every_option_of_separate_is_on_a_page():
    command = typer.main.get_command(app).commands["separate"]
    own = (ROOT / "docs/separate.md").read_text()
    text = "\n".join(page.read_text() for page in pages.PAGES if page.parent.name == "docs")
    options = [
        opts for parameter in command.params for opts in parameter.opts + parameter.secondary_opts if opts[0] == "-"
    ]
    assert len(options) > 20
    assert not [option for option in options if f"`{option}" not in own and f"{option} " not in text]
    listed = re.findall(r"(?m)^\| `(?:-\w`, `)?(--[\w-]+)", own)
    assert len(listed) > 20 and set(listed) <= {*options, "--help"}


def test_json_keys_are_those_on_the_page():
    table = (ROOT / "docs/output.md").read_text().partition("## JSON")[2]
    listed = [name for row in re.findall(r"(?m)^\| (`.*?) \|", table) for name in re.findall(r"`(\w+)`", row)]
    assert set(listed) == set(Result(Job(Path("a"), Path("b"), "a"), ()).as_dict())


@pytest.fixture(scope="module")
def first_screen():
    spec = importlib.util.spec_from_file_location("first_screen", ROOT / "scripts/first_screen.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(ROOT / "scripts"))  # as for a script: it imports its neighbour
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    return module


def test_the_table_is_that_of_the_measurement(first_screen):
    text = (ROOT / "README.md").read_text()
    assert first_screen.readme(text, json.loads((ROOT / first_screen.PEERS).read_text())) == text, "make first-screen"


def test_what_is_detected_is_shown(first_screen):
    page = f"a\n{first_screen.BEGIN_DETECTED}\nold\n{first_screen.END_DETECTED}\nb\n"
    said = "".join(f"    0.{i}0     1.00  0.50  speech\n" for i in range(9))
    lines = first_screen.detected(page, said).splitlines()
    assert (lines[0], lines[-1]) == ("a", "b") and "old" not in lines
    assert "    ussfast detect talk.wav --plot what.png" in lines
    assert "    0.70     1.00  0.50  speech" in lines and "    ..." in lines
    assert not any("0.80" in line for line in lines)
    assert any(f"({first_screen.DETECTED})" in line for line in lines)
    with pytest.raises(ValueError, match="nothing is detected"):
        first_screen.detected(page, "")
    with pytest.raises(ValueError, match="no place"):
        first_screen.detected("a\n", said)
    text = (ROOT / "README.md").read_text()
    assert text.count(first_screen.BEGIN_DETECTED) == text.count(first_screen.END_DETECTED) == 1


def test_the_table_by_hand(first_screen):
    rows = [("cinematic", "late", 1.0, 0.01), ("cinematic", "late", 2.0, 0.03), ("cinematic", "default", -1.0, 0.5)]
    scores = [dict(zip(("task", "system", "si_sdr_improvement", "cpu_per_second"), row, strict=True)) for row in rows]
    systems = {"late": {"latency_ms": 40.2, "memory_mib": 87.4}, "default": {"latency_ms": None}}
    found = {"systems": systems, "scores": scores, "count": 2, "seconds": 5.0, "machine": "Some CPU"}
    lines = first_screen.readme(f"a\n{first_screen.BEGIN}\nold\n{first_screen.END}\nb\n", found).splitlines()
    assert lines[5] == "| ussfast, `default` | - | -1.0 | - | 0.500 | - | not live |"
    assert lines[6] == "| late | - | +1.5 | - | 0.020 | 87 MiB | 40 ms |"
    assert (lines[0], lines[-1]) == ("a", "b") and "old" not in lines
    with pytest.raises(ValueError, match="no place for the table"):
        first_screen.readme("a\n", found)
