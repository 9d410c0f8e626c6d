"""Architectures by name: a configuration dataclass and a module each."""

from typing import Any

from ussfast.errors import CheckpointError, InputError
from ussfast.models._base import SpectralModel
from ussfast.models.asp_unet import AspUnet, AspUnetConfig
from ussfast.models.bslocoformer import BsLocoformer, BsLocoformerConfig
from ussfast.models.causal import CausalConfig, CausalModel
from ussfast.models.chimera import Chimera, ChimeraConfig
from ussfast.models.config import from_dict
from ussfast.models.detectors import DETECTORS, DetectorModel
from ussfast.models.tflocoformer import TfLocoformer, TfLocoformerConfig
from ussfast.models.tuss import Tuss, TussConfig
from ussfast.plain import shown

ARCHITECTURES: dict[str, tuple[type, type[SpectralModel]]] = {
    "tuss": (TussConfig, Tuss),
    "causal": (CausalConfig, CausalModel),
    "bslocoformer": (BsLocoformerConfig, BsLocoformer),
    "asp_unet": (AspUnetConfig, AspUnet),
    "tflocoformer": (TfLocoformerConfig, TfLocoformer),
    "chimera": (ChimeraConfig, Chimera),
}
"""Those that separate; the ones in DETECTORS say what there is."""

Network = SpectralModel | DetectorModel


def architecture_of(config: Any) -> str:
    """The architecture's name for a configuration object."""
    return next(name for name, (cls, _) in [*ARCHITECTURES.items(), *DETECTORS.items()] if cls is type(config))


def config_from_dict(architecture: str, data: Any) -> Any:
    """The configuration object of an architecture from its JSON form; CheckpointError when it does not fit."""
    known: dict[str, tuple[type, type[Any]]] = {**ARCHITECTURES, **DETECTORS}
    if architecture not in list(known):  # a list: a recipe may give something that cannot be looked up
        raise CheckpointError(f"unknown architecture {shown(architecture)}; known are {sorted(known)}")
    try:
        return from_dict(known[architecture][0], data, f"config of {architecture}")
    except InputError as error:
        raise CheckpointError(str(error)) from None


def build(config: Any) -> SpectralModel:
    """A freshly initialised model of the configuration's architecture."""
    return ARCHITECTURES[architecture_of(config)][1](config)


def build_detector(config: Any) -> DetectorModel:
    """The same for a configuration of a detector."""
    return DETECTORS[architecture_of(config)][1](config)


def build_network(config: Any) -> Network:
    """The same for any of both."""
    return build_detector(config) if architecture_of(config) in DETECTORS else build(config)
