"""The benchmarks that race clients over loopback measure what they say, at small sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from benchmarks import bulk, clients, contest, decode, fan_out, first, memory, paced, server, small, start
from benchmarks import map as map_
from benchmarks.timing import QUICK
from gradient_async import AsyncGradient

FIGURES = ("cpu_us", "us", "bytes", "cpu_us_per_choice", "low", "high")


def test_the_server_sends_streams_and_completions() -> None:
    assert b"".join(server.pieces(5, 2)) == server.reply("text-5-2")
    assert server.reply("text-5-2").endswith(b"0\r\n\r\n")
    assert 300 == len(server.small(300))
    assert "stop" == msgspec.json.decode(server.small(300))["choices"][0]["finish_reason"]
    with pytest.raises(ValueError, match="'huge' is no workload"):
        server.reply("huge")


async def test_every_contender_of_ours_reads_all_there_is() -> None:
    with server.running_server() as url:
        for name in ("ours", "ours, text", "ours, raw", "naive", "drained", "sse-client"):
            client = clients.make(name, f"{url}/text-20-4")
            await client.stream()
            assert client.count > 0
            await client.close()
        client = clients.make("ours", f"{url}/paced-4-1-1")
        await client.stream()
        assert 6 == client.count
        await client.close()
        async with AsyncGradient(base_url=f"{url}/text-20-4", model_access_key="any") as ours:
            fan = ours.chat.completions.fan_out(n=2, model="m", messages=[{"role": "user", "content": "Hi"}])
            assert 2 == len((await fan.completion()).choices)


def test_everybody_has_a_turn_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []

    def turn(_function: str, name: str, _turn: int, **_options: Any) -> dict[str, float] | None:
        turns.append(name)
        return None if name == "absent" else {"cpu_us": float(len(turns))}

    monkeypatch.setattr(contest, "_run", turn)
    found = contest.race("m:f", ("a", "absent", "b"), 3)
    assert ["a", "absent", "b", "b", "a", "b", "a"] == turns
    assert {"a": 3, "b": 3} == {name: len(each) for name, each in found.items()}
    assert {"cpu_us": 5.0} == contest.medians(found["a"])


@dataclass(frozen=True)
class Case:
    """A benchmark at a small size.

    Attributes:
        benchmark: Its module.
        size: Of the only race.
        contenders: Who takes part.
        times: Rows for each of them.
    """

    benchmark: Any
    size: int
    contenders: tuple[str, ...]
    times: int


CASES = (
    Case(bulk, 50, ("ours", "naive"), 1),
    Case(paced, 4, ("ours", "naive"), 2),
    Case(first, 2, ("ours", "drained"), 2),
    Case(memory, 200, ("ours", "drained"), 2),  # fewer may fit into pages that the process has
    Case(decode, 20, ("msgspec", "ours", "ours, assembled"), 3),
    Case(fan_out, 2, ("fan_out", "tasks"), 1),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.benchmark.__name__)
def test_a_race_gives_a_row_for_each(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in earnest, but for one short turn."""
    monkeypatch.setenv(QUICK, "1")
    monkeypatch.setattr(case.benchmark, "SIZES", (case.size,))
    monkeypatch.setattr(case.benchmark, "CONTENDERS", case.contenders)
    if case.benchmark is decode:
        monkeypatch.setattr(decode, "STREAMS", {"text": decode.STREAMS["text"]})
        monkeypatch.setattr(decode, "recordings", list)
    rows = case.benchmark.run(1)
    assert sorted(case.contenders * case.times) == sorted(row["contender"] for row in rows)
    assert all(row[key] > 0 for row in rows for key in row if key in FIGURES)


def test_small_and_large_completions_are_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(QUICK, "1")
    monkeypatch.setattr(small, "SIZES", (64,))
    monkeypatch.setattr(small, "TOKENS", (5,))
    monkeypatch.setattr(small, "CONTENDERS", ("ours", "naive"))
    rows = small.run(1)
    assert {"300 bytes", "5 tokens, top 20"} == {row["completion"] for row in rows}
    assert {1, 64} == {row["at_once"] for row in rows if row["completion"] == "300 bytes"}
    assert all(row["cpu_us"] > 0 for row in rows)


def test_map_is_measured_against_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_, "SIZES", (8,))
    (row,) = map_.run(1)
    assert row["map_cpu_us"] > 0
    assert row["tasks_cpu_us"] > 0


def test_starting_is_measured_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        start, "PROGRAMS", {"ours": "import gradient_async", "nobody's": "import nobody_has_such_a_module"}
    )
    assert ["ours"] == [row["contender"] for row in start.run(1)]
