"""JSON that arrives in pieces is one value that grows: at every cut the same as a slow and simple reference."""

from __future__ import annotations

import codecs
import copy
import json
import math
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from work import lines_run

from gradient_async.partial import PartialJSON

# The reference


def exact(text: str) -> Any:
    """Read whole JSON by the standard library; a float that is too large is a ValueError, a lone surrogate is U+FFFD."""

    def number(digits: str) -> float:
        if math.isinf(value := float(digits)):
            raise ValueError(digits)
        return value

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {encodable(key): value for key, value in pairs}

    return encodable(json.loads(text, parse_float=number, parse_constant=number, object_pairs_hook=members))


def encodable(value: Any) -> Any:
    """Join surrogate pairs and replace lone halves in all strings; keys have none."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if type(value) is list:
        return [encodable(item) for item in cast("list[Any]", value)]
    if type(value) is dict:
        return {key: encodable(item) for key, item in cast("dict[str, Any]", value).items()}
    return value


TOKENS = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?)|[\[\]{},:]|[^ \t\n\r\[\]{},:"]+', re.DOTALL)
HALF_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?\Z")


def closers(tokens: list[str]) -> str:
    open_ = [token for token in tokens if token in "{["]
    closed: list[str] = []
    for token in tokens:
        if token in "{[":
            closed.append("}" if token == "{" else "]")
        elif token in "]}" and closed:
            closed.pop()
    assert len(closed) <= len(open_)
    return "".join(reversed(closed))


def reference(text: str) -> Any:
    """Drop what is half, close what is open, and read it whole. The text must begin JSON."""
    tokens = TOKENS.findall(text)
    ended = text[-1:] in " \t\n\r"
    if tokens and tokens[-1][0] == '"' and not is_whole_string(tokens[-1]):
        head = re.sub(r"\\\\", "  ", tokens[-1])  # an escaped backslash begins no escape
        half = HALF_ESCAPE.search(head)
        string: str = json.loads(tokens[-1][: half.start() if half else None] + '"')
        # The pairs are joined first: the second half of a pair is no first half of another.
        waiting = string[-1:] if "\ud800" <= string[-1:] <= "\udbff" else ""
        tokens[-1] = json.dumps(string[: len(string) - len(waiting)])
        if is_key(tokens):
            tokens.pop()
    elif (
        tokens
        and tokens[-1][0] in "-0123456789tfn"
        and tokens[-1] not in {"true", "false", "null"}
        and not ended
    ):
        tokens.pop()  # a number that may go on, or half a word
    if tokens and tokens[-1] == ":":
        tokens.pop()
    if tokens and is_key(tokens):
        tokens.pop()
    if tokens and tokens[-1] == ",":
        tokens.pop()
    return exact("".join(tokens) + closers(tokens)) if tokens else None


def is_whole_string(token: str) -> bool:
    return re.fullmatch(r'"(?:[^"\\]|\\.)*"', token, re.DOTALL) is not None


def is_key(tokens: list[str]) -> bool:
    return tokens[-1][0] == '"' and closers(tokens).startswith("}") and tokens[-2] in {"{", ","}


# Every rest that a text may have which begins JSON, white space and closing brackets aside.
RESTS = [
    *("", "0", '"', ":0", '":0', '"":0'),
    *(f'{rest}"{more}' for rest in ("n", "0", "00", "000", "0000") for more in ("", ":0")),
    *(word[at:] for word in ("true", "false", "null") for at in range(1, len(word))),
]


def begins_json(text: str) -> bool:
    """Whether there is a rest with which the text is JSON. A number is too large only when it has ended."""
    text = re.sub(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?\Z", "0", text)
    end = closers(TOKENS.findall(text))
    for rest in RESTS:
        try:
            exact(text + rest + end)
        except ValueError:
            continue
        return True
    return False


def is_json(text: str) -> bool:
    try:
        exact(text)
    except ValueError:
        return False
    return True


def read(*pieces: str) -> PartialJSON:
    """Feed pieces; check that `feed` returns the value."""
    parser = PartialJSON()
    for piece in pieces:
        assert parser.feed(piece) is parser.value
    return parser


def same(one: Any, other: Any) -> bool:
    """Whether values are equal, with types and the order of keys: 1 is not 1.0 and not True."""
    return repr(one) == repr(other)


# Half things: the table of the specification


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        (" \t\n\r", None),
        ("{", {}),
        ("[", []),
        # A string is there from its opening quotation mark, with what is decoded.
        ('"', ""),
        ('"ab', "ab"),
        ('{"a":"', {"a": ""}),
        ('["', [""]),
        ('["a', ["a"]),
        # An escape waits for its rest.
        ('["a\\', ["a"]),
        ('["a\\u00e', ["a"]),
        ('["a\\u00e9', ["aé"]),
        ('["a\\"', ['a"']),
        ('["\\"\\\\\\/\\b\\f\\n\\r\\t', ['"\\/\b\f\n\r\t']),
        # The first half of a surrogate pair waits for its rest; a lone half becomes U+FFFD.
        ('["a\\ud83d', ["a"]),
        ('["a\\ud83d\\', ["a"]),
        ('["a\\ud83d\\ude0', ["a"]),
        ('["a\\ud83d\\ude00', ["a😀"]),
        ('["a\\ud83dx', ["a\ufffdx"]),
        ('["a\\ud83d\\n', ["a\ufffd\n"]),
        ('["a\\ud83d"', ["a\ufffd"]),
        ('["a\\ud83d\\ud83d', ["a\ufffd"]),
        ('["a\\ud83d\\ud83d\\ude00', ["a\ufffd😀"]),
        ('["a\\ude00', ["a\ufffd"]),
        ('["\ud83d', [""]),
        ('["\ud83d\ude00', ["😀"]),
        ('["\\ud83d\ude00', ["😀"]),
        ('["\ude00x', ["\ufffdx"]),
        ('{"\\ud83d":1,', {"\ufffd": 1}),
        # A number appears only when something ends it.
        ("12", None),
        ("12 ", 12),
        ("[12", []),
        ("[12 ", [12]),
        ("[12,", [12]),
        ("[12]", [12]),
        ('{"a": -1.5e+3', {}),
        ('{"a": -1.5e+3}', {"a": -1500.0}),
        # `true`, `false`, `null` when whole.
        ("tru", None),
        ("true", True),
        ("[tru", []),
        ("[true", [True]),
        ("[fals", []),
        ("[false", [False]),
        ("[nul", []),
        ("[null", [None]),
        # A key only with its value.
        ('{"a', {}),
        ('{"a"', {}),
        ('{"a":', {}),
        ('{"a":t', {}),
        ('{"a":[', {"a": []}),
        ('{"a":1,"b', {"a": 1}),
        ('{"a":[{"b":1},{"c', {"a": [{"b": 1}, {}]}),
        # The last of two equal keys wins, as soon as it has a value.
        ('{"a":1,"b":2,"a":3', {"a": 1, "b": 2}),
        ('{"a":1,"b":2,"a":"', {"a": "", "b": 2}),
        ('{"a":[1],"a":[2]}', {"a": [2]}),
        ('{"":{"":""}}', {"": {"": ""}}),
    ],
)
def test_half_things(text: str, value: Any) -> None:
    assert same(value, reference(text)), "the reference itself"
    for pieces in ([text], [*text], [text[: len(text) // 2], "", text[len(text) // 2 :]]):
        parser = read(*pieces)
        assert parser.valid
        assert same(value, parser.value)


NESTED = (
    r'{"name": "Zo\u00eb \"Z\" \\", "tags": ["a", "\ud83d\ude00\ud83d", {"n": [1, -2.5e-3, 0, -0, 1E2]}, [], {}, [[""]]],'
    '\n\t"big": 123456789012345678901234567890, "ok": true,\r\n "no": false, "nothing": null , "name": "last", '
    '"é😀": "日本語", "": {"deep": {"deeper": {"x" : [ [ ] , { } ] } } } } \n'
)


@pytest.mark.parametrize(
    "text",
    [
        NESTED,
        '"just \\u00e9 text\\n" ',
        "-12.50E-2 ",
        " [1,[2,[3,[]]],{}]",
        "null",
        '[{"a":{"b":[true,{"c":"',
    ],
)
def test_every_cut_of_nested_documents(text: str) -> None:
    """Whole, character by character, and cut once at every position."""
    for cut in range(len(text) + 1):
        parser = read(text[:cut])
        assert same(reference(text[:cut]), parser.value), text[:cut]
        assert parser.valid
        parser.feed(text[cut:])
        assert same(reference(text), parser.value)
    parser = PartialJSON()
    for cut, character in enumerate(text, 1):
        assert same(reference(text[:cut]), parser.feed(character)), text[:cut]
    assert parser.complete is is_json(text)


STRINGS = [
    "",
    "a",
    "some text",
    "é",
    "日本",
    "😀",
    "\\n",
    '\\"',
    "\\\\",
    "\\/",
    "\\u0041",
    "\\u00E9",
    "\\u0000",
    "\x7f",
]
HALVES = ["\\ud83d", "\\uDE00", "\\ud83d\\ude00", "\ud83d", "\ude00"]
NUMBERS = ["0", "-0", "7", "-12", "1.5", "0.25", "-1e3", "2E-2", "1.0e+1", "9007199254740993", "1" * 60]


def generated(dice: random.Random, depth: int = 0) -> str:
    """Make a document with white space, escapes, equal keys and halves of surrogate pairs."""

    def space() -> str:
        return dice.choice(["", "", "", " ", "\n  ", "\t", "\r\n"])

    def string() -> str:
        return '"' + "".join(dice.choices(STRINGS + HALVES, k=dice.randrange(4))) + '"'

    kind = dice.randrange(0 if depth or dice.random() < 0.1 else 3, 7 if depth < 4 else 4)
    if kind == 0:
        text = string()
    elif kind == 1:
        text = dice.choice(NUMBERS)
    elif kind == 2:
        text = dice.choice(["true", "false", "null"])
    elif kind in {3, 6}:
        text = "[" + ",".join(generated(dice, depth + 1) for _ in range(dice.randrange(4))) + space() + "]"
    else:
        members = (
            f"{space()}{string()}{space()}:{generated(dice, depth + 1)}" for _ in range(dice.randrange(4))
        )
        text = "{" + ",".join(members) + space() + "}"
    return space() + text + space()


def pieces_of(dice: random.Random, text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        size = dice.randrange(1, 9)
        yield text[at : at + size]
        at += size


@pytest.mark.parametrize("seed", range(10))
def test_ten_thousand_generated_documents(seed: int) -> None:
    """A thousand for each seed, in random pieces."""
    dice = random.Random(seed)
    for _ in range(1_000):
        text = generated(dice)
        parser, fed = PartialJSON(), ""
        for piece in pieces_of(dice, text):
            fed += piece
            assert same(reference(fed), parser.feed(piece)), fed
        assert parser.valid
        assert same(exact(text), parser.close()), text
        assert parser.complete


# What no JSON has


def test_documents_with_one_wrong_character() -> None:
    """The value stays as it was before the first character that no JSON has; the rest is ignored."""
    dice = random.Random(1)
    wrong = 0
    for _ in range(500):
        text = generated(dice).encode("utf-8", "replace").decode()
        at = dice.randrange(len(text) + 1)
        text = text[:at] + dice.choice([*'{}[]",:\\ 0-.eEtu\x01\ufeff', "NaN", "'a'"]) + text[at + 1 :]
        fault = next((end for end in range(len(text)) if not begins_json(text[: end + 1])), None)
        for pieces in ([text], [*text], [*pieces_of(dice, text)]):
            parser = read(*pieces)
            assert (fault is None) is parser.valid, text
            assert same(reference(text[:fault]), parser.value), text
            if fault is not None:
                with pytest.raises(ValueError, match=f"at position {fault}$"):
                    parser.close()
        wrong += fault is not None
    assert wrong > 250


@pytest.mark.parametrize(
    ("text", "position", "value"),
    [
        ("]", 0, None),
        ("nonsense", 1, None),
        ("\ufeff{}", 0, None),
        ("\xa0{}", 0, None),
        ("[NaN]", 1, []),
        ("[Infinity]", 1, []),
        ("[-Infinity]", 2, []),
        ("[nan]", 2, []),
        ("[True]", 1, []),
        ("[truex]", 5, [True]),
        ("['a']", 1, []),
        ("[+1]", 1, []),
        ("[.5]", 1, []),
        ("[01]", 2, []),
        ("[-]", 2, []),
        ("[-a]", 2, []),
        ("[1.]", 3, []),
        ("[1.e1]", 3, []),
        ("[1e]", 3, []),
        ("[1e+]", 4, []),
        ("[0x1]", 2, []),
        ("[1_0]", 2, []),
        ("[１]", 1, []),
        ("[1 2]", 3, [1]),
        ("[1}", 2, []),
        ('{"a":1]', 6, {}),
        ("1,", 1, None),
        ("[1,]", 3, [1]),
        ("[,", 1, []),
        ('{"a":1,}', 7, {"a": 1}),
        ('{"a" 1}', 5, {}),
        ('{"a",', 4, {}),
        ('{"a"}', 4, {}),
        ('{"a":}', 5, {}),
        ("{1:2}", 1, {}),
        ("{a:2}", 1, {}),
        ('["a" "b"]', 5, ["a"]),
        ("[}", 1, []),
        ("{]", 1, {}),
        ("/* a */ 1", 0, None),
        # Control characters in a string.
        ('["ab\ncd"]', 4, ["ab"]),
        ('["ab\x00', 4, ["ab"]),
        ('["ab\x1f', 4, ["ab"]),
        ('{"a\tb":1}', 3, {}),
        # Escapes that JSON does not have; a half that waits goes on waiting.
        ('["a\\x41"]', 4, ["a"]),
        ('["a\\uZ', 5, ["a"]),
        ('["a\\u00g0"]', 7, ["a"]),
        ('["a\\u00"]', 7, ["a"]),
        ('["a\\ud83d\\q"]', 10, ["a"]),
        ('["a\\ud83d\x01"]', 9, ["a"]),
        # A number that is too large for a float is wrong where it ends.
        ("[1e999]", 6, []),
        ("[-1e999 ", 7, []),
        ("[1" + "0" * 400 + ".0]", 404, []),
        ("[" + "1" * 4301 + "]", 4302, []),
        # Anything but white space after the root.
        ("{}x", 2, {}),
        ("[] []", 3, []),
        ("{}\n}", 3, {}),
        ('"a""b"', 3, "a"),
        ("true1", 4, True),
        ("null,", 4, None),
        ("1 2", 2, 1),
    ],
)
def test_the_first_character_that_no_json_has(text: str, position: int, value: Any) -> None:
    """It makes the text invalid for good, and the value stays."""
    for pieces in ([text], [*text]):
        parser = PartialJSON()
        for piece in pieces:
            parser.feed(piece)
        assert not parser.valid
        assert same(value, parser.value)
        assert same(value, parser.feed(' more, "text": [1]}]'))
        assert not parser.valid
        with pytest.raises(ValueError, match=f"at position {position}$"):
            parser.close()
    before = read(text[:position])
    assert before.valid
    assert same(value, before.value)


@pytest.mark.parametrize("text", ["-", "1.", "1e", "01"])
def test_half_numbers_are_no_numbers(text: str) -> None:
    parser = read(text)
    assert parser.value is None
    with pytest.raises(ValueError, match="at position"):
        parser.close()
    assert parser.value is None


# Numbers


@pytest.mark.parametrize(
    "digits", ["9007199254740993", "-18446744073709551617", "1" * 400, "9" * 4300, "-" + "9" * 4300]
)
def test_integers_are_exact(digits: str) -> None:
    assert [int(digits)] == read(*f"[{digits}]").close()


@pytest.mark.parametrize(
    "digits", ["0.1", "1e308", "-2.2250738585072014e-308", "5e-324", "1e-999", "1E+2", "-0.0"]
)
def test_other_numbers_are_floats(digits: str) -> None:
    (number,) = read(f"[{digits}]").close()
    assert type(number) is float
    assert repr(float(digits)) == repr(number)


def test_an_integer_may_be_too_long_for_the_settings_of_the_program() -> None:
    """Python refuses to convert more digits than `sys.set_int_max_str_digits` allows."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        parser = read("[" + "1" * 641 + "]")
    finally:
        sys.set_int_max_str_digits(limit)
    assert ([], False) == (parser.value, parser.valid)


# The whole


def test_close_returns_a_whole_value() -> None:
    for text in ("{}", " [1] ", '"a"', "true", "12", "-0.5", "1e3", "null"):
        parser = read(text)
        assert same(exact(text), parser.close())
        assert parser.complete
        assert same(exact(text), parser.close()), "a second time"


@pytest.mark.parametrize(
    "text", ["", " ", "{", '{"a', '{"a":', '{"a":1', "[1,", '"a', '"a\\', '"\\ud83d', "tru", "[tru", "[1"]
)
def test_close_raises_unless_whole(text: str) -> None:
    """With the position of the end; the text may go on."""
    parser = read(text)
    value = copy.deepcopy(parser.value)
    with pytest.raises(ValueError, match=f"ends at position {len(text)}$"):
        parser.close()
    assert same(value, parser.value)
    assert parser.valid
    assert not parser.complete


def test_a_number_at_the_root_that_is_too_large() -> None:
    parser = read("1e999")
    assert parser.valid
    with pytest.raises(ValueError, match=r"wrong at position 5$"):
        parser.close()
    assert (None, False, False) == (parser.value, parser.valid, parser.complete)


def test_complete_is_that_the_root_is_closed() -> None:
    parser = PartialJSON()
    told: list[bool] = []
    for character in '[{"a":"]"},1] x':
        parser.feed(character)
        told.append(parser.complete)
    assert [False] * 12 + [True] * 3 == told
    assert not parser.valid, "text after the root is wrong, but the root stays closed"


def test_one_value_grows() -> None:
    """The same dict and the same list at each piece."""
    parser = PartialJSON()
    root = parser.feed('{"a":[')
    items = root["a"]
    for character in '1,"text",{"b":2}],"c":null}':
        assert parser.feed(character) is root
        assert root["a"] is items
    assert {"a": [1, "text", {"b": 2}], "c": None} == root


def test_a_value_that_was_kept_is_not_changed() -> None:
    """Strings grow in place only while nobody else has them."""
    parser = read('{"a":"some text')
    kept = parser.value["a"]
    parser.feed(" and more")
    assert ("some text", "some text and more") == (kept, parser.value["a"])


def test_nesting_over_512_is_invalid() -> None:
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        whole = read(opening * 511 + "[]" + closing * 511)
        assert whole.valid
        assert whole.complete
        deep = read(opening * 512 + "[", "]")
        assert not deep.valid
        with pytest.raises(ValueError, match=f"at position {512 * len(opening)}$"):
            deep.close()
        depth, value = 0, deep.value
        while value:
            depth += 1
            value = value[0] if opening == "[" else value["a"]
        assert 511 == depth, "the value stays"
    assert not read("[" * 100_000).valid, "without recursion"
    shallow = PartialJSON(max_depth=2)
    assert [[]] == shallow.feed("[[[")
    assert not shallow.valid


def test_bytes_cut_anywhere() -> None:
    """Decoded by an incremental decoder, as a stream from a socket is."""
    decoder, parser, fed = codecs.getincrementaldecoder("utf-8")(), PartialJSON(), ""
    for byte in NESTED.encode():
        piece = decoder.decode(bytes([byte]))
        fed += piece
        assert same(reference(fed), parser.feed(piece))
    assert same(exact(NESTED), parser.close())


# Cost

COSTS = r"""
import json, time
from gradient_async.partial import PartialJSON

SHAPES = {
    "one string": lambda size: '{"a":"' + "x" * size + '"}',
    "root": lambda size: '"' + "x" * size + '"',
    "nested": lambda size: '{"a":[1,{"b":[[{"c":"' + "some words " * (size // 11) + '"}]]}]}',
    "escapes": lambda size: '["' + r"line\n" * (size // 6) + '"]',
    "wide": lambda size: '["' + r"a\u00e9\ud83d\ude00日本" * (size // 21) + '"]',
    "key": lambda size: '{"' + "k" * size + '":1}',
    "digits": lambda size: "[0." + "1" * size + "]",
    "white space": lambda size: " " * size,
    "many": lambda size: json.dumps([{"name": "abc", "price": 12.5, "ok": True, "tags": ["x", {}]}] * (size // 62)),
}

def cost(text, look):
    parser = PartialJSON()
    started = time.process_time()
    for at in range(0, len(text), 5):
        parser.feed(text[at : at + 5])
        if look:
            value = parser.value
            while isinstance(value, (dict, list)) and value:
                value = value["a"] if isinstance(value, dict) and "a" in value else None
            del value
    return time.process_time() - started

left = {(name, look): 0.0 for name in SHAPES for look in (False, True)}
for attempt in range(20):  # another process may disturb a measurement, but not all
    for name, look in [*left]:
        small, large = SHAPES[name](40_000), SHAPES[name](80_000)
        pairs = [(cost(small, look), cost(large, look)) for _ in range(3)]
        left[name, look] = min(large for _, large in pairs) / min(small for small, _ in pairs)
        if left[name, look] <= 2.2:
            del left[name, look]
print(left)
"""


def test_cost_of_feeding_is_that_of_the_delta() -> None:
    """80,000 characters in pieces of 5 cost at most 2.2 times 40,000, also if a consumer reads the value at each piece.

    In a process without coverage: where a trace function is set, CPython 3.11 extends no string in place.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-c", COSTS],
        cwd=Path(__file__).parents[1],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        timeout=50,
        text=True,
    )
    assert "{}" == done.stdout.strip()


@pytest.mark.parametrize("text", ['"ab"', "[1.5]", '{"k":true}', "[[]]", '"\\ud83d"', " \n"])
def test_a_piece_runs_the_same_lines_whatever_came_before(text: str) -> None:
    def lines(count: int) -> int:
        parser = read("[", f"{text or 1}," * count if text.strip() else text * count)
        return lines_run(lambda: [parser.feed(character) for character in text])

    assert lines(10) == lines(1_000)


def test_a_piece_that_is_large_is_read_in_one_pass() -> None:
    """An array of many values runs lines in proportion to them."""

    def lines(size: int) -> int:
        text = "[" + '{"a":[1,"x\\n"]},' * size
        return lines_run(lambda: PartialJSON().feed(text))

    assert lines(800) < 8.1 * lines(100)


def test_importing_it_is_light() -> None:
    """It loads neither aiohttp nor pydantic."""
    program = (
        "import sys; from gradient_async.partial import PartialJSON; "
        "print(sorted({'aiohttp', 'pydantic'} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        check=True,
        timeout=50,
        text=True,
    )
    assert "[]" == done.stdout.strip()
