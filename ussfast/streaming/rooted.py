"""Streams belong to the process that they were opened in."""

from typing import Any, NoReturn

from ussfast.errors import InputError


class Rooted:
    """What cannot leave its process. Copies are refused, too: they would share memory that is written to."""

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise InputError(
            f"a {type(self).__name__} cannot be pickled or copied: take the `state` of a session (or `save` it) and "
            "give it to a session with the same settings and prompts there"
        )
