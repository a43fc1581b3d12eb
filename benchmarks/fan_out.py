"""n choices at once: CPU and time for each choice, against n tasks of one's own and other clients.

Each choice is a stream of 50 tokens. "tasks" awaits n streams of this library's client in n tasks, "aiohttp" has no
client library at all, "openai" does the same with that client and a semaphore, as its users write it. Time is
until the last choice is whole.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from typing import Any

from .contest import medians, race
from .server import running_server

TOKENS = 50
SIZES = (1, 8, 64, 512)
CONTENDERS = ("fan_out", "tasks", "aiohttp", "openai")
_MESSAGES: list[Any] = [{"role": "user", "content": "Hello"}]
_LIMIT = 1000
_MOST = 2048  # choices in all, of a measurement


async def choices(contender: str, *, url: str, n: int, times: int) -> dict[str, float]:
    """Get n choices, so many times."""
    work, close = await _make(contender, url)
    assert n == await work(n)
    await work(n)  # connections are open now
    cpu, clock = time.process_time(), time.perf_counter()
    for _ in range(times):
        assert n == await work(n)
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    await close()
    return {"cpu_us": cpu / times / n * 1e6, "ms": clock / times * 1e3}


async def _make(contender: str, url: str) -> Any:
    if contender in {"fan_out", "tasks"}:
        return _ours(url, alone=contender == "tasks")
    return _aiohttp(url) if contender == "aiohttp" else _openai(url)


def _ours(url: str, *, alone: bool) -> Any:
    from gradient_async import AsyncGradient  # noqa: PLC0415  # loaded by who takes part only

    client = AsyncGradient(base_url=url, model_access_key="any")

    async def fan_out(n: int) -> int:
        fan = client.chat.completions.fan_out(n=n, model="m", messages=_MESSAGES)
        return len((await fan.completion()).choices)

    async def one() -> int:
        async with client.chat.completions.stream(model="m", messages=_MESSAGES) as stream:
            return len((await stream.completion()).choices)

    async def tasks(n: int) -> int:
        return sum(await asyncio.gather(*(one() for _ in range(n))))

    return (tasks if alone else fan_out), client.close


def _aiohttp(url: str) -> Any:
    import aiohttp  # noqa: PLC0415  # loaded by who takes part only
    import msgspec  # noqa: PLC0415  # loaded by who takes part only

    from gradient_async import ChatCompletionChunk  # noqa: PLC0415  # loaded by who takes part only

    decode = msgspec.json.Decoder(ChatCompletionChunk).decode
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=_LIMIT))
    body = {"model": "m", "messages": _MESSAGES, "stream": True}

    async def one() -> int:
        text: list[str] = []
        rest = b""
        async with session.post(f"{url}/chat/completions", json=body) as reply:
            async for data in reply.content.iter_any():
                *events, rest = (rest + data).split(b"\n\n")
                text += [
                    decode(event[6:]).choices[0].delta.content or ""
                    for event in events
                    if event != b"data: [DONE]"
                ]
        return int(bool("".join(text)))

    async def tasks(n: int) -> int:
        return sum(await asyncio.gather(*(one() for _ in range(n))))

    return tasks, session.close


def _openai(url: str) -> Any:
    client: Any = importlib.import_module("openai").AsyncOpenAI(base_url=url, api_key="any")
    semaphore = asyncio.Semaphore(_LIMIT)

    async def one() -> int:
        async with semaphore:
            stream = await client.chat.completions.create(model="m", messages=_MESSAGES, stream=True)
            text = [chunk.choices[0].delta.content or "" async for chunk in stream]
        return int(bool("".join(text)))

    async def tasks(n: int) -> int:
        return sum(await asyncio.gather(*(one() for _ in range(n))))

    return tasks, client.close


def run(rounds: int) -> list[dict[str, Any]]:
    """Measure every size; return a row a size and contender."""
    rows: list[dict[str, Any]] = []
    with running_server() as url:
        for n in SIZES:
            found = race(
                f"{__name__}:choices",
                CONTENDERS,
                rounds,
                url=f"{url}/text-{TOKENS}-1",
                n=n,
                times=max(1, min(100, _MOST // n)),
            )
            figures = {name: medians(each) for name, each in found.items()}
            rows += [
                {
                    "n": n,
                    "contender": name,
                    "cpu_us_per_choice": round(each["cpu_us"], 1),
                    "ms_to_all": round(each["ms"], 2),
                    "cpu_ratio": round(each["cpu_us"] / figures["fan_out"]["cpu_us"], 2),
                }
                for name, each in figures.items()
            ]
    return rows
