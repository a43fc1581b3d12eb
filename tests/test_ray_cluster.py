"""The stage of Ray Data in a cluster, where workers and drivers die."""

from __future__ import annotations

import importlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from ray_rows import MAX_CONCURRENCY, NO, asked, client, dataset, echo, window

from gradient_async.testing import Quota, ThreadedServer, reply_json, serve

pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
pytestmark = pytest.mark.filterwarnings("default")  # Ray warns of its own dependencies, and leaves files open

stages: Any = importlib.import_module("gradient_async.ray")


def worker_pids(ray: Any) -> list[int]:
    """Return the processes of the stage's workers that are alive."""
    state: Any = importlib.import_module("ray._private.state")
    found = state.actors().values()
    return [
        each["Pid"] for each in found if each["State"] == "ALIVE" and "MapWorker" in each["ActorClassName"]
    ]


def kill_a_worker(ray: Any, server: ThreadedServer, *, after: int) -> threading.Thread:
    """Kill a worker after some requests; return the thread that does."""

    def kill() -> None:
        deadline = time.monotonic() + 60
        while len(server.requests) < after and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(random.choice(worker_pids(ray)), signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def test_a_worker_dies(ray: Any, tmp_path: Path) -> None:
    """5,000 rows, two workers, one rate, a journal: each row once, few asked twice, and the rate holds."""
    with serve(handler=echo(lambda: 0.1)) as server:
        killer = kill_a_worker(ray, server, after=1500)
        answers = stages.complete(
            dataset(5000, 20),
            request="messages",
            model="m",
            client=client(server.url),
            pace=stages.SharedPace("all", requests_per_minute=60 * 400),
            journal=tmp_path / "journal",
            workers=2,
            max_concurrency=64,
        ).take_all()
        killer.join()
        sent = server.requests
        assert list(range(5000)) == sorted(row["id"] for row in answers)
        assert all(row["messages"] == row["text"] for row in answers)
        twice = [prompt for prompt, times in asked(sent).items() if times > 1]
        assert len(twice) <= 64
        assert 5000 + len(twice) == len(sent)
        assert any(row["resumed"] for row in answers)
        assert window(sent, 1.0) <= 400 + 400 + 3 * 40
        assert window(sent, 5.0) <= 5 * 400 + 400 + 3 * 40


def test_a_worker_dies_without_a_journal(ray: Any) -> None:
    """Each row once; the rows that it held are asked again."""
    with serve(handler=echo(lambda: 0.05)) as server:
        killer = kill_a_worker(ray, server, after=100)
        answers = stages.complete(
            dataset(400).repartition(target_num_rows_per_block=50),
            request="messages",
            model="m",
            client=client(server.url),
            batch_size=50,
            max_concurrency=8,
        ).take_all()
        killer.join()
        assert list(range(400)) == sorted(row["id"] for row in answers)
        assert 400 < len(server.requests) <= 400 + 2 * 50


def test_the_driver_dies(ray: Any, tmp_path: Path) -> None:
    """The same program, run again, pays for what was in flight alone."""
    rows = 800
    with serve(handler=echo(lambda: 0.1)) as server:
        address = ray.get_runtime_context().gcs_address
        script = Path(__file__).with_name("ray_rows.py")
        command = [sys.executable, str(script), address, server.url, str(tmp_path), str(rows)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        with subprocess.Popen(command, env=environment) as driver:
            while len(server.requests) < rows / 2:
                assert driver.poll() is None
                time.sleep(0.05)
            driver.kill()
        subprocess.run(command, env=environment, check=True, timeout=100)
        again = len(server.requests) - rows
        assert 0 <= again <= 2 * MAX_CONCURRENCY
    parquet: Any = importlib.import_module("pyarrow.parquet")
    written = parquet.read_table(tmp_path / "out").to_pylist()
    assert list(range(rows)) == sorted(row["id"] for row in written)
    assert Counter(row["resumed"] for row in written)[True] >= rows / 2 - 2 * MAX_CONCURRENCY


def test_a_row_that_kills_its_worker_ends_the_job(ray: Any, tmp_path: Path) -> None:
    """After as many restarts as are allowed."""

    def request(row: dict[str, Any]) -> dict[str, Any]:
        if row["id"] == 3:
            with (tmp_path / "deaths").open("a") as deaths:
                deaths.write("x")
            os._exit(1)
        return {"messages": [{"role": "user", "content": "x"}]}

    with serve(handler=echo()) as server, pytest.raises(Exception, match=r"(?i)actor"):
        stages.complete(
            dataset(5), request=request, model="m", client=client(server.url), max_restarts=1
        ).take_all()
    assert "xx" == (tmp_path / "deaths").read_text()


def test_errors_of_the_stage_end_the_job(ray: Any) -> None:
    """Ray's own error tells them."""
    with serve(reply_json(NO, 400), repeat=True) as server:
        options: dict[str, Any] = {"request": "messages", "model": "m", "client": client(server.url)}
        with pytest.raises(Exception, match="BadRequestError"):
            stages.complete(dataset(3), on_error="raise", **options).take_all()
        later = dataset(3).rename_columns({"id": "text"})
        with pytest.raises(Exception, match="already: pass prefix"):
            stages.complete(later, **options).take_all()


def test_a_quota_is_shared(ray: Any) -> None:
    """Two workers at a server that refuses what is too much: no row is lost."""
    with serve(rate_limit=Quota(requests=30, per_second=30)) as server:
        answers = stages.complete(
            dataset(200, 4),
            request="messages",
            model="m",
            client=client(server.url),
            pace=stages.SharedPace("quota"),
            workers=2,
            batch_size=50,
        ).take_all()
        assert [None] == list({row["error"] for row in answers})
        assert len(server.requests) <= 1.3 * 200


def test_each_consumption_runs_the_stage(ray: Any, tmp_path: Path) -> None:
    """And pays again, unless there is a journal."""
    with serve(handler=echo()) as server:
        options: dict[str, Any] = {"request": "messages", "model": "m", "client": client(server.url)}
        paid: list[int] = []
        for journal in (None, tmp_path):
            answers = stages.complete(dataset(20), journal=journal, **options)
            for _ in "ab":
                assert 20 == len(answers.take_all())
                paid.append(len(server.requests))
    assert [20, 40, 60, 60] == paid
