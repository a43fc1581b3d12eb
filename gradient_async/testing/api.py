"""Answers requests that no script answers: checks paths and keys, adds headers, and may replay recordings."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from ..types.model import build_tables
from .connection import Connection
from .payloads import CREATED, digitalocean_error, head, http_chunk
from .quota import Meter, Quota
from .request import Request
from .script import Step, play, reply_json, start_stream

_COMPLETIONS = frozenset({"/v1/chat/completions", "/chat/completions", "/api/v1/chat/completions"})
_MODELS = frozenset({"/v1/models", "/models"})
_METHODS = {**dict.fromkeys(_COMPLETIONS, "POST"), **dict.fromkeys(_MODELS, "GET"), "/health": "GET"}

_EVENT = re.compile(rb".*?(?:\r\n\r\n|\n\n|\r\r)|.+", re.DOTALL)
_TOTAL_TOKENS = re.compile(rb'"total_tokens":\s*([0-9]+)')
_TOO_MANY_REQUESTS = 429


@dataclass(frozen=True)
class Planned:
    """A reply that is not sent yet: a quota decides about it by its tokens, and then adds headers.

    Attributes:
        steps: Takes headers for the head of the reply, and returns the whole reply.
        tokens: The total of its usage; 0 if it has none.
    """

    steps: Callable[[Mapping[str, str]], Iterable[Step]]
    tokens: int = 0


class Backend(Protocol):
    """Answers requests for completions."""

    def names(self) -> Sequence[str]:
        """Return the names for the list of models."""
        ...

    def answer(self, request: Request) -> Planned:
        """Plan the reply to one request."""
        ...


class Routes:
    """Handler for requests that are not scripted; its arguments are described at `serve`.

    An empty set of keys accepts requests without a key. All requests without a key have one quota together.
    """

    def __init__(
        self,
        backend: Backend,
        keys: frozenset[str] = frozenset(),
        *,
        quota: Quota | None = None,
        latency: float = 0.0,
    ) -> None:
        self._backend = backend
        self._keys = keys
        self._quota = quota
        self._latency = latency
        self._meters: dict[str, Meter] = {}
        self._answered = 0

    async def __call__(self, request: Request, connection: Connection) -> None:
        """Answer one request."""
        await play(self._answer(request), connection)

    def _answer(self, request: Request) -> Iterable[Step]:
        self._answered += 1
        headers = {"x-request-id": f"req-{self._answered:06}"}
        method = _METHODS.get(request.path)
        if method is None:
            message = f"there is nothing at {request.path}; this server has {', '.join(sorted(_METHODS))}"
            return _refuse(request, 404, "not_found", message, headers)
        if request.method != method:
            message = f"{request.path} takes {method}, not {request.method}"
            return _refuse(request, 405, "method_not_allowed", message, {**headers, "allow": method})
        if request.path == "/health":
            return reply_json({"status": "ok"}, 200, headers).steps
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        key = key.strip()
        if self._keys and (scheme.lower() != "bearer" or key not in self._keys):
            return _refuse(request, 401, "unauthorized", "Unable to authenticate you", headers)
        if request.path in _COMPLETIONS:
            return self._complete(request, key, headers)
        models = [
            {"id": name, "object": "model", "created": CREATED, "owned_by": "gradient-async"}
            for name in self._backend.names()
        ]
        return reply_json({"object": "list", "data": models}, 200, headers).steps

    def _complete(self, request: Request, key: str, headers: Mapping[str, str]) -> Iterable[Step]:
        planned = self._backend.answer(request)
        if self._quota is not None:
            meter = self._meters.setdefault(key, Meter(self._quota))
            admitted, limits = meter.admit(planned.tokens, now=time.monotonic(), wall=time.time())
            headers = {**headers, **limits}
            if not admitted:
                status = self._quota.status
                name = "too_many_requests" if status == _TOO_MANY_REQUESTS else "server_error"
                return _refuse(
                    request, status, name, f"the key has used up its quota, {self._quota}", headers
                )
        steps = planned.steps(headers)
        return itertools.chain([self._latency], steps) if self._latency else steps


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

    def answer(self, request: Request) -> Planned:
        """Plan to play the recording that the request names, or the next in turn."""
        file = self._pick(request)
        data = file.read_bytes()
        # Some servers send the usage so far in every event.
        tokens = max(map(int, _TOTAL_TOKENS.findall(data)), default=0)
        writes = self._cut(file.name, data)
        return Planned(lambda headers: self._play(writes, headers, chunked=request.version == "1.1"), tokens)

    def _play(self, writes: list[bytes], headers: Mapping[str, str], *, chunked: bool) -> Iterator[Step]:
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

    def _cut(self, name: str, data: bytes) -> list[bytes]:
        sizes = self._sizes.get(name)
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
