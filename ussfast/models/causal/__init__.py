"""The causal model whose trunk sees no prompts: see `ussfast.models.causal.model`."""

from ussfast.models.causal.config import CausalConfig
from ussfast.models.causal.model import CausalModel, Modulation, TrunkState

__all__ = ["CausalConfig", "CausalModel", "Modulation", "TrunkState"]
