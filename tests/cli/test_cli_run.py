"""How commands run coroutines, and what Ctrl-C does to them."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import Any

import pytest

from gradient_async.cli.command import run


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def test_the_first_two_cancel() -> None:
    """Nothing is raised in the middle of the coroutine, nor while the loop is closed."""
    seen: list[str] = []

    async def work() -> None:
        interrupt()
        interrupt()
        seen.append("goes on until it waits")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            seen.append("ends as it should")

    with pytest.raises(KeyboardInterrupt):
        run(work())
    assert ["goes on until it waits", "ends as it should"] == seen
    assert signal.default_int_handler is signal.getsignal(signal.SIGINT)


def test_the_third_interrupts_anything() -> None:
    async def work() -> None:
        for _ in range(3):
            interrupt()
        pytest.fail("the third does not interrupt")

    with pytest.raises(KeyboardInterrupt):
        run(work())


def test_one_that_comes_too_late_changes_nothing() -> None:
    async def last() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            interrupt()

    async def work() -> str:
        asyncio.get_running_loop()._last = asyncio.create_task(last())  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        return "done"

    assert "done" == run(work())


def test_one_that_comes_before_the_coroutine_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Any] = []

    async def work() -> None:
        begun.append(1)

    def early(*_arguments: Any, **_options: Any) -> None:
        interrupt()

    monkeypatch.setattr(asyncio, "Runner", early)
    with pytest.raises(KeyboardInterrupt):
        run(work())
    assert [] == begun


def test_a_cancellation_of_its_own() -> None:
    async def work() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run(work())


def test_outside_the_main_thread() -> None:
    """Python calls handlers of signals in the main thread only."""
    found: list[str] = []

    async def work() -> str:
        return "done"

    thread = threading.Thread(target=lambda: found.append(run(work())))
    thread.start()
    thread.join()
    assert ["done"] == found
