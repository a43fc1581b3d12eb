"""Too many open files: a limit of this process, for which calls wait as for a connection."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from client_calls import Start, create_completion, open_stream

from gradient_async import APITimeoutError, AsyncGradient, Timeout
from gradient_async.session import connector
from gradient_async.session.connector import open_socket
from gradient_async.session.files import OpenFiles, lacks_files
from gradient_async.testing import CLOSE, HOLD, completion, head, reply_json, reply_writes, serve

PROGRAM = Path(__file__).with_name("few_files.py")
REPLY = reply_json(completion("ok")).data
KEPT = reply_writes([0.02, REPLY])
CLOSED = reply_writes([0.02, REPLY, CLOSE])
LEFT = reply_writes([REPLY, 0.1, CLOSE])


@pytest.fixture
def switches(request: pytest.FixtureRequest) -> list[str]:
    """Give the options of this run to the program."""
    names = {"--uvloop": "uvloop", "--public-aiohttp": "public"}
    return [name for option, name in names.items() if request.config.getoption(option)]


async def run(kind: str, reply: Any, switches: list[str]) -> tuple[dict[str, Any], int]:
    """Run the program; return what it prints, and the number of requests that came."""
    async with serve(handler=reply) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(PROGRAM), f"{server.url}/v1", kind, *switches,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, problems = await process.communicate()
        assert (b"", 0) == (problems, process.returncode)
        return json.loads(out), len(server.requests)


@pytest.mark.parametrize(
    ("kind", "reply"),
    [
        pytest.param("many", KEPT, id="connections that are kept"),
        pytest.param("closing", CLOSED, id="connections that are closed"),
        pytest.param("session", KEPT, id="a session of the caller"),
    ],
)
async def test_calls_wait_for_a_connection(kind: str, reply: Any, switches: list[str]) -> None:
    """Forty calls where six files can be opened: all succeed, each by one request and without a retry."""
    outcome, requests = await run(kind, reply, switches)
    assert [1] * 40 == [result["attempts"] for result in outcome["results"]]
    assert (41, []) == (requests, outcome["tokens"])
    (line,) = outcome["lines"]
    assert "ulimit -n" in line


async def test_a_file_that_another_part_of_the_program_closes_is_noticed(switches: list[str]) -> None:
    """Nobody tells, so the first in the line looks from time to time."""
    outcome, requests = await run("freed", LEFT, switches)
    (result,) = outcome["results"]
    assert (1, 2, []) == (result["attempts"], requests, outcome["tokens"])
    assert 0.25 < result["took"]


@pytest.mark.parametrize("kind", ["connect", "total", "name"])
async def test_a_call_that_can_open_no_file_in_time_names_the_limit(kind: str, switches: list[str]) -> None:
    """Also where the name of the server can't be looked up for lack of files; other calls go on afterwards."""
    outcome, requests = await run(kind, LEFT, switches)
    *failures, last = outcome["results"]
    assert 3 == len(failures)
    for failure in failures:
        assert ("APITimeoutError", "too_many_files", 1) == (
            failure["error"],
            failure["code"],
            failure["attempts"],
        )
        assert (False, "total" if kind == "total" else "connect") == (failure["ambiguous"], failure["phase"])
        assert "too many open files; nothing was sent; raise `ulimit -n`" in failure["message"]
        assert 0.3 < failure["took"] < 3
    assert (1, 2, []) == (last["attempts"], requests, outcome["tokens"])


def connector_error(kind: type[aiohttp.ClientConnectorError], cause: OSError) -> aiohttp.ClientConnectorError:
    key: Any = SimpleNamespace(host="h", port=1, ssl=True)
    return kind(key, cause)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_errors_that_mean_too_many_files(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their number, wherever it stands; without a number, if no file can be opened."""
    short = OSError(number, "Too many open files")
    wrapped = aiohttp.ClientOSError("lost")
    wrapped.__cause__ = short
    connect, name = aiohttp.ClientConnectorError, aiohttp.ClientConnectorDNSError
    by_number = [short, wrapped, connector_error(connect, short), connector_error(name, short)]
    unknown = connector_error(name, socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    mixed = connector_error(connect, OSError("Multiple exceptions: ..."))
    others = [
        connector_error(connect, OSError(errno.ECONNREFUSED, "refused")),
        connector_error(aiohttp.ClientConnectorSSLError, OSError("expired")),
        OSError("lost"),
    ]
    assert [True] * 4 == [lacks_files(error) for error in by_number]
    assert [False] * 5 == [lacks_files(error) for error in (unknown, mixed, *others)]

    def full() -> socket.socket:
        raise OSError(number, "Too many open files")

    monkeypatch.setattr("socket.socket", full)
    assert [True, True, False, False, False] == [lacks_files(error) for error in (unknown, mixed, *others)]


def waiting() -> Any:
    """Progress of an attempt without time limits."""

    def wait_for_file(*, limited: bool) -> None: ...

    return SimpleNamespace(queued=0.0, lacks_files=False, wait_for_file=wait_for_file)


async def test_a_call_that_is_cancelled_in_the_line_passes_its_turn_on() -> None:
    """Whether it is cancelled while it waits, in the moment of its turn, or just before."""
    files = OpenFiles(asyncio.get_running_loop())
    progress = waiting()
    tasks = [asyncio.create_task(files.wait(progress, first=False)) for _ in range(4)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.sleep(0)
    assert 3 == len(files.line)
    files.wake()
    tasks[1].cancel()
    tasks[2].cancel()
    await asyncio.wait_for(tasks[3], 5)
    assert [True, True, True, False] == [task.cancelled() for task in tasks]
    files.wake()  # nobody waits
    assert 0 == len(files.line)


async def test_a_later_call_stands_behind() -> None:
    """A call does not take the connection for which another one waits."""
    async with (
        serve() as server,
        AsyncGradient(inference_endpoint=server.url, model_access_key="k") as client,
    ):
        await create_completion(client)
        files = OpenFiles.of(asyncio.get_running_loop())
        progress = waiting()
        order: list[str] = []

        async def wait() -> None:
            await files.wait(progress, first=True)
            order.append("first")

        async def call() -> None:
            await create_completion(client)
            order.append("second")

        first = asyncio.create_task(wait())
        await asyncio.sleep(0)
        await asyncio.gather(first, call())
        assert ["first", "second"] == order


class Files:
    """Stands between the pool and sockets: as many can be opened as a test permits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 0
        self.tried = 0
        monkeypatch.setattr(connector, "open_socket", self.open)

    def open(self, address: Any) -> socket.socket:
        self.tried += 1
        if self.left <= 0:
            raise OSError(errno.EMFILE, "Too many open files")
        self.left -= 1
        return open_socket(address)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Files:
    return Files(monkeypatch)


async def test_the_line_goes_on_as_connections_come_free(start: Start, opened: Files) -> None:
    """One connection for ten calls; none of them waits for the next look."""
    server, client = await start(delay=0.001)
    opened.left = 1
    await asyncio.gather(*(create_completion(client) for _ in range(10)))
    assert (1, 10) == (server.connections, len(server.requests))
    opened.left = 9
    held = reply_writes([head(200, {"content-type": "text/event-stream"}), HOLD])
    server.push(*[held] * 10)
    streams = [await open_stream(client) for _ in range(10)]
    assert 10 == server.connections
    late = asyncio.create_task(create_completion(client))
    await asyncio.sleep(0.15)
    assert not late.done()  # it waits without limit: connections are in use
    for stream in streams:
        await stream.aclose()
    opened.left = 1
    assert 1 == (await late).attempts


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("operation", ["create", "list"])
async def test_a_wait_that_ends_at_a_time_limit(
    start: Start, opened: Files, monkeypatch: pytest.MonkeyPatch, operation: str, *, foreign: bool
) -> None:
    """In a session of the caller the one limit covers the wait; a limit of None leaves the wait to the others."""
    session = None
    if foreign:
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=opened.open))
    server, client = await start(session=session, timeout=Timeout(connect=0.1, response=0.1), max_retries=2)
    async with AsyncExitStack() as stack:
        if session is not None:
            await stack.enter_async_context(session)
        for timeout in (None, Timeout(connect=None, response=None, total=0.2)):
            changed = client if timeout is None else client.with_options(timeout=timeout)
            with pytest.raises(APITimeoutError, match="raise `ulimit -n`") as caught:
                await (create_completion(changed) if operation == "create" else changed.models.list())
            phase = "connect" if timeout is None else "total"
            assert (phase, False, 1, "too_many_files") == (
                caught.value.phase, caught.value.ambiguous, caught.value.attempts, caught.value.code,
            )  # fmt: skip
        opened.left = 1
        await (create_completion(client) if operation == "create" else client.models.list())
        assert (1, {}) == (len(server.requests), client._core.connections.manager._buckets)


async def test_the_limit_begins_when_the_last_connection_is_closed(start: Start, opened: Files) -> None:
    """While one is in use, calls wait for it; afterwards nothing may come free."""
    _, client = await start(reply_writes([HOLD]), timeout=Timeout(connect=0.2, response=None))
    opened.left = 1
    held = asyncio.create_task(create_completion(client))
    await asyncio.sleep(0.05)
    calls = [asyncio.create_task(create_completion(client)) for _ in range(3)]
    await asyncio.sleep(0.4)
    assert [False] * 3 == [call.done() for call in calls]
    held.cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {"too_many_files"} == {error.code for error in outcomes if isinstance(error, APITimeoutError)}
    assert 3 == len(outcomes)
