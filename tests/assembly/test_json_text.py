"""`JsonText` knows at each moment whether what has come is whole, without parsing it anew."""

from __future__ import annotations

import json
import random
import tracemalloc
from typing import Any

import pytest

from gradient_async.assembly import json_text
from gradient_async.assembly.json_text import MAX_PENDING, JsonText, canonical, is_blank

VALUES: list[Any] = [
    {},
    {"a": 1},
    {"a": {"b": [1, {"c": "}"}], "d": '\\"{['}},
    [],
    [[], {}, "]"],
    'a "quoted" \\ text',
    "",
    12.5,
    -3e10,
    True,
    None,
]
TEXTS = [
    *map(json.dumps, VALUES),
    ' {"a" : 1}\n',
    '{"a":1',
    '{"a":}',
    '{"a":1}}',
    '{"a":1} {"b":2}',
    '{"a":1]',
    '"\\u00e9"',
    '"\\q"',
    "nul",
    "-",
    "1.",
    "12 ",
    "}",
    ", {}",
    "\\",
    "   ",
]


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def parts(text: str, dice: random.Random) -> list[str]:
    cuts = sorted(dice.randint(0, len(text)) for _ in range(dice.randint(0, 5)))
    return [
        piece for piece in (text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)) if piece
    ]


def append(text: JsonText, piece: str) -> None:
    """Append a piece as `ToolCalls.add` does, without reading it."""
    text.pieces.append(piece)
    text.pending += len(piece)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("way", ["add", "append", "mixed", "extend"])
def test_the_same_as_a_parser_at_each_moment(text: str, way: str) -> None:
    """However the text is cut, and whether its pieces are read at once or later."""
    for seed in range(60):
        dice = random.Random(seed)
        found, so_far = JsonText(), ""
        pieces = parts(text, dice)
        if way == "extend" and pieces:
            size = found.extend(pieces)
            whole_before = is_json("".join(pieces[:-1]).strip()) and text[:1] not in "0123456789-"
            assert not (whole_before and size)
            assert size == (len(text.encode()) if size else 0)
            so_far = text if size else ""
            pieces = []
        for piece in pieces:
            so_far += piece
            if way == "append" or (way == "mixed" and dice.random() < 0.5):
                append(found, piece)
            else:
                assert len(piece.encode()) == found.add(piece)
            if dice.random() < 0.5:
                assert is_json(so_far) == found.whole
        assert so_far == str(found)
        assert is_json(so_far) == found.whole
        whole_object = is_json(so_far) and isinstance(json.loads(so_far), dict)
        assert whole_object == found.whole_object
        assert (whole_object and json.loads(so_far) == {}) == found.empty_object
        assert is_blank(so_far) == found.blank


def test_open_is_what_has_begun_and_has_not_ended() -> None:
    found = JsonText()
    moments = [found.open]
    for piece in (" ", "{", '"a', '}"', ":1", "}", " ", "x"):
        found.add(piece)
        moments.append(found.open)
    assert [False, False, True, True, True, True, False, False, False] == moments


def test_extend_leaves_a_text_that_may_be_whole_before_the_last_piece_as_it_is() -> None:
    found = JsonText()
    found.add('{"a":')
    assert 0 == found.extend(["1}", '{"b":', "2}"])
    assert (['{"a":'], True) == (found.pieces, found.open)
    assert 2 == found.extend(["1", "}"])
    assert found.whole_object
    assert 0 == found.extend([" ", "x"])
    other = JsonText()
    other.add('["\\')
    assert 1 == other.extend(['"'])
    assert 2 == other.extend(['"', "]"])
    assert other.whole
    found.add("x")
    assert 2 == found.extend(["y", "z"]), "what is no JSON stays so"
    assert not found.whole


def test_bytes_of_pieces_that_were_not_read_are_counted_later() -> None:
    found = JsonText()
    append(found, '{"é')
    append(found, "😀")
    assert (0, 4) == (found.uncounted, found.pending)
    found.read_pending()
    assert (4, 0) == (found.uncounted, found.pending)
    found.read_pending()
    assert 4 == found.uncounted


def test_a_large_piece_is_not_looked_at() -> None:
    """It would hold the event loop. As the whole text it is parsed once; after others the text counts as no JSON."""
    large = json.dumps({"a": ["{}"] * 100_000})
    found = JsonText()
    found.add(" " + large)
    assert found.whole_object
    found = JsonText()
    found.add(large[:-1])
    assert (False, False) == (found.open, found.whole)
    found = JsonText()
    found.add('{"b":1,')
    found.add(large[1:])
    assert (False, False) == (found.open, found.whole)
    assert not found.repeated_by(large)


@pytest.mark.parametrize("digits", [64, 65])
def test_a_long_number_is_not_whole(digits: int) -> None:
    found = JsonText()
    found.add("1" * digits)
    assert (digits == 64) == found.whole


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"a":1,"b":[2,"é"]}', '{ "b": [2, "\\u00e9"],\n"a": 1.0 }', True),
        ('{"a":1}', '{"a":true}', False),
        ('{"a":1}', '{"a":2}', False),
        ('{"a":0.5}', '{"a":5e-1}', True),
        ('{"a":1e300}', '{"a":1e+300}', True),
        ('{"a":2.5}', '{"a":2}', False),
        ('{"a":9007199254740993.0}', '{"a":9007199254740992}', False),
        ('{"a":1}', '{"a":1', False),
        ('{"a":1}', "[1]", False),
        ('{"a":1}', '"a"', False),
        ('{"a":' + "[" * 100 + "]" * 100 + "}", '{"a": ' + "[" * 100 + "]" * 100 + "}", True),
        ('{"a":' + "[" * 9999 + "]" * 9999 + "}", '{"a": ' + "[" * 9999 + "]" * 9999 + "}", False),
    ],
)
def test_the_same_object_is_the_same_json(one: str, other: str, same: bool) -> None:
    for text, again in ((one, other), (other, one)):
        found = JsonText()
        found.add(text)
        if found.whole_object:
            assert same == found.repeated_by(again)
        assert same == (canonical(text) == canonical(again))


def test_what_kind_of_json_it_is() -> None:
    for pieces, kinds in (
        (["{}"], (True, True, True, True)),
        (["{", "}"], (True, True, True, False)),
        (["[]"], (True, False, False, False)),
    ):
        text = JsonText()
        for piece in pieces:
            text.add(piece)
        assert kinds == (text.whole, text.whole_object, text.empty_object, text.is_placeholder)


def test_long_objects_are_compared_as_text() -> None:
    text = json.dumps({"a": "x" * 70_000})
    found = JsonText()
    found.add(text)
    assert found.whole_object
    assert found.repeated_by(f"  {text}\n")
    assert not found.repeated_by(text.replace(": ", ":"))


def test_a_short_text_is_not_compared_with_a_long_one() -> None:
    """The work for a fragment must not depend on the arguments before it."""
    found = JsonText()
    found.add(json.dumps({"a": "x" * 10_000_000}))
    tracemalloc.start()
    try:
        assert not found.repeated_by('{"a":1}')
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()


def test_each_character_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text of many pieces, with somebody who asks after each."""
    read: list[int] = []

    class Marks:
        @staticmethod
        def findall(text: str, start: int) -> list[str]:
            read.append(len(text))
            return marks.findall(text, start)

    marks = json_text._MARKS
    monkeypatch.setattr(json_text, "_MARKS", Marks)
    parsed: list[int] = []
    check = json_text._check

    def noted(text: str) -> object:
        parsed.append(len(text))
        return check(text)

    monkeypatch.setattr(json_text, "_check", noted)
    found = JsonText()
    text = json.dumps({"a": ["}" * 10] * 1000})
    for start in range(0, len(text), 7):
        append(found, text[start : start + 7])
        assert not found.whole or start + 7 >= len(text)
    for _ in range(10):
        assert found.whole
    assert (len(text), [len(text)]) == (sum(read), parsed)
    assert MAX_PENDING < json_text.MAX_PIECE, "what is pending is read in one go"
