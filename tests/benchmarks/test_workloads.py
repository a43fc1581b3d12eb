"""The workloads measure what they say, at small sizes; data and server are the same in every run."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from benchmarks import clients, data, harness, in_memory, loopback, runs, server
from benchmarks.harness import QUICK, Case, Workload, case
from gradient_async import AsyncGradient
from gradient_async.assembly import CompletionAssembler
from gradient_async.decoding import ChunkDecoder
from gradient_async.types import ChatCompletion


def assembled(events: list[bytes]) -> ChatCompletion:
    decoder, assembler = ChunkDecoder(), CompletionAssembler()
    assembler.extend(decoder.feed(b"".join(events)))
    assert decoder.done
    return assembler.completion


def test_data_is_the_same_in_every_run() -> None:
    """Seeded: two runs measure the same bytes."""
    assert data.text_stream(50, 3) == data.text_stream(50, 3)
    assert data.text_stream(50) != data.text_stream(51)


def test_data_are_streams_of_completions() -> None:
    completion = assembled(data.text_stream(40, 4))
    assert [0, 1, 2, 3] == [choice.index for choice in completion.choices]
    assert ["stop"] * 4 == [choice.finish_reason for choice in completion.choices]
    (call,) = assembled(data.tool_stream(3)).choices[0].message.tool_calls or []
    assert '{"text": "ab ab ab "}' == call.function.arguments
    for size in (1_000, 20_000):
        text = data.arguments(size)
        assert 0.9 * size < len(text) < 1.1 * size
        assert {"records", "text"} == msgspec.json.decode(text).keys()


def test_the_server_sends_streams_and_completions() -> None:
    assert b"".join(server.pieces(5, 2)) == server.reply("text", 5, 2)
    assert server.reply("text", 5, 2).endswith(b"0\r\n\r\n")
    assert 300 == len(data.small_completion(300))
    assert "stop" == msgspec.json.decode(data.small_completion(300))["choices"][0]["finish_reason"]
    assert server.reply("status", 404).startswith(b"HTTP/1.1 404 ")
    with pytest.raises(ValueError, match="no reply 'huge'"):
        server.reply("huge")


def test_a_server_that_fails_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="exited with 1"), server.running_server("benchmarks.nowhere"):
        pass


async def test_every_contender_of_ours_reads_all_there_is() -> None:
    with server.running_server() as url:
        for name in ("ours", "ours, text", "ours, raw", "naive", "drained", "sse-client"):
            async with clients.make(name, f"{url}/text-20-4") as client:
                await client.stream()
                assert client.count > 0
        for path in ("paced-4-1-1", "chat-4-1"):
            async with clients.make("ours", f"{url}/{path}") as client:
                await client.stream()
                assert 6 == client.count
        async with AsyncGradient(base_url=f"{url}/text-20-4", model_access_key="any") as ours:
            fan = ours.chat.completions.fan_out(n=2, model="m", messages=[{"role": "user", "content": "Hi"}])
            assert 2 == len((await fan.completion()).choices)


@pytest.mark.parametrize(
    ("load", "size", "contenders"),
    [
        (loopback.bulk, case("", "text-50-1", tokens=50), ("ours", "naive")),
        (
            loopback.chat,
            case("", "chat-4-5", streams=3, tokens=4),
            ("ours", "ours, text", "naive", "drained"),
        ),
        (loopback.chat, case("", "chat-4-5", loop="uvloop", streams=3, tokens=4), ("ours", "drained")),
        (loopback.paced, case("", "paced-60000-1-4", streams=4, seconds=1), ("ours", "naive")),
        (loopback.paced, case("", "paced-60000-1-4", loop="uvloop", streams=4, seconds=1), ("ours", "naive")),
        (loopback.small, case("", "small-300", at_once=4, count=16), ("ours", "naive")),
        (loopback.small, case("", "large-5", at_once=1, count=1), ("ours", "naive")),
        (loopback.answers, case("", "small-300", at_once=4, count=16), ("ours", "ours, parse")),
        (loopback.first, case("", "first-8", at_once=2), ("ours", "drained")),
        # Fewer streams may fit into pages that the process has.
        (loopback.memory, case("", "idle", streams=200, counted="heap"), ("ours", "drained")),
        (loopback.memory, case("", "idle", streams=200, counted="resident"), ("ours", "drained")),
        (loopback.fan_out, case("", "text-50-1", n=2, times=2), ("fan_out", "tasks")),
        (loopback.limits, case("", count=6, at_once=2, wait="reset"), ("map", "tasks")),
        (runs.run, case("", "tools-2"), ("run", "run, events", "by hand")),
        (in_memory.decode, case("", stream="text", tokens=20), ("msgspec", "ours", "ours, assembled")),
        (in_memory.partial, case("", size=500), ("ours", "ours, events")),
    ],
    ids=lambda value: value.work.__name__ if isinstance(value, Workload) else "",
)
def test_a_race_gives_a_row_for_each(
    load: Workload, size: Case, contenders: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run in earnest, but for one short turn."""
    monkeypatch.setenv(QUICK, "1")
    rows = harness.measure(load._replace(contenders=contenders, cases=(size,)), 1)
    assert sorted(contenders * len(load.figures)) == sorted(row.contender for row in rows)
    assert all(row.value.low > 0 for row in rows if load is not loopback.limits)


def test_the_client_without_asyncio_is_measured_against_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may cost less by chance."""
    monkeypatch.setenv(QUICK, "1")
    for size in (
        case("", "small-300", count=4),
        case("", "text-20-4", count=20, streamed=True),
    ):
        for name, (figures,) in harness.race(loopback.sync, size, 1, ["Gradient", "Gradient, text"]).items():
            assert figures["cpu_us"] > 0, name


def test_map_is_measured_against_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its growth may be nothing."""
    few = case("", "small-300", count=8, at_once=4)
    rows = harness.tabulate(loopback.map_, few, harness.race(loopback.map_, few, 1))
    assert {"map", "map, journal", "tasks"} == {
        row.contender for row in rows if row.column.startswith("µs") and row.value.low > 0
    }


def test_aiohttps_internals_can_be_switched_off() -> None:
    """A contender without them is measured beside the usual one."""
    raced = harness.race(loopback.bulk, case("", "text-20-1", tokens=20), 1, ["ours, internals off"])
    assert raced


async def test_starting_is_measured_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = {
        "ours": "import gradient_async",
        "nobody's": "import nobody_has_such_a_module",
        "wrong": "1 / 0",
    }
    monkeypatch.setattr(loopback, "_PROGRAMS", programs)
    start: Any = loopback.start.work
    assert (await start("ours"))["cpu_ms"] > 0
    with pytest.raises(ImportError):
        await start("nobody's")
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        await start("wrong")
