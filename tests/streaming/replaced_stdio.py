"""Standard input and output in memory."""

import io


class Terminal(io.TextIOWrapper):
    def isatty(self):
        return True


class BufferOnly:
    """A text file that has nothing but its buffer."""

    def __init__(self, buffer):
        self.buffer = buffer

    def isatty(self):
        return False


def replace(monkeypatch, data, kind=io.TextIOWrapper):
    """Standard input with these bytes or of this raw file, both closed for None; returns what output writes to."""
    out = io.BytesIO()
    if data is None:
        files = None, None
    else:
        files = kind(io.BytesIO(data)) if isinstance(data, bytes) else BufferOnly(data), kind(out)
    for name, file in zip(("stdin", "stdout"), files, strict=True):
        monkeypatch.setattr(f"sys.{name}", file)
    return out
