"""A small client on bare sockets: tests see each write of the server as the server made it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from gradient_async.testing import Server, ThreadedServer

USER = [{"role": "user", "content": "Hi"}]


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def chunks(self) -> list[dict[str, Any]]:
        """Chunks of an event stream, which must end with [DONE]."""
        events = self.body.decode().removesuffix("\n\n").split("\n\n")
        assert "data: [DONE]" == events[-1]
        return [json.loads(event.removeprefix("data: ")) for event in events[:-1]]


class Peer:
    """One connection to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, target: str = "/v1/chat/completions", body: object = None, **headers: str) -> Answer:
        """Send a POST, or a GET if there is no body, and read the reply."""
        await self.send(request_bytes(target, body, **headers))
        return await self.answer()

    async def head(self) -> tuple[int, dict[str, str]]:
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
        pairs = (line.split(": ", 1) for line in lines)
        return int(first.split()[1]), {name.lower(): value for name, value in pairs}

    async def answer(self) -> Answer:
        status, headers = await self.head()
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while data := await self.chunk():
                body += data
        elif "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        else:
            body = await self.reader.read()
        return Answer(status, headers, body)

    async def chunk(self) -> bytes:
        """Read one HTTP chunk; the last chunk is empty."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def rest(self) -> bytes:
        """Read until the server closes."""
        async with asyncio.timeout(5):
            return await self.reader.read()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


def request_bytes(target: str = "/v1/chat/completions", body: object = None, **headers: str) -> bytes:
    """Encode a request; names of headers are given with _ in place of -."""
    fields: Mapping[str, str] = {"host": "test", **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    if body is None:
        return "\r\n".join([f"GET {target} HTTP/1.1", *lines, "", ""]).encode()
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines.append(f"content-length: {len(data)}")
    return "\r\n".join([f"POST {target} HTTP/1.1", *lines, "", ""]).encode() + data


@contextlib.asynccontextmanager
async def connect(server: Server | ThreadedServer) -> AsyncGenerator[Peer]:
    peer = Peer(*await asyncio.open_connection("127.0.0.1", server.port))
    try:
        yield peer
    finally:
        await peer.close()


async def ask(
    server: Server | ThreadedServer, target: str = "/v1/chat/completions", body: object = None, **headers: str
) -> Answer:
    """Make one request on a connection of its own."""
    async with connect(server) as peer:
        return await peer.ask(target, body, **headers)
