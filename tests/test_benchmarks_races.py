"""The benchmarks that race clients over loopback measure what they say, at small sizes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from benchmarks import bulk, clients, contest, fan_out, server, start
from benchmarks import map as map_
from gradient_async import AsyncGradient

NAIVE = ("ours", "naive")


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
        client = clients.make("ours", f"{url}/paced-4-1")
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


@pytest.mark.parametrize(
    ("benchmark", "sizes", "rows"),
    [(bulk, (50,), 4), (fan_out, (2,), 2), (map_, (8,), 1)],
    ids=["bulk", "fan_out", "map"],
)
def test_a_race_gives_a_row_for_each(
    benchmark: Any, sizes: tuple[int, ...], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "SIZES", sizes)
    if benchmark is not map_:
        monkeypatch.setattr(benchmark, "CONTENDERS", ("fan_out", "tasks") if benchmark is fan_out else NAIVE)
    found = benchmark.run(1)
    assert rows == len(found)
    assert all(value > 0 for row in found for key, value in row.items() if "cpu_us" in key)


def test_starting_is_measured_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        start, "PROGRAMS", {"ours": "import gradient_async", "nobody's": "import nobody_has_such_a_module"}
    )
    assert ["ours"] == [row["contender"] for row in start.run(1)]
