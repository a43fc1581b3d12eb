"""Rows for the tests of the stage of Ray Data, and a driver that such a test starts and kills.

    python ray_rows.py ADDRESS URL FOLDER ROWS

The driver joins a cluster, and writes the answers of some rows to FOLDER/out, with a journal in FOLDER/journal.
"""

from __future__ import annotations

import asyncio
import bisect
import importlib
import json
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gradient_async.testing import Connection, Handler, Request, completion, reply_json

MAX_CONCURRENCY = 16
ANSWER = completion("Yes.")
NO = {"id": "bad_request", "message": "no"}


def connect(**options: Any) -> Any:
    """Start or join a cluster that reports to nobody and writes to no home; return Ray."""
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled", RAY_DEDUP_LOGS="0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray warns of its own dependencies
        ray: Any = importlib.import_module("ray")
        data: Any = importlib.import_module("ray.data")
        ray.init(log_to_driver=False, logging_level="error", **options)
        data.DataContext.get_current().enable_progress_bars = False
    return ray


def table(count: int, **columns: list[Any]) -> Any:
    """Make a table with the columns ``id`` and ``messages``, and others."""
    arrow: Any = importlib.import_module("pyarrow")
    return arrow.table({"id": list(range(count)), "messages": [f"row {i}" for i in range(count)], **columns})


def dataset(count: int, blocks: int = 1) -> Any:
    """Make a dataset of such rows, in some blocks."""
    data: Any = importlib.import_module("ray.data")
    rows = table(count)
    size = -(-count // blocks)
    return data.from_arrow([rows.slice(start, size) for start in range(0, count, size)])


def client(url: str) -> dict[str, Any]:
    """Return the options of a client for a server."""
    return {"base_url": f"{url}/v1", "model_access_key": "model-key"}


def asked(requests: Iterable[Request]) -> Counter[str]:
    """Count how often each prompt was sent."""
    return Counter(json.loads(request.body)["messages"][0]["content"] for request in requests)


def echo(wait: Callable[[], float] = lambda: 0.0) -> Handler:
    """Answer with the prompt, after some seconds."""

    async def answer(request: Request, connection: Connection) -> None:
        await asyncio.sleep(wait())
        prompt = json.loads(request.body)["messages"][-1]["content"]
        await reply_json(completion(prompt))(request, connection)

    return answer


def window(requests: list[Request], seconds: float) -> int:
    """Return the largest number of requests in any stretch of so many seconds."""
    times = sorted(request.received_at for request in requests)
    return max(bisect.bisect_left(times, at + seconds) - index for index, at in enumerate(times))


def main(address: str, url: str, folder: Path, count: int) -> None:
    """Write the answers of some rows."""
    connect(address=address)
    stage: Any = importlib.import_module("gradient_async.ray")
    data: Any = importlib.import_module("ray.data")
    answers = stage.complete(
        dataset(count, 8),
        request="messages",
        model="m",
        client=client(url),
        journal=folder / "journal",
        workers=2,
        batch_size=32,
        max_concurrency=MAX_CONCURRENCY,
    )
    answers.write_parquet(str(folder / "out"), mode=data.SaveMode.OVERWRITE)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
