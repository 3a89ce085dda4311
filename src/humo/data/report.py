"""``report.html`` and ``report.json``: clips that were kept and rejected, and why; pages without outside parts."""

from __future__ import annotations

import base64
import html
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo.data.build_recipe import Thresholds
from humo.data.catalog import Catalog
from humo.data.clip_files import thumbnail_file
from humo.data.folder import write_json
from humo.data.selection import Entry, Selection
from humo.data.tasks import Values
from humo.data.thresholds import CLIP_RULES, RULES
from humo.files import atomic_write
from humo.geometry import FRAMES_PER_SECOND

if TYPE_CHECKING:
    from humo.data.finish import Finished

COSTS = "costs.json"
"""File with the CPU seconds of each part of the work; of all files, it alone differs from run to run."""

THUMBNAILS = 24
"""Clips that are shown of each reason, and of those that were accepted."""

MAX_GROUPS = 200
"""Groups that the report lists."""

MAX_NAMED = 5
"""Sources that are named for each reason."""

BINS = 40
"""Bars of a histogram."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2733; margin: 2rem auto; max-width: 1080px; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem }
table { border-collapse: collapse; width: 100% } td, th { padding: .25rem .7rem .25rem 0; text-align: left;
border-bottom: 1px solid #e3e8ee; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
td.n, th.n { white-space: nowrap } td:first-child { overflow-wrap: anywhere } td.bars { width: 40%; padding-right: 0 }
.bar { background: #2f6f9f; height: .8rem; display: block } .muted { color: #5b6a7f }
.grid { display: flex; flex-wrap: wrap; gap: .6rem } .grid figure { margin: 0; width: 112px; font-size: 11px;
line-height: 1.3; overflow-wrap: anywhere }
.grid img { width: 112px; height: 84px; object-fit: cover; border-radius: 4px; display: block }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr)); gap: 1rem }
.charts svg { width: 100%; height: auto } .wrap { overflow-x: auto }
"""


def write_report(
    folder: Path,
    catalog: Catalog,
    entries: Sequence[Entry],
    selection: Selection,
    quarantine: Sequence[Values],
    result: Finished,
) -> None:
    """Write both reports.

    Raises:
        StorageError, OSError: a file cannot be written.
    """
    result.funnel = [*_funnel(catalog, entries)]
    values = summary(catalog, entries, quarantine, result)
    write_json(folder / "report.json", values)
    write_json(folder / COSTS, _costs(catalog, entries))
    scored = _scores(catalog, entries)
    page = "\n".join(_page(folder, catalog, entries, scored, quarantine, values))
    with atomic_write(folder / "report.html", "OUT") as part:
        part.write_text(page, encoding="utf-8")


def summary(
    catalog: Catalog, entries: Sequence[Entry], quarantine: Sequence[Values], result: Finished
) -> dict[str, Any]:
    """Return the numbers of the report."""
    return {
        "accepted": result.accepted,
        "accepted_seconds": result.seconds,
        "clips": result.clips,
        "sources": result.sources,
        "quarantined": result.quarantined,
        "missing_rows": result.missing_rows,
        "waiting_for_caption": result.waiting,
        "judge_of_sync": sorted(_judges(catalog, entries)),
        "funnel": result.funnel,
        "reasons": result.reasons,
        "sources_rejected": dict(sorted(Counter(reason for reason in catalog.reasons if reason).items())),
        "by_language": _shares(entries, lambda entry: catalog.sources[entry.source].language or "unknown"),
        "by_license": _shares(entries, lambda entry: catalog.sources[entry.source].source.license or "unknown"),
        "by_group": _largest(_shares(entries, lambda entry: entry.group)),
        "splits": dict(sorted(Counter(entry.split for entry in entries if entry.passes).items())),
        "quarantine": list(quarantine)[:200],
        "thresholds": catalog.recipe.thresholds.model_dump(mode="json"),
    }


def _judges(catalog: Catalog, entries: Iterable[Entry]) -> set[str]:
    lines = (catalog.journal.get("score", entry.name) for entry in entries)
    return {str(judge) for line in lines if line and (judge := _of(line).get("judge"))}


def _of(line: Values) -> Values:
    scores: Values = (line.get("result") or {}).get("scores") or {}
    return scores


def _funnel(catalog: Catalog, entries: Sequence[Entry]) -> Iterator[Values]:
    """Yield stage, clips and hours that remain after each reason of rejection, in the order of the rules."""
    remaining, seconds = len(entries), sum(entry.count for entry in entries) / FRAMES_PER_SECOND
    yield {"after": "shots", "clips": remaining, "seconds": round(seconds, 2)}
    order = ["short-shot", *dict.fromkeys(rule.reason for rule in CLIP_RULES), "broken", "not-scored"]
    counts: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for entry in entries:
        if entry.reasons:
            counts[entry.reasons[0]][0] += 1
            counts[entry.reasons[0]][1] += entry.count / FRAMES_PER_SECOND
    for reason in [*order, *sorted(counts.keys() - set(order))]:
        if reason in counts:
            remaining -= int(counts[reason][0])
            seconds -= counts[reason][1]
            yield {"after": reason, "clips": remaining, "seconds": round(max(0.0, seconds), 2)}


def _shares(entries: Iterable[Entry], key: Any) -> dict[str, Values]:
    """Return clips and accepted clips by a property."""
    totals: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    for entry in entries:
        totals[key(entry)] += 1
        kept[key(entry)] += entry.passes
    return {name: {"clips": totals[name], "accepted": kept[name]} for name in sorted(totals)}


def _largest(shares: dict[str, Values]) -> dict[str, Values]:
    """Return the entries with the most clips."""
    order = sorted(shares, key=lambda name: (-shares[name]["clips"], name))[:MAX_GROUPS]
    return {name: shares[name] for name in order}


def _costs(catalog: Catalog, entries: Iterable[Entry]) -> dict[str, float]:
    """Return the CPU seconds of each part of the work."""
    costs: Counter[str] = Counter()
    for stage in ("inventory", "scan"):
        costs[stage] = sum(line.get("cpu_seconds", 0.0) for line in catalog.journal.lines(stage))
    for entry in entries:
        line = catalog.journal.get("score", entry.name)
        for name, seconds in ((line or {}).get("result") or {}).get("costs", {}).items():
            costs[f"score: {name}"] += seconds
    return {name: round(seconds, 2) for name, seconds in costs.items()}


def _scores(catalog: Catalog, entries: Iterable[Entry]) -> dict[str, array[float]]:
    """Return the values of each score that has a rule."""
    values = {rule.score: array("d") for rule in CLIP_RULES}
    for entry in entries:
        line = catalog.journal.get("score", entry.name)
        scores = _of(line) if line else {}
        for name, known in values.items():
            if isinstance(scores.get(name), int | float):
                known.append(float(scores[name]))
    return values


def _page(
    folder: Path,
    catalog: Catalog,
    entries: Sequence[Entry],
    scored: Mapping[str, Sequence[float]],
    quarantine: Sequence[Values],
    values: Mapping[str, Any],
) -> Iterator[str]:
    """Yield the parts of the page."""
    yield "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
    yield f"<title>Dataset report</title><style>{STYLE}</style>"
    minutes = values["accepted_seconds"] / 60
    yield f"<h1>{values['accepted']} of {values['clips']} clips accepted</h1>"
    yield f"<p class='muted'>Length: {minutes:.1f} min. Sources: {values['sources']}. Items in quarantine: "
    yield f"{values['quarantined']}. Rows without a file: {values['missing_rows']}. Clips that wait for a caption: "
    yield f"{values['waiting_for_caption']}. Judge of lips and audio: "
    yield f"{_text(', '.join(values['judge_of_sync']) or 'none')}.</p>"
    yield "<h2>Sources</h2>" + _source_table(catalog)
    yield "<h2>What remains after each decision</h2>" + _funnel_table(values["funnel"])
    yield "<h2>Scores</h2><p class='muted'>Number of clips by score. A red line is a threshold.</p>"
    yield "<div class='charts'>"
    for rule_score in dict.fromkeys(rule.score for rule in CLIP_RULES):
        if scored.get(rule_score):
            yield _histogram(rule_score, scored[rule_score], _bounds(catalog.recipe.thresholds, rule_score))
    yield "</div>"
    for title, key in (("Language", "by_language"), ("License", "by_license"), ("Source", "by_group")):
        yield f"<h2>Acceptance by {title.lower()}</h2>" + _share_table(title, values[key])
    yield from _galleries(folder, catalog, entries)
    yield "<h2>Quarantine</h2>" + _quarantine_table(quarantine)
    yield "</html>"


def _source_table(catalog: Catalog) -> str:
    """Return the number of sources that are used, and of those that are not, by reason with some names."""
    names: dict[str, list[str]] = defaultdict(list)
    for known, reason in zip(catalog.sources, catalog.reasons, strict=True):
        names[reason].append(known.source.path)
    rows = "".join(
        f"<tr><td>{_text('rejected: ' + reason if reason else 'used')}</td><td class='n'>{len(names[reason])}</td>"
        f"<td class='muted'>{_text(_some(names[reason]) if reason else '')}</td></tr>"
        for reason in sorted(names)
    )
    return f"<div class='wrap'><table><tr><th></th><th class='n'>sources</th><th></th></tr>{rows}</table></div>"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _bounds(thresholds: Thresholds, score: str) -> dict[str, float]:
    """Return the thresholds of a score that are not off: ``at least`` or ``at most`` -> bound."""
    names = {rule.bound for rule in RULES if rule.score == score}
    values = {name: getattr(thresholds, name) for name in sorted(names, reverse=True)}
    return {
        "at least" if name.startswith("min_") else "at most": value
        for name, value in values.items()
        if value is not None
    }


def _bounds_text(bounds: Mapping[str, float]) -> str:
    return ", ".join(f"{side} {bound:g}" for side, bound in bounds.items()) or "no threshold"


def _funnel_table(funnel: Sequence[Values]) -> str:
    largest = max((row["clips"] for row in funnel), default=0) or 1
    rows = "".join(
        f"<tr><td>{_text(row['after'])}</td><td class='n'>{row['clips']}</td>"
        f"<td class='n'>{row['seconds'] / 60:.1f} min</td>"
        f"<td class='bars'><span class='bar' style='width:{100 * row['clips'] / largest:.1f}%'></span></td></tr>"
        for row in funnel
    )
    head = "<tr><th>after</th><th class='n'>clips</th><th class='n'>length</th><th></th></tr>"
    return f"<div class='wrap'><table>{head}{rows}</table></div>"


def _histogram(name: str, values: Sequence[float], bounds: Mapping[str, float]) -> str:
    """Return a histogram as SVG, with the thresholds drawn as lines."""
    low, high = min([*values, *bounds.values()]), max([*values, *bounds.values()])
    width = (high - low) or 1.0
    counts = Counter(min(BINS - 1, int((value - low) / width * BINS)) for value in values)
    tallest = max(counts.values())
    bars = "".join(
        f"<rect x='{at * 300 / BINS:.1f}' y='{90 - 80 * count / tallest:.1f}' width='{300 / BINS - 0.8:.1f}' "
        f"height='{80 * count / tallest:.1f}' fill='#2f6f9f'/>"
        for at, count in sorted(counts.items())
    )
    lines = "".join(
        f"<line x1='{(bound - low) / width * 300:.1f}' x2='{(bound - low) / width * 300:.1f}' y1='4' y2='90' "
        "stroke='#c2410c' stroke-width='1.5'/>"
        for bound in bounds.values()
    )
    label = f"<text x='0' y='104' font-size='9'>{low:.4g}</text>"
    label += f"<text x='300' y='104' font-size='9' text-anchor='end'>{high:.4g}</text>"
    title = f"{_text(name)} <span class='muted'>{_bounds_text(bounds)}</span>"
    return f"<div>{title}<svg viewBox='0 0 300 108' role='img'>{bars}{lines}{label}</svg></div>"


def _share_table(title: str, shares: Mapping[str, Values]) -> str:
    head = f"<tr><th>{title}</th><th class='n'>clips</th><th class='n'>accepted</th><th class='n'>share</th></tr>"
    order = sorted(shares, key=lambda name: (-shares[name]["clips"], name))[:50]
    rows = "".join(
        f"<tr><td>{_text(name)}</td><td class='n'>{shares[name]['clips']}</td><td class='n'>{shares[name]['accepted']}"
        f"</td><td class='n'>{shares[name]['accepted'] / shares[name]['clips']:.0%}</td></tr>"
        for name in order
    )
    return f"<div class='wrap'><table>{head}{rows}</table></div>"


def _galleries(folder: Path, catalog: Catalog, entries: Sequence[Entry]) -> Iterator[str]:
    """Yield thumbnails of accepted clips, and of each reason of rejection, with source and time."""
    by_reason: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        reason = entry.reasons[0] if entry.reasons else ""
        if len(by_reason[reason]) < THUMBNAILS and thumbnail_file(folder, entry.name).is_file():
            by_reason[reason].append(entry)
    for reason in sorted(by_reason):
        if by_reason[reason]:
            yield f"<h2>{_text('Rejected: ' + reason if reason else 'Accepted')}</h2>"
            scores = dict.fromkeys(rule.score for rule in CLIP_RULES if rule.reason == reason)
            bounds = ((score, _bounds(catalog.recipe.thresholds, score)) for score in scores)
            if rules := "; ".join(f"{score} {_bounds_text(each)}" for score, each in bounds if each):
                yield f"<p class='muted'>Accepted are {_text(rules)}.</p>"
            yield (
                "<div class='grid'>" + "".join(_figure(folder, catalog, each) for each in by_reason[reason]) + "</div>"
            )


def _figure(folder: Path, catalog: Catalog, entry: Entry) -> str:
    image = base64.b64encode(thumbnail_file(folder, entry.name).read_bytes()).decode("ascii")
    path, start = catalog.sources[entry.source].source.path, entry.first / FRAMES_PER_SECOND
    reasons = f": {', '.join(entry.reasons)}" if entry.reasons else ""
    return (
        f"<figure title='{_text(entry.name + reasons)}'><img alt='' src='data:image/jpeg;base64,{image}'>"
        f"{_text(Path(path).name)} <span class='muted'>{start:.1f} s</span></figure>"
    )


def _quarantine_table(rows: Sequence[Values]) -> str:
    if not rows:
        return "<p>Nothing.</p>"
    head = "<tr><th>item</th><th>stage</th><th>reason</th><th class='n'>tries</th></tr>"
    body = "".join(
        f"<tr><td>{_text(row['item'])}</td><td>{row['stage']}</td><td>{_text(row['reason'])} "
        f"<span class='muted'>{_text(row.get('last_words') or '')}</span></td>"
        f"<td class='n'>{row.get('tries') or ''}</td></tr>"
        for row in rows[:200]
    )
    return f"<div class='wrap'><table>{head}{body}</table></div>"


def _text(value: Any) -> str:
    return html.escape(str(value))
