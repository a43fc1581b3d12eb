"""Tool calls assemble by the merge rule, whatever servers do with index, id and name."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import msgspec
import pytest

from gradient_async.assembly import CompletionAssembler
from gradient_async.config import Limits
from gradient_async.errors import StreamLimitError, StreamProtocolError
from gradient_async.types import ChatCompletionChunk, ToolCall

Entry = dict[str, Any]


def entry(
    index: int | None = None,
    id: str | None = None,  # noqa: A002  # the API's own name
    name: str | None = None,
    arguments: str | None = None,
    **more: Any,
) -> Entry:
    """Make a fragment; what is None is left out."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    found = {"index": index, "id": id, "function": function or None, **more}
    return {key: value for key, value in found.items() if value is not None}


def chunk(*entries: Entry) -> ChatCompletionChunk:
    return msgspec.convert({"choices": [{"delta": {"tool_calls": list(entries)}}]}, ChatCompletionChunk)


def calls_of(*entries: Entry, together: bool = False, **options: Any) -> list[ToolCall]:
    assembler = CompletionAssembler(**options)
    for piece in (entries,) if together else ([one] for one in entries):
        assembler.add(chunk(*piece))
    return assembler.completion.choices[0].message.tool_calls or []


def plain(calls: list[ToolCall]) -> list[tuple[str, str, str]]:
    return [(call.id, call.function.name, call.function.arguments) for call in calls]


RULE: dict[str, tuple[list[Entry], list[tuple[str, str, str]]]] = {
    "one call in fragments": (
        [entry(0, "a", "f", ""), entry(0, arguments='{"x"'), entry(0, arguments=":1}")],
        [("a", "f", '{"x":1}')],
    ),
    "an unknown index opens a call": (
        [entry(0, "a", "f", "1"), entry(1, "b", "g", "2")],
        [("a", "f", "1"), ("b", "g", "2")],
    ),
    "an unknown index opens a call without id": (
        [entry(0, "a", "f", "1"), entry(1, arguments="2")],
        [("a", "f", "1"), ("", "", "2")],
    ),
    "an index that starts at 1": ([entry(1, "a", "f", "1"), entry(1, arguments="2")], [("a", "f", "12")]),
    "interleaved": (
        [entry(0, "a", "f", "1"), entry(1, "b", "g", "2"), entry(0, arguments="3"), entry(1, arguments="4")],
        [("a", "f", "13"), ("b", "g", "24")],
    ),
    "ordered by index, with a gap": (
        [entry(2, "c", "h", "3"), entry(0, "a", "f", "1")],
        [("a", "f", "1"), ("c", "h", "3")],
    ),
    "id and name repeated": ([entry(0, "a", "f", "1"), entry(0, "a", "f", "2")], [("a", "f", "12")]),
    "id and name empty later": ([entry(0, "a", "f", "1"), entry(0, "", "", "2")], [("a", "f", "12")]),
    "id later": ([entry(0, None, "f", "1"), entry(0, "a", None, "2")], [("a", "f", "12")]),
    "id empty at first": ([entry(0, "", "f", "1"), entry(0, "a", None, "2")], [("a", "f", "12")]),
    "name later": ([entry(0, "a", None, "1"), entry(0, "a", "f", "2")], [("a", "f", "12")]),
    "a new id with a name on a known index opens another": (
        [entry(0, "a", "f", "1"), entry(0, "b", "g", "2")],
        [("a", "f", "1"), ("b", "g", "2")],
    ),
    "every call numbered 0, fragments by id": (
        [entry(0, "a", "f", "1"), entry(0, "b", "g", "2"), entry(0, "a", None, "3"), entry(0, "b", "g", "4")],
        [("a", "f", "13"), ("b", "g", "24")],
    ),
    "every call numbered 0, fragments without id": (
        [entry(0, "a", "f", "1"), entry(0, "b", "g", "2"), entry(0, arguments="3")],
        [("a", "f", "1"), ("b", "g", "23")],
    ),
    "a new id without a name on a known index continues": (
        [entry(0, "a", "f", "1"), entry(0, "b", None, "2"), entry(0, "c", "", "3")],
        [("a", "f", "123")],
    ),
    "a new id with a name where none was yet": (
        [entry(0, None, "f", "1"), entry(0, "a", "f", "2")],
        [("", "f", "1"), ("a", "f", "2")],
    ),
    "an id that another index has": (
        [
            entry(0, "a", "f", "1"),
            entry(1, "a", "f", "2"),
            entry(0, "a", None, "3"),
            entry(1, "a", None, "4"),
        ],
        [("a", "f", "13"), ("a", "f", "24")],
    ),
    "no index: a new id opens a call": (
        [entry(None, "a", "f", "1"), entry(None, "b", "g", "2")],
        [("a", "f", "1"), ("b", "g", "2")],
    ),
    "no index: a new id opens a call, name or not": (
        [entry(None, "a", "f", "1"), entry(None, "b", None, "2")],
        [("a", "f", "1"), ("b", "", "2")],
    ),
    "no index: a known id continues": (
        [entry(None, "a", "f", "1"), entry(None, "b", "g", "2"), entry(None, "a", None, "3")],
        [("a", "f", "13"), ("b", "g", "2")],
    ),
    "no index: no id continues the last opened": (
        [
            entry(None, "a", "f", "1"),
            entry(None, "b", "g", "2"),
            entry(None, "a", None, "3"),
            entry(arguments="4"),
        ],
        [("a", "f", "13"), ("b", "g", "24")],
    ),
    "no index, no id, first of all": ([entry(None, None, "f", "1"), entry(arguments="2")], [("", "f", "12")]),
    "no index: by id over calls with an index": (
        [entry(3, "a", "f", "1"), entry(0, "b", "g", "2"), entry(None, "a", None, "3"), entry(arguments="4")],
        [("b", "g", "24"), ("a", "f", "13")],
    ),
    "no index: a call opened goes to the end": (
        [entry(3, "a", "f", "1"), entry(None, "b", "g", "2"), entry(4, arguments="3")],
        [("a", "f", "1"), ("b", "g", "23")],
    ),
    "opened without an index, continued with one": (
        [entry(None, "a", "f", "1"), entry(0, arguments="2")],
        [("a", "f", "12")],
    ),
    "null adds nothing": (
        [entry(0, "a", "f"), entry(0), entry(0, arguments="1"), entry(0)],
        [("a", "f", "1")],
    ),
    "first id and name win": ([entry(0, "a", "f", "1"), entry(0, "a", "g", "2")], [("a", "f", "12")]),
}


@pytest.mark.parametrize(("entries", "expected"), RULE.values(), ids=RULE)
def test_merge_rule(entries: list[Entry], expected: list[tuple[str, str, str]]) -> None:
    """A fragment a chunk, and all of them in one chunk."""
    assert expected == plain(calls_of(*entries))
    assert expected == plain(calls_of(*entries, together=True))


def test_order_is_that_of_index_then_of_opening() -> None:
    entries = [entry(0, "a", "f"), entry(1, "b", "f"), entry(2, "c", "f")]
    for order in permutations(entries):
        assert ["a", "b", "c"] == [call.id for call in calls_of(*order)]
    assert ["x", "y", "z", "q"] == [
        call.id
        for call in calls_of(entry(0, "x", "f"), entry(1, "q", "f"), entry(0, "y", "f"), entry(0, "z", "f"))
    ]


@pytest.mark.parametrize(
    ("types", "expected"), [([None], "function"), (["", "custom"], "custom"), (["a", "b"], "a")]
)
def test_type_is_the_first_that_is_not_empty(types: list[str | None], expected: str) -> None:
    assert expected == calls_of(*(entry(0, type=kind) for kind in types))[0].type


def test_what_comes_late_counts_beside_arguments() -> None:
    """A fragment that goes on with the arguments may say what the call has lacked so far."""
    opened = entry(0, arguments="1")
    assert "custom" == calls_of(opened, entry(0, arguments="2", type="custom"))[0].type
    assert "f" == calls_of(opened, entry(0, name="f", arguments="2"))[0].function.name
    assert "a" == calls_of(opened, entry(0, id="a", arguments="2"))[0].id
    assert {"k": 1} == calls_of(opened, entry(0, arguments="2", extra_content={"k": 1}))[0].extra_content
    assert {"input": "i"} == calls_of(opened, entry(0, arguments="2", custom={"input": "i"}))[0].custom


def test_no_calls_are_none() -> None:
    assembler = CompletionAssembler()
    assembler.add(chunk())
    assert None is assembler.completion.choices[0].message.tool_calls


def test_calls_of_choices_do_not_mix() -> None:
    assembler = CompletionAssembler(n=2)
    for index in (0, 1, 0, 1):
        delta = {"tool_calls": [entry(0, f"c{index}", "f", str(index))]}
        assembler.add(msgspec.convert({"choices": [{"index": index, "delta": delta}]}, ChatCompletionChunk))
    found = [plain(choice.message.tool_calls or []) for choice in assembler.completion.choices]
    assert [[("c0", "f", "00")], [("c1", "f", "11")]] == found


def test_custom_calls() -> None:
    """A call of another kind keeps its payload; its input comes in pieces, its name counts as one."""
    found = calls_of(
        entry(0, "a", type="custom", custom={"name": "grep", "input": "x"}),
        entry(0, custom={"input": " y", "name": "grep"}),
        entry(0, "b", custom={"name": "ls"}),
        entry(0, custom={"input": None}),
    )
    assert [("a", {"name": "grep", "input": "x y"}), ("b", {"name": "ls"})] == [
        (call.id, call.custom) for call in found
    ]
    assert "custom" == found[0].type
    assert "raw" == calls_of(entry(0, "a", custom="raw"))[0].custom


def test_extra_content_merges() -> None:
    found = calls_of(
        entry(0, "a", "f", extra_content={"g": {"a": 1}}), entry(0, extra_content={"g": {"b": 2}})
    )
    assert {"g": {"a": 1, "b": 2}} == found[0].extra_content


def test_fragments_tell_which_call_they_went_to() -> None:
    assembler = CompletionAssembler()
    assembler.add(chunk(entry(0, "a", "f"), entry(1, "b", "g"), entry(0, arguments="x")))
    state = assembler.choices[0]
    assert ["a", "b", "a"] == [call.id for call in state.touched]
    assembler.add(chunk(entry(1)))
    assert ["b"] == [call.id for call in state.touched]


class TestLimits:
    def test_of_the_number(self) -> None:
        limits = Limits(tool_calls=3)
        entries = [entry(0, str(number), "f") for number in range(3)]
        assert 3 == len(calls_of(*entries, entry(0, arguments="x"), limits=limits))
        with pytest.raises(StreamLimitError, match=r"more than tool_calls=3 .*Limits\(tool_calls="):
            calls_of(*entries, entry(0, "new", "f"), limits=limits)

    @pytest.mark.parametrize("index", [3, 10**9])
    def test_of_the_index(self, index: int) -> None:
        """An index of a billion is refused, and allocates nothing."""
        limits = Limits(tool_calls=3)
        assert ["a"] == [call.id for call in calls_of(entry(2, "a"), limits=limits)]
        with pytest.raises(StreamLimitError, match=f"index {index}"):
            calls_of(entry(index, "a"), limits=limits)

    def test_default_is_1024(self) -> None:
        assert 1 == len(calls_of(entry(1023, "a")))
        with pytest.raises(StreamLimitError):
            calls_of(entry(1024, "a"))

    def test_a_negative_index_is_refused(self) -> None:
        with pytest.raises(StreamProtocolError, match="a tool call of choice 0 has the index -1"):
            calls_of(entry(-1, "a", "f"))
