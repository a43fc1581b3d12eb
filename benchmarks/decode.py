"""Bytes in memory to chunks and to a completion: CPU for each chunk, by what is told and by how it is cut.

"msgspec" is one decoder's ``decode`` of each payload, already cut out, into the same Structs, which are dropped at
once; "ours" takes the bytes of the stream; "ours, assembled" also builds the completion, as a stream of the client
does: each chunk is made and handed out, and those of a slice are added once all of them have been; "openai" is that
library's own decoder of streams, which builds its models, and "openai, assembled" its ``ChatCompletionStreamState``
behind it. Recorded streams, where there are some, follow.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from gradient_async.assembly import CompletionAssembler
from gradient_async.decoding import ChunkDecoder
from gradient_async.types import ChatCompletionChunk

from .contest import Found, race, tabulate
from .data import logprob_stream, padded_stream, text_stream, tool_stream
from .timing import quickest, some

__all__ = ["READS", "STREAMS", "contend", "decode", "recordings", "run"]

CONTENDERS = ("msgspec", "ours", "ours, assembled", "openai", "openai, assembled")
SLOW = ("openai", "openai, assembled")
STREAMS: dict[str, Callable[[int], list[bytes]]] = {
    "text": text_stream,
    "padded text": padded_stream,
    "tool call": tool_stream,
    "logprobs": logprob_stream,
    "8 choices": lambda tokens: text_stream(tokens, 8),
}
READS = {"one event": 0, "1 kB": 1024, "64 kB": 64 * 1024}
SIZES = (250, 1_000)
RECORDED = Path(os.environ.get("GRADIENT_ASYNC_CORPUS", Path(__file__).parents[2] / "shared" / "corpus"))
_RECORDINGS = 3  # of the largest
_SMALL = (
    4 * 1024
)  # bytes of a read that a stream of the client feeds at once; of a larger one it pulls slices
_LEAST = 0.15  # seconds that a measurement takes at least

Work = Callable[[], object]


async def decode(contender: str, *, stream: str, tokens: int, reads: list[str]) -> dict[str, float]:
    """Decode a stream again and again, cut in some ways; of each way the quickest turn counts."""
    events = STREAMS[stream](tokens) if stream in STREAMS else _recorded(stream)
    return {
        read: quickest(_make(contender, events, _cut(events, READS[read])), least=_LEAST) / len(events) * 1e6
        for read in reads
    }


def contend(
    stream: str, contenders: Sequence[str], rounds: int, *, tokens: int, reads: Sequence[str] = tuple(READS)
) -> Found:
    """Race at one stream; the figures are microseconds of CPU a chunk, by the name of the cut.

    Args:
        stream: Name of what is told, or of a recording.
        contenders: Who takes part.
        rounds: How many rounds.
        tokens: In the stream; recordings are as long as they are.
        reads: How it is cut.
    """
    return race(
        f"{__name__}:decode", contenders, rounds, slow=SLOW, stream=stream, tokens=tokens, reads=list(reads)
    )


def _cut(events: Sequence[bytes], read: int) -> list[bytes]:
    if not read:
        return list(events)
    wire = b"".join(events)
    return [wire[at : at + read] for at in range(0, len(wire), read)]


def _make(contender: str, events: Sequence[bytes], reads: list[bytes]) -> Work:
    if contender == "msgspec":
        payloads = [event[6:-2] for event in events[:-1]]
        one = msgspec.json.Decoder(ChatCompletionChunk).decode

        def drop() -> None:
            for payload in payloads:
                one(payload)

        return drop
    if contender.startswith("openai"):
        return _openai(reads, assembled=contender != "openai")
    return (lambda: _assembled(reads)) if contender != "ours" else (lambda: _chunks(reads))


def _chunks(reads: list[bytes]) -> None:
    decoder = ChunkDecoder()
    for data in reads:
        decoder.feed(data)
    assert decoder.done


def _assembled(reads: list[bytes]) -> None:
    decoder, assembler = ChunkDecoder(), CompletionAssembler()
    for data in reads:
        if len(data) <= _SMALL:
            for chunk in decoder.feed(data):
                assembler.add(chunk)
            continue
        decoder.push(data)
        while True:
            batch = decoder.pull()
            for _chunk in batch:
                pass
            assembler.extend(batch)
            if not decoder.pending:
                break
    assert decoder.done
    assert assembler.completion.choices


def _openai(reads: list[bytes], *, assembled: bool) -> Work:
    library: Any = importlib.import_module("openai")
    http: Any = importlib.import_module("httpx2")
    types: Any = importlib.import_module("openai.types.chat")
    state: Any = importlib.import_module("openai.lib.streaming.chat").ChatCompletionStreamState
    client = library.OpenAI(api_key="any")

    def work() -> None:
        reply = http.Response(200, content=iter(reads), request=http.Request("POST", "http://localhost"))
        chunks = library.Stream(cast_to=types.ChatCompletionChunk, response=reply, client=client)
        if not assembled:
            for _chunk in chunks:
                pass
            return
        whole = state()
        for chunk in chunks:
            whole.handle_chunk(chunk)
        assert whole.current_completion_snapshot.choices

    return work


def _recorded(name: str) -> list[bytes]:
    """The usual events of a recorded stream: what is not data is not compared."""
    blocks = (RECORDED / name).read_bytes().replace(b"\r\n", b"\n").split(b"\n\n")
    return [block + b"\n\n" for block in blocks if block.startswith(b"data: {")] + [b"data: [DONE]\n\n"]


def recordings() -> list[str]:
    """Return the names of the largest recorded streams that every contender can read."""
    found = sorted(RECORDED.glob("**/*.sse"), key=lambda path: -path.stat().st_size)
    usable: list[str] = []
    one = msgspec.json.Decoder(ChatCompletionChunk).decode
    for path in found:
        name = path.relative_to(RECORDED).as_posix()
        try:
            for event in _recorded(name)[:-1]:
                one(event[6:-2])
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        usable.append(name)
        if len(usable) == _RECORDINGS:
            break
    return usable


def run(rounds: int) -> list[dict[str, Any]]:
    """Measure; return a row for each stream, size, cut and contender."""
    cases: list[tuple[str, int, Sequence[str]]] = [
        (stream, tokens, tuple(READS)) for stream in STREAMS for tokens in some(SIZES)
    ]
    cases += [(name, 0, ("64 kB",)) for name in some(recordings())]
    rows: list[dict[str, Any]] = []
    for stream, tokens, reads in cases:
        found = contend(stream, CONTENDERS, rounds, tokens=tokens, reads=reads)
        for read in reads:
            costs = {name: [{"cpu_us": figures[read]} for figures in each] for name, each in found.items()}
            case = {"stream": stream, "tokens": tokens, "read": read}
            rows += tabulate(costs, "cpu_us", case=case, to=("msgspec", "ours", "ours, assembled"))
    return rows
