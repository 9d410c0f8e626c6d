"""Which estimate is which source: losses of all pairs, and the assignment with the lowest.

Source: Saijo et al., "Task-Aware Unified Source Separation", ICASSP 2025; the form for silent references
follows Wisdom et al., "What's all the fuss about free universal sound separation data?", ICASSP 2021.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import permutations

import torch
from torch import Tensor

PairLoss = Callable[[Tensor, Tensor], Tensor]  # estimates, references [batch, sources, n] -> [batch, est, ref]


def cut(est: Tensor, ref: Tensor) -> tuple[Tensor, Tensor]:
    """Both to the shorter length."""
    length = min(est.shape[-1], ref.shape[-1])
    return est[..., :length], ref[..., :length]


def errors(est: Tensor, ref: Tensor) -> Tensor:
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
    noise = 10 * torch.log10(errors(est, ref) + floor[:, None] + eps)
    loss = noise - (active * 10 * torch.log10(reference + eps))[:, None]
    return torch.where(active, 1.0, zero_weight)[:, None] * loss


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
    est, ref = cut(est, with_zero_refs(ref, est.shape[1]))
    return best_permutation((pairs or zero_ref_snr_pairs)(est, ref))


def to_device(values: Sequence[int], device: torch.device) -> Tensor:
    """Whole numbers from the host as int64; the host does not wait for a GPU to take them."""
    tensor = torch.tensor(values, dtype=torch.int64)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


css_pairs = partial(zero_ref_snr_pairs, snr_max=70.0, zero_weight=0.0)
"""What the published long-audio procedure compares neighbouring segments with."""
