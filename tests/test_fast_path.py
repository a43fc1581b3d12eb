"""The fast path makes no more calls and copies than it did: counted, not timed, so that noise can't hide one.

``python -m benchmarks calls`` prints the counts, and ``python -m benchmarks.calls CASE`` the names of what is called.
Where one has become smaller, write it down here; where one has become larger, look for what was added to each chunk
before you do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest

from benchmarks import calls
from gradient_async.assembly import CompletionAssembler
from gradient_async.decoding import ChunkDecoder

# Calls for each further chunk: of the library's own functions, and of C functions from them. Three of those of a stream
# that comes an event a read are of its connection, which the event loop and aiohttp call. At 64 kB a read, what is
# done for a read or a slice is shared by its chunks, and differs a little: since 3.12 a comprehension is no call, and
# others get their turn by the clock.
BUDGETS = {
    "core, text, one event a read": (2.0, 6.0),
    "core, text, 64 kB a read": (1.2275, 2.3575),
    "core, 8 choices, one event a read": (2.0, 6.0),
    "core, tool call, 64 kB a read": (2.325, 2.5375),
    "core, logprobs, 64 kB a read": (4.205, 6.1875),
    "stream, chunks, one event a read": (12.1, 14.13),
    "stream, chunks, 64 kB a read": (1.6575, 0.7625),
    "stream, text, one event a read": (12.1, 15.13),
    "stream, text, 64 kB a read": (1.4675, 0.6725),
    "stream, raw, one event a read": (14.1, 15.13),
    "stream, raw, 64 kB a read": (0.485, 0.6375),
}
# Bytes allocated for each byte received, by bytes of a read (0: one event a read). One of them is the decoded text; the
# allowance is for chunks, which differ between versions of Python. A copy more is 1.0 more.
ALLOCATED = {0: 1.1, 64 * 1024: 4.5}
ALLOWANCE = 0.15
SHARED = 0.15  # of what is done for a slice; a call for each chunk is 1.0
ADDED = "<added>"

traces_instructions = pytest.mark.skipif(
    sys.version_info[:2] == (3, 12),
    reason="Python 3.12 tells a tracer of no instruction of a function called so often",
)


def test_every_case_has_a_budget() -> None:
    assert list(calls.CASES) == list(BUDGETS)


@pytest.mark.usefixtures("needs_internals")  # one call fewer of aiohttp's is one more of the library's
@pytest.mark.parametrize("case", BUDGETS)
def test_a_chunk_takes_so_many_calls(case: str) -> None:
    """One call more for each chunk fails, and so does a budget that has become too large."""
    exact = "one event" in case
    assert calls.calls(case) == pytest.approx(BUDGETS[case], abs=0.05 if exact else SHARED)


def test_calls_have_names() -> None:
    """To look for what was added: many chunks of a read share one slice, and each has its own where it comes alone."""
    assert 0 < calls.named("core, text, 64 kB a read")["call", "ChunkDecoder._decode_next"] < calls.MORE / 10
    assert calls.MORE == calls.named("core, text, one event a read")["call", "ChunkDecoder.feed"]


@traces_instructions
@pytest.mark.parametrize("read", ALLOCATED, ids=["one event", "64 kB"])
def test_a_byte_is_copied_so_often(read: int) -> None:
    assert calls.allocated(read) == pytest.approx(ALLOCATED[read], abs=ALLOWANCE)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions of a test count as the library's."""
    monkeypatch.setattr(calls, "COUNTED", (*calls.COUNTED, ADDED))


def in_the_package(source: str, **names: Any) -> Callable[..., Any]:
    """Make a function that is counted as one of the library's."""
    (code,) = [each for each in compile(source, ADDED, "exec").co_consts if hasattr(each, "co_code")]
    return FunctionType(code, names)


def test_a_call_more_for_each_chunk_shows(added: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The count can fail: a function around the one that adds a chunk is seen."""
    case = "core, text, 64 kB a read"
    slower = in_the_package("def add(self, chunk): once(self, chunk)", once=CompletionAssembler.add)
    monkeypatch.setattr(CompletionAssembler, "add", slower)
    assert BUDGETS[case][0] + 1 - SHARED <= calls.calls(case)[0]


@traces_instructions
@pytest.mark.parametrize("read", ALLOCATED, ids=["one event", "64 kB"])
def test_a_copy_more_shows(read: int, added: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The count can fail: a copy of what is received is seen."""
    copying = in_the_package("def push(self, data):\n once(self, bytes(memoryview(data)))",
                             bytes=bytes, memoryview=memoryview, once=ChunkDecoder.push)  # fmt: skip
    monkeypatch.setattr(ChunkDecoder, "push", copying)
    assert ALLOCATED[read] + 1 - ALLOWANCE <= calls.allocated(read)
