"""What training on stems begins with: a fresh model for them, or one that there is, made to fit them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ussfast.checkpoints.info import ModelInfo, read_info
from ussfast.checkpoints.names import resolve
from ussfast.checkpoints.store import load_model, some
from ussfast.data.stems import StemPool
from ussfast.errors import InputError
from ussfast.models import SpectralModel, architecture_of, build
from ussfast.prompts.enrolment import PIECE_SECONDS, WholeClip, can_embed
from ussfast.prompts.names import check_name
from ussfast.train.transfer_parts import HEADS, grown


@dataclass(frozen=True)
class Beginning:
    """config: of the model that is trained. weights: what it begins with; those that are not there begin fresh.

    asks: of a model with prompts, the prompt of each stem in the pool's order. order: of one without, where in the
    pool each of its sources is. info: of the model that it is made of; none for a fresh one.
    notes: what is to be said about it.
    """

    config: Any
    weights: dict[str, Tensor]
    asks: tuple[str, ...] = ()
    order: tuple[int, ...] = ()
    info: ModelInfo | None = None
    notes: tuple[str, ...] = ()

    def build(self) -> SpectralModel:
        model = build(self.config)
        weights, _ = grown(self.weights, model.state_dict())
        model.load_state_dict(weights)
        return model


def fresh(config: Any, names: Sequence[str]) -> Beginning:
    """A model of a recipe's configuration, for sources of these names."""
    fields = {field.name for field in dataclasses.fields(config)}
    if "prompts" in fields:
        return Beginning(dataclasses.replace(config, prompts=tuple(names)), {}, asks=tuple(names))
    if "sources" not in fields:
        raise InputError(
            f"a model of architecture {architecture_of(config)} takes vectors of a detector: a fresh one is for "
            "'ussfast train weak', and one that is trained can be fine-tuned"
        )
    labels = tuple(names) if getattr(config, "masks", True) else ()
    config = dataclasses.replace(config, sources=len(names), labels=labels)
    return Beginning(config, {}, order=tuple(range(len(names))))


def of_model(name: str, pool: StemPool, rate: int | None = None) -> Beginning:
    """The model of this name, made to fit the stems of a pool at its rate: see `_with_prompts` and `_with_sources`.

    Raises:
        CheckpointError: no such model. InputError: stems that cannot be prompts, or another rate.
    """
    model, info = load_model(resolve(name))
    if pool.rate != model.config.sample_rate:
        raise InputError(f"{name} works at {model.config.sample_rate} Hz, and the stems are at {pool.rate} Hz")
    if model.channels > 1:
        raise InputError(f"{name} separates {model.channels} channels together: it cannot learn from stems so far")
    if model.prompt_names:
        return _with_prompts(model, info, pool)
    if model.prompt_size is not None:
        return Beginning(model.config, model.state_dict(), asks=pool.names, info=info)
    return _with_sources(model, info, pool)


def _with_prompts(model: SpectralModel, info: ModelInfo, pool: StemPool) -> Beginning:
    """A stem called like a prompt, whatever its capitals, trains that one; others become new prompts, which begin as
    what the model makes of the stems as examples, or as the mean of its own."""
    known = {name.casefold(): name for name in model.prompt_names}
    asks = tuple(known.get(name.casefold(), name) for name in pool.names)
    new = [name for name in asks if name not in model.prompt_names]
    for name in new:
        check_name(name)
    weights = dict(model.state_dict())
    if new:
        rows = [stem_vector(model, pool, asks.index(name)) for name in new]
        weights["prompts"] = torch.cat((weights["prompts"], torch.stack(rows)))
    config = dataclasses.replace(model.config, prompts=(*model.prompt_names, *new))
    old = [name for name in asks if name not in new]
    notes = [f"prompts that learn on: {', '.join(old)}"] if old else []
    notes += [f"new prompts: {', '.join(new)}"] if new else []
    return Beginning(config, weights, asks=asks, info=info, notes=tuple(notes))


@torch.no_grad()
def stem_vector(model: SpectralModel, pool: StemPool, source: int) -> Tensor:
    """The prompt vector [dim] of a stem: that of it as an example clip, or the mean of the model's own prompts."""
    own = model.prompt_vectors(model.prompt_names)
    assert own is not None
    if not can_embed(model):
        return own.mean(0)
    clip = WholeClip(model)
    for audio in pool.audio:
        for piece in audio[source].split(PIECE_SECONDS * pool.rate):
            clip.push(piece)
    # As long as the others, so that it learns as they do.
    return clip.finish() * own.square().mean(1).sqrt().mean()


def _with_sources(model: SpectralModel, info: ModelInfo, pool: StemPool) -> Beginning:
    """A model whose sources are called as the stems stays as it is; one with other names, or another number of sources,
    gets these and a new last layer where the number differs; one without names has none afterwards either. One that
    only embeds gets a layer that makes masks."""
    config, names, notes = model.config, pool.names, list[str]()
    known = {label.casefold(): label for label in config.labels}
    places = {name.casefold(): i for i, name in enumerate(names)}
    if config.labels and known.keys() == places.keys():
        order = tuple(places[label.casefold()] for label in config.labels)
        return Beginning(config, model.state_dict(), order=order, info=info)
    if not getattr(config, "masks", True):
        notes.append(f"it only embeds so far: masks of {', '.join(names)} begin anew")
        config = dataclasses.replace(config, masks=True, sources=len(names), labels=names)
        return Beginning(config, model.state_dict(), order=tuple(range(len(names))), info=info, notes=tuple(notes))
    if config.labels:
        notes.append(f"its sources were {', '.join(config.labels)}, and are {', '.join(names)} from now on")
        config = dataclasses.replace(config, sources=len(names), labels=names)
    else:
        config = dataclasses.replace(config, sources=len(names))
    weights = model.state_dict()
    with torch.device("meta"):
        lost = grown(weights, build(config).state_dict())[1]
    if lost:
        last = HEADS[architecture_of(config)]["head"]
        if foreign := [name for name in lost if not name.startswith(last)]:
            raise InputError(f"a model for {len(names)} sources cannot begin with {info.name}: {some(foreign)} differ")
        notes.append(f"{len(names)} sources in place of {model.config.sources}: {some(lost)} begin anew")
    return Beginning(config, weights, order=tuple(range(len(names))), info=info, notes=tuple(notes))


def model_rate(name: str) -> int:
    """The sample rate of the model of this name."""
    return read_info(Path(resolve(name))).sample_rate
