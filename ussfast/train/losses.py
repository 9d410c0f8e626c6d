"""Training losses of TUSS: negative SNR that tolerates silent references, with permutations inside each prompt.

Source: Saijo et al., "Task-Aware Unified Source Separation", ICASSP 2025; the form for silent references
follows Wisdom et al., "What's all the fuss about free universal sound separation data?", ICASSP 2021.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import permutations

import torch
from torch import Tensor

PairLoss = Callable[[Tensor, Tensor], Tensor]  # estimates, references [batch, sources, n] -> [batch, est, ref]


def _cut(est: Tensor, ref: Tensor) -> tuple[Tensor, Tensor]:
    length = min(est.shape[-1], ref.shape[-1])
    return est[..., :length], ref[..., :length]


def _errors(est: Tensor, ref: Tensor) -> Tensor:
    """Energy of every estimate minus every reference: [batch, sources(est), sources(ref)]."""
    # The difference itself, not its expansion: the latter cancels when an estimate is good.
    return torch.stack([(est - ref[:, j : j + 1]).square().sum(-1) for j in range(ref.shape[1])], -1)


def zero_ref_snr_pairs(
    est: Tensor, ref: Tensor, snr_max: float = 30.0, zero_weight: float = 0.1, eps: float = 1e-7
) -> Tensor:
    """Soft-thresholded negative SNR in dB of every pair; silent references use the mixture's energy instead."""
    power = ref.square().sum(-1)  # [batch, ref]
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
    orders = torch.tensor(list(permutations(range(count))), device=pairs.device)  # [orders, ref]
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


def prompt_loss(
    est: Tensor, ref: Tensor, prompts: Sequence[Sequence[str]], pairs: PairLoss | None = None
) -> Tensor:
    """Loss of each source with permutations only among sources of the same prompt.

    Args:
        est, ref: [batch, sources, samples].
        prompts: for each item the prompt name of every source.
        pairs: loss of every pair; it sees the references of one prompt group only.
    Returns:
        [batch, sources], listed per item by first appearance of each prompt; its mean is the training loss.
    """
    est, ref = _cut(est, ref)
    rows = []
    for item, names in enumerate(prompts):
        parts = []
        for name in dict.fromkeys(names):
            at = [i for i, other in enumerate(names) if other == name]
            parts.append(pit_loss(est[item : item + 1, at], ref[item : item + 1, at], pairs)[0][0])
        rows.append(torch.cat(parts))
    return torch.stack(rows)


css_pairs = partial(zero_ref_snr_pairs, snr_max=70.0, zero_weight=0.0)
"""What the published long-audio procedure compares neighbouring segments with."""
