"""Rows a second of the stage of Ray Data, with one worker and with two, beside `map` without Ray.

It needs the extra ``ray``. The server is a process of its own. The time in which workers start is left out: it is in the
time of a short run as well as in that of a long one, and the difference of both is what counts.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import time
from typing import Any

from gradient_async import AsyncGradient

from .harness import Row, is_quick, spread
from .server import running_server

_SHORT, _LONG = 1_000, 6_000  # rows of the two runs
_BLOCK = 250
_AT_ONCE = 64
_PATH = "/small-300"


def measure(rounds: int) -> list[Row]:
    """Rows a second of Ray Data with one and two workers, and of map without Ray."""
    if importlib.util.find_spec("ray") is None:
        return []
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray: Any = importlib.import_module("ray")
    found: dict[str, list[float]] = {"map": [], "one worker": [], "two workers": []}
    short, long = (_BLOCK, 2 * _BLOCK) if is_quick() else (_SHORT, _LONG)
    with running_server() as url:
        ray.init(
            num_cpus=2,
            object_store_memory=75 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
        )
        try:
            for _ in range(rounds):
                found["map"].append((long - short) / (_map(url, long) - _map(url, short)))
                for workers, name in ((1, "one worker"), (2, "two workers")):
                    took = _ray_data(url, long, workers) - _ray_data(url, short, workers)
                    found[name].append((long - short) / took)
        finally:
            ray.shutdown()
    return [Row(column="rows a second", contender=name, value=spread(rates)) for name, rates in found.items()]


def _client(url: str) -> dict[str, Any]:
    return {"base_url": url + _PATH, "model_access_key": "any"}


def _map(url: str, rows: int) -> float:
    """Return the seconds that `map` takes for some rows."""

    async def run() -> None:
        async with AsyncGradient(**_client(url)) as client:
            prompts = (
                {"model": "m", "messages": [{"role": "user", "content": f"row {i}"}]} for i in range(rows)
            )
            async for result in client.chat.completions.map(prompts, max_concurrency=_AT_ONCE):
                result.unwrap()

    began = time.perf_counter()
    asyncio.run(run())
    return time.perf_counter() - began


def _ray_data(url: str, rows: int, workers: int) -> float:
    """Return the seconds that a dataset with the stage takes."""
    arrow: Any = importlib.import_module("pyarrow")
    data: Any = importlib.import_module("ray.data")
    stage: Any = importlib.import_module("gradient_async.ray")
    data.DataContext.get_current().enable_progress_bars = False
    table = arrow.table({"messages": [f"row {i}" for i in range(rows)]})
    dataset = stage.complete(
        data.from_arrow([table.slice(start, _BLOCK) for start in range(0, rows, _BLOCK)]),
        request="messages",
        model="m",
        client=_client(url),
        workers=workers,
        max_concurrency=_AT_ONCE,
    )
    began = time.perf_counter()
    answers = dataset.materialize()
    took = time.perf_counter() - began
    assert rows == answers.count()
    assert answers.unique("error_type") == [None]
    return took
