"""Errors that users meet. The command line prints their text as one line and exits with `exit_code`.

Bad input (a wrong file, name, number or setting) is an InputError and exits with 2; a failure of the
surroundings (disk full, no network, out of memory) is a plain UssfastError and exits with 1.
"""


MOST_TEXT = 2000  # characters of an error


class UssfastError(Exception):
    """Base of everything ussfast raises on purpose; the text says what was wrong and what would be right.

    It is one line that can be printed, of bounded length, whatever names and values from files are in it.
    """

    exit_code = 1

    def __str__(self) -> str:
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in super().__str__())
        return text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT // 2]} ... {text[-MOST_TEXT // 2 :]}"


class InputError(UssfastError, ValueError):
    """The caller gave something that cannot work."""

    exit_code = 2


class AudioError(InputError):
    """Audio that is missing, empty, unreadable, truncated or not finite."""


class PromptError(InputError):
    """Prompts that the model does not know, or none at all."""


class CheckpointError(InputError):
    """A model directory or published checkpoint that cannot be used."""


class DeviceError(InputError):
    """A device, dtype or backend that this machine does not have."""


class OutputError(UssfastError):
    """Results that could not be written; nothing half-written is left behind."""


class OutOfMemoryError(UssfastError):
    """The window did not fit into memory, even after one retry with a shorter one."""


class PromptWarning(UserWarning):
    """A prompt that may be worse than it could be, such as one of clips that have little in common."""
