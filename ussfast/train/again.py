"""One source of every mixture asked for once more, by an example clip: the head of a model whose trunk sees no prompts
costs little, and the same mixture then teaches both ways of asking."""

from dataclasses import replace

import numpy as np
import torch

from ussfast.train.chains import absent_prompts
from ussfast.train.queries import QueryPicker
from ussfast.train.rendering import AugmentConfig, Crop, Plan

ABSENT = -1  # in place of a source's number: asked for, but not in the mixture
Again = tuple[int, str, Crop]  # the source that is meant, or ABSENT; its prompt; the clip


def draw_again(
    picker: QueryPicker, plan: Plan, present: list[list[int]], names: list[tuple[str, ...]], rng: np.random.Generator
) -> list[Again] | None:
    """For every mixture a source and a clip that stands for it.

    Where no source of a mixture has a clip, a clip of something that is not in it; None if one has neither.

    Args:
        present: numbers of the sources that are asked for and not silent, per mixture.
        names: the prompts of the sources in the mixtures.
    """
    found: list[Again] = []
    sources = len(names[0])
    for item, (there, prompts) in enumerate(zip(present, names, strict=True)):
        first = item * sources
        mixture = [c for c in plan.crops if first <= c.row < first + sources]
        again = _of_the_mixture(picker, plan, there, prompts, first, mixture, rng)
        again = again or _absent(picker, prompts, mixture, rng)
        if again is None:
            return None
        found.append(again)
    return found


def _of_the_mixture(
    picker: QueryPicker, plan: Plan, there: list[int], prompts: tuple[str, ...], first: int, mixture: list[Crop],
    rng: np.random.Generator,
) -> Again | None:  # fmt: skip
    for source in map(int, rng.permutation(there)):
        if not plan.built[first + source]:
            [crop] = [c for c in mixture if c.row == first + source]
            clip = picker.present(crop, mixture, rng)
            if clip is not None:
                return source, prompts[source], clip
    return None


def _absent(
    picker: QueryPicker, prompts: tuple[str, ...], mixture: list[Crop], rng: np.random.Generator
) -> Again | None:
    for name in map(str, rng.permutation(absent_prompts(prompts))):
        clip = picker.absent(name, mixture, rng)
        if clip is not None:
            return ABSENT, name, clip
    return None


def with_again(batch, again: list[Again], sources: torch.Tensor, picker: QueryPicker, augment: AugmentConfig,
               any_band: float, rng: np.random.Generator):  # fmt: skip
    """The batch with one source more per item. sources: [mixtures, sources, samples], all that are in the mixtures."""
    device = sources.device
    meant = torch.tensor([source for source, _, _ in again], device=device)
    missing = meant == ABSENT
    rows = torch.arange(len(again), device=device)
    more = sources[rows, meant].masked_fill(missing[:, None], 0)
    place = batch.references.shape[1]
    clips = picker.render([clip for _, _, clip in again], augment, any_band, rng)
    asked = torch.stack((rows, torch.full_like(rows, place)), 1)
    if batch.queries is not None and batch.asked is not None:
        clips, asked = torch.cat((batch.queries, clips)), torch.cat((batch.asked, asked))
    return replace(
        batch,
        references=torch.cat((batch.references, more[:, None]), 1),
        prompts=[(*names, name) for names, (_, name, _) in zip(batch.prompts, again, strict=True)],
        absent=torch.cat((batch.absent, missing[:, None]), 1),
        queries=clips,
        asked=asked,
    )
