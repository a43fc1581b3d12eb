"""The soak runs, ends by itself, and notices what is wrong."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.soak.__main__ import existing, growth, show
from benchmarks.soak.scenarios import SCENARIOS, STREAMS, Ledger, healthy
from benchmarks.soak.worker import Tally, Worker, call
from gradient_async import AsyncGradient, ChatCompletionStream, StreamTimeoutError, Timeout
from gradient_async.assembly import CompletionAssembler
from gradient_async.testing import CLOSE, Handler, reply_writes, serve


def test_a_short_soak_finds_nothing_wrong() -> None:
    """Every exchange comes out as promised, nothing is asked twice, and nothing is left over."""
    command = [sys.executable, "-m", "benchmarks.soak", "0.03", "--streams", "20", "--seed", "7", "--json"]
    ran = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=False
    )
    assert (0, "") == (ran.returncode, ran.stderr), ran.stdout
    report = json.loads(ran.stdout)
    assert {} == report["faults"]
    assert report["exchanges"] > 50
    assert report["outcomes"]["whole"] > 20
    assert report["requests"] > 50
    assert [{}] == [row["left"] for row in report["at rest"]]


@asynccontextmanager
async def working(*replies: Handler) -> AsyncGenerator[tuple[Worker, Tally, AsyncGradient], None]:
    async with (
        serve(*replies) as server,
        AsyncGradient(
            inference_endpoint=server.url,
            model_access_key="any",
            max_retries=0,
            timeout=Timeout(first_token=0.3, idle=0.3, response=0.3),
        ) as client,
    ):
        tally = Tally()
        yield Worker(client, tally, random.Random(1), 1), tally, client


def params(name: str, *, stream: bool = True) -> dict[str, Any]:
    return {"model": name, "messages": [{"role": "user", "content": "Hello"}], "stream": stream}


@pytest.mark.parametrize(
    ("expected", "played", "blamed"),
    [
        ("ok", "ok", ""),
        ("cut_clean", "cut_clean", ""),
        ("cut_clean", "ok", "silent"),
        ("ok", "cut_clean", "unexpected error"),
        ("ok_three", "ok", "wrong text"),
        ("ok_calling", "ok", "wrong text"),
        ("ok", "ok_calling", "wrong text"),
        ("bad_json", "html", "wrong partial"),
        ("done_first", "cut_clean", "wrong partial"),
        ("stall_mid_stream", "stall_first_event", ""),  # the server was late
        ("stall_mid_stream", "stall_headers", ""),
        ("stall_first_event", "stall_mid_stream", "wrong partial"),
        ("call_ok", "call_short", "unexpected error"),
        ("call_short", "call_ok", "silent"),
    ],
)
async def test_the_soak_tells_what_came_from_what_should(expected: str, played: str, blamed: str) -> None:
    """Text, partial text and class of the error are those of the scenario, or the outcome is blamed."""
    async with working(SCENARIOS[played].reply) as (worker, tally, client):
        await worker._whole(client, expected, params(expected, stream=expected in STREAMS))
    assert ([blamed] if blamed else []) == list(tally.wrong)
    assert tally.outcomes.total() == 1


async def test_the_soak_excuses_no_lost_text() -> None:
    """Where the limit was that of a silence after the first token, some text has arrived."""
    async with working(SCENARIOS["stall_mid_stream"].reply) as (worker, tally, client):
        stream: ChatCompletionStream = await call(client, params("stall_mid_stream"))
        with pytest.raises(StreamTimeoutError) as caught:
            await stream.completion()
        caught.value.partial = CompletionAssembler().completion
        await worker._judge("stall_mid_stream", SCENARIOS["stall_mid_stream"], caught.value, 0.0)
    assert ["wrong partial"] == list(tally.wrong)


async def test_the_soak_counts_streams_that_are_dropped() -> None:
    async with working(SCENARIOS["ok_slow"].reply) as (worker, tally, client):
        with pytest.warns(ResourceWarning, match="dropped before its end"):
            await worker._left(client, params("ok_slow"), dropped=True)
    assert tally.dropped == 1


async def test_the_soak_cancels_and_closes_at_any_moment() -> None:
    """Calls that are cancelled, hurried or closed under way end, and are no faults."""
    async with working(*[reply_writes([0.3, CLOSE])] * 5) as (worker, tally, client):
        await worker._cancelled(client, params("x"))
        await worker._hurried(client, params("x", stream=False))
        await worker._closing(client, params("x") | {"extra_headers": {"x-soak-id": "1"}})
    assert {"cancelled": 1, "hurried": 1, "closed": 3} == tally.outcomes
    assert not tally.wrong


@pytest.mark.parametrize("late", [False, True])
async def test_a_loss_is_excused_while_the_loop_is_late(late: bool) -> None:
    """A loop that gets no turn sees a dead connection too late to replace it; a punctual one has no excuse."""
    async with working(reply_writes([CLOSE])) as (worker, tally, client):
        watching = asyncio.create_task(tally.watch_loop())
        await asyncio.sleep(0)
        whole = asyncio.create_task(worker._whole(client, "ok", params("ok")))
        await asyncio.sleep(0)
        time.sleep(0.6 if late else 0.0)  # noqa: ASYNC251  # nobody gets a turn
        await whole
        watching.cancel()
    assert ("lost while the loop was late" in tally.outcomes) == late
    assert ("unexpected error" in tally.wrong) != late
    assert (tally.latest > 0.4) == late


@pytest.mark.parametrize(
    ("name", "times", "blamed"),
    [
        ("ok", 1, []),
        ("ok", 2, ["ok: asked again after a status of 2xx"]),
        ("status_503_then_ok", 2, []),
        ("status_503_then_ok", 3, ["status_503_then_ok: asked again after a status of 2xx"]),
        ("status_400", 2, ["status_400: asked 2 times"]),
    ],
)
def test_the_server_of_the_soak_counts_requests_of_an_id(name: str, times: int, blamed: list[str]) -> None:
    """Who asks more often than it may is found out; whoever is answered by 2xx asks no more."""
    ledger = Ledger()
    assert list(range(times)) == [ledger.note("id", name) for _ in range(times)]
    assert blamed == list(ledger.faults)
    assert 0 == ledger.note("another id", name)
    assert times + 1 == ledger.requests


@pytest.mark.usefixtures("needs_asyncio")  # uvloop does not tell its timers
async def test_the_soak_counts_what_is_left_over() -> None:
    """Objects of ours, tasks and timers that outlive the work are told."""
    before = existing()
    assert {} == existing() - before
    waiting = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    async with working(healthy(stream=True)) as (_, _, client):
        stream = await call(client, params("ok"))
        left = existing() - before
        await stream.aclose()
    assert (1, 1) == (left["ChatCompletionStream"], left["Body"])
    assert left["tasks"] >= 1
    assert left["timers"] >= 1
    waiting.cancel()


@pytest.mark.parametrize(
    ("sizes", "grown"), [([50.0], 0.0), ([10, 50, 50, 50], 0.0), ([10, 10, 20, 20, 30, 30, 40, 42], 21.0)]
)
def test_growth_is_that_of_the_later_half(sizes: list[float], grown: float) -> None:
    """Memory of the beginning is what a process takes anyway."""
    assert grown == growth([{"MiB": size} for size in sizes])


def test_a_report_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    rest = [{"seconds": 5, "exchanges": 1200, "MiB": 50.5, "left": {"Body": 1}}]
    show({"outcomes": {"whole": 7}, "at rest": rest, "faults": {}, "examples": ["hang: ok: 1"], "seconds": 5})
    reported = capsys.readouterr().out
    assert "seconds 5, exchanges 1200, MiB 50.5, left {'Body': 1}" in reported
    assert "        7  whole" in reported
    assert "faults: none" in reported
    assert "hang: ok: 1" in reported
