"""Fuzzed replies over real HTTP: whatever a server sends, only errors of ours come out, and nothing hangs."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from gradient_async import AsyncGradient, GradientError, Limits, Timeout
from gradient_async.testing import Connection, Request, chunk, completion, head, http_chunk, serve, sse

from .mutate import mutate

__all__ = ["fuzz", "main"]

HANG = 5.0  # seconds that no call takes
PARAMS: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
CALL = [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
LOGPROBS = {"content": [{"token": "t", "logprob": -0.5, "bytes": [116], "top_logprobs": []}], "refusal": None}

STREAMS = [
    sse(chunk("Hello"), chunk(" you"), chunk(finish_reason="stop", usage=USAGE)),
    sse(chunk(tool_calls=CALL), chunk(finish_reason="tool_calls"), chunk("x", index=1, logprobs=LOGPROBS)),
    sse(chunk("a", reasoning_content="b", refusal="c"), {"error": {"message": "no", "code": 1}}),
    b": hi\r\n\r\nid: 1\nevent: error\nretry: 5\n" + sse({"message": "no"}).replace(b"\n", b"\r"),
]
BODIES = [
    json.dumps(body).encode()
    for body in (
        completion("Hello", tool_calls=CALL, logprobs=LOGPROBS),
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
STATUSES = [200] * 60 + [
    201,
    204,
    206,
    301,
    307,
    400,
    401,
    404,
    408,
    409,
    413,
    422,
    429,
    500,
    503,
    504,
    529,
    999,
    101,
    103,
]


class Mill:
    """Makes replies.

    Args:
        dice: What to choose by.
    """

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.bytes = 0

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
        wire = head(dice.choice(STATUSES), headers) + body
        return mutate(wire, dice) if dice.random() < 0.1 else wire

    async def answer(self, request: Request, connection: Connection) -> None:
        """Write one reply, in pieces or whole, and then close, reset or keep the connection."""
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


async def _await(client: AsyncGradient) -> None:
    await client.chat.completions.create(**PARAMS)


async def _models(client: AsyncGradient) -> None:
    await client.models.list()


async def _raw_reply(client: AsyncGradient) -> None:
    completions: Any = client.chat.completions
    response = await completions.with_raw_response.create(**PARAMS)
    await response.parse()


async def _chunks(client: AsyncGradient) -> None:
    async with client.chat.completions.stream(**PARAMS) as stream:
        async for _ in stream:
            assert stream.snapshot.to_json()


async def _text(client: AsyncGradient) -> None:
    async with client.chat.completions.stream(**PARAMS) as stream:
        async for text in stream.text:
            text.encode()


async def _events(client: AsyncGradient) -> None:
    async with client.chat.completions.stream(**PARAMS) as stream:
        async for _ in stream.events():
            pass


async def _raw(client: AsyncGradient) -> None:
    async with client.chat.completions.stream(**PARAMS) as stream:
        async for _ in stream.raw:
            pass


async def _choices(client: AsyncGradient) -> None:
    async with client.chat.completions.stream(n=2, **PARAMS) as stream:

        async def read(index: int) -> None:
            async for _ in stream.choice(index):
                pass

        results = await asyncio.gather(read(0), read(1), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result


async def _whole(client: AsyncGradient) -> None:
    async with client.chat.completions.stream(**PARAMS) as stream:
        (await stream.completion()).to_json()


WAYS: list[Callable[[AsyncGradient], Awaitable[None]]] = [
    _await, _models, _raw_reply, _chunks, _text, _events, _raw, _choices, _whole
]  # fmt: skip


async def fuzz(megabytes: float, seed: int, *, workers: int = 16) -> dict[str, Any]:
    """Call a server that sends fuzzed replies until it has sent so many.

    Args:
        megabytes: How many millions of bytes.
        seed: What chance begins with.
        workers: How many calls at a time.

    Returns:
        What was seen; ``faults`` is empty if all was well.
    """
    mill = Mill(random.Random(seed))
    outcomes: Counter[str] = Counter()
    faults: list[str] = []
    tasks = asyncio.all_tasks()
    async with serve(handler=mill.answer) as server:
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
            while mill.bytes < megabytes * 1e6:
                # A server's word to wait is meant for one key.
                way = WAYS[(outcomes.total() + number) % len(WAYS)]
                client = clients[number % 2].with_options(
                    model_access_key=f"sk-0123456789-{outcomes.total()}"
                )
                try:
                    async with asyncio.timeout(HANG):
                        await way(client)
                    outcomes["ok"] += 1
                except TimeoutError as error:
                    outcomes[type(error).__name__] += 1
                    if not isinstance(error, GradientError):
                        faults.append(f"{way.__name__}: hangs")
                except GradientError as error:
                    outcomes[type(error).__name__] += 1
                    str(error).encode()
                except Exception as error:  # noqa: BLE001  # just what is looked for
                    faults.append(f"{way.__name__}: {error!r}")
                server.requests.clear()

        await asyncio.gather(*(work(number) for number in range(workers)))
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
        "bytes": mill.bytes,
        "calls": outcomes.total(),
        "outcomes": dict(outcomes.most_common()),
        "faults": faults,
    }


def main(argv: list[str] | None = None) -> int:
    """Fuzz; return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument(
        "--megabytes", type=float, default=10.0, help="how much the server sends (default: 10)"
    )
    parser.add_argument("--seed", type=int, default=1, help="what chance begins with (default: 1)")
    arguments = parser.parse_args(argv)
    warnings.simplefilter("error")
    report = asyncio.run(fuzz(arguments.megabytes, arguments.seed))
    for name, value in report.items():
        print(f"  {name}: {value}")
    return 1 if report["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
