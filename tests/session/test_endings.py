"""Nothing of a call outlives it, however it ends: by counting references alone, without the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
import types
import warnings
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp
import pytest
import uvloop
from cancellation import CANCEL_MOMENTS, CancelledAwait, CancelMoment, leaked_objects, without_collector
from endings import ANSWER, ENDINGS, PROMPT, Ending

from gradient_async import AsyncGradient
from gradient_async.testing import Server, ThreadedServer, serve

TABLE = pytest.mark.parametrize("name", ENDINGS)


@pytest.fixture(autouse=True)
def _no_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test ask a name server."""
    ask = socket.getaddrinfo

    def look_up(host: Any, *arguments: Any, **options: Any) -> Any:
        if str(host).endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return ask(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


# What is left


def _label(found: Any) -> str:
    if isinstance(found, types.FrameType):
        return f"frame of {found.f_code.co_qualname}"
    if isinstance(found, types.CoroutineType):
        return f"coroutine {found.cr_code.co_qualname}"
    return type(found).__qualname__


def _is_server(found: Any) -> bool:
    """Whether an object belongs to the server, which runs in the same process."""
    code = getattr(found, "f_code", None) or getattr(found, "cr_code", None)
    name = type(found).__module__ if code is None else code.co_filename
    return "testing" in name


def _holders() -> list[str]:
    """Return what refers to the messages of a request, to its body or to the text of an answer."""
    body, found = PROMPT.encode(), list[str]()
    everything = gc.get_objects()
    for item in everything:
        if item is everything or _is_server(item) or _label(item) == "managedbuffer":
            continue  # the last is the buffer of the client's connections, with what they received last
        for referent in gc.get_referents(item):
            if isinstance(referent, str):
                ours = any(part in referent and referent is not part for part in (PROMPT, ANSWER))
            else:
                ours = isinstance(referent, (bytes, bytearray)) and body in referent
            if ours:
                found.append(_label(item))
                break
    return found


def _cycles(*, ours: bool) -> list[str]:
    """Return the exceptions, frames, coroutines and objects of the library and of aiohttp that are garbage.

    Args:
        ours: Leave out the objects of aiohttp.
    """
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    kinds = (BaseException, types.FrameType, types.CoroutineType)
    found: list[str] = []
    for item in gc.garbage:
        room = type(item).__module__.partition(".")[0]
        if (room == "aiohttp" and ours) or _is_server(item):
            continue
        if isinstance(item, kinds) or room in {"aiohttp", "gradient_async"}:
            found.append(_label(item))
    gc.garbage.clear()
    return found


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def _silent(*, warns: bool | None) -> Generator[None]:
    """Expect no line from the loggers of asyncio and aiohttp, and no warning; warnings are errors, as with ``-W error``.

    Args:
        warns: Whether open streams are dropped, of which each warns; None if they may be.
    """
    handler, raised = _Lines(), list[str]()

    def note(unraisable: Any) -> None:
        raised.append(f"{unraisable.exc_value!r}")

    loggers = [logging.getLogger(name) for name in ("asyncio", "aiohttp")]
    hook, sys.unraisablehook = sys.unraisablehook, note
    for logger in loggers:
        logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        sys.unraisablehook = hook
        for logger in loggers:
            logger.removeHandler(handler)
    assert [] == handler.lines
    assert warns in {None, bool(raised)}, raised
    assert all("was dropped before its end" in text for text in raised)


def _under_uvloop() -> bool:
    """Whether uvloop runs, whose transports form cycles with their protocol and the context in which they were made."""
    try:
        return isinstance(asyncio.get_running_loop(), uvloop.Loop)
    except RuntimeError:
        return False


def _expect_nothing(*, ours: bool = False) -> None:
    assert {} == leaked_objects()
    assert [] == _holders()
    found = _cycles(ours=ours)
    assert [] == found or _under_uvloop(), found


@contextmanager
def _watched(ending: Ending) -> Generator[None]:
    """Turn the garbage collector off, and look at nothing that was there before; see `_silent`."""
    with without_collector(), _silent(warns=ending.warns):
        gc.freeze()
        yield


# Calls


def _make_client(ending: Ending, server: Server | ThreadedServer, **options: Any) -> AsyncGradient:
    arguments: dict[str, Any] = {"base_url": server.url, "model_access_key": "k", "max_retries": 0}
    arguments |= ending.options | options
    if arguments["base_url"] == "https":
        arguments["base_url"] = server.url.replace("http:", "https:")
    return AsyncGradient(**arguments)


async def _make_call(ending: Ending, client: AsyncGradient, kinds: list[type[BaseException] | None]) -> None:
    try:
        await ending.work(client)
    except BaseException as error:  # noqa: BLE001  # the table says which
        kinds.append(type(error))
    else:
        kinds.append(None)


async def _settle(server: Server) -> None:
    """Wait until sockets are closed and callbacks have run, and let the server forget the requests."""
    for _ in range(5):
        await asyncio.sleep(0.001)
    server.requests.clear()
    server._service.script.clear()


def _expect_error(ending: Ending, kinds: list[type[BaseException] | None]) -> None:
    [kind] = kinds
    assert kind is ending.error or (kind and ending.error and issubclass(kind, ending.error)), kind


@asynccontextmanager
async def _own_session(ending: Ending) -> AsyncGenerator[dict[str, Any]]:
    async with aiohttp.ClientSession(trust_env=ending.options.get("trust_env", False)) as session:
        yield {"session": session, "trust_env": False}


@TABLE
async def test_nothing_outlives_the_call(name: str) -> None:
    """With the client still there; its connections are idle or closed."""
    ending = ENDINGS[name]
    kinds: list[type[BaseException] | None] = []
    async with serve(*ending.replies) as server:
        client = _make_client(ending, server)
        with _watched(ending):
            await asyncio.wait([asyncio.create_task(_make_call(ending, client, kinds))])
            await _settle(server)
            _expect_nothing()
        await client.close()
    _expect_error(ending, kinds)


@TABLE
async def test_nothing_outlives_a_client_that_is_never_closed(name: str) -> None:
    """One client a request, dropped with it: its connections close at once, and nobody hears of it."""
    ending = ENDINGS[name]
    async with serve() as server:
        with _watched(ending):
            for _ in range(2):
                kinds: list[type[BaseException] | None] = []
                server.push(*ending.replies)
                await asyncio.wait(
                    [asyncio.create_task(_make_call(ending, _make_client(ending, server), kinds))]
                )
                await _settle(server)
                _expect_error(ending, kinds)
            _expect_nothing()
        await server.wait_closed_connections()


@TABLE
def test_nothing_outlives_the_event_loop(name: str) -> None:
    """With the client still there, and never closed."""
    ending = ENDINGS[name]
    kinds: list[type[BaseException] | None] = []
    with serve(*ending.replies) as server:
        client = _make_client(ending, server)
        with _watched(ending):
            asyncio.run(_make_call(ending, client, kinds))
            server.requests.clear()
            _expect_nothing()
            del client
            _expect_nothing()
    _expect_error(ending, kinds)


@TABLE
async def test_nothing_outlives_the_call_in_a_session_of_the_callers_own(name: str) -> None:
    """In such a session aiohttp leaves a cycle of its own: a reply whose head arrives as its request is cancelled."""
    ending = ENDINGS[name]
    kinds: list[type[BaseException] | None] = []
    async with serve(*ending.replies) as server, _own_session(ending) as own:
        client = _make_client(ending, server, **own)
        with _watched(ending):
            await asyncio.wait([asyncio.create_task(_make_call(ending, client, kinds))])
            await _settle(server)
            _expect_nothing(ours=True)
    _expect_error(ending, kinds)


WALKED = [
    "success",
    "500 to each attempt",
    "half a body",
    "interrupted, read as events",
    "map: errors collected",
]


@pytest.mark.parametrize("how", CANCEL_MOMENTS)
@pytest.mark.parametrize("name", WALKED)
async def test_nothing_outlives_a_call_cancelled_at_any_await(name: str, how: CancelMoment) -> None:
    """At each in turn, until the call ends by itself."""
    stop = 0
    while True:
        stop += 1
        walks: list[CancelledAwait] = []

        async def work(client: AsyncGradient, walks: list[CancelledAwait] = walks, stop: int = stop) -> None:
            async def run() -> None:
                await ENDINGS[name].work(client)

            walks.append(CancelledAwait(run(), stop, how))
            await walks[0]

        ending = ENDINGS[name]._replace(work=work, error=asyncio.CancelledError, warns=None)
        kinds: list[type[BaseException] | None] = []
        async with serve(*ending.replies) as server:
            with _watched(ending):
                client = _make_client(ending, server)
                await asyncio.wait([asyncio.create_task(_make_call(ending, client, kinds))])
                steps = walks.pop().steps
                await _settle(server)
                _expect_nothing()
                del client
        if steps < stop:
            break
        _expect_error(ending, kinds)
    assert stop > 1
