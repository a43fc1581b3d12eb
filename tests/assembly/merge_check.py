"""Play random streams through the library and the reference: ``python tests/assembly/merge_check.py --streams 100000``.

The tests play a few thousand. A run that finds a difference prints its seed and the smallest stream that still shows
it, and ends with status 1.
"""

from __future__ import annotations

import argparse
import copy
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, cast

if __name__ == "__main__":  # run as a program, it is not started in the root of the checkout
    sys.path[:0] = [str(Path(__file__).parents[2])]

from merge_reference import Call, Merged, MergedChoice, listed, merge, parsed
from merge_streams import Stream, make_stream

from gradient_async.assembly import CompletionAssembler
from gradient_async.decoding import ChunkDecoder
from gradient_async.errors import GradientError
from gradient_async.types import Choice, ToolCall

__all__ = ["Mismatch", "Report", "check", "difference", "play", "smallest"]

JSON = dict[str, Any]


@dataclass(frozen=True)
class Mismatch:
    """Where library and reference differ.

    Attributes:
        kind: What differs, such as ``calls: name``.
        expected: What the reference says.
        actual: What the library says.
    """

    kind: str
    expected: Any
    actual: Any


def play(stream: Stream) -> CompletionAssembler:
    """Take a stream through the public core; the seed chooses how its bytes are cut and its chunks are added."""
    wire = stream.wire()
    dice = random.Random(stream.seed)
    decoder = ChunkDecoder()
    assembler = CompletionAssembler(n=max(1, len(_indexes(stream))))
    way = dice.randrange(4)
    if way == 0:
        assembler.extend(decoder.feed(wire))
    elif way == 1:  # batches of chunks that are alike, as the client's reader takes them
        decoder.push(wire)
        while decoder.pending:
            assembler.extend(decoder.decode_slice())
    else:
        size = len(wire) // dice.randint(2, 4) + 1 if way == 2 else dice.randint(100, 300)
        for start in range(0, len(wire), size):
            for chunk in decoder.feed(wire[start : start + size]):
                assembler.add(chunk)
    assembler.extend(decoder.close())
    assembler.end(done=decoder.done)
    return assembler


def _indexes(stream: Stream) -> set[int]:
    return {choice.get("index") or 0 for event in stream.events for choice in listed(event.get("choices"))}


def _same_arguments(expected: Call, actual: str) -> bool:
    """Whether arguments are equal; for those that an object gave, as JSON."""
    if expected.arguments == actual:
        return True
    if not expected.from_object:
        return False
    whole, other = parsed(expected.arguments), parsed(actual)
    if whole is None or other is None:
        return "".join(expected.arguments.split()) == "".join(actual.split())
    return whole == other


def _calls_differ(expected: list[Call], actual: list[ToolCall]) -> str:
    """Return in what calls differ, or an empty string."""
    if len(expected) != len(actual):
        return f"calls: {'missing' if len(actual) < len(expected) else 'too many'}"
    pairs = list(zip(expected, actual, strict=True))
    same_names = [call.name for call in expected] == [call.function.name for call in actual]
    if not same_names and sorted(c.name for c in expected) == sorted(c.function.name for c in actual):
        return "calls: order"
    for name, same in (
        ("name", same_names),
        ("id", all(call.id == other.id for call, other in pairs)),
        ("type", all((call.type or "function") == other.type for call, other in pairs)),
        ("arguments", all(_same_arguments(call, other.function.arguments) for call, other in pairs)),
    ):
        if not same:
            return f"calls: {name}"
    return ""


def _told(detail: JSON) -> JSON:
    return {name: value for name, value in detail.items() if value not in {None, ""}}


def _choice_differs(expected: MergedChoice, actual: Choice) -> Mismatch | None:
    message = actual.message
    found = message.to_dict()
    kind = _calls_differ(expected.calls, message.tool_calls or [])
    if kind:
        calls = [[call.id, call.type or "function", call.name, call.arguments] for call in expected.calls]
        others = [
            [call.id, call.type, call.function.name, call.function.arguments]
            for call in message.tool_calls or []
        ]
        return Mismatch(kind, calls, others)
    for name, want, have in (
        ("content", expected.content, message.content or ""),
        ("reasoning_content", expected.reasoning, message.reasoning_content or ""),
        ("content_parts", expected.content_parts, found.get("content_parts") or []),
        (
            "reasoning_details",
            [_told(detail) for detail in expected.details],
            [_told(detail) for detail in listed(found.get("reasoning_details"))],
        ),
        ("images", expected.images, found.get("images") or []),
        ("finish_reason", expected.finish_reason, actual.finish_reason),
    ):
        if want != have:
            return Mismatch(name, want, have)
    return None


def _flat(usage: JSON, prefix: str = "") -> Iterator[tuple[str, int]]:
    for name, value in usage.items():
        if isinstance(value, dict):
            yield from _flat(cast("JSON", value), f"{prefix}{name}.")
        elif value:
            yield prefix + name, value


def difference(expected: Merged, assembler: CompletionAssembler) -> Mismatch | None:
    """Return the first difference, or None."""
    completion = assembler.completion
    indexes = [choice.index for choice in completion.choices]
    if [*expected.choices] != indexes:
        return Mismatch("choices", [*expected.choices], indexes)
    for choice in completion.choices:
        mismatch = _choice_differs(expected.choices[choice.index], choice)
        if mismatch:
            return mismatch
    counts = {name: count for name, count in expected.usage.items() if count}
    found = dict(_flat(completion.usage.to_dict())) if completion.usage else {}
    if counts != found:
        return Mismatch("usage", counts, found)
    if expected.complete != assembler.complete:
        return Mismatch("complete", expected.complete, assembler.complete)
    return None


def check(stream: Stream, expected: Merged) -> Mismatch | None:
    """Return how the library's result for a stream differs from the reference's, or None."""
    try:
        return difference(expected, play(stream))
    except GradientError as error:
        return Mismatch(f"error: {type(error).__name__}", "none", f"{type(error).__name__}: {error}")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Give each container in a JSON value with each of its keys, outer ones first."""
    if isinstance(value, dict):
        fields = cast("JSON", value)
        for key in fields:
            yield fields, key
        for inner in fields.values():
            yield from _places(inner)
    elif isinstance(value, list):
        items = cast("list[Any]", value)
        for at in range(len(items)):
            yield items, at
        for inner in items:
            yield from _places(inner)


def smallest(stream: Stream, kind: str) -> Stream:
    """Remove whatever can go from a stream while it still shows a difference of this kind."""

    def shows(candidate: Stream) -> bool:
        try:
            expected = merge(candidate.events, done=candidate.done)
        except (KeyError, TypeError):  # what is left is no fragment
            return False
        mismatch = None if expected.open_points else check(candidate, expected)
        return mismatch is not None and mismatch.kind == kind

    # What stands late may be what needs something earlier, so passes repeat until one removes nothing.
    size = -1
    while size != len(list(_places(stream.events))):
        size = len(list(_places(stream.events)))
        at = 0
        while at < len(list(_places(stream.events))):
            candidate = replace(stream, events=copy.deepcopy(stream.events))
            container, key = list(_places(candidate.events))[at]
            del container[key]
            if shows(candidate):
                stream = candidate
            else:
                at += 1
    return stream


@dataclass
class Report:
    """What a run found.

    Attributes:
        made: Streams made, by server.
        played: Streams played, by server.
        kinds: Differences, by kind.
        open_points: Streams that were not used, by the open point that decides them.
        shown: The seed and the smallest stream for the first differences of each kind.
    """

    made: Counter[str] = field(default_factory=Counter[str])
    played: Counter[str] = field(default_factory=Counter[str])
    kinds: Counter[str] = field(default_factory=Counter[str])
    open_points: Counter[int] = field(default_factory=Counter[int])
    shown: list[str] = field(default_factory=list[str])

    @classmethod
    def run(cls, streams: int, seed: int = 0, *, show: int = 1) -> Report:
        """Play streams.

        Args:
            streams: How many streams to play. Streams that an open point decides are made, but not played.
            seed: Seed of the first stream.
            show: Most differences of each kind to show.
        """
        report = cls()
        seeds = count(seed)
        while streams > 0:
            stream = make_stream(next(seeds))
            expected = merge(stream.events, done=stream.done)
            report.made[stream.server] += 1
            if expected.open_points:
                report.open_points.update(expected.open_points)
                continue
            report.played[stream.server] += 1
            streams -= 1
            mismatch = check(stream, expected)
            if mismatch:
                report.kinds[mismatch.kind] += 1
                if report.kinds[mismatch.kind] <= show:
                    report.shown.append(_shown(stream, mismatch.kind))
        return report


def _shown(stream: Stream, kind: str) -> str:
    small = smallest(stream, kind)
    mismatch = check(small, merge(small.events, done=small.done))
    assert mismatch is not None
    return (
        f"seed {stream.seed}, {stream.server}{', spoiled' * stream.spoiled}: {kind}\n"
        f"{small.wire().decode()}"
        f"expected: {mismatch.expected}\nactual:   {mismatch.actual}\n"
    )


def main(argv: list[str] | None = None) -> int:
    """Play streams; return 1 if a result differs."""
    parser = argparse.ArgumentParser(prog="merge_check.py", description=__doc__)
    parser.add_argument(
        "--streams", type=int, default=100_000, help="how many streams to play (default: 100000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the first stream (default: 0)")
    parser.add_argument("--show", type=int, default=1, help="differences to show of each kind (default: 1)")
    arguments = parser.parse_args(argv)
    report = Report.run(arguments.streams, arguments.seed, show=arguments.show)
    lines = [
        *report.shown,
        f"played: {report.played.total()} of {report.made.total()}, {dict(report.played.most_common())}",
        f"not played, by open point: {dict(sorted(report.open_points.items()))}",
        f"differences: {dict(report.kinds.most_common())}",
    ]
    print(*lines, sep="\n")  # noqa: T201  # a program
    return 1 if report.kinds else 0


if __name__ == "__main__":
    sys.exit(main())
