"""Small things for tests: models that run in milliseconds, saved as users have them, and training data for them."""

import json
from dataclasses import replace

import numpy as np
import soundfile
import torch

from ussfast.checkpoints.store import save_model
from ussfast.models import build, build_detector
from ussfast.models.asp_unet import AspUnetConfig
from ussfast.models.bslocoformer import BsLocoformerConfig
from ussfast.models.causal import CausalConfig
from ussfast.models.config import FfnConfig, LevelConfig, StackConfig, to_dict
from ussfast.models.detectors.cnn14 import Cnn14Config
from ussfast.models.detectors.log_mel import LogMelConfig
from ussfast.models.sfc import SfcConfig
from ussfast.models.tuss import TussConfig
from ussfast.stft import StftConfig

RATE = 8000
SHORT = {"segment": 0.4, "overlap": 0.15}  # several windows in a second of audio
PROMPTS = ("speech", "sfx", "sfxbg", "drums", "bass", "vocals", "other", "musicbg")
BANDS = (5, 10, 20, 30)
STFT = StftConfig(n_fft=128, hop=64, window_length=128)
STACK = StackConfig(
    blocks=1, dim=8, groups=2, heads=2, attention_dim=8, freq_ffn=(FfnConfig(8, 3),), time_ffn=(FfnConfig(8, 1),)
)
TUSS = TussConfig(
    sample_rate=RATE, stft=STFT, prompts=PROMPTS, cross_prompt=STACK, extraction=STACK, bands=BANDS, decoder_expansion=1
)
UNCONDITIONAL = BsLocoformerConfig(
    sample_rate=RATE, stft=STFT, sources=3, first=STACK, second=STACK, bands=BANDS, decoder_expansion=1
)
SFC = SfcConfig(dim=8, heads=2, bands="widths", widths=BANDS)
TUSS_SFC = replace(TUSS, bands=None, sfc=replace(SFC, query="adaptive", learned_slope=True))
STEREO = BsLocoformerConfig(
    sample_rate=RATE,
    stft=replace(STFT, window="hann", padding="reflect", drop_last_frame=True),
    sources=3,
    first=replace(STACK, rope=False),
    level=LevelConfig(eps=1e-15, domain="stft"),
    sfc=SFC,
    channels=2,
)

CAUSAL = CausalConfig(
    sample_rate=RATE,
    stft=STFT,
    prompts=PROMPTS,
    bands=(4, 4, 8, 8, 20, STFT.bins - 44),
    dim=8,
    hidden=12,
    blocks=2,
    features=3,
)
# What is exported: each band and block takes seconds to trace and to compile.
CAUSAL_SMALL = replace(CAUSAL, blocks=1, bands=(8, 8, STFT.bins - 16))

DETECTOR = Cnn14Config(
    labels=("dog", "rain", "bell"),
    front=LogMelConfig(sample_rate=RATE, n_fft=256, hop=80, mels=16, fmin=20.0, fmax=4000.0),
    channels=(4, 8, 8),
    pooling="max",
)


# Takes the vectors that DETECTOR makes.
ASP = AspUnetConfig(
    sample_rate=RATE,
    stft=replace(STFT, window="hann", padding="reflect"),
    latent_dim=DETECTOR.embedding_dim,
    encoder_channels=(4, 8),
    center_channels=8,
)


def tiny_model(config=TUSS, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(config)


def tiny_directory(folder, config=TUSS, seed=0):
    """A model directory under `folder`, which must exist."""
    directory = folder / f"{type(config).__name__}-{seed}"
    save_model(directory, tiny_model(config, seed), name="tiny", license="CC0-1.0", source={"made": "at random"})
    return directory


def tiny_detector(config=DETECTOR, seed=0):
    """A detector in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_detector(config).eval()


def tiny_detector_directory(folder, config=DETECTOR, seed=0):
    """A model directory of it under `folder`, which must exist."""
    directory = folder / f"{type(config).__name__}-{seed}"
    save_model(directory, tiny_detector(config, seed), name="tiny", license="CC0-1.0", source={"made": "at random"})
    return directory


def noise(channels, samples, seed=0):
    """Noise bursts, float32 [channels, samples]: not stationary, so that a shift in time shows."""
    rng = np.random.default_rng(seed)
    swell = 0.6 + 0.4 * np.sin(np.arange(samples) / 331 + np.arange(channels)[:, None])
    return (0.2 * swell * rng.standard_normal((channels, samples))).astype(np.float32)


def files_in(folder):
    """All files under a folder but the records of stems, hidden ones too."""
    paths = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".ussfast."))
    return sorted(str(p.relative_to(folder)) for p in paths)


STEMS = ("drums", "bass", "vocals", "other")
TONE = {"speech": 300, "sfx": 700, "sfxbg": 1100, "drums": 1500, "bass": 1900, "vocals": 2300, "other": 2700}


def tone_of(rows):
    """The prompt whose tone each row [rows, samples] has."""
    spectrum = np.abs(np.fft.rfft(rows * np.hanning(rows.shape[-1])))
    peak = spectrum.argmax(-1) * RATE / rows.shape[-1]
    return [min(TONE, key=lambda name: abs(TONE[name] - f)) for f in peak]


def tiny_manifest(folder, seconds=1.0):
    """manifest.json with a train and a dev split: every prompt has its own TONE, two groups each; two songs."""
    rows = []
    for split in ("train", "dev"):
        for number, (prompt, tone) in enumerate(TONE.items()):
            for group in range(2):
                time = np.arange(round(seconds * RATE)) / RATE
                swell = 0.6 + 0.4 * np.sin(2 * np.pi * (2 + number + group) * time)
                path = f"{split}-{prompt}-{group}.wav"
                soundfile.write(folder / path, 0.3 * swell * np.sin(2 * np.pi * (tone + 20 * group) * time), RATE)
                row = {"path": path, "prompt": prompt, "split": split, "license_class": "permissive"}
                kind = "song" if prompt in STEMS else "speaker" if prompt == "speech" else "label"
                rows.append(row | {"sample_rate": RATE, kind: f"{kind} {group}"})
    (folder / "manifest.json").write_text(json.dumps({"items": rows}))
    return folder / "manifest.json"


def tiny_recipe(**changes):
    """A recipe in its plain form; `changes` go into its tables."""
    recipe = {
        "name": "tiny",
        "model": {"architecture": "tuss", **json.loads(json.dumps(to_dict(TUSS)))},
        "optim": {"steps": 4, "lr": 0.01, "warmup": 1},
        "mix": {"seconds": 0.4, "rows": 4},
        "run": {
            "log_every": 1, "validate_every": 1000, "validate_items": 1, "checkpoint_every": 1000, "tensorboard": False
        },
    }
    for table, entries in changes.items():
        recipe[table] = recipe[table] | entries
    return recipe
