"""``gradient-async replay``: decode recorded event streams into completions, with the pure core alone."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from ..assembly import CompletionAssembler
from ..decoding import ChunkDecoder
from ..errors import StreamError, StreamTruncatedError
from ..types import ChatCompletion, Choice
from .command import Command
from .display import one_line, say, say_json, tool_line

_READ_SIZE = 64 * 1024


def run_replay(arguments: argparse.Namespace) -> int:
    """Print the completion or the error of each recording; return 1 if a completion is not complete, else 0."""
    status = 0
    for file in arguments.files:
        assembler = CompletionAssembler()
        try:
            anomalies = _assemble(file, assembler)
        except (StreamError, OSError) as error:
            status = 1
            message = (error.strerror if isinstance(error, OSError) else None) or str(error)
            partial = assembler.completion.to_dict()
            row = {"file": _name_of(file), "error": message, "type": type(error).__name__, "partial": partial}
            note = f": {type(error).__name__}: {one_line(message)}"
        else:
            row = assembler.completion.to_dict()
            note = f" ({anomalies} irregular events)" if anomalies else ""
        if arguments.json:
            say_json(row)
        else:
            say("\n".join([f"== {one_line(file)}{note}", *_summary(assembler.completion)]))
    return status


def _assemble(file: str, assembler: CompletionAssembler) -> int:
    """Decode a recording into the assembler; return the number of irregular events."""
    decoder = ChunkDecoder()
    for data in _read(file):
        assembler.extend(decoder.feed(data))
    assembler.extend(decoder.close())
    assembler.end(done=decoder.done)
    if decoder.unanswered is not None:
        raise decoder.unanswered
    if not assembler.complete:
        raise StreamTruncatedError(
            "the recording ends with neither [DONE] nor a finish_reason for every choice"
            if assembler.seen
            else "the recording contains no chunk"
        )
    return decoder.anomalies


def _read(file: str) -> Iterator[bytes]:
    with nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb") as source:
        while data := source.read(_READ_SIZE):
            yield data


def _name_of(file: str) -> str:
    """Return the name of a file as text that can be encoded; bytes that are not UTF-8 are replaced."""
    return os.fsencode(file).decode("utf-8", "replace")


def _summary(completion: ChatCompletion) -> list[str]:
    """Return lines with the text and the tool calls of every choice, and the number of tokens."""
    lines: list[str] = []
    for choice in completion.choices:
        lines += _choice_lines(choice, numbered=len(completion.choices) > 1)
    usage = completion.usage
    if usage is not None:
        lines.append(f"[{usage.prompt_tokens} + {usage.completion_tokens} = {usage.total_tokens} tokens]")
    return lines


def _choice_lines(choice: Choice, *, numbered: bool) -> list[str]:
    message = choice.message
    lines = [f"-- choice {choice.index}"] if numbered else []
    if message.reasoning_content:
        lines.append(f"(thinking) {message.reasoning_content}")
    if message.content:
        lines.append(message.content)
    if message.refusal:
        lines.append(f"(refused) {message.refusal}")
    lines += [f"-> {tool_line(call)}" for call in message.tool_calls or ()]
    lines.append(f"[{one_line(choice.finish_reason or 'no finish_reason')}]")
    return lines


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="a recorded response body; - reads standard input")
    add("--json", action="store_true", help="print each completion as one line of JSON")


COMMAND = Command(
    "replay",
    help="decode recorded event streams",
    description="Decode recorded event streams and print their completions. The exit status is 1 if a "
    "completion is not complete.",
    add_arguments=_add_arguments,
    run=run_replay,
)
