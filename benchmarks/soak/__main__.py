"""Run the soak: ``python -m benchmarks.soak MINUTES``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import random
import resource
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from gradient_async import AsyncGradient, ChatCompletionStream, Limits, Retry
from gradient_async.session import Body, Reply
from gradient_async.session.trace import Trace
from gradient_async.stream.source import Source

from . import server
from .scenarios import LIMIT
from .worker import Tally, Worker

OURS = (ChatCompletionStream, Source, Reply, Body, Trace)
MOST_GROWTH = 16.0  # MiB that memory may grow by, from the second quarter of the time to the last


class Server:
    """The server's process."""

    async def start(self) -> str:
        """Start it; return its URL."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.soak",
            "serve",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return (await self._line()).strip()

    async def _line(self) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(30):
            return (await self._process.stdout.readline()).decode()

    async def report(self) -> dict[str, Any]:
        """Ask for its counts."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        report: dict[str, Any] = json.loads(await self._line())
        return report

    async def stop(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


def memory() -> float:
    """Resident memory of this process now, in MiB."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return pages * resource.getpagesize() / 2**20


async def soak(minutes: float, workers: int, seed: int) -> dict[str, Any]:
    """Run it; return what was seen."""
    tally = Tally()
    dice = random.Random(seed)
    dropped: Counter[str] = Counter()

    def note(message: Warning | str, category: type[Warning], *_rest: Any) -> None:
        ours = category is ResourceWarning and "was dropped before its end" in str(message)
        dropped["ours" if ours else f"{category.__name__}: {message}"] += 1

    setattr(warnings, "showwarning", note)  # noqa: B010  # its type has names for arguments
    warnings.simplefilter("always")
    host = Server()
    url = await host.start()
    loop = asyncio.get_running_loop()

    def blame(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        tally.blame("loop", context["message"], {name: str(value) for name, value in context.items()})

    loop.set_exception_handler(blame)
    tasks_before = asyncio.all_tasks()
    began = loop.time()
    until = began + minutes * 60
    series: list[float] = []
    clients = 0
    while loop.time() < until:
        # Clients are made anew now and then; each is closed with nothing under way, or so it should be.
        share = min(until, loop.time() + max(5.0, minutes * 60 / 20))
        clients += 1
        async with AsyncGradient(
            inference_endpoint=url,
            model_access_key="any",
            retry=Retry(max_backoff=0.05),
            limits=Limits(event_bytes=LIMIT, error_body_seconds=0.3),
            max_connections=max(10, workers // 2),
        ) as client:
            crew = [
                Worker(client, tally, random.Random(dice.random()), clients * 10_000 + n)
                for n in range(workers)
            ]
            running = asyncio.gather(*(worker.run(share) for worker in crew))
            while not running.done():
                await asyncio.wait([running], timeout=max(0.5, minutes))
                series.append(round(memory(), 1))
            await running
    await asyncio.sleep(0.5)
    gc.collect()
    left = Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, OURS))
    timers = [repr(timer) for timer in getattr(loop, "_scheduled", ()) if "gradient_async" in repr(timer)]
    tasks = [repr(task) for task in asyncio.all_tasks() - tasks_before]
    report = await host.report()
    await host.stop()
    quarter = len(series) // 4
    early, late = series[quarter : 2 * quarter] or series, series[-quarter or None :]
    growth = sum(late) / len(late) - sum(early) / len(early)
    exchanges = tally.outcomes.total()
    seconds = loop.time() - began
    faults = dict(tally.wrong) | report["faults"]
    if left or timers or tasks or report["open"]:
        faults["left over"] = sum(left.values()) + len(timers) + len(tasks) + report["open"]
    if growth > MOST_GROWTH:
        faults["memory grew, MiB"] = round(growth)
    return {
        "seconds": round(seconds, 1),
        "exchanges": exchanges,
        "per second": round(exchanges / seconds),
        "requests": report["requests"],
        "connections accepted": report["accepted"],
        "outcomes": dict(tally.outcomes.most_common()),
        "streams dropped with a warning": dropped.pop("ours", 0),
        "other warnings": dict(dropped),
        "left at the end": {
            "connections": report["open"],
            "tasks": tasks,
            "timers": timers,
            "objects": dict(left),
        },
        "memory, MiB": series[:: max(1, len(series) // 20)],
        "memory grew by, MiB": round(growth, 1),
        "faults": faults,
        "examples": tally.examples,
    }


def main(argv: list[str] | None = None) -> int:
    """Run the soak; return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("minutes", nargs="?", default="10", help="how long (default: 10)")
    parser.add_argument("--streams", type=int, default=300, help="exchanges at a time (default: 300)")
    parser.add_argument("--seed", type=int, default=1, help="what chance begins with (default: 1)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    arguments = parser.parse_args(argv)
    if arguments.minutes == "serve":
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(server.main())
        return 0
    began = time.strftime("%H:%M:%S")
    report = asyncio.run(soak(float(arguments.minutes), arguments.streams, arguments.seed))
    if arguments.json:
        print(json.dumps(report))
    else:
        print(f"soak of {arguments.minutes} minutes, {arguments.streams} at a time, begun {began}")
        for name, value in report.items():
            print(f"  {name}: {value}")
    return 1 if report["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
