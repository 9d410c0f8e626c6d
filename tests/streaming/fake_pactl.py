"""A `pactl` on PATH that keeps its modules in files, and reads from the pipe that a source is fed through."""

import os
import signal
import time
from pathlib import Path

SCRIPT = r"""#!/bin/sh
cd "{folder}" || exit 9
for word; do printf '%s\n' "$word" >> calls; done
echo -- >> calls
[ -e hangs ] && sleep 60
if [ -e refuses ]; then cat refuses >&2; exit 1; fi
case "$1" in
list) cat modules ;;
load-module)
    printf '7\tmodule-pipe-source\t%s \t\n' "$3 $4" >> modules
    file="${{4#file=}}"
    mkfifo "$file"
    exec 3<> "$file"
    if [ -e deaf ]; then reads="sleep 60"; else reads=cat; fi
    $reads <&3 > heard 2> /dev/null &
    echo $! > reader
    [ -e interrupts ] && kill -INT $PPID
    echo 7 ;;
unload-module)
    kill "$(cat reader)"
    : > modules ;;
esac
"""


class FakePactl:
    """Attributes: folder, in which a file `refuses` (with what is said), `hangs`, `deaf` or `interrupts` has it do so.
    """

    def __init__(self, folder: Path, monkeypatch):
        self.folder = folder / "pactl"
        self.folder.mkdir()
        (self.folder / "modules").touch()
        (self.folder / "heard").touch()
        program = self.folder / "pactl"
        program.write_text(SCRIPT.format(folder=self.folder))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{self.folder}{os.pathsep}{os.environ['PATH']}")

    def say(self, what, text=""):
        (self.folder / what).write_text(text)

    @property
    def calls(self):
        """The words of each call."""
        path = self.folder / "calls"
        text = path.read_text() if path.exists() else ""
        return [call.splitlines() for call in text.split("--\n") if call]

    @property
    def modules(self):
        return (self.folder / "modules").read_text()

    def heard(self, count):
        """The first bytes that came through the pipe, once they are so many; all that came in 20 s otherwise."""
        deadline = time.monotonic() + 20
        while (self.folder / "heard").stat().st_size < count and time.monotonic() < deadline:
            time.sleep(0.002)
        return (self.folder / "heard").read_bytes()

    def kill(self):
        """The server is gone."""
        reader = self.folder / "reader"
        if reader.exists():
            try:
                os.kill(int(reader.read_text()), signal.SIGKILL)
            except ProcessLookupError:
                pass
