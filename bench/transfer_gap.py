"""How much better the models of a transfer study are on what they learned from than on other recordings.

    python bench/transfer_gap.py study duets=duets --seconds 1.5

prints SI-SDR in dB of excerpts that do not overlap, by split, and what the ideal mask with the mixture's phase has.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from ussfast import stft
from ussfast.checkpoints.store import load_model
from ussfast.data.stems import StemPool, read_pieces
from ussfast.evaluate.metrics import si_sdr
from ussfast.evaluate.tables import table_head, table_row
from ussfast.evaluate.transfer import scores_of
from ussfast.models import SpectralModel

MOST = 100  # excerpts of a split


def ideal(model: SpectralModel, sources: torch.Tensor) -> float:
    """Mean SI-SDR of magnitudes over the mixture's, limited to 1, as masks; sources: [excerpts, sources, samples]."""
    config, count = model.config.stft, sources.shape[1]
    mixture = stft.analyze(sources.sum(1), config)
    own = stft.analyze(sources.flatten(0, 1), config).unflatten(0, (-1, count))
    mask = (own.abs() / mixture.abs()[:, None].clamp(min=1e-9)).clamp(max=1)
    estimates = stft.synthesize(torch.stack((mask, 0 * mask), -1), config, sources.shape[2], mixture)
    pairs = zip(estimates.flatten(0, 1).numpy(), sources.flatten(0, 1).numpy(), strict=True)
    return float(np.mean([si_sdr(estimate, source) for estimate, source in pairs]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("data", help="NAME=PATH, as the study has it")
    parser.add_argument("--seconds", type=float, default=5.0)
    args = parser.parse_args()
    name, _, place = args.data.partition("=")
    pieces = read_pieces(place)
    splits = list(dict.fromkeys(piece.split for piece in pieces))
    folders = [path for path in sorted((args.study / "runs").glob(f"*-{name}-*")) if (path / "model").is_dir()]
    models = {path.name: load_model(path / "model")[0].eval() for path in folders}
    first = next(iter(models.values()))
    rate = first.config.sample_rate
    pools = {split: StemPool.load([p for p in pieces if p.split == split], rate) for split in splits}
    excerpts = {split: pool.excerpts(round(args.seconds * rate))[:MOST] for split, pool in pools.items()}
    print("\n".join(table_head("", *(f"{split} ({len(own)})" for split, own in excerpts.items()))))
    for run, model in models.items():
        means = [np.mean(np.array(scores_of(model, own, pools[s].names), np.float64)) for s, own in excerpts.items()]
        print(table_row(run, *(f"{mean:.2f}" for mean in means)))
    print(table_row("ideal mask", *(f"{ideal(first, own):.2f}" for own in excerpts.values())))


if __name__ == "__main__":
    main()
