"""Microseconds of CPU a chunk, at two sizes; work that depends on what came before would show.

Streams in memory, read 64 kB at a time, are decoded, assembled, turned into events, and handed to readers
of single choices, each in a process of its own. The ratio of the larger size to the smaller is the result: 1.00 is
constant work. What no library adds, whoever keeps so much, the yardsticks show: a split on blank lines and msgspec, with
the collector of garbage on and off.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec

from gradient_async.assembly import CompletionAssembler
from gradient_async.decoding import ChunkDecoder
from gradient_async.events import EventBuilder
from gradient_async.stream.queues import ChunkQueue
from gradient_async.types import ChatCompletionChunk

from .contest import Found, race, spread
from .data import logprob_stream, text_stream, tool_stream
from .timing import settle

__all__ = ["CASES", "YARDSTICKS", "contend", "growth", "run"]

SMALL, LARGE = 1_000, 16_000
_READ = 64 * 1024
_TURNS = 5

_Case: TypeAlias = tuple[Callable[[int], list[bytes]], Callable[[list[bytes]], None]]

_decode_chunk = msgspec.json.Decoder(ChatCompletionChunk).decode


def _reads(events: list[bytes]) -> list[bytes]:
    wire = b"".join(events)
    return [wire[start : start + _READ] for start in range(0, len(wire), _READ)]


def _decode(reads: list[bytes]) -> None:
    decoder = ChunkDecoder()
    for data in reads:
        decoder.feed(data)
    assert decoder.done


def _assemble(reads: list[bytes]) -> None:
    decoder, assembler = ChunkDecoder(), CompletionAssembler()
    for data in reads:
        assembler.extend(decoder.feed(data))
    assembler.end(done=decoder.done)
    assert assembler.completion.choices


def _events(reads: list[bytes]) -> None:
    decoder, assembler = ChunkDecoder(), CompletionAssembler()
    builder = EventBuilder(assembler)
    for data in reads:
        for chunk in decoder.feed(data):
            assembler.add(chunk)
            for _event in builder.add(chunk):
                pass


def _lanes(reads: list[bytes]) -> None:
    decoder, assembler = ChunkDecoder(), CompletionAssembler(n=8)
    lanes = {index: ChunkQueue(1 << 30) for index in range(8)}
    for data in reads:
        chunks = decoder.feed(data)
        assembler.extend(chunks)
        for chunk in chunks:
            for choice in chunk.choices:
                lanes[choice.index].put(chunk)
        for lane in lanes.values():
            while lane:
                lane.take()


def _keep(reads: list[bytes]) -> None:
    *events, done, _end = b"".join(reads).split(b"\n\n")
    chunks = [_decode_chunk(event[6:]) for event in events]
    assert chunks[-1].choices
    assert done == b"data: [DONE]"


def _keep_uncollected(reads: list[bytes]) -> None:
    gc.disable()
    try:
        _keep(reads)
    finally:
        gc.enable()


CASES: dict[str, _Case] = {
    "decode, text": (text_stream, _decode),
    "assemble, text": (text_stream, _assemble),
    "assemble, tool call": (tool_stream, _assemble),
    "assemble, logprobs": (logprob_stream, _assemble),
    "assemble, 8 choices": (lambda tokens: text_stream(tokens, 8), _assemble),
    "events, text": (text_stream, _events),
    "events, tool call": (tool_stream, _events),
    "choices read apart, 8": (lambda tokens: text_stream(tokens, 8), _lanes),
}

YARDSTICKS: dict[str, _Case] = {
    "no library, text kept": (text_stream, _keep),
    "no library, logprobs kept": (logprob_stream, _keep),
    "no library, logprobs kept, collector off": (logprob_stream, _keep_uncollected),
}


async def growth(case: str, *, small: int, large: int) -> dict[str, float]:
    """Do the same work at two sizes, in turns; the quickest turn of each counts."""
    make, work = (CASES | YARDSTICKS)[case]
    little, big = make(small), make(large)
    little_reads, big_reads = _reads(little), _reads(big)
    repeat = large // small
    work(big_reads)
    settle()
    costs: list[tuple[float, float]] = []
    for _ in range(_TURNS):
        started = time.process_time()
        for _ in range(repeat):
            work(little_reads)
        middle = time.process_time()
        work(big_reads)
        costs.append(((middle - started) / repeat, time.process_time() - middle))
    at_small = min(cost for cost, _ in costs) / len(little) * 1e6
    at_large = min(cost for _, cost in costs) / len(big) * 1e6
    return {"small": at_small, "large": at_large, "ratio": at_large / at_small}


def contend(cases: Sequence[str], rounds: int) -> Found:
    """Measure some cases, each in its turn."""
    return race(f"{__name__}:growth", cases, rounds, small=SMALL, large=LARGE)


def run(rounds: int) -> list[dict[str, Any]]:
    """Measure every case and yardstick at both sizes; return a row for each."""
    rows: list[dict[str, Any]] = []
    for name, each in contend((*CASES, *YARDSTICKS), rounds).items():
        ratio = spread([figures["ratio"] for figures in each])
        rows.append(
            {
                "case": name,
                f"us_at_{SMALL}": round(spread([figures["small"] for figures in each]).median, 3),
                f"us_at_{LARGE}": round(spread([figures["large"] for figures in each]).median, 3),
                "ratio": round(ratio.median, 3),
                "spread": f"{ratio.low:.2f}-{ratio.high:.2f}",
            }
        )
    return rows
