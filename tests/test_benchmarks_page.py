"""What benchmarks found becomes verdicts, tables and charts."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import check, contest, page, results, svg
from benchmarks.contest import Spread

ROOT = Path(__file__).parents[1]
SVG = "{http://www.w3.org/2000/svg}"


def found(**costs: list[float]) -> contest.Found:
    return {name: [{"cpu_us": cost} for cost in each] for name, each in costs.items()}


def test_ratios_are_taken_within_a_round() -> None:
    """A round in which everything is three times as slow changes no ratio; who was absent later has fewer."""
    raced = found(ours=[1.0, 3.0, 1.0], naive=[2.0, 6.0, 1.5])
    assert Spread(2.0, 1.5, 2.0) == contest.ratio(raced, "naive", "ours", "cpu_us")
    raced["naive"].pop()
    assert Spread(2.0, 2.0, 2.0) == contest.ratio(raced, "naive", "ours", "cpu_us")


def test_a_table_has_median_spread_and_ratio() -> None:
    rows = contest.tabulate(
        found(ours=[1.0, 3.0, 1.0], naive=[2.0, 6.0, 1.5]), "cpu_us", case={"n": 1}, to=["ours"]
    )
    assert {
        "n": 1,
        "contender": "naive",
        "cpu_us": 2.0,
        "low": 1.5,
        "high": 6.0,
        "to_ours": 2.0,
        "to_ours_spread": "1.5-2.0",
    } == rows[1]


@pytest.mark.parametrize(
    ("median", "least", "passed"),
    [(0.9, True, True), (0.89, True, False), (0.9, False, True), (0.91, False, False)],
)
def test_a_threshold_is_met_or_missed(median: float, least: bool, passed: bool) -> None:
    """Bounds belong to what is allowed."""
    verdict = check.Verdict("naive / ours", Spread(median, 0.5, 1.5), 0.9, least=least)
    assert passed is verdict.passed
    sign = ">=" if least else "<="
    assert f"{'PASS' if passed else 'FAIL'}  naive / ours: {median} {sign} 0.9  (0.5 to 1.5)" == str(verdict)


@pytest.mark.parametrize(("bound", "status"), [(1.0, 0), (3.0, 1)])
def test_checking_fails_if_a_threshold_is_missed(
    bound: float, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def part(rounds: int) -> Iterator[check.Verdict]:
        yield check.Verdict(f"{rounds} rounds", Spread(2.0, 2.0, 2.0), bound, least=True)

    monkeypatch.setattr(check, "PARTS", {"part": part})
    assert status == benchmarks.main(["check", "part", "--rounds", "2"])
    assert f"{'FAIL' if status else 'PASS'}  2 rounds: 2 >= {bound:g}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        benchmarks.main(["check", "prt"])


def bar(value: float, kind: str = "own") -> svg.Bar:
    return svg.Bar(f"<{kind}>", value, value * 0.9, value * 1.1, kind)


@pytest.mark.parametrize(
    ("most", "scale"), [(8.0, ""), (800.0, ", logarithmic scale")], ids=["linear", "log"]
)
def test_a_chart_shows_every_figure(most: float, scale: str) -> None:
    """Well-formed, with a labelled axis; bars are as long as their figures say, within the picture."""
    drawn = svg.bars("T & U", "µs", [svg.Group("g", [bar(2.0), bar(most, "other")])])
    root = ET.fromstring(drawn)  # noqa: S314  # drawn by ourselves
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"T & U", f"µs{scale}", "<own>", "2", f"{most:.3g}", "g"} <= set(texts)
    short, long = (
        float(each.attrib["width"]) for each in root.iter(f"{SVG}rect") if each.get("class") != "page"
    )
    assert 0 < short < long < 760
    assert long / short == pytest.approx(4.0, abs=0.05) or scale


def test_results_become_a_page(tmp_path: Path) -> None:
    """Tables stand between their marks, charts beside them; what was not measured stays as it is."""
    raced = found(ours=[1.0, 3.0, 1.0], naive=[2.0, 6.0, 1.5], openai=[80.0])
    case = {"events_per_chunk": 1, "tokens": 8_000}
    rows = contest.tabulate(raced, "cpu_us", case=case, to=["ours"])
    kept = results.Results(
        surroundings={"Python": "3"}, rows={"bulk": rows, "calls": [{"case": "a", "calls": 1}]}
    )
    results.save(kept, tmp_path / page.RESULTS)
    marks = "".join(
        f"<!-- begin {name} -->\nstale\n<!-- end {name} -->\n"
        for name in ("headlines", "surroundings", "bulk", "calls", "paced")
    )
    (tmp_path / "performance.md").write_text(f"before\n{marks}after\n", "utf-8")
    assert 0 == benchmarks.main(["--render", str(tmp_path)])
    text = (tmp_path / "performance.md").read_text("utf-8")
    assert "| one stream, 1 event in an HTTP chunk | **2** (1.5 to 2) | **80** (80 to 80) |  |" in text
    assert "| naive | 2 (1.5 to 6), **2** |" in text
    assert "| a | 1 |" in text
    assert "<!-- begin paced -->\nstale\n<!-- end paced -->\nafter\n" in text
    assert 1 == text.count("stale")
    assert "80" in (tmp_path / "performance" / "bulk.svg").read_text("utf-8")
    assert not (tmp_path / "performance" / "paced.svg").exists()
    before = text
    assert 0 == benchmarks.main(["--render", str(tmp_path)])
    assert before == (tmp_path / "performance.md").read_text("utf-8")
    (tmp_path / "performance.md").write_text("<!-- begin bulk -->\n", "utf-8")
    with pytest.raises(ValueError, match="no end of 'bulk'"):
        benchmarks.main(["--render", str(tmp_path)])


def test_a_run_can_be_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each benchmark's rows are kept as soon as it has run, beside those of others."""
    marks = "".join(
        f"<!-- begin {name} --><!-- end {name} -->"
        for name in ("headlines", "surroundings", "calls", "growth")
    )
    (tmp_path / "performance.md").write_text(marks, "utf-8")

    def run(rounds: int) -> list[dict[str, int]]:
        return [{"rounds": rounds}]

    for name in ("calls", "growth"):
        monkeypatch.setattr(benchmarks, "BENCHMARKS", {name: run})
        assert 0 == benchmarks.main([name, "--rounds", "3", "--write", str(tmp_path)])
    kept = results.load(tmp_path / page.RESULTS)
    assert {"calls": [{"rounds": 3}], "growth": [{"rounds": 3}]} == kept.rows
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


def test_surroundings_name_versions_and_no_machine() -> None:
    told = results.surroundings()
    assert {"CPU", "system", "Python", "aiohttp", "msgspec"} <= set(told)
    assert socket.gethostname() not in told.values()
