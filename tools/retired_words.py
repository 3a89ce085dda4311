"""Find words that this repository retired, and print the term to use instead.

    python -m tools.retired_words            # what `make check` runs
    python -m tools.retired_words src/humo/model README.md   # these paths alone, exclusions or not

The tool reads identifiers, comments, docstrings and strings of Python sources, the prose of Markdown pages and
recipes, and the names of tests. It also checks that docstrings start with a verb or with the name of the thing, and
that lines of Markdown pages have at most 100 columns.

A word that has to stay in one line, such as a stored key or a seed that a random stream depends on, is kept by a
comment in that line: ``# word kept: files already written have this key``. `ALLOWED` keeps words in whole files.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHECKED = (
    "src",
    "tests",
    "tools",
    "scripts",
    "benchmarks",
    "comfyui",
    "recipes",
    "docs",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
)
"""Files and folders that are read. Of tests only the names count, and Markdown pages."""

EXCLUDED: tuple[str, ...] = (
    "src/humo/assets",
    "src/humo/checkpoints",
    "src/humo/conditioning",
    "src/humo/distributed",
    "src/humo/environment.py",
    "src/humo/errors.py",
    "src/humo/geometry.py",
    "src/humo/guidance.py",
    "src/humo/inference",
    "src/humo/limits.py",
    "src/humo/model",
    "src/humo/presets.py",
    "src/humo/progress.py",
    "src/humo/quantization",
    "src/humo/request.py",
    "src/humo/runtime",
    "src/humo/schedule.py",
    "tests/checkpoints",
    "tests/conditioning",
    "tests/inference",
    "tests/model",
    "tests/parity",
    "tests/quantization",
    "tests/runtime",
    "tests/vocabulary",
)
"""Paths that are not held to the list yet: take out a line as soon as its path is clean. At the end nothing is left."""

GENERATED = ROOT / "docs" / "reference"
"""Pages that are generated from the code."""

COLUMNS = 100
"""Longest line of a Markdown page. Rows of tables and lines of one link may be longer."""

KEEP = "# word kept:"


@dataclass(frozen=True, slots=True)
class Retired:
    """A retired word or phrase.

    Args:
        pattern: a regular expression for its forms, matched as whole words.
        instead: the terms to use instead.
        where: ``names`` for the words of identifiers, ``whole`` for identifiers that are this word alone, ``prose`` for
            comments, strings, pages and the names of tests.
    """

    pattern: str
    instead: str
    where: frozenset[str]

    def matches(self, text: str) -> Iterator[str]:
        """Yield each form found in a text."""
        for match in re.finditer(rf"\b(?:{self.pattern})\b", text, re.IGNORECASE):
            yield match[0]


NAMES, WHOLE, PROSE = frozenset({"names"}), frozenset({"whole"}), frozenset({"prose"})
BOTH = NAMES | PROSE
_IS = "quanti|optimi|normali|recogni|initiali|serial|summari|organi|minimi|maximi|emphasi|synchroni|generali|speciali"
_IS += "|equali|authori|saniti|standardi|vectori|randomi|utili|visuali|categori|customi|prioriti|materiali|synthesi"
_IS += "|apologi|memori|locali|moderni|neutrali|penali|pulveri|speciali|stabili|tokeni|capitali|discreti|parametri"
RETIRED = (
    Retired("told|tell|tells|telling", "result, report, payload, inputs; print, state, show", BOTH),
    Retired(
        "hear|hears|heard|hearing|unheard|ear|ears|deaf", "encode, condition on, take; callback, no_progress", BOTH
    ),
    Retired("walk|walks|walked|walking", "denoise, trajectory, generate_windows", BOTH),
    Retired("stride|strides", "trajectory step", BOTH),
    Retired("stretch|stretches", "segment", BOTH),
    Retired("shelf|shelves", "window cache", BOTH),
    Retired("knock|knocks", "check, connect", BOTH),
    Retired("door|doors", "entry point", BOTH),
    Retired("floor|floors", "layer, package; lowest value", BOTH),
    Retired("house|houses|story|stories", "repository; main module", BOTH),
    Retired("crew", "parallel generation, process group", BOTH),
    Retired("crowd", "pool; gallery", BOTH),
    Retired("unrest", "temporal flicker", BOTH),
    Retired("picture|pictures|pictured", "image; reference, where it is a condition", BOTH),
    Retired("sound|sounds", "audio; samples; phoneme", BOTH),
    Retired("anew", "again, from scratch; restarted", BOTH),
    Retired("spared", "skipped", BOTH),
    Retired("film|films", "video; prompting guide", BOTH),
    Retired("glimpse|glimpses", "preview", BOTH),
    Retired("deck|decks", "shuffled sampler", BOTH),
    Retired("ledger", "job queue", BOTH),
    Retired("trainee", "stage model", BOTH),
    Retired("marks", "provenance, watermark", NAMES),
    Retired("figures", "metrics", NAMES),
    Retired("settle|settles|settled", "resolve, choose", NAMES),
    Retired("taught", "distilled", NAMES),
    Retired(
        "found|said|asked|given|shown|here|there|made|look|seen|held|again|words",
        "the name of the thing: matches, metrics, payload, group, argv, prompt ...",
        WHOLE,
    ),
    Retired(r"marks of origin|origin marks", "provenance", PROSE),
    Retired(r"made by", "written by, generated by; AI-generated", PROSE),
    Retired(r"never lived", "rendered people", PROSE),
    Retired(r"inside the package|embedded (?:nano )?(?:model|teacher|network)", "the built-in model", PROSE),
    Retired(r"(?:go|goes|going|went|gone) on", "continue, resume", PROSE),
    Retired(rf"(?:{_IS})s(?:e|ed|es|ing|er|ers|ation|ations|able)", "American spelling: -ize", BOTH),
    Retired(r"(?:de|un|re)quantis\w+|dequantise\w*", "American spelling: -ize", BOTH),
    Retired(r"analyse[ds]?|analysing|catalyse\w*|paralyse\w*", "American spelling: -yze", BOTH),
    Retired(
        r"(?:colour|behaviour|neighbour|favour|flavour|honour|labour|harbour|rumour|vapour)\w*",
        "American spelling: -or",
        BOTH,
    ),
    Retired(r"(?:centre|metre|fibre|litre|theatre)[sd]?|centring", "American spelling: -er", BOTH),
    Retired(r"licence[sd]?|defence|offence", "American spelling: -se", BOTH),
    Retired(r"grey\w*|programme|artefacts?|judgement|ageing|whilst|learnt|spelt", "American spelling", BOTH),
    Retired(r"labell\w+|modell\w+|travell\w+|signall\w+|channell\w+|levell\w+", "American spelling: one l", BOTH),
    Retired(r"method\.md|(?<!docs/)training\.md of", "the paper by section, or the published file and function", PROSE),
)

PUBLISHED = re.compile(
    r"\b(?:os|ast|Path|path|root|folder)\.walk\b"
    r"|\.tell\(\)"
    r"|\b(?:math|torch|np|numpy)\.floor\w*|\.floor\(|floor_divide|rounding_mode=\"floor\""
    r"|\b_?strides?=|\.strides?\b|as_strided|\bstride_\w+|\b(?:TEMPORAL|SPATIAL)_STRIDE"
    r"|sounds?_\d|sound_\{"
)
"""Names of other libraries and of stored files, which hold a retired word."""

ALLOWED: tuple[tuple[str, str, str], ...] = (
    ("tools/retired_words.py", ".*", "the list itself"),
    ("CHANGELOG.md", r".*->.*", "former names of options and fields"),
    ("src/humo/synthetic/sentences.py", r".*", "vocabulary of the spoken sentences; a change would change the corpora"),
    (
        "src/humo/synthetic",
        r".*[\"' ](?:\w+ colour|grey|crew cut|bookshelf|has_sound)\b.*",
        "attributes and columns of rendered corpora, which captions, tables and trained models contain",
    ),
    ("src/humo/synthetic/captions.py", r".*The picture is sharp.*", "text of captions that models are trained on"),
    ("src/humo/synthetic/person", r".*\b(?:ears?|ear_\w+)\b.*", "the ears of a head"),
    ("tools/docs_reference/expression_text.py", r".*ast\.FloorDiv.*", "Python's own name"),
)
"""(path or folder, regular expression of a whole line, reason): lines that may hold retired words."""

FRAGMENTS = frozenset(
    ("Of", "That", "By", "What", "Which", "How", "Who", "Whose", "Where", "Whether", "Something", "Those")
)
"""First words of docstrings that begin no sentence: start with a verb ("Return ...") or the name of the thing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A retired word in a line of a file."""

    path: str
    line: int
    word: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.word!r} is retired; use {self.instead}"


def parts_of(identifier: str) -> str:
    """Return the words of an identifier in lower case: ``WorkerResult_of`` is "worker result of"."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_+", " ", identifier)
    return spaced.strip().lower()


def in_prose(text: str) -> Iterator[tuple[str, str]]:
    """Yield each retired word of a text, and what to use instead."""
    text = PUBLISHED.sub(" ", text)
    for term in RETIRED:
        if "prose" in term.where:
            for word in term.matches(text.replace("_", " ")):
                yield word, term.instead


def in_name(identifier: str) -> Iterator[tuple[str, str]]:
    """Yield an identifier that holds a retired word, and what to use instead."""
    words = parts_of(identifier)
    for term in RETIRED:
        if ("names" in term.where and any(term.matches(words))) or (
            "whole" in term.where and re.fullmatch(term.pattern, words)
        ):
            yield identifier, term.instead


def in_python(source: str) -> Iterator[tuple[int, str, str]]:
    """Yield line, word and replacement for each retired word of a Python source."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        start = token.start[0]
        if token.type == tokenize.NAME:
            around = lines[start - 1]
            if any(match.start() <= token.start[1] < match.end() for match in PUBLISHED.finditer(around)):
                continue
            for word, instead in in_name(token.string):
                yield start, word, instead
        elif token.type == tokenize.COMMENT or tokenize.tok_name[token.type] in ("STRING", "FSTRING_MIDDLE"):
            for offset, line in enumerate(token.string.splitlines()):
                for word, instead in in_prose(line):
                    yield start + offset, word, instead
    yield from in_docstrings(source)


def in_docstrings(source: str) -> Iterator[tuple[int, str, str]]:
    """Yield line, first word and advice for each docstring that begins no sentence."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            first = node.value.value.split(maxsplit=1)[:1]
            if first and first[0] in FRAGMENTS:
                yield node.lineno, first[0], "a verb or the name of the thing as first word of a docstring"


def in_test_names(source: str) -> Iterator[tuple[int, str, str]]:
    """Yield line, word and replacement for each retired word in the names of tests, fixtures and classes."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for word, instead in in_prose(parts_of(node.name)):
                yield node.lineno, word, instead


def long_lines(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield line, length and advice for each line of a page that is too long."""
    for number, line in enumerate(text.splitlines(), 1):
        breakable = not line.lstrip().startswith(("|", "![", "[![")) and len(line.split()) > 1
        if len(line) > COLUMNS and breakable:
            yield number, f"{len(line)} columns", f"lines of at most {COLUMNS}"


def check_file(path: Path) -> list[Finding]:
    """Return the findings of a file, in the order of its lines."""
    name = path.relative_to(ROOT).as_posix()
    text = path.read_text(encoding="utf-8")
    lines = [*text.splitlines(), ""]
    if path.suffix == ".py":
        found = [*(in_test_names if name.startswith("tests/") else in_python)(text)]
    else:
        found = [(number, *one) for number, line in enumerate(lines, 1) for one in in_prose(line)]
        found += [*long_lines(text)] if path.suffix == ".md" else []
    found += [(1, word, instead) for word, instead in in_prose(parts_of(path.stem))]
    return [
        Finding(name, number, word, instead)
        for number, word, instead in sorted(found)
        if KEEP not in lines[number - 1] and not is_allowed(name, lines[number - 1])
    ]


def is_under(name: str, folder: str) -> bool:
    """Return whether a path is another one or lies in it."""
    return name == folder or name.startswith(f"{folder}/")


def is_allowed(name: str, line: str) -> bool:
    """Return whether `ALLOWED` keeps the words of a line."""
    return any(is_under(name, path) and re.fullmatch(pattern, line) for path, pattern, _ in ALLOWED)


def files(paths: Sequence[str]) -> Iterator[Path]:
    """Yield the files to read of files and folders. Of tests: Python sources and pages."""
    for name in paths:
        path = ROOT / name
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.suffix in (".py", ".md", ".toml", ".yml") and GENERATED not in file.parents:
                yield file


def main(arguments: Sequence[str]) -> int:
    """Print the findings; return 1 if there are any."""
    names = [Path(name).resolve().relative_to(ROOT).as_posix() for name in arguments]
    excluded = () if names else EXCLUDED
    findings: list[Finding] = []
    for path in files(names or CHECKED):
        if not any(is_under(path.relative_to(ROOT).as_posix(), folder) for folder in excluded):
            findings += check_file(path)
    for finding in findings:
        print(finding)
    if not findings and excluded:
        print(f"no retired word; not checked yet: {len(excluded)} paths")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
