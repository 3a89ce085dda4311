"""The installed command ``humo``, and ``python -m humo``: `humo.cli.main.main` in a process of its own."""

from __future__ import annotations

import gc
import io
import sys
import warnings
from typing import NoReturn

from humo.cli.main import main


def entry() -> NoReturn:
    """Do what the command line asks for, and end with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a prompt's letters is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    if "--debug" not in sys.argv:
        warnings.simplefilter("ignore")  # of libraries, about themselves; ours are notes
    code = main(sys.argv[1:])
    gc.freeze()  # or Python looks through all that the libraries made once more, for longer than a second
    sys.exit(code)


if __name__ == "__main__":
    entry()
