"""Replays recordings, and passes on requests that are not recorded."""

from __future__ import annotations

import functools
import itertools
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from .api import Planned, refusal
from .manifest import Recording, read_manifest
from .matching import RecordedRequest, Redaction, nearest
from .payloads import openai_error
from .recorder import Recorder
from .request import Request
from .script import Framing, Step, end_reply, frame, open_reply

_EVENT = re.compile(rb".*?(?:\r\n\r\n|\n\n|\r\r)|.+", re.DOTALL)
_TOTAL_TOKENS = re.compile(rb'"total_tokens":\s*([0-9]+)')


class Recordings:
    """A backend that replays a folder of recordings; its arguments are described at `serve`.

    A request plays the recording of an equal request. Recorded streams whose manifest has no request are picked by the
    request's ``model``, the name of the file with or without ``.sse``; in a folder that has only such streams any other
    model plays them in turn, sorted by name.

    If the manifest has ``recorded_read_sizes`` for a file, the writes have these sizes; otherwise each write is one event.

    Attributes:
        every_path: Whether the backend answers requests for any path, because any path may have been recorded.
        about: A sentence on the backend, for the page at `/`.
        missed: The requests that no recording answered.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        *,
        write_size: int | None = None,
        delay: float = 0.0,
        speed: float | None = 1.0,
        strict: bool = False,
        ignore: Sequence[str] = (),
        recorder: Recorder | None = None,
    ) -> None:
        if write_size is not None and write_size < 1:
            raise ValueError(f"write_size={write_size}: a write holds at least 1 byte")
        if speed is not None and not speed > 0:
            raise ValueError(f"speed={speed}: give a number above 0, or None for no pauses")
        self._folder = Path(folder or "")
        self._write_size = write_size
        self._delay = delay
        self._speed = speed
        self._strict = strict
        self._ignore = ignore
        self._recorder = recorder
        self._by_digest: dict[str, list[Recording]] = {}
        self._by_name: dict[str, Recording] = {}
        if folder is not None:
            self._load(self._folder)
        self._played: set[str] = set()
        self._turns = itertools.count()
        self.every_path = bool(self._by_digest) or recorder is not None
        self.missed: list[str] = []
        replays = "" if folder is None else " It replays recorded replies."
        records = "" if recorder is None else f" {recorder.about}"
        self.about = f"This is a server for tests.{replays}{records}"

    def _load(self, folder: Path) -> None:
        known = read_manifest(folder)
        for recording in known.values():
            if recording.request is not None:
                recording.file = Path(recording.file).name
                if not (folder / recording.file).is_file():
                    raise ValueError(f"replay: {folder} lacks {recording.file}, which its manifest names")
                recording.request.seal(self._ignore)
                self._by_digest.setdefault(recording.request.digest, []).append(recording)
        for file in sorted(folder.glob("*.sse")):
            recording = known.get(file.name) or Recording(file=file.name)
            recording.file = file.name
            if recording.request is None:
                self._by_name[file.stem] = recording
        if not self._by_name and not self._by_digest and self._recorder is None:
            problem = "has no *.sse file" if folder.is_dir() else "is not a folder"
            raise ValueError(
                f"replay: {folder} {problem}; give a folder of recorded streams, one NAME.sse each, holding the bodies of "
                "the replies as they were received, or a folder that serve(upstream=, record=) has filled"
            )

    def names(self) -> Sequence[str]:
        """Return the names of the streams that a request picks by its ``model``, without ``.sse``."""
        return list(self._by_name)

    def accepts(self, model: str) -> bool:
        """Whether a recorded stream has the name of a model."""
        return model in self._by_name

    def answer(self, request: Request) -> Planned:
        """Plan to play the recording of an equal request, or to pass the request on."""
        redaction = Redaction(request)
        asked = redaction.request
        asked.seal(self._ignore)
        known = self._known(asked)
        fresh = next((recording for recording in known if recording.file not in self._played), None)
        if fresh is None and known and not self._strict:
            fresh = known[-1]
        if fresh is not None:
            self._played.add(fresh.file)
            return self._plan(fresh, request)
        if self._recorder is not None and not known:
            pass_on = functools.partial(self._recorder.pass_on, request, redaction)
            return Planned(lambda headers: [functools.partial(pass_on, headers)])
        if known:
            names = ", ".join(recording.file for recording in known)
            reason = f"{names} {'was' if len(known) == 1 else 'were'} played already, and strict=True plays nothing twice"
        else:
            recorded = [
                (recording.file, recording.request)
                for recordings in self._by_digest.values()
                for recording in recordings
                if recording.request is not None
            ]
            reason = nearest(asked, recorded, self._ignore)
        message = f"{asked.method} {asked.path} is not recorded: {reason}"
        self.missed.append(message)
        body = openai_error(message, kind="not_recorded", code="not_recorded")
        return Planned(lambda headers: refusal(request, 501, body, {"x-should-retry": "false", **headers}))

    def faults(self) -> list[str]:
        """Return the requests without a recording and, if strict, the recordings that were not asked for."""
        left = [
            file
            for file in (
                *(recording.file for recordings in self._by_digest.values() for recording in recordings),
                *(recording.file for recording in self._by_name.values()),
            )
            if self._strict and file not in self._played
        ]
        return [
            *self.missed,
            *([f"recordings that were not asked for: {', '.join(sorted(left))}"] if left else []),
        ]

    def _known(self, asked: RecordedRequest) -> list[Recording]:
        """Return the recordings that may answer a request, in the order recorded."""
        recorded = self._by_digest.get(asked.digest)
        if recorded is not None:
            return recorded
        model = cast("dict[str, Any]", asked.body).get("model") if isinstance(asked.body, dict) else None
        named = self._by_name.get(model.removesuffix(".sse")) if isinstance(model, str) else None
        if named is not None:
            return [named]
        if self.every_path:
            return []
        streams = list(self._by_name.values())
        return streams if self._strict else [streams[next(self._turns) % len(streams)]]

    def _plan(self, recording: Recording, request: Request) -> Planned:
        data = (self._folder / recording.file).read_bytes()
        # Some servers send the usage so far in every event.
        tokens = max(map(int, _TOTAL_TOKENS.findall(data)), default=0)
        return Planned(lambda headers: self._play(recording, data, request, headers), tokens)

    def _play(
        self, recording: Recording, data: bytes, request: Request, headers: Mapping[str, str]
    ) -> Iterator[Step]:
        pieces, gaps, first_byte, end_gap = self._timed(recording, data)
        # `due` is the recorded time of the next write. Each pause lasts until `due`, so a pause that takes too long shortens
        # the next one, and delays do not add up.
        due = time.monotonic() + first_byte
        framing: Framing | None = None
        yield due - time.monotonic()
        reply = recording.response
        if reply.status is not None:
            fields = {**reply.headers, **headers}
            announced = reply.headers.get("content-length")
            if announced is not None and request.method != "HEAD":
                whole = recording.end == "eof"  # a cut body must be shorter than its Content-Length
                fields["content-length"] = str(len(data) if whole else max(int(announced), len(data) + 1))
            opening, framing = open_reply(request, reply.status, fields, chunked=reply.chunked)
            yield opening
        for gap, piece in zip(gaps, pieces, strict=False):
            due += gap
            yield due - time.monotonic()
            if framed := frame(piece, framing):
                yield framed
        yield due + end_gap - time.monotonic()
        yield from end_reply(recording.end, framing)

    def _timed(self, recording: Recording, data: bytes) -> tuple[list[bytes], list[float], float, float]:
        """Return the writes of a recording, the pause before each write, before the headers, and before the end."""
        sizes = recording.recorded_read_sizes
        if self._write_size is not None:
            sizes = [self._write_size] * (len(data) // self._write_size)
        if sizes is None:
            pieces = _EVENT.findall(data)
        else:
            cuts = [0, *itertools.accumulate(sizes), len(data)]
            pieces = [data[start:end] for start, end in itertools.pairwise(cuts)]
        if recording.request is None or self._write_size is not None:
            pieces = [piece for piece in pieces if piece]
            return pieces, [0.0, *itertools.repeat(self._delay, len(pieces))], 0.0, 0.0
        factor = 1 / self._speed if self._speed else 0.0
        gaps = [gap * factor for gap in (*recording.gaps, *itertools.repeat(0.0, len(pieces)))]
        return pieces, gaps, recording.first_byte * factor, recording.end_gap * factor
