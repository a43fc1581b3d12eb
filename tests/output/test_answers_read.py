"""Texts of answers, read: what is understood, what is a fault, and where."""

from __future__ import annotations

import builtins
import time
from decimal import Decimal
from typing import Annotated, Any, TypedDict

import msgspec
import pytest
from answer_types import TYPES, Closed, Invoice, Line, Movie, Tree
from msgspec import Meta, Struct

from gradient_async import (
    Answer,
    APIError,
    ChatCompletion,
    ChatCompletionMessage,
    Choice,
    Function,
    OutputDecodeError,
    OutputError,
    OutputValidationError,
    ParsedChatCompletion,
)
from gradient_async.output import parse_so_far
from gradient_async.partial import PartialJSON

VALID = '{"number":"7","lines":[{"price":1.5}]}'
INVOICE = Invoice("7", [Line(1.5)])


class MovieAgain(TypedDict):
    """A TypedDict with the same keys in another order."""

    default: int
    about: str
    title: str


class Film(Struct):
    """A Struct with the keys of a TypedDict."""

    about: str
    title: str
    default: int


class Priced(Struct):
    price: Decimal
    weight: float
    size: Decimal
    text: str
    count: int


class Raising(Struct):
    kind: str

    def __post_init__(self) -> None:
        error: type[Exception] = vars(builtins)[self.kind]
        raise error("boom")


class Negative(Struct):
    n: int

    def __post_init__(self) -> None:
        if self.n > 0:
            raise ValueError("n is positive")


class TestDecode:
    @pytest.mark.parametrize(
        "text",
        [
            VALID,
            f" \n\t{VALID}\r\n ",
            f"\u00a0{VALID}\u2003",
            f"```json\n{VALID}\n```",
            f"```\n{VALID}\n```",
            f"```{VALID}```",
            f"  ```JSON {VALID}  ```\n",
            '{"number":"7","lines":[{"price":1.5,"count":1.0,"unknown":[1]}],"paid":false}',
            '{"number":"7","lines":[{"price":1.5,"count":1e0}]}',
            '{"lines":[{"price":1.5}],"number":"7"}',
        ],
    )
    def test_what_is_understood(self, text: str) -> None:
        """White space, one fence, whole floats, defaults that the server left out, unknown fields."""
        assert INVOICE == Answer(Invoice).decode(text)

    @pytest.mark.parametrize(
        "text",
        [
            f"Here it is: {VALID}",
            f"```json\n{VALID}\n``` done",
            f"See ```json\n{VALID}\n```",
            f"```json\n{VALID}\n```\n```json\n{VALID}\n```",
            f"~~~\n{VALID}\n~~~",
            VALID[:-1],
            VALID + VALID,
            "{'number': '7'}",
            VALID.replace("}", ",}"),
            "none",
            "[" * 100_000,
            VALID.replace("1.5", "NaN"),
            VALID.replace("1.5", "01.50"),
            VALID.replace("7", "\\ud800\n"),
            VALID.replace("7", "\\ud800\\x"),
        ],
    )
    def test_nothing_else_is_repaired(self, text: str) -> None:
        with pytest.raises(OutputDecodeError) as raised:
            Answer(Invoice).decode(text)
        assert (text, None, ParsedChatCompletion(), 0) == (
            raised.value.text,
            raised.value.path,
            raised.value.completion,
            raised.value.choice,
        )
        assert issubclass(OutputDecodeError, ValueError)

    @pytest.mark.parametrize("text", ["", " \n"])
    def test_no_text(self, text: str) -> None:
        with pytest.raises(OutputDecodeError, match="the answer is empty"):
            Answer(Invoice).decode(text)

    @pytest.mark.parametrize(
        ("text", "path", "problem"),
        [
            ('{"number":7,"lines":[]}', "$.number", "Expected `str`, got `int`"),
            (
                '{"number":"7","lines":[{"price":1},{"price":"2"}]}',
                "$.lines[1].price",
                "Expected `float`, got `str`",
            ),
            (
                '{"number":"7","lines":[{"price":1,"count":"2"}]}',
                "$.lines[0].count",
                "Expected `int`, got `str`",
            ),
            (
                '{"number":"7","lines":[{"price":1,"count":2.5}]}',
                "$.lines[0].count",
                "Expected `int`, got `float`",
            ),
            ('{"number":"7","lines":[{"price":1e999}]}', "$.lines[0].price", "Number out of range"),
            ('{"number":"7"}', "$", "missing required field `lines`"),
            ("null", "$", "Expected `object`, got `null`"),
            ('"text"', "$", "Expected `object`, got `str`"),
        ],
    )
    def test_path_of_a_fault(self, text: str, path: str, problem: str) -> None:
        """Numbers in strings stay faults; the path is that of the fault, not that of a whole float before it."""
        with pytest.raises(OutputValidationError, match=problem) as raised:
            Answer(Invoice).decode(text)
        assert (path, text) == (raised.value.path, raised.value.text)
        assert issubclass(OutputValidationError, ValueError)
        assert issubclass(OutputValidationError, APIError)
        whole = text.replace('"lines":[{"price":1,', '"lines":[{"count":1.0,"price":1},{"price":1,')
        if whole != text:
            with pytest.raises(OutputValidationError) as raised:
                Answer(Invoice).decode(whole)
            assert path.replace("[0]", "[1]") == raised.value.path

    def test_plain_values_of_a_fault(self) -> None:
        with pytest.raises(OutputValidationError) as raised:
            Answer(Invoice).decode('{"number":7.0,"lines":[{"price":1.5}]}')
        assert {"number": 7, "lines": [{"price": 1.5}]} == raised.value.parsed
        with pytest.raises(OutputDecodeError) as cut:
            Answer(Invoice).decode('{"number":"7","lines":[{"price":1.5},{"pri')
        assert {"number": "7", "lines": [{"price": 1.5}, {}]} == cut.value.parsed
        with pytest.raises(OutputDecodeError) as cut:
            Answer(Invoice).decode('\u00a0```json\n{"number":"7","li')
        assert {"number": "7"} == cut.value.parsed

    @pytest.mark.parametrize(
        ("text", "number"),
        [
            ("2.0", 2),
            ("-3e2", -300),
            ("12.50E1", 125),
            ("0.0", 0),
            ("9007199254740993.0", 9007199254740993),
            ("1e25", 10**25),
            ("1" + "0" * 400, 10**400),
        ],
    )
    def test_whole_floats_are_read_exactly(self, text: str, number: int) -> None:
        """As JSON Schema sees them, and without the rounding of a float."""
        assert number == Answer(int).decode(f'{{"value": {text}}}')

    @pytest.mark.parametrize(
        "text", ["2.5", "9007199254740993.5", "1e400", "1e-400", "1e-99999999999999999999", '"2.0"']
    )
    def test_other_floats_are_no_integers(self, text: str) -> None:
        with pytest.raises(OutputValidationError):
            Answer(int).decode(f'{{"value":{text}}}')

    @pytest.mark.parametrize(("type_", "value"), TYPES, ids=[str(type_) for type_, _ in TYPES])
    def test_a_whole_float_changes_nothing_beside_it(self, type_: Any, value: Any) -> None:
        """The text is read once more, and all other values are the same."""
        answer = Answer(msgspec.defstruct("Beside", [("other", type_), ("n", int)]))
        text = msgspec.json.encode({"other": value, "n": 2}).decode()
        read: Any = answer.decode(text.replace('"n":2', '"n":2.0'))
        assert repr(answer.decode(text)) == repr(read)
        assert value == read.other

    def test_digits_of_a_decimal_stay(self) -> None:
        """A float in between would round them."""
        digits = "0.1234567890123456789012345"
        read = Answer(Priced).decode(
            f'{{"price":{digits},"weight":1e300,"size":1e400,"text":"2.0 \\"3.0","count":2.0}}'
        )
        assert Priced(Decimal(digits), 1e300, Decimal("1e400"), '2.0 "3.0', 2) == read

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("a\\ud83d", "a\ufffd"),
            ("\\uDE00b", "\ufffdb"),
            ("\\ud83d\\ude00", "😀"),
            ("\\ud83d\\ud83d\\ude00", "\ufffd😀"),
            ("\\\\ud83d", "\\ud83d"),
            ("\ud83d", "\ufffd"),
            ("\ud83d\\ude00 2.0", "😀 2.0"),
        ],
    )
    def test_half_of_a_surrogate_pair(self, text: str, value: str) -> None:
        """Becomes U+FFFD, as in a stream, and in the value that grows: whoever saw that sees the same at the end."""
        text = f'{{"value":"{text}"}}'
        assert value == Answer(str).decode(text) == PartialJSON().feed(text)["value"]
        assert {"value": value} == Function(arguments=text).parsed_arguments

    def test_keys(self) -> None:
        with pytest.raises(OutputValidationError, match="Expected `int`, got `str` as a key") as raised:
            Answer(dict[int, int]).decode('{"a":1}')
        assert "$" == raised.value.path
        assert {1: 2} == Answer(dict[int, int]).decode('{"1":2.0}')

    def test_unknown_fields_are_refused_where_the_type_forbids_them(self) -> None:
        with pytest.raises(OutputValidationError, match="unknown field `b`"):
            Answer(Closed).decode('{"a":1,"b":2}')

    def test_errors_of_the_type_itself(self) -> None:
        """What `__post_init__` refuses is a fault at its place."""
        with pytest.raises(OutputValidationError, match="n is positive") as raised:
            Answer(list[Negative]).decode('{"value":[{"n":-1},{"n":1}]}')
        assert "$[1]" == raised.value.path

    def test_any_error_of_the_type_itself(self) -> None:
        """One row of many with a value that the code of the type fails for does not end everything."""
        for kind in (KeyError, ZeroDivisionError, RuntimeError):
            with pytest.raises(OutputValidationError, match=f"{kind.__name__}: .*boom") as raised:
                Answer(Raising).decode(f'{{"kind":"{kind.__name__}"}}')
            assert ("$", {"kind": kind.__name__}) == (raised.value.path, raised.value.parsed)
        completion = ChatCompletion(
            choices=[Choice(message=ChatCompletionMessage(content='{"kind":"KeyError"}'))]
        )
        assert parse_so_far(completion, Answer(Raising)).parsed is None

    def test_what_was_left_out_of_the_schema_is_checked(self) -> None:
        class Short(Struct):
            code: Annotated[str, Meta(max_length=2)]

        answer = Answer(Short)
        assert {"type": "string"} == answer.schema["properties"]["code"]
        with pytest.raises(OutputValidationError, match="length <= 2"):
            answer.decode('{"code":"abc"}')

    @pytest.mark.parametrize(
        "text", ["x" * 5000, "\x00" * 500, '{"a":1,"' + "k" * 5000 + '":1}', "\u202e" * 300]
    )
    def test_messages_are_short_and_escaped(self, text: str) -> None:
        """They hold at most 200 escaped characters of the answer."""
        with pytest.raises(OutputError) as raised:
            Answer(Closed).decode(text)
        message = raised.value.message
        assert message.isprintable() and len(message) < 320

    def test_deep_recursion(self) -> None:
        with pytest.raises(OutputDecodeError, match="nested too deep"):
            Answer(Tree).decode('{"value":1,"children":[' * 50_000)

    @pytest.mark.parametrize(
        "text",
        [
            '{"number":"' + '\\"' * 200_000,
            '{"number":' + "1" * 400_000,
            '{"number":' + "1." * 200_000,
            '{"number":"' + "\\ud83d" * 60_000 + '"}',
            "```{" + "} " * 200_000,
            "```" + "a" * 400_000,
            " " * 400_000 + "x",
            '{"lines":[' + '{"price":2.0},' * 30_000,
        ],
        ids=lambda text: text[:20].strip(),
    )
    def test_a_fault_is_found_in_linear_time(self, text: str) -> None:
        """Quadratic time would be minutes; the bound is far above what a busy machine needs."""
        began = time.process_time()
        with pytest.raises(OutputError):
            Answer(Invoice).decode(text)
        assert time.process_time() - began < 20

    def test_declared_order(self) -> None:
        """A model writes what comes first in the schema first; the keys of a TypedDict stay as declared."""
        for strict in (True, False):
            assert ["title", "about", "default"] == list(Answer(Movie, strict=strict).schema["properties"])
        for type_ in (tuple[Movie, Film, MovieAgain], tuple[MovieAgain, Film, Movie]):
            found = {name: list(each["properties"]) for name, each in Answer(type_).schema["$defs"].items()}
            assert {
                "Movie": ["title", "about", "default"],
                "Film": ["about", "title", "default"],
                "MovieAgain": ["default", "about", "title"],
            } == found
