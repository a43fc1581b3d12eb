"""Every message of the page on troubleshooting is raised here, and compared with what the page says."""

from __future__ import annotations

import asyncio
import gc
import re
import ssl
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from pages import ROOT, blocks

from gradient_async import AsyncGradient, Limits, Timeout
from gradient_async.config import DEFAULT_INFERENCE_ENDPOINT, VARIABLES
from gradient_async.testing import (
    HOLD,
    RESET,
    Handler,
    Server,
    chunk,
    completion,
    head,
    http_chunk,
    reply_bytes,
    reply_json,
    reply_sse,
    reply_writes,
    serve,
    sse,
)

PAGE = ROOT / "docs" / "troubleshooting.md"
CERTIFICATE = ROOT / "tests" / "session" / "localhost.pem"
HOST = "inference.do-ai.run"
MESSAGES = [{"role": "user", "content": "Count to five."}]
ASKED: dict[str, Any] = {"model": "m", "messages": MESSAGES}
SOON = Timeout(first_token=0.05, idle=0.05, response=0.05)

HEAD = head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
BEGUN = http_chunk(sse(chunk("One, "), done=False))
STALLED = reply_writes([HEAD, BEGUN, HOLD])
BROKEN = reply_writes([HEAD, BEGUN, 0.01, RESET])
SILENT = reply_writes([HOLD])
SIGN_IN = reply_bytes(b"<!doctype html><title>Sign in</title>", content_type="text/html")


class Trip(Struct):
    city: str
    days: int


def refused(status: int, message: str, code: str) -> Handler:
    return reply_json({"error": {"message": message, "code": code}}, status)


class Trouble:
    """Ways to fail, each with a client of a server that replies as it is told."""

    def __init__(self, server: Server, client: AsyncGradient) -> None:
        self.server = server
        self.client: Any = client

    async def create(self, *replies: Handler, **parameters: Any) -> None:
        self.server.push(*replies)
        await self.client.chat.completions.create(**ASKED | parameters)

    async def stream(self, *replies: Handler, **parameters: Any) -> None:
        self.server.push(*replies)
        async with self.client.chat.completions.stream(**ASKED | parameters) as stream:
            await stream.completion()

    async def parse(self, text: str, reason: str) -> None:
        self.server.push(reply_json(completion(text, finish_reason=reason)))
        await self.client.chat.completions.parse(**ASKED, response_format=Trip)

    async def untrusted(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", ssl=context)
        async with server, self.client:
            port = server.sockets[0].getsockname()[1]
            await self.client.with_options(base_url=f"https://127.0.0.1:{port}/v1").models.list()

    async def dropped(self) -> None:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            stream = await self.client.chat.completions.create(**ASKED, stream=True)
            await anext(stream)
            del stream
            gc.collect()
        (warning,) = [each for each in seen if issubclass(each.category, ResourceWarning)]
        raise warning.category(str(warning.message))

    async def with_in_place_of_async_with(self) -> None:
        manager: Any = self.client.chat.completions.stream(**ASKED)
        with manager:
            pass

    async def for_in_place_of_async_for(self) -> None:
        async with self.client.chat.completions.stream(**ASKED) as stream:
            for _ in stream:
                pass

    async def outside_of_a_block(self) -> None:
        manager: Any = self.client.chat.completions.stream(**ASKED)
        async for _ in manager:
            pass

    async def without_a_loop(self) -> None:
        client: Any = AsyncGradient(base_url="http://127.0.0.1:9", api_key="any")
        await asyncio.to_thread(client.chat.completions.create(**ASKED).send, None)


async def keyless() -> None:
    await AsyncGradient().chat.completions.create(**ASKED)


async def plain_http() -> None:
    AsyncGradient(base_url="http://models.example.com/v1")


TROUBLES: dict[str, list[Callable[[Trouble], Awaitable[None]]]] = {
    "no model access key": [lambda _: keyless()],
    "answered 401": [
        lambda it: it.create(reply_json({"id": "unauthorized", "message": "Unable to authenticate you"}, 401))
    ],
    "answered 404": [
        lambda it: it.create(refused(404, "the model 'llama' does not exist", "model_not_found"))
    ],
    "no connection": [
        lambda it: it.client.with_options(base_url="http://127.0.0.1:9/v1").chat.completions.create(**ASKED)
    ],
    "TLS failed": [Trouble.untrusted],
    "plain http would show the key": [lambda _: plain_http()],
    "not an event stream, not a chat completion": [
        lambda it: it.stream(SIGN_IN),
        lambda it: it.create(SIGN_IN),
    ],
    "write async with": [Trouble.with_in_place_of_async_with, Trouble.for_in_place_of_async_for],
    "nothing was sent yet": [Trouble.outside_of_a_block],
    "no asyncio event loop is running": [Trouble.without_a_loop],
    "unexpected keyword argument": [lambda it: it.create(temprature=0.5)],
    "a parameter outside its limit": [lambda it: it.create(temperature=3)],
    "response_format is a type": [lambda it: it.create(response_format=Trip)],
    "was dropped before its end": [Trouble.dropped],
    "answered 429": [
        lambda it: it.create(reply_json({"id": "too_many_requests", "message": "slow down"}, 429)),
        lambda it: it.create(refused(429, "You exceeded your current quota", "insufficient_quota")),
    ],
    "no answer within the time": [
        lambda it: it.create(SILENT, timeout=SOON),
        lambda it: it.stream(SILENT, timeout=SOON),
        lambda it: it.stream(STALLED, timeout=SOON),
    ],
    "a stream that broke off": [
        lambda it: it.stream(BROKEN),
        lambda it: it.stream(reply_sse(chunk("One, "), done=False)),
    ],
    "no valid answer": [
        lambda it: it.parse('{"city": "Par', "length"),
        lambda it: it.parse('{"city": "Paris", "days": "three"}', "stop"),
    ],
    "the context is too long": [
        lambda it: it.create(
            refused(400, "This model's maximum context length is 8192 tokens", "context_length_exceeded")
        )
    ],
    "the reply is too large": [
        lambda it: it.client.with_options(limits=Limits(body_bytes=100)).chat.completions.create(**ASKED)
    ],
}


def messages_of_the_page() -> dict[str, list[str]]:
    """The lines of the blocks of messages, by the heading above."""
    found = re.findall(r"^### (.+?)\n\n```text\n(.+?)```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return {heading: block.splitlines() for heading, block in found}


def as_printed(error: BaseException, server: Server) -> str:
    """A message as it is with the usual server and the usual limits."""
    text = f"{type(error).__name__}: {error}"
    text = text.replace(server.url, DEFAULT_INFERENCE_ENDPOINT).replace(server.url.partition("//")[2], HOST)
    text = re.sub(r"\b127\.0\.0\.1:\d+", f"{HOST}:443", text)
    limit = re.search(r"within 0\.05 s \(Timeout\.(\w+)\)", text)
    return text if limit is None else text.replace("0.05 s", f"{getattr(Timeout(), limit[1]):g} s")


def test_the_page_has_these_messages() -> None:
    page = messages_of_the_page()
    assert list(TROUBLES) == list(page)
    assert [len(ways) for ways in TROUBLES.values()] == [len(lines) for lines in page.values()]
    assert page.keys() == set(re.findall(r"^### (.+)$", PAGE.read_text("utf-8"), re.MULTILINE))


@pytest.mark.parametrize(
    ("heading", "number"),
    [(heading, number) for heading, ways in TROUBLES.items() for number in range(len(ways))],
)
async def test_the_library_says_what_the_page_says(
    heading: str, number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for names in VARIABLES.values():
        for name in names:
            monkeypatch.delenv(name, raising=False)
    async with (
        serve() as server,
        AsyncGradient(inference_endpoint=server.url, model_access_key="any", max_retries=0) as client,
    ):
        with pytest.raises((Exception, ResourceWarning)) as caught:
            await TROUBLES[heading][number](Trouble(server, client))
        said = as_printed(caught.value, server)
    expected = messages_of_the_page()[heading][number]
    assert re.fullmatch(re.escape(expected).replace("…", ".+"), said), said


def test_python_says_what_the_page_says() -> None:
    page = " ".join(PAGE.read_text("utf-8").split())
    client: Any = AsyncGradient(model_access_key="any")
    call = client.chat.completions.create(**ASKED)
    with pytest.raises(AttributeError) as caught:
        call.choices  # noqa: B018  # what a program does that forgets `await`
    assert f"`{caught.value}`" in page

    async def loop() -> None:
        async for _ in call:
            pass

    with pytest.raises(TypeError) as refused:
        asyncio.run(loop())
    assert f"`{refused.value}`" in page
    call.close()

    async def read(client: Any) -> None:
        async with client.chat.completions.stream(**ASKED) as stream:
            for _ in stream.text:
                pass

    with serve() as server, pytest.raises(TypeError) as not_iterable:
        asyncio.run(read(AsyncGradient(inference_endpoint=server.url, model_access_key="any")))
    assert f"`{not_iterable.value}`" in page
    assert blocks(PAGE, "python")
