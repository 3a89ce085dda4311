"""The code blocks of the documentation: the kind of each, and its command lines."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / folder / "README.md" for folder in ("examples", "benchmarks", "comfyui")),
)
PROGRAMS = frozenset({"humo", "pip", "make", "curl", "docker", "python", "torchrun", "cp", "ray"})
SETTINGS = frozenset({"toml", "yaml", "json"})


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code.

    Args:
        page: its page.
        line: its first line, from 1.
        language: of its fence; empty for an indented block.
        text: its content.
    """

    page: Path
    line: int
    language: str
    text: str

    @property
    def kinds(self) -> list[str]:
        """The kinds of `KINDS` that fit; exactly one in good documentation."""
        return [name for name, fits in KINDS.items() if fits(self)]

    @property
    def commands(self) -> list[str]:
        """The command lines, without comments and line breaks."""
        joined = re.sub(r"\\\n\s*", " ", self.text)
        return [line for line in joined.splitlines() if line.strip() and words_of(line)]


def words_of(line: str) -> list[str]:
    """Return the arguments of a command line, split as by a shell."""
    return shlex.split(line, comments=True)


def is_usage(line: str) -> bool:
    """Return whether a line describes usage and is not a command to type."""
    bare = re.sub(r"\"[^\"]*\"|'[^']*'|#.*", "", line)
    return bool(re.search(r"\[|\||\.\.\.|\b[A-Z]{4,}\b", bare))


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced and indented blocks of a page, also those in lists."""
    tokens = MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8"))
    return [
        Block(page, token.map[0] + 1, token.info.strip(), token.content)
        for token in tokens
        if token.type in ("fence", "code_block") and token.map is not None
    ]


def _is_commands(block: Block) -> bool:
    if block.language not in ("", "sh"):
        return False
    try:
        return bool(block.commands) and all(words_of(line)[0] in PROGRAMS for line in block.commands)
    except ValueError:  # quotes that are not closed
        return False


def _is_python(block: Block) -> bool:
    if block.language not in ("", "python"):
        return False
    try:
        ast.parse(block.text)
    except SyntaxError:
        return False
    return True


KINDS: Mapping[str, Callable[[Block], bool]] = {
    "commands": _is_commands,
    "python": _is_python,
    "settings": lambda block: block.language in SETTINGS,
    "drawing": lambda block: block.language == "text",
}
"""Kind of a block: command lines, Python, a file of settings, or a drawing, which is not checked."""
