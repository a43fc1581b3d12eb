"""Writes ``docs/performance.md``: keeps the results of runs, makes tables from them, and draws charts."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec

from .harness import Row, Spread

RESULTS = Path("performance", "results.json")  # a path in the folder of the documentation
_PACKAGES = ("aiohttp", "msgspec", "uvloop", "openai", "gradient", "aiohttp-sse-client", "jiter")
_ACROSS = 6  # columns that fit on a page; a table with more is transposed


class Results(msgspec.Struct, kw_only=True):
    """The results from which the page is written."""

    surroundings: dict[str, str] = {}  # versions and CPU
    rows: dict[str, list[Row]] = {}  # the rows of each benchmark


def surroundings() -> dict[str, str]:
    """Return what the figures depend on: CPU, Python and packages, but nothing that identifies a machine."""
    try:
        cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    except OSError:
        cpu = None
    found = {
        "CPU": f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores",
        "system": platform.system(),
        "Python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def load(docs: Path) -> Results:
    """Read the results kept in a folder of documentation; there may be none."""
    path = docs / RESULTS
    return msgspec.json.decode(path.read_bytes(), type=Results) if path.exists() else Results()


def save(results: Results, docs: Path) -> None:
    """Write the results to the folder, one row in each line."""
    text = msgspec.json.encode(results).decode().replace('{"column"', '\n{"column"').replace("]}]}", "]}]}\n")
    (docs / RESULTS).parent.mkdir(parents=True, exist_ok=True)
    (docs / RESULTS).write_text(text, "utf-8")


def write(results: Results, docs: Path) -> None:
    """Fill in those tables and draw those charts for which there are results.

    The home page and the README show a part of the first table.

    Raises:
        ImportError: If there is a chart to draw, and matplotlib is not installed.
    """
    tables = {name: table(rows) for name, rows in results.rows.items()}
    if results.rows:
        tables["headlines"] = _headlines(results)
        tables["figures"] = _figures(results)
        tables["surroundings"] = _markdown(["", ""], [*map(list, results.surroundings.items())])
    for page in (docs / "performance.md", docs / "index.md", docs.parent / "README.md"):
        if page.exists():
            text = page.read_text("utf-8")
            for name, filling in tables.items():
                text = _filled(text, name, filling)
            page.write_text(text, "utf-8")
    for name, chart in CHARTS.items():
        groups = _groups(chart, results.rows.get(name, []))
        if groups:
            for suffix, theme in THEMES.items():
                _draw(chart, groups, theme, docs / "performance" / f"{name}{suffix}.svg")


def _filled(text: str, name: str, table: str) -> str:
    """Put a table between its begin and end marks, if the page has them.

    Raises:
        ValueError: If the end mark is missing.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before, found, rest = text.partition(begin)
    if found and end not in rest:
        raise ValueError(f"there is no end of {name!r}")
    return f"{before}{begin}\n\n{table}\n\n{end}{rest.partition(end)[2]}" if found else text


def table(rows: Sequence[Row]) -> str:
    """Make a table with a line for each contender; with a line for each column if there are many columns."""
    columns = list(dict.fromkeys(row.column for row in rows))
    contenders = list(dict.fromkeys(row.contender for row in rows))
    cells = {(row.contender, row.column): _cell(row) for row in rows}
    if len(columns) <= _ACROSS:
        lines = [[name, *(cells.get((name, column), "") for column in columns)] for name in contenders]
        return _markdown(["", *columns], lines)
    lines = [[column, *(cells.get((name, column), "") for name in contenders)] for column in columns]
    return _markdown(["", *contenders], lines)


def _cell(row: Row) -> str:
    ratios = [f", **{_figure(ratio.median)}**" for ratio in row.ratios.values()]
    return _spread(row.value) + "".join(ratios[:1])


def _markdown(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *lines])


def _spread(value: Spread) -> str:
    median, low, high = map(_figure, value)
    return median if low == high else f"{median} ({low} to {high})"


def _figure(value: float) -> str:
    """Write a figure with three significant digits, or as a whole number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


class Headline(NamedTuple):
    """A line of the first table."""

    label: str
    benchmark: str  # the benchmark whose figures the line shows
    column: str  # the column of that benchmark's rows
    by_hand: str = "naive"  # the contender that uses no client library
    suffix: str = ""  # what follows the library's name in the names of the contenders
    short: bool = False  # whether the home page and the README show the line, too


HEADLINES = (
    Headline("one stream, 1 event in an HTTP chunk", "bulk", "1 event a chunk, 8,000 tokens", short=True),
    Headline("one stream, 32 events in an HTTP chunk", "bulk", "32 events a chunk, 8,000 tokens", short=True),
    Headline("decoding and assembling text in memory, 64 kB a read", "decode", "text, 1,000, 64 kB a read",
             "msgspec", ", assembled"),
    Headline("the same with the 20 likeliest tokens at each place", "decode", "logprobs, 1,000, 64 kB a read",
             "msgspec", ", assembled"),
    Headline("100 streams opened at once, 50 tokens a second, asyncio", "chat", "asyncio, 100 streams"),
    Headline("100 streams opened at once, 50 tokens a second, uvloop", "chat", "uvloop, 100 streams"),
    Headline("in the midst of 100 streams, asyncio", "paced", "asyncio, 100 streams", short=True),
    Headline("in the midst of 100 streams, uvloop", "paced", "uvloop, 100 streams"),
    Headline("a completion of 300 bytes", "small", "300 bytes, 1 at a time, 512 in a turn", short=True),
    Headline("the same, 64 at a time", "small", "300 bytes, 64 at a time, 512 in a turn"),
    Headline("a completion of 4,000 tokens, the 20 likeliest at each place", "small", "4,000 tokens, top 20"),
    Headline("from the first event's write to its reader", "first", "1 at once, CPU"),
    Headline("import and construction", "start", "CPU, ms", "asyncio, msgspec", short=True),
    Headline("memory of an open stream, of 1,000", "memory", "heap, 1,000 streams", "drained", short=True),
)  # fmt: skip


def _figures(results: Results) -> str:
    """Make the short table: a few headlines, medians only."""
    return re.sub(r" \([^)]*\)", "", _headlines(results, [line for line in HEADLINES if line.short]))


def _headlines(results: Results, headlines: Sequence[Headline] = HEADLINES) -> str:
    lines: list[list[str]] = []
    for line in headlines:
        rows = {
            row.contender: row for row in results.rows.get(line.benchmark, []) if row.column == line.column
        }
        if rows:
            names = [line.by_hand, f"openai{line.suffix}", f"gradient{line.suffix}"]
            lines.append([line.label, *(_ratio(rows.get(name), f"ours{line.suffix}") for name in names)])
    return _markdown(["", "by hand", "openai", "gradient"], lines)


def _ratio(row: Row | None, base: str) -> str:
    if row is None:
        return ""
    median, *spread = _spread(row.ratios[base]).partition(" ")
    return f"**{median}**{''.join(spread)}"


class Chart(NamedTuple):
    """How the rows of a benchmark become a chart."""

    title: str
    unit: str  # label of the axis
    columns: str  # a pattern for the columns to show; its group is their name in the chart
    scale: float = 1.0  # each figure is multiplied by this


CHARTS = {
    "bulk": Chart("One stream, 8,000 tokens", "µs of CPU a token", r"(.* a chunk), 8,000 tokens"),
    "decode": Chart("Bytes in memory, 64 kB a read", "µs of CPU a chunk", r"(.*), 1,000, 64 kB a read"),
    "paced": Chart("Many streams at once, an event at a time", "µs of CPU a token", r"(.*)"),
    "small": Chart("Awaited completions", "µs of CPU each", r"(.* time|.* top 20)(?:, 512 in a turn)?"),
    "start": Chart("Importing a client and making one", "ms of CPU", r"(CPU), ms"),
    "memory": Chart("One of 1,000 open streams", "kB", r"(.*), 1,000 streams", 1 / 1024),
}  # fmt: skip

Groups: TypeAlias = dict[str, dict[str, Spread]]
"""The bars of each group, by contender."""

_OURS = ("ours", "fan_out")
_NO_LIBRARY = ("naive", "drained", "msgspec", "asyncio, msgspec", "aiohttp")
_WIDTH = (
    4.8  # inches; on a phone, which shows about as many CSS pixels as these are points, text keeps its size
)
_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "font.sans-serif": ["DejaVu Sans"],  # the long default list would be written with every piece of text
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.titlesize": 11,
    "figure.titleweight": "bold",
    "ytick.major.size": 0,
    "figure.constrained_layout.h_pad": 0.07,
}


class Theme(NamedTuple):
    """The colours of a chart."""

    page: str
    text: str
    ours: str
    no_library: str
    other: str


# Each chart is a file for each theme. An image does not know the theme of its page; the site shows the file that fits.
THEMES = {
    "": Theme("#ffffff", "#1f2328", "#0969da", "#8c959f", "#bf8700"),
    "-dark": Theme("#131416", "#e6edf3", "#4493f8", "#6e7681", "#bb8009"),
}


def _groups(chart: Chart, rows: Sequence[Row]) -> Groups:
    groups: Groups = {}
    for row in rows:
        found = re.fullmatch(chart.columns, row.column)
        if found:
            value = Spread(*(figure * chart.scale for figure in row.value))
            groups.setdefault(found[1], {})[row.contender] = value
    return groups


def _draw(chart: Chart, groups: Groups, theme: Theme, path: Path) -> None:
    """Draw groups of bars. Each group has an axis of its own, linear and from 0, so that lengths are proportions."""
    matplotlib: Any = importlib.import_module("matplotlib")
    make_figure: Any = importlib.import_module("matplotlib.figure").Figure
    sizes = [len(bars) for bars in groups.values()]
    colours = dict.fromkeys(("text.color", "ytick.color"), theme.text) | {"figure.facecolor": theme.page}
    with matplotlib.rc_context({**_STYLE, **colours, "svg.hashsalt": chart.title}):
        height = 0.3 + 0.46 * len(sizes) + 0.22 * sum(sizes)
        figure = make_figure(figsize=(_WIDTH, height), layout="constrained")
        figure.suptitle(chart.title, x=0.01, ha="left")
        places = figure.subplots(len(sizes), squeeze=False, gridspec_kw={"height_ratios": sizes})[:, 0]
        places[0].set_title(chart.unit, loc="right", weight="normal")
        for axes, (group, bars) in zip(places, groups.items(), strict=True):
            axes.set_title(group, loc="left")
            values = bars.values()
            drawn = axes.barh(
                list(bars),
                [value.median for value in values],
                xerr=[
                    [value.median - value.low for value in values],
                    [value.high - value.median for value in values],
                ],
                color=[_colour(name, theme) for name in bars],
                ecolor=theme.text,
            )
            axes.bar_label(drawn, fmt=_figure, padding=3)
            right = 1.2 * max(value.high for value in values)  # with room for the figures
            axes.set(xlim=(0, right), ylim=(len(bars) - 0.5, -0.5), xticks=(), frame_on=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))


def _colour(name: str, theme: Theme) -> str:
    return theme.ours if name.startswith(_OURS) else theme.no_library if name in _NO_LIBRARY else theme.other
