"""Answers requests that no script answers: checks paths and keys, adds headers, and may replay recordings."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from ..types.model import build_tables
from .connection import Connection
from .payloads import CREATED, digitalocean_error, head, http_chunk
from .request import Request
from .script import Step, play, reply_json, start_stream

_COMPLETIONS = frozenset({"/v1/chat/completions", "/chat/completions", "/api/v1/chat/completions"})
_MODELS = frozenset({"/v1/models", "/models"})
_METHODS = {**dict.fromkeys(_COMPLETIONS, "POST"), **dict.fromkeys(_MODELS, "GET"), "/health": "GET"}

# Name, limit, window in seconds, and cost of one request.
_LIMITS = (
    ("requests", 250, 1, 1),
    ("tokens-per-minute", 200_000, 60, 100),
    ("tokens-per-day", 5_000_000, 86_400, 100),
)
_EVENT = re.compile(rb".*?(?:\r\n\r\n|\n\n|\r\r)|.+", re.DOTALL)


class Backend(Protocol):
    """Answers requests for completions."""

    def names(self) -> Sequence[str]:
        """Return the names for the list of models."""
        ...

    def answer(self, request: Request, headers: Mapping[str, str]) -> Iterable[Step]:
        """Return the whole reply to one request, with these headers in its head."""
        ...


class Routes:
    """Handler for requests that are not scripted; an empty set of keys accepts requests without a key."""

    def __init__(self, backend: Backend, keys: frozenset[str]) -> None:
        self._backend = backend
        self._keys = keys
        self._answered = 0

    async def __call__(self, request: Request, connection: Connection) -> None:
        """Answer one request."""
        await play(self._answer(request), connection)

    def _answer(self, request: Request) -> Iterable[Step]:
        self._answered += 1
        headers = self._headers()
        method = _METHODS.get(request.path)
        if method is None:
            message = f"there is nothing at {request.path}; this server has {', '.join(sorted(_METHODS))}"
            return _refuse(request, 404, "not_found", message, headers)
        if request.method != method:
            message = f"{request.path} takes {method}, not {request.method}"
            return _refuse(request, 405, "method_not_allowed", message, {**headers, "allow": method})
        if request.path == "/health":
            return reply_json({"status": "ok"}, 200, headers).steps
        if not self._accepts(request.headers.get("authorization", "")):
            return _refuse(request, 401, "unauthorized", "Unable to authenticate you", headers)
        if request.path in _COMPLETIONS:
            return self._backend.answer(request, headers)
        models = [
            {"id": name, "object": "model", "created": CREATED, "owned_by": "gradient-async"}
            for name in self._backend.names()
        ]
        return reply_json({"object": "list", "data": models}, 200, headers).steps

    def _accepts(self, authorization: str) -> bool:
        scheme, _, key = authorization.partition(" ")
        return not self._keys or (scheme.lower() == "bearer" and key.strip() in self._keys)

    def _headers(self) -> dict[str, str]:
        """Number the reply, and add rate limits that change as on a real server: the rest falls, then starts over."""
        headers = {"x-request-id": f"req-{self._answered:06}"}
        now = int(time.time())
        for name, limit, window, cost in _LIMITS:
            headers[f"x-ratelimit-limit-{name}"] = str(limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(limit - self._answered * cost % limit)
            headers[f"x-ratelimit-reset-{name}"] = str(now - now % window + window)
        return headers


def _refuse(
    request: Request, status: int, name: str, message: str, headers: Mapping[str, str]
) -> Iterable[Step]:
    if request.method == "HEAD":  # the reply to HEAD has no body
        return (head(status, {**headers, "content-length": "0"}),)
    return reply_json(digitalocean_error(name, message), status, headers).steps


class Recordings:
    """A backend that replays a folder of recorded streams; its arguments are described at `serve`.

    The request's ``model`` picks a file, by its name with or without ``.sse``; any other model plays the
    files in turn, sorted by name. The rest of the request is ignored, and the recording is sent unchanged.

    If ``manifest.jsonl``, in the folder or beside it, has ``recorded_read_sizes`` for a file, the writes
    have these sizes; otherwise each write is one event.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, write_size: int | None = None, delay: float = 0.0
    ) -> None:
        path = Path(folder)
        if write_size is not None and write_size < 1:
            raise ValueError(f"write_size={write_size}: a write holds at least 1 byte")
        self._files = {file.stem: file for file in sorted(path.glob("*.sse"))}
        if not self._files:
            problem = "has no *.sse file" if path.is_dir() else "is not a folder"
            raise ValueError(
                f"replay: {path} {problem}; give a folder of recorded streams, one NAME.sse each, holding the "
                "bodies of the replies as they were received"
            )
        self._sizes = _read_sizes(path)
        self._write_size = write_size
        self._delay = delay
        self._plays = 0

    def names(self) -> Sequence[str]:
        """Return the names of the recordings, without ``.sse``."""
        return list(self._files)

    def answer(self, request: Request, headers: Mapping[str, str]) -> Iterator[Step]:
        """Play the recording that the request names, or the next in turn."""
        chunked = request.version == "1.1"
        writes = self._cut(self._pick(request))
        yield from start_stream(writes, headers, chunked=chunked, gap=self._delay)
        if chunked:
            yield http_chunk(b"")

    def _pick(self, request: Request) -> Path:
        try:
            name = msgspec.json.decode(request.body, type=_Named).model
        except msgspec.DecodeError:
            name = ""
        file = self._files.get(name.removesuffix(".sse"))
        if file is None:
            file = list(self._files.values())[self._plays % len(self._files)]
            self._plays += 1
        return file

    def _cut(self, file: Path) -> list[bytes]:
        data = file.read_bytes()
        sizes = self._sizes.get(file.name)
        if self._write_size is not None:
            sizes = [self._write_size] * (len(data) // self._write_size)
        if sizes is None:
            return _EVENT.findall(data)
        cuts = [0, *itertools.accumulate(sizes), len(data)]
        # Empty pieces are left out: an empty HTTP chunk would end the body.
        return [data[start:end] for start, end in itertools.pairwise(cuts) if data[start:end]]


class _Named(msgspec.Struct):
    """The only field of a request that `Recordings` reads."""

    model: str = ""


class _Recording(msgspec.Struct):
    """The fields of a line of the manifest that `Recordings` reads."""

    file: str
    recorded_read_sizes: list[int]


build_tables(_Named, _Recording)


def _read_sizes(folder: Path) -> dict[str, list[int]]:
    """Return the recorded sizes of reads, by name of file."""
    manifests = [folder / "manifest.jsonl", folder.parent / "manifest.jsonl"]
    manifest = next((path for path in manifests if path.is_file()), None)
    sizes: dict[str, list[int]] = {}
    for number, line in enumerate(manifest.read_bytes().splitlines() if manifest else [], 1):
        try:
            entry = msgspec.json.decode(line, type=dict[str, Any])
            if entry.get("recorded_read_sizes"):
                recording = msgspec.convert(entry, _Recording)
                sizes[Path(recording.file).name] = recording.recorded_read_sizes
        except msgspec.DecodeError as error:
            raise ValueError(
                f'{manifest}, line {number}: not an object with "file" and "recorded_read_sizes" ({error}); '
                "mend the line, or move the manifest away"
            ) from None
    return sizes
