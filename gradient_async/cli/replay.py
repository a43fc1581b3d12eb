"""``gradient-async replay``: recorded event streams to completions, by the pure core alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import BinaryIO

import msgspec

from ..assembly import CompletionAssembler
from ..decoding import ChunkDecoder
from ..errors import StreamError, StreamTruncatedError
from ..types import ChatCompletion
from .text import printable, say, summary

__all__ = ["replay"]

_READ = 64 * 1024


def replay(files: Sequence[str], *, as_json: bool) -> int:
    """Decode recordings; print each completion, or what is wrong with it.

    Args:
        files: Paths; ``-`` is standard input.
        as_json: One JSON object a line, in the order of the files; else for people.

    Returns:
        0 if every recording holds a whole completion, else 1.
    """
    status = 0
    for file in files:
        failure: Exception | None = None
        assembler = CompletionAssembler()
        try:
            anomalies = _assemble(file, assembler)
        except (StreamError, OSError) as error:
            failure, anomalies = error, 0
        if failure is None:
            _print_completion(file, assembler.completion, anomalies, as_json=as_json)
        else:
            status = 1
            _print_failure(file, failure, assembler.completion, as_json=as_json)
    return status


def _assemble(file: str, assembler: CompletionAssembler) -> int:
    """Decode one recording into the assembler; return how many events were odd.

    Raises:
        StreamError: If it is not whole.
        OSError: If it can't be read.
    """
    decoder = ChunkDecoder()
    for data in _pieces(file):
        assembler.extend(decoder.feed(data))
    assembler.extend(decoder.close())
    assembler.end(done=decoder.done)
    if not assembler.complete:
        raise StreamTruncatedError(
            "the recording ends with neither [DONE] nor a finish_reason for every choice"
            if assembler.seen
            else "the recording holds no chunk"
        )
    return decoder.anomalies


def _pieces(file: str) -> Iterator[bytes]:
    with ExitStack() as stack:
        source: BinaryIO = sys.stdin.buffer if file == "-" else stack.enter_context(open(file, "rb"))  # noqa: PTH123  # the path as given
        while data := source.read(_READ):
            yield data


def _print_completion(file: str, completion: ChatCompletion, anomalies: int, *, as_json: bool) -> None:
    if as_json:
        say(completion.to_json(indent=None))
        return
    say(f"== {file}" + (f" ({anomalies} odd events)" if anomalies else ""))
    say(summary(completion))


def _print_failure(file: str, error: Exception, partial: ChatCompletion, *, as_json: bool) -> None:
    message = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    if as_json:
        row = {"file": file, "error": message, "type": type(error).__name__, "partial": partial.to_dict()}
        say(msgspec.json.encode(row).decode())
        return
    say(f"== {file}: {type(error).__name__}: {printable(message)}")
    if partial.choices:
        say(summary(partial))
