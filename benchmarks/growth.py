"""Microseconds of CPU a chunk, at two sizes; work that depends on what came before would show.

Streams in memory, read 64 kB at a time, are decoded, assembled, turned into events, and handed to readers
of single choices. The ratio of the larger size to the smaller is the result: 1.00 is constant work.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from gradient_async.assembly import CompletionAssembler
from gradient_async.decoding import ChunkDecoder
from gradient_async.events import EventBuilder
from gradient_async.stream.lanes import Lane

from .data import text_stream, tool_stream

SMALL, LARGE = 1_000, 16_000
_READ = 64 * 1024


def _reads(events: list[bytes]) -> list[bytes]:
    wire = b"".join(events)
    return [wire[start : start + _READ] for start in range(0, len(wire), _READ)]


def _decode(reads: list[bytes]) -> None:
    decoder = ChunkDecoder()
    for data in reads:
        decoder.push(data)
        while decoder.pending:
            decoder.pull()
    assert decoder.done


def _assemble(reads: list[bytes]) -> None:
    decoder, assembler = ChunkDecoder(), CompletionAssembler()
    for data in reads:
        decoder.push(data)
        while decoder.pending:
            assembler.extend(decoder.pull())
    assembler.end(done=decoder.done)
    assert assembler.completion.choices


def _events(reads: list[bytes]) -> None:
    decoder, assembler = ChunkDecoder(), CompletionAssembler()
    builder = EventBuilder(assembler)
    for data in reads:
        decoder.push(data)
        while decoder.pending:
            for chunk in decoder.pull():
                assembler.add(chunk)
                for _event in builder.add(chunk):
                    pass


def _lanes(reads: list[bytes]) -> None:
    decoder, assembler = ChunkDecoder(), CompletionAssembler(n=8)
    lanes = {index: Lane(1 << 30) for index in range(8)}
    for data in reads:
        decoder.push(data)
        while decoder.pending:
            chunks = decoder.pull()
            assembler.extend(chunks)
            for chunk in chunks:
                for choice in chunk.choices:
                    lanes[choice.index].put(chunk)
            for lane in lanes.values():
                while lane:
                    lane.take()


CASES: dict[str, tuple[Callable[[int], list[bytes]], Callable[[list[bytes]], None]]] = {
    "decode, text": (text_stream, _decode),
    "assemble, text": (text_stream, _assemble),
    "assemble, tool call": (tool_stream, _assemble),
    "assemble, 8 choices": (lambda tokens: text_stream(tokens, 8), _assemble),
    "events, text": (text_stream, _events),
    "events, tool call": (tool_stream, _events),
    "choices read apart, 8": (lambda tokens: text_stream(tokens, 8), _lanes),
}


def run(rounds: int) -> list[dict[str, Any]]:
    """Measure every case at both sizes, in turns; return a row a case."""
    rows: list[dict[str, Any]] = []
    for name, (make, work) in CASES.items():
        small, large = make(SMALL), make(LARGE)
        small_reads, large_reads = _reads(small), _reads(large)
        repeat = LARGE // SMALL
        costs: list[tuple[float, float]] = []
        for _ in range(rounds):
            started = time.process_time()
            for _ in range(repeat):
                work(small_reads)
            middle = time.process_time()
            work(large_reads)
            ended = time.process_time()
            costs.append(
                ((middle - started) / repeat / len(small) * 1e6, (ended - middle) / len(large) * 1e6)
            )
        ratios = [big / little for little, big in costs]
        rows.append(
            {
                "case": name,
                f"us_at_{SMALL}": round(statistics.median(little for little, _ in costs), 3),
                f"us_at_{LARGE}": round(statistics.median(big for _, big in costs), 3),
                "ratio": round(statistics.median(ratios), 2),
                "spread": f"{min(ratios):.2f}-{max(ratios):.2f}",
            }
        )
    return rows
