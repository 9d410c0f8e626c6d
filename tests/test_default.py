"""The embedded model, on the bundled recording: what a newcomer runs first."""

import json

import numpy as np
import pytest
import torch
from tiny import RATE, TUSS, noise, tiny_model

from ussfast import Separator, demo
from ussfast.audio import read
from ussfast.cli.main import main
from ussfast.evaluate.metrics import si_sdr
from ussfast.models.causal import hop as causal_step


@pytest.fixture(scope="module")
def separator():
    return Separator("default", demo.PROMPTS)


def test_embedded_model_takes_voice_and_wind_apart(separator):
    mixture, rate = read(demo.HERE / "mixture.flac")
    out = separator.separate(mixture, rate)
    for name in demo.PROMPTS:
        reference = read(demo.HERE / f"{name}.flac")[0]
        assert si_sdr(out[name], reference) - si_sdr(mixture, reference) > 3.0, name


def test_bfloat16_on_a_real_recording():
    """It stays close to float32, and costs no separation."""
    mixture, rate = read(demo.HERE / "mixture.flac")
    exact, rounded = (
        Separator("default", demo.PROMPTS, dtype=name, device="cpu").separate(mixture, rate)
        for name in ("float32", "bfloat16")
    )
    for name in demo.PROMPTS:
        error = ((rounded[name] - exact[name]) ** 2).sum()
        assert error <= 10**-4.5 * (exact[name] ** 2).sum(), name
        reference = read(demo.HERE / f"{name}.flac")[0]
        assert abs(si_sdr(rounded[name], reference) - si_sdr(exact[name], reference)) < 0.1, name


def test_the_default_is_causal_within_32_ms_and_enrols(separator):
    """The latency by measurement: input changed from a sample on leaves what is 32 ms older as it was, to the bit."""
    mixture, rate = read(demo.HERE / "mixture.flac")
    assert rate == 32000 and separator.can_enroll
    mixture = mixture[:, : 3 * rate]
    changed, at = mixture.copy(), 2 * rate + 123
    changed[:, at:] = mixture[:, -1:] * 0.3
    a, b = (separator.separate(x, rate).stems for x in (mixture, changed))
    latency = round(0.032 * rate)
    np.testing.assert_array_equal(a[..., : at - latency], b[..., : at - latency])
    assert np.abs(a[..., at:] - b[..., at:]).max() > 1e-3


def test_the_default_gives_a_stem_whatever_else_is_asked_for(separator):
    """As README.md and docs/separate.md say; for models that see all prompts at once it makes a difference."""
    mixture, rate = read(demo.HERE / "mixture.flac")
    mixture = mixture[:, : 2 * rate]
    alone, both = (separator.separate(mixture, rate, prompts=p)["speech"] for p in (("speech",), demo.PROMPTS))
    np.testing.assert_allclose(alone, both, atol=1e-5)
    other = Separator.from_model(tiny_model(TUSS), demo.PROMPTS, device="cpu")
    heard = noise(1, RATE)
    alone, both = (other.separate(heard, RATE, prompts=p)["speech"] for p in (("speech",), demo.PROMPTS))
    assert np.abs(alone - both).max() > 1e-4


def test_the_default_hop_by_hop_is_the_same(separator):
    model = separator.engine.model
    audio = torch.from_numpy(read(demo.HERE / "mixture.flac")[0][:1, :32000])
    late, hop = model.config.latency_samples - model.config.stft.hop, model.config.stft.hop
    with torch.inference_mode():
        prompts = model.prompt_vectors(demo.PROMPTS)
        whole = model.separate(audio, prompts)
        conditioning, state = model.condition(prompts), causal_step.initial_state(model, 1, len(demo.PROMPTS))
        parts = []
        for part in torch.nn.functional.pad(audio, (0, late)).split(hop, 1)[: (32000 + late) // hop]:
            stems, state = causal_step.step(model, part, state, conditioning)
            parts.append(stems)
    stepped = torch.cat(parts, -1)[..., late:]
    assert (stepped - whole[..., : stepped.shape[-1]]).abs().max() <= 1e-4 * whole.abs().max()


def test_references_add_up_to_the_mixture():
    parts = [read(demo.HERE / f"{name}.flac")[0] for name in (*demo.PROMPTS, "mixture")]
    np.testing.assert_allclose(parts[0] + parts[1], parts[2], atol=1e-7)


def test_the_default_is_small_and_licensed():
    info = Separator("default", device="cpu").info
    assert info.sample_rate == 32000 and info.parameters <= 6_000_000
    assert (info.path / "model.safetensors").stat().st_size <= 12 * 1024 * 1024
    assert (info.path / "README.md").is_file() and (info.path / "CREDITS.md").is_file()
    assert info.license and "unknown" not in info.license


def test_demo_command(tmp_path, capsys):
    main_exits_well(["demo", "-o", str(tmp_path / "out")])
    text = capsys.readouterr().out
    for name in demo.PROMPTS:
        assert (tmp_path / "out" / f"{name}.wav").is_file() and str(tmp_path / "out" / f"{name}.wav") in text
    assert "SI-SDR" in text


def test_models_command_lists_it(capsys):
    main_exits_well(["models", "--json"])
    rows = json.loads(capsys.readouterr().out)["models"]
    assert "default" in {row["name"] for row in rows}


def main_exits_well(arguments):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert not exit.value.code
