"""Which source is which: equal prompts in the order in which they were before, or are in another channel."""

from itertools import permutations

import numpy as np

Groups = tuple[tuple[int, ...], ...]  # indices of sources that may be exchanged with one another


FEW = 6  # sources whose orders, 720 of them, are all tried
SOLVED = 8  # the same where arrays are tried at once; of 10 they would not fit into memory


def reorder(before: np.ndarray, new: np.ndarray, groups: Groups, opposite: bool = False) -> np.ndarray:
    """`new` with the sources of each group in the order that resembles `before` most.

    Args:
        before: [sources, channels, shared], the end of what is there already.
        new: [sources, channels, samples >= shared], beginning at the same position.
        groups: indices that may be exchanged.
        opposite: the inverse of a source resembles it, too.
    """
    shared = before.shape[-1]
    order = list(range(len(new)))
    for group in groups:
        likeness = _likeness(before[list(group)], new[list(group)][..., :shared])
        best = _assign(np.abs(likeness) if opposite else likeness)
        for place, choice in zip(group, best, strict=True):
            order[place] = group[choice]
    return new if order == list(range(len(new))) else new[order]


def align_channels(out: np.ndarray, groups: Groups) -> np.ndarray:
    """Channels are separated one by one: puts the sources of each group into the order of the first channel, in which
    they may be of opposite phase."""
    for channel in range(1, out.shape[1] if groups else 0):
        out[:, channel] = reorder(out[:, 0][:, None], out[:, channel][:, None], groups, opposite=True)[:, 0]
    return out


def _likeness(before: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Correlation of every pair, [before, new]; 0 where one of them is silent."""
    a = before.reshape(len(before), -1).astype(np.float64)
    b = new.reshape(len(new), -1).astype(np.float64)
    norm = np.sqrt((a * a).sum(1))[:, None] * np.sqrt((b * b).sum(1))
    return (a @ b.T) / np.where(norm > 0, norm, np.inf)


def _assign(likeness: np.ndarray) -> tuple[int, ...]:
    """The one-to-one choice of columns with the largest sum; the present order wins ties."""
    rows = range(len(likeness))
    if len(likeness) <= FEW:
        return max(permutations(rows), key=lambda order: sum(likeness[i, j] for i, j in zip(rows, order, strict=True)))
    # More equal prompts than anybody asks for: greedy, best pairs first.
    left, order = likeness.copy(), [0] * len(likeness)
    for _ in rows:
        i, j = np.unravel_index(int(left.argmax()), left.shape)
        order[int(i)] = int(j)
        left[i], left[:, j] = -np.inf, -np.inf
    return tuple(order)


def solve(tail: np.ndarray, new: np.ndarray) -> np.ndarray:
    """`new` in the order with the lowest loss against `tail` [sources, channels, overlap], channel by channel; of many
    sources the best pairs are taken first."""
    import torch

    from ussfast.long_audio.permutation import css_pairs, pit_loss

    estimate = torch.from_numpy(np.ascontiguousarray(new[..., : tail.shape[-1]])).transpose(0, 1)
    reference = torch.from_numpy(np.ascontiguousarray(tail)).transpose(0, 1)
    if len(tail) <= SOLVED:
        order = pit_loss(estimate, reference, css_pairs)[1].numpy()  # [channels, sources]
    else:
        order = np.array([_assign(-losses.T) for losses in css_pairs(estimate, reference).numpy()])
    return np.stack([new[order[channel], channel] for channel in range(new.shape[1])], 1)
