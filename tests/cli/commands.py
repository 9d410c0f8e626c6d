"""Commands run in this process."""

import pytest

from ussfast.cli.main import main


def run(capsys, *arguments):
    """Exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as exit:
        main([str(a) for a in arguments])
    return (exit.value.code or 0, *capsys.readouterr())
