"""Entry point of the command ``humo`` and of ``python -m humo``."""

from __future__ import annotations

import gc
import io
import sys
import warnings
from typing import NoReturn

from humo.cli.main import main


def entry() -> NoReturn:
    """Run the command line and exit with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without a prompt's letters is no error
            stream.reconfigure(errors="backslashreplace")
    if "--debug" not in sys.argv:
        warnings.simplefilter("ignore")  # of libraries; our own messages are notes
    code = main(sys.argv[1:])
    gc.freeze()  # skips a last garbage collection over the libraries' objects, which takes over a second
    sys.exit(code)


if __name__ == "__main__":
    entry()
