"""What benchmarks found becomes tables and charts."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import check, page
from benchmarks.harness import Row, Spread, counted, tabulate

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def row(contender: str, value: float, low: float, high: float, *ratio: float) -> Row:
    ratios = {"ours": Spread(*ratio)} if ratio else {}
    column = "1 event a chunk, 8,000 tokens"
    return Row(column=column, contender=contender, value=Spread(value, low, high), ratios=ratios)


RESULTS = page.Results(
    surroundings={"Python": "3"},
    rows={
        "bulk": [
            row("ours", 1, 1, 3, 1, 1, 1),
            row("naive", 2, 1.5, 6, 2, 1.5, 2),
            row("openai", 80, 80, 80, 80, 80, 80),
        ],
        "calls": [counted("calls", "a", 1)],
    },
)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A folder with results and a page that is to be filled in."""
    page.save(RESULTS, tmp_path)
    marks = "".join(
        f"<!-- begin {name} -->\nstale\n<!-- end {name} -->\n"
        for name in ("headlines", "surroundings", "bulk", "calls", "paced")
    )
    (tmp_path / "performance.md").write_text(f"before\n{marks}after\n", "utf-8")
    return tmp_path


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "CHARTS", {})


def test_results_are_kept(tmp_path: Path) -> None:
    """A file has a line for each row, and is read as it was written; without a file there are no results."""
    assert page.Results() == page.load(tmp_path)
    page.save(RESULTS, tmp_path)
    assert RESULTS == page.load(tmp_path)
    assert 4 == (tmp_path / page.RESULTS).read_text("utf-8").count('\n{"column":')


def test_results_become_a_page(docs: Path, undrawn: None) -> None:
    """Tables stand between their marks; what was not measured stays as it is."""
    assert 0 == benchmarks.main(["--render", str(docs)])
    text = (docs / "performance.md").read_text("utf-8")
    assert "| one stream, 1 event in an HTTP chunk | **2** (1.5 to 2) | **80** |  |" in text
    assert "| naive | 2 (1.5 to 6), **2** |" in text
    assert "| a | 1 |" in text
    assert "<!-- begin paced -->\nstale\n<!-- end paced -->\nafter\n" in text
    assert 1 == text.count("stale")
    before = text
    assert 0 == benchmarks.main(["--render", str(docs)])
    assert before == (docs / "performance.md").read_text("utf-8")
    (docs / "performance.md").write_text("<!-- begin bulk -->\n", "utf-8")
    with pytest.raises(ValueError, match="no end of 'bulk'"):
        benchmarks.main(["--render", str(docs)])


def test_a_wide_table_is_transposed() -> None:
    rows = [counted(f"c{number}", name, number) for number in range(7) for name in "ab"]
    assert page.table(rows).startswith("|  | a | b |\n| --- | --- | --- |\n| c0 | 0 | 0 |\n")
    assert page.table(rows[:4]).startswith("|  | c0 | c1 |\n| --- | --- | --- |\n| a | 0 | 1 |\n")


def texts_of(chart: Path) -> list[str]:
    root = ET.parse(chart).getroot()  # noqa: S314  # drawn by ourselves
    return ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]


@pytest.fixture
def drawn(docs: Path) -> list[Path]:
    """The charts of the results, for each theme."""
    pytest.importorskip("matplotlib", reason="charts are drawn by it")
    page.write(RESULTS, docs)
    return sorted((docs / "performance").glob("*.svg"))


def test_a_chart_shows_every_figure(drawn: list[Path]) -> None:
    """Title, unit and group; each bar's name and figure. What was not measured has no chart."""
    assert ["bulk-dark.svg", "bulk.svg"] == [chart.name for chart in drawn]
    title, unit, *_ = page.CHARTS["bulk"]
    for chart in drawn:
        assert {title, unit, "1 event a chunk", "ours", "1", "naive", "2", "openai", "80"} == set(
            texts_of(chart)
        )


def test_lengths_are_proportions(drawn: list[Path]) -> None:
    """Each bar begins at the same place, and is as long as its figure is large."""
    root = ET.parse(drawn[0]).getroot()  # noqa: S314  # drawn by ourselves
    _page, *bars = [group[0].get("d", "") for group in root.iter(f"{SVG}g") if "patch" in group.get("id", "")]
    ends = [[float(place) for place in re.findall(r"[ML] (\S+)", bar)[:2]] for bar in bars]
    assert 1 == len({left for left, _ in ends})
    ours, naive, openai = (right - left for left, right in ends)
    assert [pytest.approx(2 * ours, rel=0.001), pytest.approx(80 * ours, rel=0.001)] == [naive, openai]


def test_the_same_results_give_the_same_chart(drawn: list[Path], docs: Path) -> None:
    """No date and no chance, so that a page written anew differs where figures do."""
    before = [chart.read_bytes() for chart in drawn]
    page.write(RESULTS, docs)
    assert before == [chart.read_bytes() for chart in drawn]


def test_the_charts_show_what_the_page_says() -> None:
    """A result that is kept without its chart would contradict the page's tables."""
    for name, chart in page.CHARTS.items():
        groups = page._groups(chart, page.load(ROOT / "docs").rows[name])
        shown = [page._figure(bar.median) for bars in groups.values() for bar in bars.values()]
        assert shown
        for theme in page.THEMES:
            texts = texts_of(ROOT / "docs" / "performance" / f"{name}{theme}.svg")
            assert shown == [text for text in texts if re.fullmatch(r"[\d.,]+", text)]


def test_a_run_can_be_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each benchmark's rows are kept as soon as it has run, beside those of others."""
    marks = "".join(
        f"<!-- begin {name} --><!-- end {name} -->"
        for name in ("headlines", "surroundings", "calls", "growth")
    )
    (tmp_path / "performance.md").write_text(marks, "utf-8")

    def run(rounds: int) -> list[Row]:
        return [counted("rounds", "a", rounds)]

    for name in ("calls", "growth"):
        monkeypatch.setattr(benchmarks, "BENCHMARKS", {name: run})
        assert 0 == benchmarks.main([name, "--rounds", "3", "--write", str(tmp_path)])
    kept = page.load(tmp_path)
    assert {"calls": run(3), "growth": run(3)} == kept.rows
    assert "| 3 |" in (tmp_path / "performance.md").read_text("utf-8")
    assert "calls took" in capsys.readouterr().err


def test_the_page_has_a_place_for_every_table() -> None:
    text = (ROOT / "docs" / "performance.md").read_text("utf-8")
    for name in ["headlines", "surroundings", *benchmarks.BENCHMARKS]:
        if name not in benchmarks.LONG:
            assert f"<!-- begin {name} -->" in text
            assert f"<!-- end {name} -->" in text
    for name in page.CHARTS:
        assert f"(performance/{name}.svg)" in text


def test_every_chart_and_headline_is_of_a_column_that_there_is() -> None:
    """A case that is renamed would silently be missing from them."""
    rows: dict[str, list[Row]] = {}
    for name, load in check.WORKLOADS.items():
        raced = {contender: [dict.fromkeys(load.figures, 1.0)] for contender in load.contenders}
        rows[name] = [each for case in load.cases for each in tabulate(load, case, raced)]
    for line in page.HEADLINES:
        (ratios,) = (
            each.ratios
            for each in rows[line.benchmark]
            if (each.column, each.contender) == (line.column, line.by_hand)
        )
        assert f"ours{line.suffix}" in ratios
    for name, chart in page.CHARTS.items():
        assert any(re.fullmatch(chart.columns, each.column) for each in rows[name])


def test_surroundings_name_versions_and_no_machine() -> None:
    reported = page.surroundings()
    assert {"CPU", "system", "Python", "aiohttp", "msgspec"} <= set(reported)
    assert socket.gethostname() not in reported.values()
