"""Which of several kinds of answer a client wants."""

from collections.abc import Sequence


def preferred(accept: str | None, kinds: Sequence[str]) -> str | None:
    """The kind, such as "audio/wav", that an Accept header wants most, the first of equal ones; None for none of them.

    Source: RFC 9110, section 12.5.1.
    """
    ranges = [_range(part) for part in (accept or "*/*").split(",") if part.strip()]
    best, found = 0.0, None
    for kind in kinds:
        matching = [(precision, q) for pattern, q in ranges if (precision := _precision(pattern, kind))]
        quality = max(matching, default=(0, 0.0))[1]
        if quality > best:
            best, found = quality, kind
    return found


def _range(part: str) -> tuple[str, float]:
    pattern, *parameters = (word.strip().lower() for word in part.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return pattern, min(1.0, max(0.0, float(value)))
            except ValueError:
                return pattern, 0.0
    return pattern, 1.0


def _precision(pattern: str, kind: str) -> int:
    """How closely a pattern names the kind; 0 if it does not."""
    if pattern == kind:
        return 3
    if pattern == f"{kind.split('/')[0]}/*":
        return 2
    return 1 if pattern == "*/*" else 0
