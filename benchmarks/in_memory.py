"""Workloads in memory: decoding and assembling streams, and how the cost grows with the length of the stream."""

from __future__ import annotations

import functools
import gc
import importlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from gradient_async.assembly import CompletionAssembler
from gradient_async.decoding import ChunkDecoder
from gradient_async.events import EventBuilder
from gradient_async.partial import PartialJSON
from gradient_async.stream.queues import ChunkQueue
from gradient_async.types import ChatCompletionChunk

from .data import argument_chunks, arguments, cut, logprob_stream, text_stream, tool_stream
from .harness import Figures, case, collect_garbage, is_quick, quickest, workload

Reads: TypeAlias = list[bytes]

STREAMS: dict[str, Callable[[int], list[bytes]]] = {
    "text": text_stream,
    "padded text": functools.partial(text_stream, padded=True),
    "tool call": tool_stream,
    "logprobs": logprob_stream,
    "8 choices": functools.partial(text_stream, choices=8),
}
READS = {"one event": 0, "1 kB": 1024, "64 kB": 64 * 1024}
_WHOLE = 4 * 1024  # bytes; the client's streams decode longer reads in slices
_RECORDED = Path(os.environ.get("GRADIENT_ASYNC_CORPUS", Path(__file__).parents[2] / "shared" / "corpus"))

_decode_chunk = msgspec.json.Decoder(ChatCompletionChunk).decode


def _msgspec(events: list[bytes], _reads: Reads) -> Callable[[], None]:
    payloads = [event[6:-2] for event in events[:-1]]

    def work() -> None:
        for payload in payloads:
            _decode_chunk(payload)

    return work


def _chunks(reads: Reads) -> None:
    decoder = ChunkDecoder()
    for data in reads:
        decoder.feed(data)
    assert decoder.done


def _assembled(reads: Reads) -> None:
    """Decode and assemble as a stream does: the chunks of a slice are assembled after they have been read."""
    decoder, assembler = ChunkDecoder(), CompletionAssembler()
    for data in reads:
        if len(data) <= _WHOLE:
            for chunk in decoder.feed(data):
                assembler.add(chunk)
            continue
        decoder.push(data)
        while decoder.pending:
            batch = decoder.decode_slice()
            for _chunk in batch:
                pass
            assembler.extend(batch)
    assert decoder.done
    assert assembler.completion.choices


def _openai(_events: list[bytes], reads: Reads, *, assembled: bool) -> Callable[[], None]:
    library: Any = importlib.import_module("openai")
    http: Any = importlib.import_module("httpx2")
    chunk: Any = importlib.import_module("openai.types.chat").ChatCompletionChunk
    state: Any = importlib.import_module("openai.lib.streaming.chat").ChatCompletionStreamState
    client = library.OpenAI(api_key="any")

    def work() -> None:
        reply = http.Response(200, content=iter(reads), request=http.Request("POST", "http://localhost"))
        completion = state() if assembled else None
        for each in library.Stream(cast_to=chunk, response=reply, client=client):
            if completion is not None:
                completion.handle_chunk(each)
        assert completion is None or completion.current_completion_snapshot.choices

    return work


_WORK: dict[str, Callable[[list[bytes], Reads], Callable[[], None]]] = {
    "msgspec": _msgspec,
    "ours": lambda _events, reads: functools.partial(_chunks, reads),
    "ours, assembled": lambda _events, reads: functools.partial(_assembled, reads),
    "openai": functools.partial(_openai, assembled=False),
    "openai, assembled": functools.partial(_openai, assembled=True),
}


def _recorded(name: str) -> list[bytes]:
    """Return those events of a recorded stream that every contender can decode; the others are not compared."""
    blocks = (_RECORDED / name).read_bytes().replace(b"\r\n", b"\n").split(b"\n\n")
    return [block + b"\n\n" for block in blocks if _is_decodable(block)] + [b"data: [DONE]\n\n"]


def _is_decodable(block: bytes) -> bool:
    if not block.startswith(b"data: {"):
        return False
    try:
        _decode_chunk(block[6:])
    except msgspec.MsgspecError:
        return False
    return True


_largest = sorted(_RECORDED.glob("**/*.sse"), key=lambda path: -path.stat().st_size)[:3]


@workload(
    *_WORK,
    cases=[
        *(
            case(f"{stream}, {tokens:,}", stream=stream, tokens=tokens)
            for stream in STREAMS
            for tokens in (250, 1_000)
        ),
        *(case(path.stem, stream=str(path.relative_to(_RECORDED)), tokens=0) for path in _largest),
    ],
    figures={read: f"{read} a read" for read in READS},
    to=("msgspec", "ours", "ours, assembled"),
)
async def decode(contender: str, *, stream: str, tokens: int) -> Figures:
    """Bytes to chunks and to a completion: CPU for each chunk, by the kind of stream and the size of reads.

    "msgspec" decodes each payload, cut out beforehand, into the same Structs. "ours, assembled" and "openai,
    assembled" also build the completion, as the streams of the two clients do.
    """
    events = STREAMS[stream](tokens) if tokens else _recorded(stream)
    found: Figures = {}
    for name, size in READS.items():
        work = _WORK[contender](events, cut(events, size))

        async def turn(work: Callable[[], None] = work) -> None:
            work()

        found[name] = await quickest(turn, min_seconds=0.15) / len(events) * 1e6
    return found


def _assemble(reads: Reads) -> None:
    decoder, assembler = ChunkDecoder(), CompletionAssembler()
    for data in reads:
        assembler.extend(decoder.feed(data))
    assembler.end(done=decoder.done)
    assert assembler.completion.choices


def _make_events(reads: Reads) -> None:
    decoder, assembler = ChunkDecoder(), CompletionAssembler()
    builder = EventBuilder(assembler)
    for data in reads:
        for chunk in decoder.feed(data):
            assembler.add(chunk)
            for _event in builder.add(chunk):
                pass


def _queue(reads: Reads) -> None:
    """Queue the chunks of each choice for a reader of that choice."""
    decoder, assembler = ChunkDecoder(), CompletionAssembler(n=8)
    queues = [ChunkQueue(1 << 30) for _ in range(8)]
    for data in reads:
        chunks = decoder.feed(data)
        assembler.extend(chunks)
        for chunk in chunks:
            for choice in chunk.choices:
                queues[choice.index].put(chunk)
        for queue in queues:
            while queue:
                queue.take()


def _keep(reads: Reads) -> None:
    *events, done, _end = b"".join(reads).split(b"\n\n")
    chunks = [_decode_chunk(event[6:]) for event in events]
    assert chunks[-1].choices
    assert done == b"data: [DONE]"


def _keep_uncollected(reads: Reads) -> None:
    gc.disable()
    try:
        _keep(reads)
    finally:
        gc.enable()


_GROWING: dict[str, tuple[Callable[[int], list[bytes]], Callable[[Reads], None]]] = {
    "decode, text": (text_stream, _chunks),
    "assemble, text": (text_stream, _assemble),
    "assemble, tool call": (tool_stream, _assemble),
    "assemble, logprobs": (logprob_stream, _assemble),
    "assemble, 8 choices": (STREAMS["8 choices"], _assemble),
    "events, text": (text_stream, _make_events),
    "events, tool call": (tool_stream, _make_events),
    "choices read apart, 8": (STREAMS["8 choices"], _queue),
    "no library, text kept": (text_stream, _keep),
    "no library, logprobs kept": (logprob_stream, _keep),
    "no library, logprobs kept, collector off": (logprob_stream, _keep_uncollected),
}


@workload(
    *_GROWING,
    cases=[case("", small=1_000, large=16_000)],
    figures={"small": "µs at 1,000 chunks", "large": "µs at 16,000 chunks", "ratio": "ratio"},
    to=(),
)
async def growth(contender: str, *, small: int, large: int) -> Figures:
    """CPU for each chunk of a small and a large stream, and their ratio: 1.00 is constant work.

    "no library" splits on blank lines, decodes by msgspec and keeps all chunks, with the garbage collector on
    and off: its ratio is the price of keeping so many objects, with any library.
    """
    make, work = _GROWING[contender]
    streams = [make(size) for size in (small, large)]
    little, big = (cut(events, READS["64 kB"]) for events in streams)
    repeat = large // small
    work(big)
    collect_garbage()
    costs: list[tuple[float, float]] = []
    for _ in range(1 if is_quick() else 5):
        started = time.process_time()
        for _ in range(repeat):
            work(little)
        middle = time.process_time()
        work(big)
        costs.append(((middle - started) / repeat, time.process_time() - middle))
    at_small, at_large = (
        min(each) / len(events) * 1e6 for each, events in zip(zip(*costs, strict=True), streams, strict=True)
    )
    return {"small": at_small, "large": at_large, "ratio": at_large / at_small}


def _feed(pieces: list[str]) -> Callable[[], None]:
    def work() -> None:
        answer = PartialJSON()
        for piece in pieces:
            assert answer.feed(piece) is not None
        assert answer.complete

    return work


def _grow_in_events(pieces: list[str]) -> Callable[[], None]:
    chunks = msgspec.convert(argument_chunks(pieces), list[ChatCompletionChunk])

    def work() -> None:
        assembler = CompletionAssembler()
        builder = EventBuilder(assembler)
        read = 0
        for chunk in chunks:
            assembler.add(chunk)
            for event in builder.add(chunk):
                if event.type == "tool_calls.function.arguments.delta":
                    read += event.parsed_arguments is not None
        assert read == len(pieces)

    return work


def _reparse_by_jiter(pieces: list[str]) -> Callable[[], None]:
    from_json: Any = importlib.import_module("jiter").from_json

    def work() -> None:
        text = b""
        for piece in pieces:
            text += piece.encode()
            assert from_json(text, partial_mode="trailing-strings") is not None

    return work


def _reparse_by_openai(pieces: list[str]) -> Callable[[], None]:
    model: Any = importlib.import_module("openai.types.chat").ChatCompletionChunk
    make_state: Any = importlib.import_module("openai.lib.streaming.chat").ChatCompletionStreamState
    chunks = [model.model_validate(each) for each in argument_chunks(pieces)]
    tool = {
        "type": "function",
        "function": {"name": "store", "strict": True, "parameters": {"type": "object"}},
    }

    def work() -> None:
        state = make_state(input_tools=[tool])
        read = 0
        for chunk in chunks:
            for event in state.handle_chunk(chunk):
                if event.type == "tool_calls.function.arguments.delta":
                    read += event.parsed_arguments is not None
        assert read == len(pieces)

    return work


_PARTIAL: dict[str, Callable[[list[str]], Callable[[], None]]] = {
    "ours": _feed,
    "ours, events": _grow_in_events,
    "jiter": _reparse_by_jiter,
    "openai, events": _reparse_by_openai,
}


@workload(*_PARTIAL, cases=[case("5 kB", size=5_000), case("22 kB", size=22_000)], figures={"delta": ""})
async def partial(contender: str, *, size: int) -> Figures:
    """JSON while it arrives, 5 characters a delta: CPU for the value so far, by the size of the whole text.

    "jiter" parses all text so far again at each delta, and so does openai, by jiter. "events" are made from
    chunks, which are decoded beforehand; they also assemble the completion.
    """
    text = arguments(size)
    pieces = [text[at : at + 5] for at in range(0, len(text), 5)]
    work = _PARTIAL[contender](pieces)

    async def turn() -> None:
        work()

    return {"delta": await quickest(turn, min_seconds=0.15) / len(pieces) * 1e6}


WORKLOADS = {"decode": decode, "growth": growth, "partial": partial}
