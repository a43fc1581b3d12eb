"""Tool calls assemble by the merge rule, whatever servers do with index, id and name."""

from __future__ import annotations

import tracemalloc
from itertools import permutations
from typing import Any

import msgspec
import pytest
from chunking import chunk as whole_chunk
from fragments import calls_of as merged
from fragments import chunk_of, fragment
from fragments import plain as plain_calls
from wire import delta, event

from gradient_async.assembly import CompletionAssembler
from gradient_async.assembly.json_text import MAX_PENDING
from gradient_async.config import Limits
from gradient_async.decoding import ChunkDecoder
from gradient_async.errors import StreamLimitError, StreamProtocolError
from gradient_async.types import ChatCompletionChunk, TextBatch, ToolCall

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
    "id later": ([entry(0, None, "f", "[1"), entry(0, "a", None, "]")], [("a", "f", "[1]")]),
    "id empty at first": ([entry(0, "", "f", "[1"), entry(0, "a", None, "]")], [("a", "f", "[1]")]),
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
        [entry(0, "a", "f", "[1"), entry(0, "b", None, ",2"), entry(0, "c", "", ",3")],
        [("a", "f", "[1,2,3")],
    ),
    "a new id without a name behind whole arguments opens another": (
        [entry(0, "a", "f", "1"), entry(0, "b", None, "2")],
        [("a", "f", "1"), ("b", "", "2")],
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
    "a name before the arguments is no reason to open another": (
        [
            entry(0, "a", "f"),
            entry(0, arguments='{"a":'),
            entry(0, arguments="1}"),
            entry(0, arguments='{"b":2}'),
        ],
        [("a", "f", '{"a":1}{"b":2}')],
    ),
    "another name behind arguments opens another, of the same id": (
        [entry(0, "a", "f", "1"), entry(0, "a", "g", "2"), entry(0, "a", None, "3")],
        [("a", "f", "1"), ("a", "g", "23")],
    ),
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
    assert "a" == calls_of(entry(0, arguments="["), entry(0, id="a", arguments="2"))[0].id
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
    calls = assembler.choices[0].calls
    assert [("a", ""), ("b", ""), ("a", "x")] == [(call.id, text) for call, text, *_ in calls.added]
    assembler.add(chunk(entry(1)))
    assert [("b", "")] == [(call.id, text) for call, text, *_ in calls.added]


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

    def test_an_id_that_waits_is_counted(self) -> None:
        """Behind a whole object an id may belong to this call or the next one, and is kept until that is clear."""
        entries = [entry(0, "a", "f", "{}"), entry(0, "b" * 1000)]
        assert ["a"] == [call.id for call in calls_of(*entries, limits=Limits(completion_bytes=4096 + 1004))]
        with pytest.raises(StreamLimitError):
            calls_of(*entries, limits=Limits(completion_bytes=4096 + 1000))

    def test_default_is_1024(self) -> None:
        assert 1 == len(calls_of(entry(1023, "a")))
        with pytest.raises(StreamLimitError):
            calls_of(entry(1024, "a"))

    def test_a_negative_index_is_refused(self) -> None:
        with pytest.raises(StreamProtocolError, match="a tool call of choice 0 has the index -1"):
            calls_of(entry(-1, "a", "f"))


# Streams in short form (`fragments`), beyond the examples of docs/merging.md.
STREAMS = {
    "all at index 0, of one name, in pieces": (
        ["0 - f -", '0 - - {"x"', "0 - - :1}", "0 - f -", '0 - - {"y"', "0 - - :2}"],
        ['- f {"x":1}', '- f {"y":2}'],
    ),
    "all at index 0, of one name and id, no arguments first": (
        ["0 c f -", "0 - - {}", "0 c f -", '0 - - {"y":2}'],
        ["c f {}", 'c f {"y":2}'],
    ),
    "an id for each fragment, and nothing in the last": (
        ["0 a f {", "0 b - }", "0 c - -", "0 d -  "],
        ["a f {}"],
    ),
    "an id that waits for its name": (["0 a f {}", "0 b - -", "0 - g -", "0 - - []"], ["a f {}", "b g []"]),
    "an id that waits for arguments": (["0 a f {}", "0 b - -", '0 - - {"x":1}'], ["a f {}", 'b - {"x":1}']),
    "an id that waits, and another": (
        ["0 a f {}", "0 b - -", '0 c - {"x":1}'],
        ["a f {}", 'c - {"x":1}'],
    ),
    "a name that waits, and another id": (
        ["0 a f {}", "0 a f -", '0 b - {"y":', "0 - g 2}"],
        ["a f {}", 'b g {"y":2}'],
    ),
    "what waited does not wait for more than one": (
        ['0 - f {"x":1}', "0 - f -", "0 - g {}", '0 - f {"z":3}'],
        ['- f {"x":1}', "- g {}", '- f {"z":3}'],
    ),
    "a late name is that of its call": (
        ['0 - - {"x":1}', "0 - f -", '0 - - {"y":2}', "0 - g -"],
        ['- f {"x":1}', '- g {"y":2}'],
    ),
    "alike, in pieces": (['0 - f {"x":1}', "0 - g []", '0 - f {"x"', "0 - - :1}"], ['- f {"x":1}', "- g []"]),
    "alike, without an index": (["- - f []", "- - g []", "- - f []"], ["- f []", "- g []"]),
    "alike, and no id in the second": (["0 a f []", "0 - g {}", "0 - f []"], ["a f []", "- g {}"]),
    "alike, but for white space": (["0 - f [1]", "0 - g {}", "0 - f [ 1 ]"], ["- f [1]", "- g {}"]),
    "alike, but of another index": (["0 - f []", "1 - f []"], ["- f []", "- f []"]),
    "alike, but of another id": (["0 a f []", "0 b f []", "0 - g []"], ["a f []", "b f []", "- g []"]),
    "alike, the id in the first alone": (["0 a f []", "0 - g {}", "0 - f []", "0 b f []"], ["a f []", "- g {}", "b f []"]),
    "alike, the id in the last alone": (["0 - f []", "0 - g {}", "0 b f []", "0 c f []"], ["b f []", "- g {}", "c f []"]),
    "an id that two calls of one index have": (
        ['0 c f {"x":1}', '0 c g {"y":', "0 c - 2}"],
        ['c f {"x":1}', 'c g {"y":2}'],
    ),
    "an id that an earlier call takes late": (
        ["1 - f [", "2 c g [", "1 c - 1", "- c - 2"],
        ["c f [1", "c g [2"],
    ),
    "behind what is no JSON": (['0 - f {"x":}', '0 - f {"y":2}'], ['- f {"x":}{"y":2}']),
    "behind a value that is no object": (["0 - f []", "0 - f []"], ["- f [][]"]),
    "an id alone behind a value that is no object": (["0 a f []", "0 b - -"], ["a f []", "b - -"]),
    "white space before a name": (["0 - f  ", "0 - g {}"], ["- f  ", "- g {}"]),
}  # fmt: skip


@pytest.mark.parametrize(("fragments", "expected"), STREAMS.values(), ids=STREAMS)
def test_streams(fragments: list[str], expected: list[str]) -> None:
    for together in (False, True):
        assert expected == merged(*fragments, together=together)


def test_custom_calls_are_alike_if_their_payloads_are() -> None:
    def custom(name: str, text: str) -> Entry:
        return entry(0, type="custom", custom={"name": name, "input": text})

    found = calls_of(custom("f", "a"), entry(0, "x", custom={"name": "f", "input": "b"}))
    assert [("", "a"), ("x", "b")] == [(call.id, call.custom["input"]) for call in found]
    found = calls_of(
        custom("f", "a"),
        entry(1, "x", custom={"name": "f"}),
        entry(0, "y", custom={"name": "f", "input": "a"}),
    )
    assert [("y", "a"), ("x", None)] == [(call.id, call.custom.get("input")) for call in found]
    found = calls_of(entry(0, "x", custom=["a"]), entry(0, "y", custom=["a"]), entry(0, "z", "f"))
    assert ["x", "y", "z"] == [call.id for call in found]


def test_each_call_has_a_number_of_its_own() -> None:
    """That of the server, or a free one where several calls have it: by it, readers of events tell calls apart."""
    assembler = CompletionAssembler()
    for text in ("0 a f []", "0 b f []", "3 c f []", "1 d f []", "- e f []", "0 g h []"):
        assembler.add(chunk_of(fragment(text)))
    calls = assembler.choices[0].calls.opened
    assert [0, 0, 3, 1, 5, 0] == [call.index for call in calls]
    assert [0, 1, 3, 4, 5, 6] == [call.number for call in calls]


def test_a_name_of_many_pieces_is_not_copied_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    assembler = CompletionAssembler()
    piece = chunk_of(fragment("0 - abc -"), fragment("0 - d -"))
    tracemalloc.start()
    try:
        for _ in range(2000):
            assembler.add(piece)
            assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()
    assert ["- " + "abcd" * 2000 + " -"] == plain_calls(assembler.completion.choices[0].message.tool_calls)


def test_arguments_are_counted_while_they_come() -> None:
    """A piece after the other, and after 64 kB of pieces that were not read."""
    count = MAX_PENDING // 10
    assembler = CompletionAssembler(limits=Limits(completion_bytes=3 * 10 * 2 * count + 3 + 4096))
    assembler.add(chunk(entry(0, None, None, "[")))
    arguments = assembler.choices[0].calls.opened[0].arguments
    piece = chunk(entry(0, arguments="\u20ac" * 10))
    most = 0
    for _ in range(2 * count):
        assembler.add(piece)
        most = max(most, arguments.pending)
    assert MAX_PENDING - 20 < most <= MAX_PENDING
    assembler.add(chunk(entry(0, arguments="12")))
    with pytest.raises(StreamLimitError):
        assembler.add(chunk(entry(0, arguments="3")))


class TestBatches:
    """A batch of arguments is the same as its chunks."""

    @pytest.mark.parametrize(
        "texts",
        [
            ['{"a', '":', "1", "}"],
            ['{"a":1}', " ", '{"b":2}'],
            ["{", "}", '{"b":2}'],
            ["1", "2", "3"],
            ["é", "}", "}", "{"],
            ["[", "", "1", "]"],
        ],
    )
    @pytest.mark.parametrize(
        "first", ["0 c f -", "0 c f {", "0 c f {}", "0 c f }", "1 c f {", '0 c f {"a":1}']
    )
    @pytest.mark.parametrize("reason", [None, "stop"])
    def test_of_arguments(self, texts: list[str], first: str, reason: str | None) -> None:
        decoder = ChunkDecoder()
        decoder.feed(event(delta(tool_calls=[{"index": 0, "function": {"arguments": "a"}}])) * 2)
        decoder.push(
            b"".join(
                event(delta(tool_calls=[{"index": 0, "function": {"arguments": text}}])) for text in texts
            )
        )
        batch = decoder.decode_slice()
        assert isinstance(batch, TextBatch)
        by_batch, one_by_one = CompletionAssembler(), CompletionAssembler()
        for assembler in (by_batch, one_by_one):
            assembler.add(chunk_of(fragment(first)))
            if reason is not None:
                assembler.add(whole_chunk(finish=reason))
        by_batch.extend(batch)
        for piece in batch:
            one_by_one.add(piece)
        assert one_by_one.completion == by_batch.completion
        # The last piece is told as of its own chunk, for the events.
        told = [
            (call.ordinal, *rest)
            for assembler in (by_batch, one_by_one)
            for call, *rest in assembler.choices[0].calls.added
        ]
        assert told[0] == told[-1]

    def test_beyond_a_limit(self) -> None:
        """All of a batch has been received, whatever it exceeds."""
        decoder = ChunkDecoder()
        one = event(delta(tool_calls=[{"index": 0, "function": {"arguments": "ab"}}]))
        decoder.feed(one * 2)
        decoder.push(one * 5)
        assembler = CompletionAssembler(limits=Limits(completion_bytes=5))
        with pytest.raises(StreamLimitError):
            assembler.extend(decoder.decode_slice())
        assert [("", "", "ab" * 5)] == plain(assembler.completion.choices[0].message.tool_calls or [])
