"""What models compute from prompts alone: once for a set of prompts, for every stream and file that has them."""

from collections.abc import Callable
from threading import Lock
from typing import Any, TypeVar

from torch import Tensor

from ussfast.models._base import Conditioning
from ussfast.models.causal import Modulation

KEPT = 32

C = TypeVar("C", bound=Modulation | Conditioning)


class Conditionings:
    """Of the newest sets of prompts; threads may share it."""

    def __init__(self) -> None:
        self._known: dict[bytes, Any] = {}
        self.after_fork()

    def after_fork(self) -> None:
        self._knowing = Lock()

    def of(self, prompts: Tensor, compute: Callable[[Tensor], C]) -> C:
        """What `compute` makes, or made, of prompt vectors [sources, dim]; it is the same for all calls."""
        key = prompts.numpy(force=True).tobytes()
        with self._knowing:
            known = self._known.pop(key, None)
            if known is None:
                known = compute(prompts)
            self._known[key] = known  # the newest are last
            if len(self._known) > KEPT:
                self._known.pop(next(iter(self._known)))
        return known
