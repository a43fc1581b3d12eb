"""Contenders race in turns, results are ratios within a round, and the command line prints them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import check, harness, in_memory
from benchmarks.harness import QUICK, Race, Row, Spread, case


def found(**costs: list[float]) -> Race:
    return {name: [{"cpu_us": cost} for cost in each] for name, each in costs.items()}


async def work(_contender: str, **_arguments: Any) -> dict[str, float]:
    return {}


def test_everybody_has_a_turn_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another contender begins each round; slow ones have few rounds, and absent ones are asked once."""
    turns: list[str] = []

    def turn(_work: object, name: str, *_more: Any) -> dict[str, float] | None:
        turns.append(name)
        return None if name == "absent" else {"cpu_us": float(len(turns))}

    monkeypatch.setattr(harness, "_take_turn", turn)
    load = harness.workload("a", "absent", "b", cases=[case("")])(work)
    raced = harness.race(load, load.cases[0], 3)
    assert ["a", "absent", "b", "b", "a", "b", "a"] == turns
    assert {"a": 3, "b": 3} == {name: len(each) for name, each in raced.items()}
    assert Spread(5.0, 1.0, 7.0) == harness.spread([each["cpu_us"] for each in raced["a"]])
    turns.clear()
    harness.race(load, case("", max_rounds=4), 5, ["b", "openai, aiohttp"])
    assert {"b": 4, "openai, aiohttp": harness.FEW} == {name: turns.count(name) for name in turns}


def test_ratios_are_taken_within_a_round() -> None:
    """A round in which everything is three times as slow changes no ratio; who was absent later has fewer."""
    raced = found(ours=[1.0, 3.0, 1.0], naive=[2.0, 6.0, 1.5])
    assert Spread(2.0, 1.5, 2.0) == harness.ratio(raced, "naive", "ours", "cpu_us")
    raced["naive"].pop()
    assert Spread(2.0, 2.0, 2.0) == harness.ratio(raced, "naive", "ours", "cpu_us")


def test_a_row_has_median_spread_and_ratio() -> None:
    load = harness.workload("ours", "naive", cases=[case("n=1")])(work)
    rows = harness.tabulate(load, load.cases[0], found(ours=[1.0, 3.0, 1.0], naive=[2.0, 6.0, 1.5]))
    assert [
        Row(column="n=1", contender="ours", value=Spread(1, 1, 3), ratios={"ours": Spread(1, 1, 1)}),
        Row(column="n=1", contender="naive", value=Spread(2, 1.5, 6), ratios={"ours": Spread(2, 1.5, 2)}),
    ] == rows


def test_a_contender_that_fails_is_an_error() -> None:
    load = in_memory.growth
    with pytest.raises(RuntimeError, match=r"in_memory:growth of nobody with \{.*\} exited with 1"):
        harness.race(load, case("", small=1, large=1), 1, ["nobody"])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(QUICK, "1")
    few = in_memory.growth._replace(
        contenders=("decode, text", "no library, logprobs kept, collector off"),
        cases=(case("", small=20, large=80),),
    )
    monkeypatch.setitem(benchmarks.BENCHMARKS, "growth", lambda rounds: harness.measure(few, rounds))


def test_growth_measures_every_case_at_two_sizes(quick: None) -> None:
    rows = benchmarks.BENCHMARKS["growth"](2)
    assert {"decode, text", "no library, logprobs kept, collector off"} == {row.contender for row in rows}
    assert [*in_memory.growth.figures.values()] == [row.column for row in rows[::2]]
    assert all(row.value.low > 0 for row in rows)


def test_results_come_as_a_table_or_as_json(quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmarks.main(["growth", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert "growth: CPU for each chunk of a small and a large stream" in out
    assert "| decode, text | " in out
    assert benchmarks.main(["growth", "--rounds", "1", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"growth"} == {line["benchmark"] for line in lines}


def test_a_quick_run_has_one_round(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(rounds: int) -> list[Row]:
        return [harness.counted("rounds", "a", rounds)]

    monkeypatch.setenv(QUICK, "0")
    monkeypatch.setattr(benchmarks, "BENCHMARKS", {"a": run})
    assert benchmarks.main(["a", "--quick"]) == 0
    assert "| a | 1 |" in capsys.readouterr().out
    assert harness.is_quick()


def test_an_unknown_benchmark_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmarks.main(["grwth"])
    assert re.search("no benchmark 'grwth'; there are .*growth", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("median", "sign", "passed"),
    [(0.9, ">=", True), (0.89, ">=", False), (0.9, "<=", True), (0.91, "<=", False)],
)
def test_a_threshold_is_met_or_missed(median: float, sign: str, passed: bool) -> None:
    """Bounds belong to what is allowed."""
    bound = check.Bound("chat", "asyncio", "naive / ours", sign, 0.9)
    raced = found(ours=[1.0, 1.0, 1.0], naive=[median, 0.5, 1.5])
    reported = f"{'PASS' if passed else 'FAIL'}  naive / ours, asyncio: {median} {sign} 0.9  (0.5 to 1.5)"
    assert (passed, reported) == bound.judge(raced)


def test_a_threshold_without_its_contenders_is_missed() -> None:
    passed, reported = check.Bound("bulk", "1 event", "openai / ours", ">=", 35).judge(found(ours=[1.0]))
    assert not passed
    assert reported == "FAIL  openai / ours, 1 event: openai not installed"


@pytest.mark.parametrize(("bound", "status"), [(1.0, 0), (3.0, 1)])
def test_checking_fails_if_a_threshold_is_missed(
    bound: float, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def race(load: harness.Workload, size: harness.Case, rounds: int, contenders: list[str]) -> Race:
        asked.append((load, size.label, rounds, contenders))
        return found(naive=[2.0], ours=[1.0])

    label = "asyncio, 100 streams"
    monkeypatch.setattr(check, "race", race)
    monkeypatch.setattr(check, "BOUNDS", {"part": [check.Bound("chat", label, "naive / ours", ">=", bound)]})
    monkeypatch.setattr(benchmarks, "BOUNDS", check.BOUNDS)
    assert status == benchmarks.main(["check", "part", "--rounds", "2"])
    assert f"{'FAIL' if status else 'PASS'}  naive / ours, {label}: 2 >= {bound:g}" in capsys.readouterr().out
    assert [(check.WORKLOADS["chat"], label, 2, ["ours", "naive"])] == asked
    with pytest.raises(SystemExit):
        benchmarks.main(["check", "prt"])


def test_every_bound_is_of_a_figure_that_there_is() -> None:
    """Workload, case, contenders and figure are known, so that a threshold cannot be missed by a typo."""
    for bound in (bound for group in check.BOUNDS.values() for bound in group):
        load = check.WORKLOADS[bound.workload]
        assert bound.case in {each.label for each in load.cases}
        assert set(bound.what.split(" / ")) <= set(load.contenders)
        assert bound.figure in {"", *load.figures}
        assert bound.sign in {">=", "<="}
