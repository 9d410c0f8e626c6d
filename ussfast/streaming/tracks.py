"""Which track of a stream each source is in, and what is still to be heard of former ones."""

from collections.abc import Sequence
from typing import NamedTuple

from ussfast.prompts.bank import Plan

Key = tuple[str, int]


class Former(NamedTuple):
    """A source that was asked for before: what it was called, and samples until nothing is left of it."""

    key: Key
    label: str
    left: int


class Tracks:
    """Sources of a plan in tracks ("slots"), which they keep as long as they are asked for, whatever else is.

    Args:
        plan: what is asked for at first.
        count: of tracks: twice as many as there may be prompts, for all may change at once, and the former ones fade
            out.
    Attributes:
        slots: of the sources, in their order. former: by slot.
    """

    def __init__(self, plan: Plan, count: int):
        self.plan, self.count = plan, count
        self.slots = tuple(range(len(plan.labels)))
        self.former: dict[int, Former] = {}

    @property
    def heard(self) -> tuple[int, ...]:
        """Slots of the sources, then those of former ones."""
        return (*self.slots, *self.former)

    @property
    def labels(self) -> tuple[str, ...]:
        """Of those in `heard`, all different: a former source gives way where another has its label now."""
        labels = list(self.plan.labels)
        for former in self.former.values():
            labels.append(_unlike(former.label, labels))
        return tuple(labels)

    def places(self, plan: Plan) -> tuple[int, ...]:
        """Slots for another plan. What is still fading out and is asked for again goes on where it was."""
        known = {former.key: slot for slot, former in self.former.items()}
        known |= dict(zip(self.plan.keys, self.slots, strict=True))
        kept = {known[key] for key in plan.keys if key in known}
        # Slots whose source is still fading out are taken last, those that faded longest first.
        free = [slot for slot in range(self.count) if slot not in self.slots and slot not in self.former]
        free += [slot for slot in self.former if slot not in kept]
        return tuple(known[key] if key in known else free.pop(0) for key in plan.keys)

    def change(self, plan: Plan, slots: tuple[int, ...], fade: int) -> None:
        """Asks for another plan, in its `places`; what was asked for before is over after `fade` samples."""
        # Also what fades out already: its share of the mixture sets out anew with all others'.
        ended = {slot: former._replace(left=fade) for slot, former in self.former.items()}
        mine = zip(self.slots, self.plan.keys, self.plan.labels, strict=True)
        ended |= {slot: Former(key, label, fade) for slot, key, label in mine}
        self.former = {slot: former for slot, former in ended.items() if slot not in slots}
        self.plan, self.slots = plan, slots

    def go_on(self, samples: int) -> None:
        """So many samples came out."""
        left = {slot: former._replace(left=former.left - samples) for slot, former in self.former.items()}
        self.former = {slot: former for slot, former in left.items() if former.left > 0}

    def begin(self, slots: tuple[int, ...]) -> None:
        """Nothing is heard of former sources; those of now are in these slots."""
        self.slots, self.former = slots, {}


def _unlike(label: str, others: Sequence[str]) -> str:
    """The label, with a word behind it, and perhaps a number, where others have it."""
    found, number = label, 1
    while found in others:
        found = f"{label}-former" if number == 1 else f"{label}-former-{number}"
        number += 1
    return found
