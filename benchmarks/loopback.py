"""Workloads over HTTP on loopback."""

from __future__ import annotations

import asyncio
import functools
import re
import statistics
import sys
import time
import tracemalloc
from asyncio.subprocess import PIPE
from typing import Any, Literal

from gradient_async.testing import Quota, serve

from .clients import Client, make
from .harness import FEW, Figures, case, collect_garbage, is_quick, quickest, resident, workload
from .server import allow_connections

_LOOPS = ("asyncio", "uvloop")


@workload(
    "ours", "ours, text", "ours, raw", "ours, internals off", "naive", "drained", "sse-client", "openai",
    "openai, aiohttp", "gradient",
    cases=[
        case(f"{each} a chunk, {tokens:,} tokens", f"text-{tokens}-{together}", tokens=tokens)
        for together, each in ((1, "1 event"), (32, "32 events"))
        for tokens in (1_000, 8_000)
    ],
    to=("ours", "naive"),
)  # fmt: skip
async def bulk(contender: str, *, url: str, tokens: int) -> Figures:
    """One stream as fast as it comes: CPU for each token."""
    async with make(contender, url) as client:
        cost = await quickest(client.stream)
        assert client.count
    return {"cpu_us": cost / tokens * 1e6}


@workload(
    "ours", "ours, text", "naive", "drained",
    cases=[
        case(f"{loop}, 100 streams", "chat-120-20", loop=loop, streams=100, tokens=120)
        for loop in _LOOPS
    ],
    to=("ours", "ours, text", "naive", "drained"),
)  # fmt: skip
async def chat(contender: str, *, url: str, streams: int, tokens: int) -> Figures:
    """Streams opened at once, each with one event every 20 ms: CPU for each token, requests included.

    The server sends the events of all streams in the same tick. CPU is measured from before the requests to the
    end of the last stream. Only the first request of the process is made earlier.
    """
    async with make(contender, f"{url.rpartition('/')[0]}/text-9-1") as client:
        await client.stream()
    async with make(contender, url) as client:
        collect_garbage()
        cost = time.process_time()
        await asyncio.gather(*(client.stream() for _ in range(streams)))
        cost = time.process_time() - cost
        assert client.count >= streams
    return {"cpu_us": cost / streams / tokens * 1e6}


@workload(
    "ours", "naive", "drained", "openai",
    cases=[
        # All streams together send 4,000 events a second. A client that can't keep up would receive several events
        # in one read, which is cheaper.
        case(f"{loop}, {streams} streams", path, loop=loop, streams=streams, seconds=1.6)
        for loop in _LOOPS
        for path, streams in (("paced-20000-3-12", 12), ("paced-2400-25-100", 100), ("paced-480-125-500", 500))
    ],
    to=("ours", "naive", "drained"),
)  # fmt: skip
async def paced(contender: str, *, url: str, streams: int, seconds: float) -> Figures:
    """Many streams whose events come one by one, evenly spaced: CPU for each token, without requests.

    Nearly every event wakes the event loop, which is most of the cost.
    """
    async with make(contender, url) as client:
        opened = await asyncio.gather(*(client.open() for _ in range(streams)))
        tasks = [asyncio.create_task(client.read(each)) for each in opened]
        await asyncio.sleep(0.3)  # until the events that came while other streams were opened have been read
        collect_garbage()
        cost, count = time.process_time(), client.count
        await asyncio.sleep(0.2 if is_quick() else seconds)
        cost, count = time.process_time() - cost, client.count - count
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ended)
    return {"cpu_us": cost / count * 1e6}


@workload(
    "ours", "ours, internals off", "naive", "drained", "openai", "openai, aiohttp", "gradient",
    cases=[
        *(
            case(f"300 bytes, {at_once} at a time, {n} in a turn", "small-300", at_once=at_once, count=n)
            for at_once in (1, 64)
            for n in (64, 512)
        ),
        *(
            case(f"{tokens:,} tokens, top 20", f"large-{tokens}", max_rounds=FEW, at_once=1, count=1)
            for tokens in (1_000, 4_000)
        ),
    ],
    to=("ours", "naive"),
)  # fmt: skip
async def small(contender: str, *, url: str, at_once: int, count: int) -> Figures:
    """Awaited completions, small and large (5 MB of JSON, the 20 likeliest tokens at each place): CPU."""
    async with make(contender, url) as client:
        cost = await quickest(lambda: client.many(count, at_once))
    return {"cpu_us": cost / count * 1e6}


@workload(
    "ours", "ours, parse",
    cases=[
        case(f"{size} bytes, {at_once} at a time", f"small-{size}", at_once=at_once, count=512)
        for size in (300, 3_000)
        for at_once in (1, 64)
    ],
    to=("ours",),
)  # fmt: skip
async def answers(contender: str, *, url: str, at_once: int, count: int) -> Figures:
    """Awaited answers that are values of a type, beside completions of the same bytes: CPU."""
    async with make(contender, url) as client:
        cost = await quickest(lambda: client.many(count, at_once))
    return {"cpu_us": cost / count * 1e6}


@workload(
    "ours", "naive", "drained", "openai", "openai, aiohttp",
    cases=[case(f"{at_once} at once", "first-8", at_once=at_once) for at_once in (1, 64)],
    figures={"cpu_us": "CPU", "wall_us": "wall"},
    to=("ours", "drained"),
)  # fmt: skip
async def first(contender: str, *, url: str, at_once: int) -> Figures:
    """From the server's write of a stream's first event until the consumer has it: CPU and time.

    The headers have arrived before. The event's text is the time of its write, by a clock that all processes share.
    """
    async with make(contender, url) as client:
        for _ in range(3):
            await _await_first(client, at_once)
        collect_garbage()
        times = 1 if is_quick() else max(8, 192 // at_once)
        costs, late = zip(*[await _await_first(client, at_once) for _ in range(times)], strict=True)
    wall = statistics.median([each for sample in late for each in sample])
    return {"cpu_us": statistics.median(costs) * 1e6, "wall_us": wall / 1e3}


async def _await_first(client: Client, at_once: int) -> tuple[float, list[int]]:
    """Return the CPU seconds for each event, and for each event the nanoseconds from its write to its arrival."""
    opened = await asyncio.gather(*(client.open() for _ in range(at_once)))

    async def wait(stream: Any) -> int:
        got = await client.first(stream)
        now = time.monotonic_ns()
        sent = (
            re.findall(rb'"content":"(\d+)"', got)[0]
            if isinstance(got, bytes)
            else got.choices[0].delta.content
        )
        return now - int(sent)

    started = time.process_time()
    late = [await wait(opened[0])] if at_once == 1 else await asyncio.gather(*map(wait, opened))
    cost = time.process_time() - started
    await asyncio.gather(*map(client.read, opened))
    return cost / at_once, late


@workload(
    "ours", "drained", "openai", "openai, aiohttp",
    cases=[
        case(label, "idle", max_rounds=2, streams=streams, counted=label.partition(",")[0])
        for label, streams in (
            ("heap, 1 stream", 1), ("heap, 1,000 streams", 1_000), ("resident, 1,000 streams", 1_000)
        )
    ],
    figures={"bytes": ""},
    to=("drained", "ours"),
)  # fmt: skip
async def memory(contender: str, *, url: str, streams: int, counted: str) -> Figures:
    """Open streams, each with a task that waits for its next chunk: bytes of memory for each stream.

    "heap" is the memory that Python allocated; "resident" is the growth of the process, in pages.
    """
    allow_connections()
    async with make(contender, url) as client:
        await _leave(client, await _hold(client, 8))
        held = await _hold(client, 1)
        more = max(1, streams - 1)  # `openai` allows a thousand connections in all
        if counted == "heap":
            tracemalloc.start()
        before = resident(), tracemalloc.get_traced_memory()[0]
        held += await _hold(client, more)
        after = resident(), tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        await _leave(client, held)
    return {"bytes": (after[counted == "heap"] - before[counted == "heap"]) / more}


async def _hold(client: Client, streams: int) -> list[tuple[Any, asyncio.Task[Any]]]:
    """Open streams, fifty at a time, and wait for the second event of each, which never comes."""
    held: list[tuple[Any, asyncio.Task[Any]]] = []
    while len(held) < streams:
        opened = await asyncio.gather(*(client.open() for _ in range(min(50, streams - len(held)))))
        await asyncio.gather(*map(client.first, opened))
        held += [(each, asyncio.create_task(client.first(each))) for each in opened]
    await asyncio.sleep(0.2)
    return held


async def _leave(client: Client, held: list[tuple[Any, asyncio.Task[Any]]]) -> None:
    for _opened, task in held:
        task.cancel()
    await asyncio.gather(*(task for _opened, task in held), return_exceptions=True)
    for opened, _task in held:
        await client.leave(opened)


_TIMED = "import time; t = time.process_time(); {}; print(time.process_time() - t)"
_PROGRAMS = {
    "ours": "from gradient_async import AsyncGradient; AsyncGradient(model_access_key='any')",
    "asyncio, msgspec": "import asyncio, msgspec",
    "aiohttp": "import aiohttp",
    "openai": "from openai import AsyncOpenAI; AsyncOpenAI(api_key='any')",
    "gradient": "from gradient import AsyncGradient; "
    "AsyncGradient(model_access_key='any', access_token='any', agent_endpoint='http://localhost')",
}


@workload(*_PROGRAMS, cases=[case("CPU, ms")], figures={"cpu_ms": ""})
async def start(contender: str) -> Figures:
    """Import a client and make one, in a new process: CPU."""
    program = _TIMED.format(_PROGRAMS[contender])
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=PIPE, stderr=PIPE)
    out, error = await process.communicate()
    if process.returncode:
        raise (ImportError if b"ModuleNotFoundError" in error else RuntimeError)(error.decode())
    return {"cpu_ms": float(out) * 1e3}


@workload(
    "fan_out", "tasks", "naive", "openai",
    cases=[
        case(f"n={n}", "text-50-1", max_rounds=FEW, n=n, times=max(1, min(100, 2048 // n)))
        for n in (1, 8, 64, 512)
    ],
    figures={"cpu_us": "µs of CPU a choice", "ms": "ms to all"},
    to=("fan_out",),
)  # fmt: skip
async def fan_out(contender: str, *, url: str, n: int, times: int) -> Figures:
    """Several choices of 50 tokens at once: CPU for each choice, and time until the last is whole."""
    async with make(contender, url) as client:
        for _ in range(2):  # opens the connections
            await client.choices(n)
        cpu, clock = time.process_time(), time.perf_counter()
        for _ in range(times):
            await client.choices(n)
        cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    return {"cpu_us": cpu / times / n * 1e6, "ms": clock / times * 1e3}


@workload(
    "map", "map, journal", "tasks",
    cases=[
        case(f"{count:,} requests", "small-300", max_rounds=rounds, count=count, at_once=64)
        for count, rounds in ((100, 1000), (1_000, 1000), (10_000, 1000), (100_000, 1))
    ],
    figures={"cpu_us": "µs of CPU each", "mib": "MiB more"},
    to=("tasks",),
)  # fmt: skip
async def map_(contender: str, *, url: str, count: int, at_once: int) -> Figures:
    """Very many requests: CPU for each request, and the growth of the process; with a journal, too.

    "tasks" are tasks that await one completion after another, and keep no result.
    """
    async with make(contender, url) as client:
        await client.many(2 * at_once, at_once)
        await client.many(max(2 * at_once, count // 10), at_once)
        before = resident()
        times = max(1, 2_000 // count)
        cpu = time.process_time()
        for _ in range(times):
            assert count == await client.many(count, at_once)
        cpu = time.process_time() - cpu
        return {"cpu_us": cpu / times / count * 1e6, "mib": (resident() - before) / 2**20}


@workload(
    "Gradient", "Gradient, text",
    cases=[
        case("a call", "small-300", count=200),
        *(
            case(f"a chunk of {tokens:,}, {each} an HTTP chunk", f"text-{tokens}-{together}", count=tokens, streamed=True)
            for together, each in ((1, "1 event"), (32, "32 events"))
            for tokens in (1_000, 8_000)
        ),
        case("a chunk every 2 ms", "chat-100-2", max_rounds=FEW, count=100, streamed=True),
    ],
    figures={"cpu_us": "µs of CPU", "more_us": "more than async"},
    to=(),
)  # fmt: skip
async def sync(contender: str, *, url: str, count: int, streamed: bool = False) -> Figures:
    """The client without asyncio: CPU of both of its threads, and how much more that is than with asyncio."""
    view = contender.removeprefix("Gradient")
    async with make(f"ours{view}", url) as usual, make(contender, url) as client:
        costs = [
            await quickest(each.stream if streamed else functools.partial(each.many, count, 1))
            for each in (usual, client)
        ]
    return {"cpu_us": costs[1] / count * 1e6, "more_us": (costs[1] - costs[0]) / count * 1e6}


# DigitalOcean's quota of a new account: requests that may be sent at once, and how many more each second.
_BUCKET, _REFILL = 30, 8.0


@workload(
    "map", "tasks", "openai",
    cases=[
        case(f"{at_once} at a time, {wait}", max_rounds=FEW, count=200, at_once=at_once, wait=wait)
        for at_once, wait in ((8, "reset"), (64, "reset"), (64, "retry-after"))
    ],
    figures={"posts": "requests a row", "lost": "rows lost", "seconds": "seconds", "ideal": "of the ideal time"},
    to=(),
)  # fmt: skip
async def limits(
    contender: str, *, count: int, at_once: int, wait: Literal["reset", "retry-after"]
) -> Figures:
    """More rows than a quota allows at once: requests for each row, rows without a completion, and time.

    The quota is a bucket of 30 that gains 8 a second, told and held as DigitalOcean does. The ideal time is that of a
    client that knows the quota. "tasks" use this library's client, and each client has its own retries.
    """
    quota = Quota(requests=_BUCKET, per_second=_REFILL, wait=wait)
    async with serve(rate_limit=quota) as server, make(contender, f"{server.url}/v1") as client:
        started = time.perf_counter()
        answered = await client.many(count, at_once)
        seconds = time.perf_counter() - started
        ideal = (count - _BUCKET) / _REFILL
        return {
            "posts": len(server.requests) / count,
            "lost": count - answered,
            "seconds": seconds,
            "ideal": seconds / ideal,
        }


WORKLOADS = {
    "bulk": bulk, "chat": chat, "paced": paced, "small": small, "answers": answers, "first": first, "memory": memory,
    "start": start, "fan_out": fan_out, "map": map_, "sync": sync, "limits": limits,
}  # fmt: skip
