"""How names become model directories: embedded, on disk, on the Hugging Face Hub and in its cache. No network."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from golden_io import golden_model

from ussfast.checkpoints import names
from ussfast.checkpoints import store as checkpoint
from ussfast.checkpoints.store import available, resolve, save_model
from ussfast.errors import CheckpointError, UssfastError

hf = pytest.importorskip("huggingface_hub")
COMMITS = ("a" * 40, "b" * 40)


@pytest.fixture
def saved(tmp_path):
    model = golden_model("tflocoformer_tiny")
    save_model(tmp_path / "tiny", model, name="tiny", license="CC0-1.0", source={})
    return tmp_path / "tiny"


@pytest.fixture
def embedded(tmp_path, monkeypatch):
    """An empty folder as the place of the embedded models."""
    monkeypatch.setattr(names, "EMBEDDED", tmp_path / "weights")
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


@pytest.fixture
def cache(tmp_path, saved):
    """A Hub cache: me/tiny at two commits, the newer one being main, and somebody's other model."""
    root = tmp_path / "hf" / "hub"
    for repo, commit in (("me--tiny", COMMITS[0]), ("me--tiny", COMMITS[1]), ("you--other", COMMITS[0])):
        snapshot = root / f"models--{repo}" / "snapshots" / commit
        shutil.copytree(saved, snapshot)
        (root / f"models--{repo}" / "blobs").mkdir(exist_ok=True)
        refs = root / f"models--{repo}" / "refs"
        refs.mkdir(exist_ok=True)
        (refs / "main").write_text(commit)
    (snapshot / "config.json").write_text(json.dumps({"architectures": ["Other"]}))
    return root


def refused(name, says, error=CheckpointError):
    with pytest.raises(error, match=says) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)
    return caught.value


def test_default(embedded, saved):
    refused("default", "no embedded weights")
    shutil.copytree(saved, embedded / "default")
    assert resolve("default") == embedded / "default"


def test_directories_and_files(embedded, saved, monkeypatch):
    assert resolve(saved) == resolve(str(saved)) == saved
    monkeypatch.chdir(saved.parent)
    assert resolve("tiny").resolve() == saved
    assert resolve("./tiny").resolve() == saved
    refused(saved / "config.json", "a file, not a model directory$")
    (saved / "model.pth").touch()
    refused(saved / "model.pth", "run 'ussfast convert .*model.pth DESTINATION'")


@pytest.mark.parametrize("name", ["nonsense", "", "./a", "a/b/c", "/no/such", "../x", "a/b@", "x y/z", "~nobody/x"])
def test_other_names_list_what_is_possible(embedded, name):
    refused(name, "'default', a directory .*owner/name")


def test_presets_have_no_weights(embedded):
    refused("tuss-medium", r"preset without weights: use Separator.from_preset\('tuss-medium'\)")


def test_hub_names_download_a_model_and_its_detector(monkeypatch, saved):
    asked = []

    def download(repo, **settings):
        asked.append((repo, settings))
        return str(saved)

    monkeypatch.setattr(hf, "snapshot_download", download)
    assert resolve("me/tiny") == resolve("me/tiny@v1.0") == saved
    patterns = ["config.json", "model.safetensors", "query/config.json", "query/model.safetensors"]
    assert asked == [
        ("me/tiny", {"revision": None, "allow_patterns": patterns}),
        ("me/tiny", {"revision": "v1.0", "allow_patterns": patterns}),
    ]


class Response:
    headers: dict = {}
    request = None


def http(kind):
    return kind("401 Client Error.\n\nCannot access.", response=Response())


@pytest.mark.parametrize(
    ("failure", "code", "says"),
    [
        (lambda e: http(e.GatedRepoError), 2, "owner's permission.*hf auth login"),
        (lambda e: http(e.RepositoryNotFoundError), 2, "no directory 'me/tiny', and the Hugging Face Hub has no"),
        (lambda e: http(e.RevisionNotFoundError), 2, "'me/tiny' has no revision 'v9'"),
        (lambda e: e.HFValidationError("bad"), 2, "cannot be a name"),
        (lambda e: e.LocalEntryNotFoundError("x"), 1, "cannot be reached.*cache does not have 'me/tiny' at"),
        (lambda e: http(e.HfHubHTTPError), 1, "could not be downloaded: 401 Client Error.$"),
        (lambda e: TimeoutError(), 1, "could not be downloaded: TimeoutError"),
    ],
)
def test_hub_failures(monkeypatch, failure, code, says):
    def download(*args, **settings):
        raise failure(hf.errors)

    monkeypatch.setattr(hf, "snapshot_download", download)
    monkeypatch.setattr(hf.constants, "HF_HUB_OFFLINE", False)
    assert refused("me/tiny@v9", says, UssfastError).exit_code == code


def test_without_huggingface_hub(monkeypatch, embedded):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused("me/tiny", r"pip install 'ussfast\[hub\]'")
    assert available() == []


def test_a_repository_of_something_else_says_so(monkeypatch, cache):
    other = cache / "models--you--other" / "snapshots" / COMMITS[0]
    monkeypatch.setattr(hf, "snapshot_download", lambda *args, **settings: str(other))
    with pytest.raises(CheckpointError, match="not a ussfast model directory"):
        checkpoint.load_model(resolve("you/other"))


def test_available_lists_embedded_and_cached_models(monkeypatch, embedded, cache, saved):
    shutil.copytree(saved, embedded / "default")
    scan = hf.scan_cache_dir
    monkeypatch.setattr(hf, "scan_cache_dir", lambda: scan(cache))
    assert [info.name for info in available()] == ["default", "me/tiny", f"me/tiny@{COMMITS[0]}"]
    monkeypatch.setattr(hf, "scan_cache_dir", lambda: scan(cache / "none"))
    assert [info.name for info in available()] == ["default"]


OFFLINE = """
import sys
from ussfast.checkpoints.store import available, load_model, resolve
from ussfast.errors import UssfastError
print(*(info.name for info in available() if "/" in info.name))
print(load_model(resolve("me/tiny"))[1].name)
try:
    resolve("me/none")
except UssfastError as error:
    print(error.exit_code, error)
"""


def test_offline_the_cache_is_used_and_its_gaps_are_explained(cache):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cache.parent)}
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE], env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert done[:2] == [f"me/tiny me/tiny@{COMMITS[0]}", "tiny"]
    assert done[2].startswith("1 ") and "HF_HUB_OFFLINE is set" in done[2] and "'me/none'" in done[2]
