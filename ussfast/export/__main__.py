"""`python -m ussfast.export` is `ussfast export`."""

import sys

from ussfast.cli.main import main

sys.argv[1:1] = ["export"]
main()
