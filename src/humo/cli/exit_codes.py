"""Exit codes of the ``humo`` command."""

from __future__ import annotations

DONE, FAILED, USAGE, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130
"""Finished; failed; wrong usage or input; some rows of a batch failed; interrupted by Ctrl-C or SIGTERM."""
