"""`map` with a journal: it goes on where it stopped, however it stopped."""

from __future__ import annotations

import asyncio
import collections
import errno
import gc
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client_calls import Start
from many_servers import Echo, ask_for, prompts

from gradient_async import (
    BadRequestError,
    FanOutError,
    Gradient,
    InvalidRequestError,
    Journal,
    JournalError,
    MapResult,
    MapResults,
)
from gradient_async.testing import Connection, Request, completion, reply_bytes, reply_json, serve

posix = pytest.mark.skipif(sys.platform == "win32", reason="no such signals and locks there")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


@pytest.fixture
def foreign(path: Path) -> Iterator[Path]:
    """A file of something else, which has to stay as it is."""
    path.write_text("my notes", "utf-8")
    yield path
    assert "my notes" == path.read_text("utf-8")


def rows_in(path: Path) -> list[dict[str, Any]]:
    """Return the results in a file, which have to be whole lines."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def summary(results: list[MapResult]) -> list[tuple[Any, str | None, bool]]:
    """Return key, text or class of the error, and whether it is from an earlier run."""
    return [
        (
            result.key,
            type(result.error).__name__ if result.error else result.unwrap().choices[0].message.content,
            result.resumed,
        )
        for result in results
    ]


async def all_of(results: MapResults) -> list[MapResult]:
    return [result async for result in results]


def keyed(texts: str) -> list[tuple[str, dict[str, Any]]]:
    return [(text, ask_for(text)) for text in texts]


@pytest.mark.parametrize("ordered", [False, True], ids=["as they finish", "ordered"])
@pytest.mark.parametrize("stream", [False, True], ids=["awaited", "streamed"])
async def test_it_goes_on_where_it_stopped(start: Start, path: Path, stream: bool, ordered: bool) -> None:
    """Whatever the order of the rows, and whether or not they are streamed this time."""
    server, client = await start(handler=Echo())

    async def run(texts: str, *, stream: bool) -> list[tuple[Any, str | None, bool]]:
        results = client.chat.completions.map(
            keyed(texts), journal=path, stream=stream, ordered=ordered, max_concurrency=3
        )
        found = await all_of(results)
        assert len(texts) == len(found)
        assert not ordered or [*range(len(texts))] == [result.index for result in found]
        return sorted(summary(found))

    assert [("a", "a", False), ("b", "b", False), ("c", "c", False)] == await run("abc", stream=stream)
    assert [("a", "a", True), ("b", "b", True), ("c", "c", True), ("d", "d", False)] == await run(
        "cdab", stream=not stream
    )
    assert [("b", "b", True)] == await run("b", stream=stream)
    assert 4 == len(server.requests) == len(rows_in(path))
    assert {"a", "b", "c", "d"} == {row["custom_id"] for row in rows_in(path)}


async def test_a_resumed_result_is_what_it_was(start: Start, path: Path) -> None:
    """With all fields of the server."""
    sent = completion("Hi", citations=["x"])
    _, client = await start(reply_json(sent))
    (before,) = await all_of(client.chat.completions.map([("k", ask_for("0"))], journal=path))
    (after,) = await all_of(client.chat.completions.map([("k", ask_for("0"))], journal=path))
    assert sent == rows_in(path)[0]["response"]["body"] == after.unwrap().body
    assert before.unwrap() == after.unwrap()
    assert (False, True) == (before.resumed, after.resumed)
    assert (before.index, before.key, before.request) == (after.index, after.key, after.request)


async def test_parameters_of_all_requests_count(start: Start, path: Path) -> None:
    """A changed default is another question; how it is sent is not a part of it."""
    server, client = await start(handler=Echo())
    calls: list[tuple[dict[str, Any], bool]] = [
        ({"temperature": 0.5}, False),
        ({"temperature": 0.5, "timeout": 5, "extra_headers": {"x": "1"}}, True),
        ({"temperature": 0.6}, False),
        ({"temperature": 0.6, "stream": True}, True),
    ]
    for defaults, resumed in calls:
        found = await all_of(client.chat.completions.map(prompts(2), journal=path, **defaults))
        assert [resumed] * 2 == [result.resumed for result in found]
    assert 4 == len(server.requests) == len(rows_in(path))


async def test_a_changed_row_is_asked_again(start: Start, path: Path) -> None:
    """The file then has the new result of its key, and the old one is kept beside."""
    server, client = await start(handler=Echo())
    await all_of(client.chat.completions.map(keyed("abc"), journal=path))
    changed = [("a", ask_for("a")), ("b", ask_for("new")), ("c", ask_for("c"))]
    for resumed in (False, True):
        found = await all_of(client.chat.completions.map(changed, journal=path, ordered=True))
        assert [("a", "a", True), ("b", "new", resumed), ("c", "c", True)] == summary(found)
        answers = {
            row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"]
            for row in rows_in(path)
        }
        assert {"a": "a", "b": "new", "c": "c"} == answers
        assert 3 == len(rows_in(path))
    assert ["b"] == [row["custom_id"] for row in rows_in(path.with_name("results.jsonl.superseded"))]
    assert 4 == len(server.requests)


async def test_equal_rows_have_a_result_each(start: Start, path: Path) -> None:
    server, client = await start(handler=Echo())
    for count, sent in ((3, 3), (5, 5), (2, 5)):
        found = await all_of(client.chat.completions.map([ask_for("x")] * count, journal=path))
        assert count == len(found)
        assert sent == len(server.requests) == len(rows_in(path))


async def test_errors_are_asked_again_unless_the_request_is_at_fault(start: Start, path: Path) -> None:
    slow, no = {"error": {"message": "not now"}}, {"error": {"message": "no"}}
    special = {"a": reply_json(slow, 500), "b": reply_json(no, 400)}
    server, client = await start(handler=Echo(special))
    rows: list[Any] = [*keyed("ab"), ("c", ask_for("c", temperature=9))]
    kinds = ["InternalServerError", "BadRequestError", "InvalidRequestError"]
    for resumed in (False, True):
        found = await all_of(client.chat.completions.map(rows, journal=path, ordered=True))
        assert [*zip("abc", kinds, [False, resumed, False], strict=True)] == summary(found)
        assert [*kinds] == sorted((row["error"]["type"] for row in rows_in(path)), key=kinds.index)
    assert 3 == len(server.requests)
    with Journal(path, retry_errors=True) as journal:
        assert 3 == journal.errors
        found = await all_of(client.chat.completions.map(rows[:2], journal=journal))
    assert [False, False] == [result.resumed for result in found]
    assert 3 == len(rows_in(path))


async def test_the_first_error_may_end_it(start: Start, path: Path) -> None:
    """What came before is in the file, also the error; of a request at fault it is raised at once the next time."""
    server, client = await start(handler=Echo({"b": reply_json({"error": {"message": "no"}}, 400)}))
    for sent in (2, 2):
        results = client.chat.completions.map(keyed("abc"), journal=path, on_error="raise", max_concurrency=1)
        found: list[MapResult] = []
        with pytest.raises(FanOutError) as caught:
            async for result in results:
                found.append(result)  # noqa: PERF401  # the error comes after
        assert ["a"] == [result.key for result in found]
        assert isinstance(caught.value.errors[1], BadRequestError)
        assert sent == len(server.requests) == len(rows_in(path))


async def test_a_result_is_in_the_file_before_the_next_request(start: Start, path: Path) -> None:
    """Also if nobody reads the results."""
    in_file: list[int] = []

    async def handler(request: Request, connection: Connection) -> None:
        in_file.append(len(rows_in(path)))
        await reply_json(completion("x"))(request, connection)

    _, client = await start(handler=handler)
    async with client.chat.completions.map(
        prompts(20), journal=path, max_concurrency=1, window=20
    ) as results:
        await anext(results)
        while len(in_file) < 20:  # noqa: ASYNC110  # the server is in this loop as well
            await asyncio.sleep(0.001)
    assert [*range(20)] == in_file


async def test_iterables_in_a_request_are_read_once(start: Start, path: Path) -> None:
    server, client = await start(handler=Echo())

    def rows() -> Iterator[dict[str, Any]]:
        yield {"model": "m", "messages": ({"role": "user", "content": text} for text in "ab")}

    for resumed in (False, True):
        (found,) = await all_of(client.chat.completions.map(rows(), journal=path))
        assert (None, "b", resumed) == summary([found])[0]
    assert ["a", "b"] == [message["content"] for message in server.requests[0].json["messages"]]


async def test_what_has_no_json_is_an_error_of_its_row(start: Start, path: Path) -> None:
    """It is in the file under its key; without a key that can be written, a later run could not replace it."""
    server, client = await start(handler=Echo())
    rows: list[Any] = [
        (object(), ask_for("0")),
        ("\ud800", ask_for("1")),
        ask_for("2", seed=object()),
        17,
        ("a", ask_for("4", seed=object())),
        ("b", 17),
        (("c", 1), ask_for("6")),
    ]
    for resumed in (False, True):
        found = await all_of(client.chat.completions.map(rows, journal=path, ordered=True))
        assert [InvalidRequestError] * 6 == [type(result.error) for result in found[:6]]
        assert (("c", 1), "6", resumed) == summary(found)[6]
        assert [["c", 1], "a", "b"] == sorted((row["custom_id"] for row in rows_in(path)), key=str)
    assert 1 == len(server.requests)


async def test_text_of_the_server_is_always_written(start: Start, path: Path) -> None:
    """However odd it is: half a surrogate pair, numbers without end, other types than documented."""
    odd = b'{"error":{"message":"a\\ud800b","code":"\\udc00","type":["x"],"param":1e999}}'
    whole = b'{"id":"\\ud800","choices":[{"index":0,"message":{"content":"a\\ud800b","x":NaN},"finish_reason":"stop"}]}\n'
    _, client = await start(
        reply_bytes(odd, 500), reply_bytes(odd, 400), reply_bytes(whole, 200), reply_bytes(odd, 200)
    )
    found = await all_of(client.chat.completions.map(keyed("abcd"), journal=path, max_concurrency=1))
    assert 4 == len(found) == len(rows_in(path))
    again = await all_of(client.chat.completions.map(keyed("bc"), journal=path, ordered=True))
    assert [True, True] == [result.resumed for result in again]
    assert str(found[1].error) == str(again[0].error)
    assert found[2].unwrap() == again[1].unwrap()


# Leaving


async def test_left_by_break_it_can_begin_again_at_once(start: Start, path: Path) -> None:
    _, client = await start(handler=Echo(pause=0.01))
    for _ in range(3):
        async for result in client.chat.completions.map(prompts(30), journal=path, max_concurrency=3):
            if not result.resumed:
                break
    found = await all_of(client.chat.completions.map(prompts(30), journal=path))
    assert 3 <= sum(result.resumed for result in found)
    assert 30 == len(found) == len(rows_in(path))


@pytest.mark.parametrize("way", ["timeout", "wait_for"])
async def test_left_by_a_timeout_it_can_begin_again_at_once(start: Start, path: Path, way: str) -> None:
    """Before the task waits for anything else."""
    server, client = await start(handler=Echo(seconds={"3": 60}))

    loop = asyncio.get_running_loop()

    async def read(limit: asyncio.Timeout | None = None) -> None:
        left = 29
        async for _ in client.chat.completions.map(prompts(30), journal=path, max_concurrency=3):
            left -= 1
            if not left and limit is not None:
                limit.reschedule(loop.time() + 0.05)

    for _ in range(2):
        with pytest.raises(TimeoutError):
            if way == "wait_for":
                await asyncio.wait_for(read(), 3)  # so that all others are answered on a busy machine, too
            else:
                async with asyncio.timeout(30) as limit:
                    await read(limit)
    Journal(path).close()
    assert 31 == len(server.requests)
    assert 29 == len(rows_in(path))


async def test_without_a_reader_the_file_is_free(start: Start, path: Path) -> None:
    """Whether the results are dropped or closed before they are read."""
    _, client = await start(handler=Echo())
    results = client.chat.completions.map(prompts(1), journal=path)
    del results
    gc.collect()
    async with client.chat.completions.map(prompts(1), journal=path):
        pass
    await client.chat.completions.map(prompts(1), journal=path).aclose()
    Journal(path).close()
    nothing: Any = None
    with pytest.raises(TypeError, match="iterable"):
        client.chat.completions.map(nothing, journal=path)
    Journal(path).close()


async def test_drained_it_goes_on_later(start: Start, path: Path) -> None:
    server, client = await start(handler=Echo(pause=0.005))
    results = client.chat.completions.map(prompts(50), journal=path, max_concurrency=4)
    found: list[MapResult] = []
    async for result in results:
        found.append(result)
        if len(found) == 10:
            results.drain()
    assert 10 <= len(found) == len(rows_in(path)) == len(server.requests) < 50
    again = await all_of(client.chat.completions.map(prompts(50), journal=path))
    assert len(found) == sum(result.resumed for result in again)
    assert 50 == len(server.requests)


async def test_several_maps_may_use_one_journal(start: Start, path: Path) -> None:
    """At once and one after another; the user closes it."""
    server, client = await start(handler=Echo())
    with Journal(path) as journal:
        both = [client.chat.completions.map(keyed(texts), journal=journal) for texts in ("abc", "def")]
        await asyncio.gather(*map(all_of, both))
        found = await all_of(client.chat.completions.map(keyed("abcdefg"), journal=journal))
        assert 6 == sum(result.resumed for result in found)
        with pytest.raises(JournalError, match="another run is writing"):
            client.chat.completions.map(keyed("a"), journal=path)
    assert 7 == len(server.requests) == len(rows_in(path))
    with pytest.raises(JournalError, match="has been closed"):
        await all_of(client.chat.completions.map(keyed("a"), journal=journal))


# What goes wrong


@pytest.mark.parametrize("ordered", [False, True], ids=["as they finish", "ordered"])
async def test_a_full_disk_is_told_after_what_was_answered(
    start: Start, path: Path, monkeypatch: pytest.MonkeyPatch, ordered: bool
) -> None:
    """Requests in flight are paid for, and come before the error; no other is sent."""
    server, client = await start(handler=Echo(pause=0.01))
    write = os.write
    results = client.chat.completions.map(prompts(100), journal=path, max_concurrency=4, ordered=ordered)

    def full(file: int, data: bytes) -> int:
        if data.startswith(b'{"id"') and len(server.requests) > 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data)

    monkeypatch.setattr(os, "write", full)
    found: list[MapResult] = []
    with pytest.raises(JournalError, match=r"results\.jsonl: No space left on device; make room") as caught:
        async for result in results:
            found.append(result)  # noqa: PERF401  # the error comes after
    assert str(path) == caught.value.path
    assert len(server.requests) == len(found)
    assert 9 <= len(found) <= 16
    assert all(result.error is None for result in found)
    monkeypatch.undo()
    before = len(rows_in(path))
    assert before < len(found)
    again = await all_of(client.chat.completions.map(prompts(100), journal=path))
    assert before == sum(result.resumed for result in again)
    assert 100 == len(again) == len(rows_in(path))


async def test_a_file_that_cannot_be_read_ends_it(
    start: Start, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row has no result, and might be paid for twice."""
    server, client = await start(handler=Echo())
    await all_of(client.chat.completions.map(prompts(3), journal=path))

    def fail(*_: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    results = client.chat.completions.map(prompts(3), journal=path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "lseek", fail)
        with pytest.raises(JournalError, match="Input/output error"):
            await all_of(results)
    assert 3 == len(server.requests)


async def test_what_does_not_reach_the_disk_is_told_at_the_end(
    start: Start, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, client = await start(handler=Echo())

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    found: list[MapResult] = []
    with pytest.raises(JournalError, match="Input/output error"):
        async for result in client.chat.completions.map(prompts(3), journal=path):
            found.append(result)  # noqa: PERF401  # the error comes after
    assert 3 == len(found)


async def test_a_foreign_file_is_refused_at_the_call(start: Start, foreign: Path) -> None:
    server, client = await start(handler=Echo())
    with pytest.raises(JournalError, match=r"results\.jsonl:1 is not a result of map"):
        client.chat.completions.map(prompts(1), journal=foreign)
    assert not server.requests


def test_without_asyncio(path: Path) -> None:
    with serve(handler=(echo := Echo())) as server:
        client = Gradient(base_url=server.url, model_access_key="k-0123456789")
        for _ in range(10):
            for _ in client.chat.completions.map(prompts(5), journal=path, max_concurrency=1):
                break
        path.unlink()
        for resumed in (False, True):
            found = [*client.chat.completions.map(keyed("ab"), journal=path)]
            assert [resumed] * 2 == [result.resumed for result in found]
        assert ["a", "b"] == sorted(prompt for prompt in echo.prompts if prompt in {"a", "b"})


# Killed

_PROGRAM = textwrap.dedent(
    """
    import asyncio, sys
    from gradient_async import AsyncGradient

    url, path, count, at_once, stream = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "1"

    async def main():
        client = AsyncGradient(base_url=url, model_access_key="k-0123456789", max_retries=0)
        rows = (
            (f"id-{number}" if number % 2 else None, {"messages": [{"role": "user", "content": str(number)}]})
            for number in range(count)
        )
        async with client:
            done = 0
            async for result in client.chat.completions.map(
                rows, journal=path, model="m", max_concurrency=at_once, stream=stream
            ):
                result.unwrap()
                done += 1
            assert done == count

    asyncio.run(main())
    """
)


@posix
@pytest.mark.parametrize("stream", [False, True], ids=["awaited", "streamed"])
def test_killed_at_random_each_result_is_in_the_file_once(path: Path, stream: bool) -> None:
    """2,000 rows, killed five times: nothing that was finished is asked again, and the file has each result once."""
    dice = random.Random(5 + stream)
    count, at_once, kills = 2000, 16, 0
    echo = Echo(pause=0.002)
    with serve(handler=echo) as server:
        command = [
            sys.executable,
            "-c",
            _PROGRAM,
            server.url,
            str(path),
            str(count),
            str(at_once),
            str(int(stream)),
        ]
        finished: set[str] = set()
        for run in range(6):
            before = len(server.requests)
            process = subprocess.Popen(command)
            if run < 5:
                aim = before + dice.randrange(1, 300)
                deadline = time.monotonic() + 60
                while len(server.requests) < aim and process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.001)
                process.kill()
                kills += process.wait() == -signal.SIGKILL
                asked = {request.json["messages"][0]["content"] for request in server.requests[before:]}
            else:
                assert 0 == process.wait(120)
                asked = {request.json["messages"][0]["content"] for request in server.requests[before:]}
            assert not asked & finished
            lines = path.read_bytes().split(b"\n")[:-1]  # the last may be cut
            finished = {
                json.loads(line)["response"]["body"]["choices"][0]["message"]["content"] for line in lines
            }
            assert len(lines) == len(finished)
        assert 5 == kills
        times = collections.Counter(request.json["messages"][0]["content"] for request in server.requests)
    assert {*map(str, range(count))} == finished == {*times}
    assert count == len(rows_in(path))
    assert sum(times.values()) - count <= kills * at_once
