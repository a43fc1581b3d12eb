"""Plays replies to a bare socket, and tells all that came: to compare a server, its recording, and the replay."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from peer import USER, connect, request_bytes

from gradient_async.testing import Server, ThreadedServer

BODY: dict[str, Any] = {"model": "m", "messages": USER}


@dataclass
class Seen:
    """What a client saw of one reply.

    Attributes:
        status: The status; 0 without any.
        headers: The headers.
        reads: HTTP chunks, or the whole body if it was not chunked.
        end: ``eof``, ``cut`` or ``reset``.
        times: Seconds from the request to the headers, each of the reads, and the end.
    """

    status: int
    headers: dict[str, str]
    reads: list[bytes]
    end: str
    times: list[float]

    @property
    def body(self) -> bytes:
        return b"".join(self.reads)

    @property
    def same(self) -> tuple[int, list[bytes], str]:
        """All of it that is the same in each replay."""
        return self.status, self.reads, self.end


async def see(
    server: Server | ThreadedServer, body: Any = BODY, target: str = "/v1/chat/completions", **headers: str
) -> Seen:
    """Make one request on a connection of its own."""
    seen = Seen(0, {}, [], "eof", [])
    async with connect(server) as peer:
        await peer.send(request_bytes(target, body, **headers))
        began = monotonic()
        try:
            seen.status, seen.headers = await peer.head()
            seen.times.append(monotonic() - began)
            if "transfer-encoding" in seen.headers:
                while data := await peer.chunk():
                    seen.reads.append(data)
                    seen.times.append(monotonic() - began)
            else:
                length = int(seen.headers.get("content-length", 0 if seen.status == 204 else -1))
                while length < 0 or len(seen.body) < length:
                    data = await peer.reader.read(length - len(seen.body) if length >= 0 else 65536)
                    if not data:
                        seen.end = "cut" if length >= 0 else "eof"
                        break
                    seen.reads.append(data)
                    seen.times.append(monotonic() - began)
        except ConnectionResetError:
            seen.end = "reset"
        except EOFError:
            seen.end = "cut"
        seen.times.append(monotonic() - began)
    return seen


def manifest(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a manifest."""
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines()]
