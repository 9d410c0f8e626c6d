"""Parts of README.md that scripts write, between two comments."""

from ussfast.errors import InputError


def replaced(before: str, begin: str, end: str, content: str) -> str:
    """The page with other content between the comments; InputError if it has no place for it."""
    head, found, rest = before.partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise InputError(f"README.md has no place for the table: {begin} ... {end}")
    return f"{head}{begin}\n\n{content}\n\n{end}{tail}"
