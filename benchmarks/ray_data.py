"""Rows a second of the stage of Ray Data, with one worker and with two, beside `map` without Ray.

It needs the extra ``ray``. The server is a process of its own. The first third of the rows does not count, so that all
workers have started.
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

_ROWS = 15_000
_BLOCK = 250
_AT_ONCE = 64
_PATH = "/small-300"


def measure(rounds: int) -> list[Row]:
    """Rows a second of Ray Data with one and two workers, and of map without Ray."""
    if importlib.util.find_spec("ray") is None:
        return []
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled")
    ray: Any = importlib.import_module("ray")
    found: dict[str, list[float]] = {"map": [], "one worker": [], "two workers": []}
    rows = 6 * _BLOCK if is_quick() else _ROWS
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
                found["map"].append(asyncio.run(_map(url, rows)))
                for workers, name in ((1, "one worker"), (2, "two workers")):
                    found[name].append(_ray_data(url, rows, workers))
        finally:
            ray.shutdown()
    return [Row(column="rows a second", contender=name, value=spread(rates)) for name, rates in found.items()]


def _client(url: str) -> dict[str, Any]:
    return {"base_url": url + _PATH, "model_access_key": "any"}


async def _map(url: str, rows: int) -> float:
    """Return the rows a second of `map`."""
    ends: list[float] = []
    async with AsyncGradient(**_client(url)) as client:
        prompts = ({"model": "m", "messages": [{"role": "user", "content": f"row {i}"}]} for i in range(rows))
        async for result in client.chat.completions.map(prompts, max_concurrency=_AT_ONCE):
            result.unwrap()
            ends.append(time.perf_counter())
    return _rate(ends)


def _ray_data(url: str, rows: int, workers: int) -> float:
    """Return the rows a second of a dataset with the stage."""
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
    ends: list[float] = []
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        assert block.num_rows == block["error"].null_count
        ends += [time.perf_counter()] * block.num_rows
    assert rows == len(ends)
    return _rate(ends)


def _rate(ends: list[float]) -> float:
    """Return the rows a second, without the first third of the rows."""
    first = len(ends) // 3
    return (len(ends) - 1 - first) / (ends[-1] - ends[first])
