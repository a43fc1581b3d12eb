"""Writes the tables and charts of ``docs/performance.md`` from saved results."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from .results import Results
from .svg import Bar, Group, bars

__all__ = ["CHARTS", "RESULTS", "TABLES", "write"]

RESULTS = Path("performance", "results.json")  # in the folder of the documentation

Row: TypeAlias = Mapping[str, Any]

_BASES = frozenset({"naive", "drained", "msgspec", "asyncio, msgspec", "aiohttp"})
_OWN = frozenset({"ours", "ours, text", "ours, raw", "ours, assembled", "fan_out"})


@dataclass(frozen=True)
class Table:
    """How rows become a table: contenders down, cases across.

    Attributes:
        figure: Key of the figure.
        case: Says a row's case.
        to: Key of the ratio.
    """

    figure: str
    case: Callable[[Row], str]
    to: str = "to_ours"


@dataclass(frozen=True)
class Chart:
    """How rows become a chart.

    Attributes:
        benchmark: Whose rows.
        title: What is shown.
        unit: Of the axis.
        figure: Key of the figure.
        group: Says a row's group, or None to leave it out.
        scale: What a figure is multiplied by.
    """

    benchmark: str
    title: str
    unit: str
    figure: str
    group: Callable[[Row], str | None]
    scale: float = 1.0


class Headline(NamedTuple):
    """A line of the first table.

    Attributes:
        label: What is measured.
        benchmark: Whose rows.
        case: What its rows have.
        by_hand: The contender that is no client library.
        to: Key of the ratio.
        suffix: What the other contenders are called beside their library's name.
    """

    label: str
    benchmark: str
    case: Row
    by_hand: str
    to: str = "to_ours"
    suffix: str = ""


def _plural(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


TABLES: dict[str, Table] = {
    "bulk": Table(
        "cpu_us",
        lambda row: f"{_plural(row['events_per_chunk'], 'event')} a chunk, {row['tokens']:,} tokens",
    ),
    "paced": Table("cpu_us", lambda row: f"{row['loop']}, {row['streams']} streams"),
    "small": Table(
        "cpu_us",
        lambda row: f"{row['completion']}, {row['at_once']} at a time, {row['completions']} in a turn",
    ),
    "start": Table("cpu_ms", lambda _row: "CPU, ms"),
    "first": Table("us", lambda row: f"{row['figure'].partition('_')[0]}, {row['at_once']} at once"),
    "memory": Table("bytes", lambda row: f"{row['counted']}, {_plural(row['streams'], 'stream')}", "to_drained"),
    "decode": Table(
        "cpu_us", lambda row: f"{row['stream']}, {row['tokens']:,}, {row['read']} a read", "to_msgspec"
    ),
}  # fmt: skip

CHARTS: dict[str, Chart] = {
    "bulk": Chart(
        "bulk",
        "One stream over loopback, 8,000 tokens",
        "µs of CPU a token",
        "cpu_us",
        lambda row: (
            _plural(row["events_per_chunk"], "event") + " in an HTTP chunk"
            if row["tokens"] == 8_000
            else None
        ),
    ),
    "decode": Chart(
        "decode",
        "Bytes in memory, 64 kB a read",
        "µs of CPU a chunk",
        "cpu_us",
        lambda row: row["stream"] if row["tokens"] == 1_000 and row["read"] == "64 kB" else None,
    ),
    "paced": Chart(
        "paced",
        "Many streams at once, an event at a time",
        "µs of CPU a token",
        "cpu_us",
        lambda row: f"{row['streams']} streams, {row['loop']}",
    ),
    "small": Chart(
        "small",
        "Awaited completions",
        "µs of CPU each",
        "cpu_us",
        lambda row: (
            f"{row['completion']}, {row['at_once']} at a time" if row["completions"] in {1, 512} else None
        ),
    ),
    "start": Chart(
        "start", "Importing a client and making one", "ms of CPU", "cpu_ms", lambda _row: "in a new process"
    ),
    "memory": Chart(
        "memory",
        "An open stream that waits, one of 1,000",
        "kB",
        "bytes",
        lambda row: row["counted"] if row["streams"] == 1_000 else None,
        1 / 1024,
    ),
}

HEADLINES = (
    Headline("one stream, 1 event in an HTTP chunk", "bulk", {"events_per_chunk": 1, "tokens": 8_000}, "naive"),
    Headline("one stream, 32 events in an HTTP chunk", "bulk", {"events_per_chunk": 32, "tokens": 8_000}, "naive"),
    Headline(
        "decoding and assembling text in memory, 64 kB a read", "decode",
        {"stream": "text", "tokens": 1_000, "read": "64 kB"}, "msgspec", "to_ours, assembled", ", assembled",
    ),
    Headline(
        "the same with the 20 likeliest tokens told at each place", "decode",
        {"stream": "logprobs", "tokens": 1_000, "read": "64 kB"}, "msgspec", "to_ours, assembled", ", assembled",
    ),
    Headline("100 streams at once, asyncio", "paced", {"streams": 100, "loop": "asyncio"}, "naive"),
    Headline("100 streams at once, uvloop", "paced", {"streams": 100, "loop": "uvloop"}, "naive"),
    Headline("a completion of 300 bytes", "small", {"at_once": 1, "completions": 512}, "naive"),
    Headline("the same, 64 at a time", "small", {"at_once": 64, "completions": 512}, "naive"),
    Headline(
        "a completion of 4,000 tokens, the 20 likeliest told at each", "small",
        {"completion": "4,000 tokens, top 20"}, "naive",
    ),
    Headline("from the first event's write to its reader", "first", {"at_once": 1, "figure": "cpu_us"}, "naive"),
    Headline("import and construction", "start", {}, "asyncio, msgspec"),
    Headline("memory of an open stream, of 1,000", "memory", {"streams": 1_000, "counted": "heap"}, "drained"),
)  # fmt: skip


def write(results: Results, docs: Path) -> None:
    """Fill in the page's tables, and draw its charts.

    Args:
        results: Of all benchmarks, or of some: what there is nothing of stays as it is.
        docs: The folder of the documentation.
    """
    page = docs / "performance.md"
    text = page.read_text("utf-8")
    for name, table in _tables(results):
        text = _filled(text, name, table)
    page.write_text(text, "utf-8")
    for name, chart in CHARTS.items():
        groups = _groups(chart, results.rows.get(chart.benchmark, []))
        if groups:
            drawn = bars(chart.title, chart.unit, groups)
            (docs / "performance" / f"{name}.svg").write_text(drawn, "utf-8")


def _filled(text: str, name: str, table: str) -> str:
    """Put a table between its marks; a table that has none is left out.

    Raises:
        ValueError: If the mark of the end is missing.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    if begin not in text:
        return text
    if end not in text:
        raise ValueError(f"performance.md has no end of {name!r}")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n\n{table}\n\n{end}{rest.partition(end)[2]}"


def _tables(results: Results) -> Iterator[tuple[str, str]]:
    if results.rows:
        yield "headlines", _headlines(results)
        yield (
            "surroundings",
            _markdown(["", ""], [[key, value] for key, value in results.surroundings.items()]),
        )
    for name, rows in results.rows.items():
        yield name, _table(TABLES[name], rows) if name in TABLES else _plain(rows)


def _headlines(results: Results) -> str:
    lines: list[list[str]] = []
    for line in HEADLINES:
        rows = {
            row["contender"]: row
            for row in results.rows.get(line.benchmark, [])
            if all(row[key] == value for key, value in line.case.items())
        }
        others = [line.by_hand, f"openai{line.suffix}", f"gradient{line.suffix}"]
        lines.append([line.label, *(_ratio(rows.get(name), line.to) for name in others)])
    return _markdown(["", "by hand", "openai", "gradient"], lines)


def _ratio(row: Row | None, to: str) -> str:
    if row is None:
        return ""
    low, high = re.findall(r"[\d.]+(?:e[+-]?\d+)?", row[f"{to}_spread"])
    return f"**{_said(row[to])}** ({_said(float(low))} to {_said(float(high))})"


def _table(table: Table, rows: Sequence[Row]) -> str:
    cases = list(dict.fromkeys(table.case(row) for row in rows))
    contenders = list(dict.fromkeys(row["contender"] for row in rows))
    cells = {(table.case(row), row["contender"]): row for row in rows}
    across = len(cases) <= 6
    lines = [
        [name, *(_cell(cells.get((name, other) if not across else (other, name)), table) for other in others)]
        for name, others in (
            ((name, cases) for name in contenders) if across else ((name, contenders) for name in cases)
        )
    ]
    return _markdown(["", *(cases if across else contenders)], lines)


def _cell(row: Row | None, table: Table) -> str:
    if row is None:
        return ""
    figures = f"{_said(row[table.figure])} ({_said(row['low'])} to {_said(row['high'])})"
    return f"{figures}, **{_said(row[table.to])}**"


def _plain(rows: Sequence[Row]) -> str:
    """Write rows as they are."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return _markdown(
        [key.replace("_", " ") for key in keys], [[str(row.get(key, "")) for key in keys] for row in rows]
    )


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    table = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)


def _groups(chart: Chart, rows: Sequence[Row]) -> list[Group]:
    groups: dict[str, list[Bar]] = {}
    for row in rows:
        group = chart.group(row)
        if group is not None:
            median, low, high = (row[key] * chart.scale for key in (chart.figure, "low", "high"))
            groups.setdefault(group, []).append(
                Bar(row["contender"], median, low, high, _kind(row["contender"]))
            )
    return [Group(title, found) for title, found in groups.items()]


def _kind(contender: str) -> str:
    return "own" if contender in _OWN else "base" if contender in _BASES else "other"


def _said(value: float) -> str:
    """Write a figure with three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
