"""Passes requests on to a server, and records its replies."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from .connection import Connection
from .manifest import MANIFEST, RecordedReply, Recording
from .matching import Redaction, load_json
from .payloads import dump
from .request import Headers, Request
from .script import End, Framing, end_reply, frame, open_reply, play
from .upstream import ReplyBody, Upstream, parse_upstream

# The headers that clients act on or show to users. Other headers may hold keys, cookies or names, and are left out.
_KEPT = re.compile(
    r"content-type|retry-after(-ms)?|x-should-retry|.*ratelimit.*|.*request-?id|cf-ray|x-model-router-.*"
)
_PRIVATE = 0o600
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
# Some clients close a stream at [DONE], milliseconds before the end of the HTTP body. If this were recorded as a server
# that never ends the body, a client that waits for the end would wait in vain at each replay.
_DONE = b"data: [DONE]"
_END_AFTER_DONE = 0.05  # seconds to wait for the end of the body after [DONE]


class Recorder:
    """Passes requests on, and records the replies.

    Args:
        upstream: URL of the server.
        folder: The folder for the recordings; None records nothing.

    Raises:
        ValueError: If ``upstream`` is not the URL of a server.
        OSError: If the folder cannot be created.
    """

    def __init__(self, upstream: str, folder: str | os.PathLike[str] | None) -> None:
        self._upstream = parse_upstream(upstream)
        self._folder = None if folder is None else Path(folder)
        taken = [0]
        if self._folder is not None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            taken += [int(file.stem) for file in self._folder.iterdir() if file.stem.isdecimal()]
        self._numbers = itertools.count(max(taken) + 1)

    @property
    def about(self) -> str:
        """A sentence on what the recorder does, for the server's page."""
        records = "" if self._folder is None else ", and records the replies"
        return f"It passes requests on to {self._upstream.hostname}{records}."

    async def pass_on(
        self, request: Request, redaction: Redaction, headers: Mapping[str, str], connection: Connection
    ) -> None:
        """Answer one request with the reply of the server, and with ``headers``, which are not recorded.

        Raises:
            OSError: If the server cannot be reached, or the reply cannot be written to the folder.
        """
        work = asyncio.ensure_future(self._relay(request, redaction, headers, connection))
        left = asyncio.ensure_future(connection.wait_closed())
        try:
            await asyncio.wait((work, left), return_when=asyncio.FIRST_COMPLETED)
        finally:
            work.cancel()
            left.cancel()
            await asyncio.gather(work, left, return_exceptions=True)
        if not work.cancelled():
            work.result()

    async def _relay(
        self, request: Request, redaction: Redaction, extra: Mapping[str, str], connection: Connection
    ) -> None:
        number = next(self._numbers)
        upstream = await Upstream.open(self._upstream)
        take = Take(number, redaction, self._upstream.hostname or "")
        framing: Framing | None = None
        try:
            upstream.send(request, self._upstream)
            reply = await upstream.head(request)
            take.recording.first_byte = take.lap()
            end: End | None = None
            if reply is not None:
                status, headers, body = reply
                take.recording.response = kept = _kept(status, headers, body)
                opening, framing = open_reply(
                    request, status, {**kept.headers, **extra}, chunked=kept.chunked
                )
                await connection.write(opening)
                end = "eof" if body.done else None
                while end is None:
                    data, end = await upstream.read(body)
                    take.add(data)
                    # The recording is saved before the client gets the end: a test may look for the file right after it.
                    if end is not None:
                        self._save(take, end)
                    if data:
                        await connection.write(frame(data, framing))
            end = end or upstream.loss
            self._save(take, end)
            await play(end_reply(end, framing), connection)
        finally:
            self._save(take, "client")
            upstream.transport.abort()
            await upstream.wait_lost()

    def _save(self, take: Take, end: End) -> None:
        """Write the recording to the folder, unless it has been written already."""
        if self._folder is None or take.saved:
            return
        take.saved = True
        recording = take.finish(end)
        media_type = recording.response.headers.get("content-type", "")
        suffix = "sse" if "event-stream" in media_type else "json" if "json" in media_type else "txt"
        number = take.number
        while True:
            recording.file = f"{number:04}.{suffix}"
            try:
                file = _open(self._folder / recording.file, os.O_EXCL)
            except FileExistsError:  # another process is recording to this folder
                number = next(self._numbers)
            else:
                break
        with file:
            file.write(take.body)
        _append_line(self._folder / MANIFEST, dump(msgspec.to_builtins(recording)) + b"\n")


class Take:
    """A reply while it is recorded.

    Attributes:
        number: Number of the file.
        recording: The line of the manifest so far.
        body: The whole body, without keys; empty until `finish`.
        saved: Whether the recording has been written.
    """

    def __init__(self, number: int, redaction: Redaction, host: str) -> None:
        self.number = number
        self.body = b""
        self.saved = False
        self.recording = Recording(
            file="",
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            upstream=host,
            request=redaction.request,
            response=RecordedReply(None, {}, chunked=False),
            recorded_read_sizes=[],
        )
        self._redaction = redaction
        self._pieces: list[bytes] = []
        self._last = time.monotonic()

    def lap(self) -> float:
        """Return the seconds since the last call, or since the request."""
        now = time.monotonic()
        seconds, self._last = round(now - self._last, 6), now
        return seconds

    def add(self, data: bytes) -> None:
        """Add the bytes of one read; an empty read adds nothing."""
        if data:
            self._pieces.append(data)
            self.recording.gaps.append(self.lap())

    def finish(self, end: End) -> Recording:
        """Join the reads, remove the keys, and return the line of the manifest."""
        recording, data = self.recording, b"".join(self._pieces)
        recording.end, recording.end_gap = end, self.lap()
        if end == "client" and recording.end_gap < _END_AFTER_DONE and data.rstrip().endswith(_DONE):
            recording.end = "eof"
        self.body, recording.recorded_read_sizes = self._redaction.reads(data, map(len, self._pieces))
        headers = {name: self._redaction.text(value) for name, value in recording.response.headers.items()}
        if "content-length" in headers:
            headers["content-length"] = str(int(headers["content-length"]) + len(self.body) - len(data))
        recording.response = RecordedReply(recording.response.status, headers, recording.response.chunked)
        return recording


def _kept(status: int, headers: Headers, body: ReplyBody) -> RecordedReply:
    """Return the part of a reply's head that is passed on and recorded."""
    kept = {name: value for name, value in headers.items() if _KEPT.fullmatch(name)}
    if "content-encoding" in headers and not body.coded:
        kept["content-encoding"] = headers["content-encoding"]
    if body.length is not None and not body.coded:
        kept["content-length"] = str(body.length)
    return RecordedReply(status, kept, body.chunked or body.coded)


def _append_line(manifest: Path, line: bytes) -> None:
    """Add a line to a manifest. If a crash has cut the last line, remove that line first."""
    with _open(manifest, os.O_APPEND) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if file.read() not in {b"", b"\n"}:
            file.seek(0)
            last = file.read().rpartition(b"\n")[2]
            try:
                load_json(last)
            except ValueError:
                file.truncate(size - len(last))
            else:
                line = b"\n" + line
        file.write(line)


def _open(path: Path, flags: int) -> BinaryIO:
    """Open or create a file that only its owner may read; raise an OSError if the path is a symbolic link."""
    file = os.fdopen(os.open(path, _FLAGS | flags, _PRIVATE), "r+b")
    if sys.platform != "win32":
        os.fchmod(file.fileno(), _PRIVATE)  # a manifest that existed before may have other permissions
    return file
