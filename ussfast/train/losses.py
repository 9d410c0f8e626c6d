"""Training losses: negative SNR that tolerates silent references, with permutations inside each prompt (TUSS) or none.

Source: Saijo et al., "Task-Aware Unified Source Separation", ICASSP 2025; the form for silent references
follows Wisdom et al., "What's all the fuss about free universal sound separation data?", ICASSP 2021.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ussfast.long_audio.permutation import best_permutation, cut, errors, to_device, zero_ref_snr_pairs
from ussfast.train.high_band import HighBand


def snr_pairs(est: Tensor, ref: Tensor, eps: float = 1e-8) -> Tensor:
    """Plain negative SNR in dB of every pair."""
    return 10 * torch.log10((errors(est, ref) + eps) / (ref.square().sum(-1)[:, None] + eps))


def si_snr_pairs(est: Tensor, ref: Tensor, clamp_db: float = 70.0) -> Tensor:
    """Negative scale-invariant SNR in dB of every pair, without mean removal, clamped to +-clamp_db."""
    dot = torch.einsum("bin,bjn->bij", est, ref)
    coherence = dot.square() / (est.square().sum(-1)[:, :, None] * ref.square().sum(-1)[:, None])
    ratio = coherence / (1 - coherence)
    limit = 10 ** (clamp_db / 10)
    return -10 * torch.log10(ratio.clamp(1 / limit, limit))


def prompt_groups(
    prompts: Sequence[Sequence[str]], asked: Sequence[Sequence[int]] = ()
) -> list[tuple[int, tuple[int, ...]]]:
    """(item, its sources) of each set of sources that may be exchanged; per item by first appearance.

    Args:
        prompts: for each item the prompt name of every source.
        asked: (item, source) of the sources that were asked for by example: each stands for itself.
    """
    alone = {(item, source) for item, source in asked}
    found: dict[tuple[int, str, int], list[int]] = {}
    for item, names in enumerate(prompts):
        for source, name in enumerate(names):
            found.setdefault((item, name, source if (item, source) in alone else -1), []).append(source)
    return [(item, tuple(sources)) for (item, _, _), sources in found.items()]


def prompt_loss(
    est: Tensor,
    ref: Tensor,
    prompts: Sequence[Sequence[str]],
    asked: Sequence[Sequence[int]] = (),
    mixture: Tensor | None = None,
    snr_max: float = 30.0,
    zero_weight: float = 0.1,
    high: HighBand | None = None,
) -> Tensor:
    """Loss of each source with permutations only among sources of the same prompt; zero_ref_snr_pairs for each pair.

    Args:
        est, ref: [batch, sources, samples].
        prompts, asked: see `prompt_groups`.
        mixture: [batch, samples]; silent references are then measured against its energy, so that the loss ends
            `snr_max` dB below the mixture. If None, against the sum of the references of their own prompt, as
            published: nothing at all if these are all silent.
        snr_max, zero_weight: see `zero_ref_snr_pairs`.
        high: what is above some frequency, whose own loss is added.
    Returns:
        [batch, sources], listed per item by first appearance of each prompt; its mean is the training loss.
    """
    est, ref = cut(est, ref)
    batch, sources, _ = ref.shape
    groups = prompt_groups(prompts, asked)
    est, ref = est.flatten(0, 1), ref.flatten(0, 1)
    level = None if mixture is None else mixture.square().sum(-1, keepdim=True)  # [batch, 1]
    values, order = [], []
    # Groups of one size are one batch; only pairs that may be matched are ever compared.
    for size in sorted({len(at) for _, at in groups}):
        chosen = [(item, [item * sources + i for i in at]) for item, at in groups if len(at) == size]
        rows = to_device([row for _, at in chosen for row in at], est.device)
        e, r = (x.index_select(0, rows).unflatten(0, (-1, size)) for x in (est, ref))
        items = to_device([i for i, _ in chosen], est.device)
        of_group = None if level is None else level.index_select(0, items)
        pairs = zero_ref_snr_pairs(e, r, snr_max, zero_weight, mixture=of_group)
        if high is not None:
            e, r = (x.flatten(0, 1).index_select(0, rows).unflatten(0, (-1, size)) for x in (high.est, high.ref))
            pairs = pairs + high.pairs(e, r, items)
        values.append(best_permutation(pairs)[0].flatten())
        order += [row for _, at in chosen for row in at]
    place = {row: k for k, row in enumerate(order)}
    listed = [place[item * sources + i] for item, at in groups for i in at]
    return torch.cat(values).index_select(0, to_device(listed, est.device)).view(batch, sources)


def sfc_loss(
    est: Tensor,
    ref: Tensor,
    snr_max: float | None = 30.0,
    inactive_db: float = -60.0,
    zero_weight: float = 0.1,
    only_denominator: bool = False,
    eps: float = 1e-8,
) -> Tensor:
    """Thresholded negative SNR in dB without a permutation search; silent and almost silent sources count less.

    Args:
        est, ref: [..., sources, samples].
        snr_max: in dB; None for no threshold.
        inactive_db: sources below this level relative to the mixture are inactive: they are measured against the
            mixture, not against themselves.
        zero_weight: weight of inactive sources.
        only_denominator: leaves out the energy of the reference, which no gradient sees.
    Returns:
        [...], means over the sources.
    Source: Saijo & Bando, "Spectral Feature Compression by Cross-Attention", IEEE TASLP 2026 (arXiv 2602.08671).
    """
    power = ref.square().sum(-1)
    mixture = ref.sum(-2).square().sum(-1, keepdim=True)
    active = 10 * torch.log10(power / (mixture + eps)) >= inactive_db
    tau = 0.0 if snr_max is None else 10 ** (-snr_max / 10)
    noise = 10 * torch.log10((est - ref).square().sum(-1) + tau * torch.where(active, power, mixture) + eps)
    own = noise if only_denominator else noise - 10 * torch.log10(power + eps)
    return torch.where(active, own, zero_weight * noise).mean(-1)
