"""The manifest of a folder of recorded replies: a line for each."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ..types.model import build_tables
from .matching import RecordedRequest, load_json
from .script import End

VERSION = 1
MANIFEST = "manifest.jsonl"


class RecordedReply(msgspec.Struct):
    """Status and headers of a reply.

    Attributes:
        status: The status; None if the server ended the connection before it.
        headers: The recorded headers; they include Content-Length only if it marks the end of the body.
        chunked: Whether the body is sent in HTTP chunks.
    """

    status: int | None = 200
    headers: dict[str, str] = msgspec.field(default_factory=lambda: {"content-type": "text/event-stream"})
    chunked: bool = True


class Recording(msgspec.Struct, kw_only=True):
    """A line of the manifest, or a recorded stream without one.

    Attributes:
        v: Version of the format.
        file: Name of the file with the body.
        at: When the request was received, in UTC.
        upstream: Host of the server that answered.
        request: The request; None for streams that are picked by the model's name.
        response: Status and headers.
        first_byte: Seconds from the request to the headers of the reply.
        recorded_read_sizes: Number of bytes of the body in each read; None if the sizes are not known.
        gaps: Seconds before each read.
        end: How the reply ended: ``eof`` is a proper end, ``cut`` a FIN before the end of the HTTP framing, ``reset`` an
            RST, and ``client`` means that the client closed the connection first.
        end_gap: Seconds between the last read and the end.
    """

    v: int = VERSION
    file: str
    at: str = ""
    upstream: str = ""
    request: RecordedRequest | None = None
    response: RecordedReply = msgspec.field(default_factory=RecordedReply)
    first_byte: float = 0.0
    recorded_read_sizes: list[int] | None = None
    gaps: list[float] = []
    end: End = "eof"
    end_gap: float = 0.0


build_tables(Recording)


def read_manifest(folder: Path) -> dict[str, Recording]:
    """Return the recordings in the manifest of a folder, by name of file.

    A folder without a manifest may have one in its parent folder.

    Raises:
        ValueError: If a line is malformed. A last line that a crash has cut is ignored.
    """
    found: dict[str, Recording] = {}
    manifest = next((path for path in (folder / MANIFEST, folder.parent / MANIFEST) if path.is_file()), None)
    if manifest is None:
        return found
    *lines, last = manifest.read_bytes().split(b"\n")
    for number, line in enumerate([*lines, last], 1):
        if not line.strip():
            continue
        try:
            entry = load_json(line)
        except ValueError as error:
            if number > len(lines):  # the last line has no line break, because a crash has cut the line
                break
            raise _malformed(manifest, number, error) from None
        try:
            # Manifests of other programs have fields of their own, and a manifest in the parent folder may list requests of
            # other folders. Only the sizes of the reads are taken from these.
            if "v" not in entry or manifest.parent != folder:
                sizes = entry.get("recorded_read_sizes")
                entry = {"file": entry["file"], "recorded_read_sizes": sizes} if sizes else None
            recording = msgspec.convert(entry, Recording | None)
        except (msgspec.ValidationError, AttributeError, KeyError, TypeError) as error:
            raise _malformed(manifest, number, error) from None
        if recording is not None:
            if recording.v > VERSION:
                raise ValueError(
                    f"{manifest}, line {number}: written by a later version; update gradient_async"
                )
            found[Path(recording.file).name] = recording
    return found


def _malformed(manifest: Path, number: int, error: Exception) -> ValueError:
    return ValueError(
        f'{manifest}, line {number}: not an object with "file" and "recorded_read_sizes" ({error}); '
        "mend the line, or move the manifest away"
    )
