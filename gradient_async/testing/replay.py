"""Replays recorded streams, byte for byte."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from .payloads import head, http_chunk
from .request import Request
from .wire import Connection

__all__ = ["Recordings"]

_EVENT = re.compile(rb".*?(?:\r\n\r\n|\n\n|\r\r)|.+", re.DOTALL)


class Recordings:
    """A folder of recorded streams, in the place of a model.

    The request's ``model`` picks a file, by its name with or without ``.sse``; any other model plays the
    files in turn, sorted by name. Whatever the request asks for, the recording comes as it is, in chunked
    framing.

    Where ``manifest.jsonl``, in the folder or beside it, has ``recorded_read_sizes`` for a file, its writes
    have these sizes.

    Args:
        folder: Where the ``*.sse`` files are.
        write_size: Bytes to write at once, whatever the manifest says; None: as recorded, else by event.
        delay: Seconds between two writes.

    Raises:
        ValueError: If the folder is missing, holds no ``*.sse`` file, or its manifest cannot be read.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, write_size: int | None = None, delay: float = 0.0
    ) -> None:
        path = Path(folder)
        if write_size is not None and write_size < 1:
            raise ValueError(f"write_size={write_size}: a write holds at least 1 byte")
        self._files = {file.stem: file for file in sorted(path.glob("*.sse"))}
        if not self._files:
            what = "has no *.sse file" if path.is_dir() else "is not a folder"
            raise ValueError(
                f"replay: {path} {what}; give a folder of recorded streams, one NAME.sse each, holding the "
                "bodies of the replies as they were received"
            )
        self._sizes = _read_sizes(path)
        self._write_size = write_size
        self._delay = delay
        self._turn = 0

    def names(self) -> Sequence[str]:
        """Names of the recordings, without ``.sse``."""
        return list(self._files)

    async def answer(
        self,
        request: Request,
        connection: Connection,
        headers: Mapping[str, str],
        *,
        agent: bool,  # noqa: ARG002  # a recording does not care
    ) -> None:
        """Play the recording that is asked for, or the next in turn."""
        file = self._pick(request)
        fields = {**headers, "content-type": "text/event-stream"}
        chunked = request.version == "1.1"
        fields |= {"transfer-encoding": "chunked"} if chunked else {"connection": "close"}
        await connection.write(head(200, fields))
        for number, piece in enumerate(self._cut(file)):
            if number and self._delay:
                await connection.sleep(self._delay)
            await connection.write(http_chunk(piece) if chunked else piece)
        if chunked:
            await connection.write(http_chunk(b""))

    def _pick(self, request: Request) -> Path:
        try:
            body: Any = request.json
        except ValueError:
            body = None
        name = cast("dict[str, Any]", body).get("model") if isinstance(body, dict) else None
        if isinstance(name, str) and name.removesuffix(".sse") in self._files:
            return self._files[name.removesuffix(".sse")]
        files = list(self._files.values())
        self._turn += 1
        return files[(self._turn - 1) % len(files)]

    def _cut(self, file: Path) -> list[bytes]:
        data = file.read_bytes()
        sizes = self._sizes.get(file.name)
        if self._write_size is not None:
            return [data[i : i + self._write_size] for i in range(0, len(data), self._write_size)]
        if sizes is None:
            return _EVENT.findall(data)
        pieces: list[bytes] = []
        for size in sizes:
            pieces.append(data[:size])
            data = data[size:]
        return [piece for piece in (*pieces, data) if piece]


def _read_sizes(folder: Path) -> dict[str, list[int]]:
    for manifest in (folder / "manifest.jsonl", folder.parent / "manifest.jsonl"):
        if manifest.is_file():
            return dict(_entries(manifest))
    return {}


def _entries(manifest: Path) -> list[tuple[str, list[int]]]:
    found: list[tuple[str, list[int]]] = []
    for number, line in enumerate(manifest.read_text("utf-8").splitlines(), 1):
        try:
            entry: Any = json.loads(line)
            sizes = entry.get("recorded_read_sizes")
            if sizes:
                found.append((Path(entry["file"]).name, [int(size) for size in sizes]))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f'{manifest}, line {number}: not an object with "file" and "recorded_read_sizes" ({error}); '
                "mend the line, or move the manifest away"
            ) from None
    return found
