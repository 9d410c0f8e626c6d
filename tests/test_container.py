"""What the container is made of fits together; that it runs is tried by hand, for images come from elsewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_all_that_is_copied_is_sent_to_the_builder():
    copied = re.findall(r"(?m)^COPY (?!--from)(.*) \S+$", DOCKERFILE)
    names = {name for line in copied for name in line.split()}
    sent = re.findall(r"(?m)^!(.*)$", (ROOT / ".dockerignore").read_text())
    assert names == set(sent) and all((ROOT / name).exists() for name in names)


def test_the_build_has_what_it_asks_for():
    build = DOCKERFILE.partition("\nFROM ${IMAGE}")[0]
    requirements = re.search(r"(?m)^requires = \[(.*)\]", (ROOT / "pyproject.toml").read_text())[1]
    assert all(requirement.strip() in build for requirement in requirements.split(","))


def test_the_image_is_hardened():
    run = DOCKERFILE.partition("\nFROM ${IMAGE}")[2]
    variables = dict(re.findall(r"(?m)^(?:ENV)? +(\w+)=(\S+)", run))
    assert re.search(r"(?m)^USER 10001:10001$", run) and re.search(r"(?m)^VOLUME /data$", run)
    assert "HEALTHCHECK" in run and "/health'" in run and "g++" not in run
    # A tool that writes elsewhere fails with a read-only root.
    written = [name for name in variables if re.search("HOME|DIR|CACHE|DATA", name)]
    assert len(written) >= 8 and all(variables[name].startswith("/data") for name in written)


def test_the_services_are_hardened_and_share_a_token():
    yaml = pytest.importorskip("yaml", reason="PyYAML reads compose.yaml")
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    for service in compose["services"].values():
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    (secret,) = {given["target"] for service in compose["services"].values() for given in service["secrets"]}
    scrape = yaml.safe_load((ROOT / "container/prometheus.yml").read_text())["scrape_configs"][0]
    assert scrape["authorization"]["credentials_file"] == f"/run/secrets/{secret}"
    assert scrape["static_configs"][0]["targets"] == ["server:8400"]
    more = yaml.safe_load((ROOT / "container/cuda.yaml").read_text())["services"]["server"]["build"]["args"]
    assert set(more) <= set(re.findall(r"(?m)^ARG (\w+)", DOCKERFILE))


def test_settings_are_read_from_files_of_secrets(tmp_path, monkeypatch):
    pytest.importorskip("pydantic_settings", reason="pip install 'ussfast[serve]'")
    from ussfast.serve.settings import ServeSettings

    monkeypatch.delenv("USSFAST_SERVE_TOKEN", raising=False)
    (tmp_path / "ussfast_serve_token").write_text("0123456789abcdef\n")
    settings = ServeSettings(host="0.0.0.0", _secrets_dir=tmp_path)
    assert settings.token.get_secret_value() == "0123456789abcdef" and not settings.is_loopback
    monkeypatch.setenv("USSFAST_SERVE_TOKEN", "fedcba9876543210")
    assert ServeSettings(_secrets_dir=tmp_path).token.get_secret_value() == "fedcba9876543210"
