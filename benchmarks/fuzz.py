"""Sends fuzzed replies over real HTTP: no call may hang, or raise anything but the library's own errors."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from gradient_async import AsyncGradient, ChatCompletionStream, GradientError, Limits, Timeout
from gradient_async.testing import Connection, Request, chunk, completion, head, http_chunk, serve, sse

from .clients import CALL
from .soak.worker import call, drain, read_choices

_HANG = 5.0  # seconds after which a call counts as hanging
_CALLS = [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
_LOGPROBS = {
    "content": [{"token": "t", "logprob": -0.5, "bytes": [116], "top_logprobs": []}],
    "refusal": None,
}

STREAMS = [
    sse(
        chunk("Hello"),
        chunk(" you"),
        chunk(finish_reason="stop", usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}),
    ),
    sse(chunk(tool_calls=_CALLS), chunk(finish_reason="tool_calls"), chunk("x", index=1, logprobs=_LOGPROBS)),
    sse(chunk("a", reasoning_content="b", refusal="c"), {"error": {"message": "no", "code": 1}}),
    b": hi\r\n\r\nid: 1\nevent: error\nretry: 5\n" + sse({"message": "no"}).replace(b"\n", b"\r"),
]
BODIES = [
    json.dumps(body).encode()
    for body in (
        completion("Hello", tool_calls=_CALLS, logprobs=_LOGPROBS),
        {"error": {"message": "no", "type": "t", "code": "c", "param": None}},
        {"id": "too_many_requests", "message": "slow", "request_id": "r"},
        {"detail": [{"loc": ["a", 1], "msg": "m", "type": "t"}]},
        {"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "o"}]},
    )
]
HEADERS = [
    {"retry-after": "0"},
    {"retry-after-ms": "0", "x-should-retry": "true", "date": "Mon, 23 Nov 2026 12:00:00 GMT"},
    {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1700000000"},
    {"x-request-id": "r", "ratelimit-reset": "1s"},
    {"location": "https://example.com/x?y"},
    {"content-encoding": "gzip"},
    {"set-cookie": "a=b; Max-Age=1"},
]
_STATUSES = [
    *[200] * 60, 101, 103, 201, 204, 206, 301, 307,
    400, 401, 404, 408, 409, 413, 422, 429, 500, 503, 504, 529, 999,
]  # fmt: skip
# Pieces of input that often break parsers.
_TOKENS = [
    b"null", b"true", b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"1" + b"0" * 400,
    b"9223372036854775808", b'"\\ud83d"', b'"\\u0000"', b"\xff\xfe", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"[]",
    b"{}", b"[" * 500, b'{"a":' * 200, b'""', b"\r", b"\n", b"\r\n", b"\n\n", b"\x00", b"data:", b"data: [DONE]\n\n",
    b"event: error\n", b"id: \x00\n", b":", b'"choices":null,', b'"error":', b'"index":-1',
    b'"index":1000000000', b'"delta":null', b",", b"}", b"]", b'"', b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"zz\r\n",
    b"HTTP/1.1 200 OK\r\n", b"Content-Length: 5\r\n", b"\x1f\x8b\x08", b"Transfer-Encoding: chunked\r\n",
]  # fmt: skip


def mutate(data: bytes, dice: random.Random) -> bytes:
    """Change bytes as bugs, proxies and attackers do: overwrite, drop, double or move some, or insert tokens."""
    changed = bytearray(data)
    for _ in range(1 + int(dice.expovariate(0.5))):
        at = dice.randrange(len(changed) + 1)
        size = 1 + int(dice.expovariate(0.1))
        match dice.randrange(6):
            case 0:
                changed[at : at + 1] = bytes([dice.randrange(256)])
            case 1:
                del changed[at : at + size]
            case 2:
                changed[at:at] = changed[at : at + size]
            case 3:
                start = dice.randrange(len(changed) + 1)
                changed[at:at] = changed[start : start + size]
            case 4:
                changed[at:at] = dice.choice(_TOKENS)
            case _:
                changed[at : at + size] = dice.choice(_TOKENS)
    return bytes(changed)


class _FuzzedReplies:
    """The server's handler: makes fuzzed replies."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.bytes = 0  # sent so far

    def _reply(self, *, stream: bool) -> bytes:
        dice = self._dice
        body = dice.choice(STREAMS if dice.random() < (0.9 if stream else 0.2) else BODIES)
        if dice.random() < 0.9:
            body = mutate(body, dice)
        headers: dict[str, str | None] = {
            "content-type": dice.choice(["text/event-stream", "application/json", "text/html", ""])
        }
        if dice.random() < 0.2:
            headers |= dice.choice(HEADERS)
        framing = dice.random()
        if framing < 0.5:
            headers["transfer-encoding"] = "chunked"
            cuts = sorted(dice.randrange(len(body) + 1) for _ in range(dice.randrange(5)))
            pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True) if a < b]
            body = b"".join(map(http_chunk, [*pieces, b""]))
        elif framing < 0.9:
            headers["content-length"] = str(len(body) + dice.choice([0] * 20 + [-3, 3]))
        else:
            headers["connection"] = "close"
        wire = head(dice.choice(_STATUSES), headers) + body
        return mutate(wire, dice) if dice.random() < 0.1 else wire

    async def __call__(self, request: Request, connection: Connection) -> None:
        """Write a reply in one or two pieces; then close, reset or keep the connection."""
        dice = self._dice
        wire = self._reply(stream=b'"stream":true' in request.body)
        self.bytes += len(wire)
        if dice.random() < 0.3:
            cut = dice.randrange(len(wire) + 1)
            await connection.write(wire[:cut])
            await connection.sleep(0)
            wire = wire[cut:]
        await connection.write(wire)
        end = dice.random()
        if b"connection: close" in wire or end < 0.2:
            connection.close()
        elif end < 0.3:
            connection.reset()
        elif end < 0.32:
            await connection.wait_closed()


_Way: TypeAlias = Callable[[AsyncGradient], Awaitable[object]]


def _streamed(read: Callable[[ChatCompletionStream], Awaitable[object]], **params: Any) -> _Way:
    async def way(client: AsyncGradient) -> None:
        async with client.chat.completions.stream(**CALL, **params) as stream:
            await read(stream)

    return way


async def _read_chunks(stream: ChatCompletionStream) -> None:
    async for _ in stream:
        assert stream.snapshot.to_json()


async def _read_text(stream: ChatCompletionStream) -> None:
    async for text in stream.text:
        text.encode()


async def _read_whole(stream: ChatCompletionStream) -> None:
    (await stream.completion()).to_json()


async def _parse_raw(client: AsyncGradient) -> None:
    completions: Any = client.chat.completions
    await (await completions.with_raw_response.create(**CALL)).parse()


_WAYS: dict[str, _Way] = {
    "create": lambda client: call(client, CALL),
    "models": lambda client: client.models.list(),
    "raw response": _parse_raw,
    "chunks": _streamed(_read_chunks),
    "text": _streamed(_read_text),
    "events": _streamed(lambda stream: drain(stream.events())),
    "raw": _streamed(lambda stream: drain(stream.raw)),
    "choices": _streamed(read_choices, n=2),
    "completion": _streamed(_read_whole),
}


async def fuzz(megabytes: float, seed: int, *, workers: int = 16) -> dict[str, Any]:
    """Call a server that sends fuzzed replies, until it has sent ``megabytes`` million bytes.

    Returns:
        A report, whose ``faults`` are empty if every call behaved.
    """
    replies = _FuzzedReplies(random.Random(seed))
    outcomes: Counter[str] = Counter()
    faults: list[str] = []
    tasks = asyncio.all_tasks()
    async with serve(handler=replies) as server:
        clients = [
            AsyncGradient(
                inference_endpoint=server.url,
                model_access_key="sk-0123456789-secret",
                max_retries=0,
                timeout=Timeout(connect=5, first_token=0.3, idle=0.3, response=0.3),
                limits=Limits(error_body_seconds=0.1, event_bytes=100_000),
                strict=value,
            )
            for value in (False, True)
        ]

        async def work(number: int) -> None:
            while replies.bytes < megabytes * 1e6:
                name = [*_WAYS][(outcomes.total() + number) % len(_WAYS)]
                # Each call has its own key: the client obeys `Retry-After` for all calls of a key.
                client = clients[number % 2].with_options(
                    model_access_key=f"sk-0123456789-{outcomes.total()}"
                )
                outcome = "ok"
                try:
                    async with asyncio.timeout(_HANG):
                        await _WAYS[name](client)
                except GradientError as error:
                    outcome = type(error).__name__
                    str(error).encode()
                except Exception as error:  # noqa: BLE001  # no other error may escape
                    outcome = "fault"
                    faults.append(f"{name}: {'hangs' if type(error) is TimeoutError else repr(error)}")
                outcomes[outcome] += 1
                server.requests.clear()

        await asyncio.gather(*map(work, range(workers)))
        for client in clients:
            await client.close()
        try:
            await server.wait_closed_connections(timeout=2)
        except TimeoutError as error:
            faults.append(str(error))
    left = asyncio.all_tasks() - tasks
    if left:
        faults.append(f"tasks left: {left}")
    return {
        "bytes": replies.bytes,
        "calls": outcomes.total(),
        "outcomes": dict(outcomes.most_common()),
        "faults": faults,
    }


def main(argv: list[str] | None = None) -> int:
    """Fuzz; return 1 if there were faults."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument(
        "--megabytes", type=float, default=10.0, help="how much the server sends (default: 10)"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the random numbers (default: 1)")
    arguments = parser.parse_args(argv)
    warnings.simplefilter("error")
    report = asyncio.run(fuzz(arguments.megabytes, arguments.seed))
    for name, value in report.items():
        print(f"  {name}: {value}")
    return 1 if report["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
