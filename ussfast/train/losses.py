"""Training losses: negative SNR that tolerates silent references, with permutations inside each prompt (TUSS) or none.

Source: Saijo et al., "Task-Aware Unified Source Separation", ICASSP 2025; the form for silent references
follows Wisdom et al., "What's all the fuss about free universal sound separation data?", ICASSP 2021.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import permutations

import torch
from torch import Tensor

from ussfast.train.high_band import HighBand

PairLoss = Callable[[Tensor, Tensor], Tensor]  # estimates, references [batch, sources, n] -> [batch, est, ref]


def _cut(est: Tensor, ref: Tensor) -> tuple[Tensor, Tensor]:
    length = min(est.shape[-1], ref.shape[-1])
    return est[..., :length], ref[..., :length]


def _errors(est: Tensor, ref: Tensor) -> Tensor:
    """Energy of every estimate minus every reference: [batch, sources(est), sources(ref)]."""
    # The difference itself, not its expansion: the latter cancels when an estimate is good.
    return torch.stack([(est - ref[:, j : j + 1]).square().sum(-1) for j in range(ref.shape[1])], -1)


def zero_ref_snr_pairs(
    est: Tensor,
    ref: Tensor,
    snr_max: float = 30.0,
    zero_weight: float = 0.1,
    eps: float = 1e-7,
    mixture: Tensor | None = None,
) -> Tensor:
    """Soft-thresholded negative SNR in dB of every pair; silent references use the mixture's energy instead.

    Args:
        est, ref: [batch, sources, samples].
        snr_max: in dB; errors further below the reference hardly count.
        zero_weight: weight of pairs with a silent reference.
        mixture: [batch, 1] energy of the mixtures; that of the sum of `ref` if None.
    Returns:
        [batch, sources(est), sources(ref)].
    """
    power = ref.square().sum(-1)  # [batch, ref]
    if mixture is None:
        mixture = ref.sum(1).square().sum(-1, keepdim=True)
    active = power > 0
    reference = torch.where(active, power, mixture)
    floor = 10 ** (-snr_max / 10) * reference
    noise = 10 * torch.log10(_errors(est, ref) + floor[:, None] + eps)
    loss = noise - (active * 10 * torch.log10(reference + eps))[:, None]
    return torch.where(active, 1.0, zero_weight)[:, None] * loss


def snr_pairs(est: Tensor, ref: Tensor, eps: float = 1e-8) -> Tensor:
    """Plain negative SNR in dB of every pair."""
    return 10 * torch.log10((_errors(est, ref) + eps) / (ref.square().sum(-1)[:, None] + eps))


def si_snr_pairs(est: Tensor, ref: Tensor, clamp_db: float = 70.0) -> Tensor:
    """Negative scale-invariant SNR in dB of every pair, without mean removal, clamped to +-clamp_db."""
    dot = torch.einsum("bin,bjn->bij", est, ref)
    coherence = dot.square() / (est.square().sum(-1)[:, :, None] * ref.square().sum(-1)[:, None])
    ratio = coherence / (1 - coherence)
    limit = 10 ** (clamp_db / 10)
    return -10 * torch.log10(ratio.clamp(1 / limit, limit))


def best_permutation(pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Losses and estimate indices of the best one-to-one assignment: [batch, ref] each."""
    count = pairs.shape[-1]
    if count == 1:
        return pairs[:, 0], torch.zeros(len(pairs), 1, dtype=torch.int64, device=pairs.device)
    flat = to_device([i for order in permutations(range(count)) for i in order], pairs.device)
    orders = flat.unflatten(0, (-1, count))  # [orders, ref]
    losses = pairs[:, orders, torch.arange(count, device=pairs.device)]  # [batch, orders, ref]
    best = losses.mean(-1).argmin(-1)
    return losses[torch.arange(len(pairs), device=pairs.device), best], orders[best]


def with_zero_refs(ref: Tensor, sources: int) -> Tensor:
    """References with silent ones appended up to `sources`."""
    missing = sources - ref.shape[1]
    return torch.cat((ref, ref.new_zeros(ref.shape[0], missing, ref.shape[2])), 1) if missing > 0 else ref


def pit_loss(est: Tensor, ref: Tensor, pairs: PairLoss | None = None) -> tuple[Tensor, Tensor]:
    """Per-source losses and permutation over all sources.

    Args:
        est, ref: [batch, sources, samples]; missing references count as silent, lengths are cut to the shorter.
        pairs: loss of every pair; zero_ref_snr_pairs by default.
    Returns:
        losses [batch, sources], permutation [batch, sources] such that est[:, perm] matches ref.
    """
    est, ref = _cut(est, with_zero_refs(ref, est.shape[1]))
    return best_permutation((pairs or zero_ref_snr_pairs)(est, ref))


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
    est, ref = _cut(est, ref)
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


def to_device(values: Sequence[int], device: torch.device) -> Tensor:
    """Whole numbers from the host as int64; the host does not wait for a GPU to take them."""
    tensor = torch.tensor(values, dtype=torch.int64)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


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


css_pairs = partial(zero_ref_snr_pairs, snr_max=70.0, zero_weight=0.0)
"""What the published long-audio procedure compares neighbouring segments with."""
