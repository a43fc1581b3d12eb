"""What callers put into a request becomes plain data, or is refused with its place; nothing is sent as something else."""

from __future__ import annotations

import collections
import contextlib
import datetime as dt
import enum
import json
import math
import types
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from work import lines_run

from gradient_async.decoding import check_params, encode_request
from gradient_async.errors import InvalidRequestError
from gradient_async.types import NOT_GIVEN, ChatCompletionMessage, Function, ToolCall

BASE: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "model": "m"}


class Text(str):
    """As of numpy or a template engine."""

    __slots__ = ()

    def __str__(self) -> str:
        return "another text"

    def __iter__(self) -> Iterator[str]:
        yield "another text"

    def __getitem__(self, _place: Any) -> str:
        return "another text"


class Whole(int):
    """As of a library of units."""

    def __int__(self) -> int:
        return 99

    def __repr__(self) -> str:
        return "another number"


class Number(float):
    """As of numpy."""

    def __float__(self) -> float:
        return 99.0

    def __repr__(self) -> str:
        return "another number"


class Role(str, enum.Enum):  # noqa: UP042  # as it is written for older versions of Python
    """Text that shows itself by its name."""

    USER = "user"


class Effort(enum.StrEnum):
    """Text."""

    LOW = "low"


class Count(enum.IntEnum):
    """A number."""

    TWO = 2


class Model(enum.Enum):
    """No text, but it has one."""

    LLAMA = "llama"


class Scalar:
    """As of numpy: of a type of its own."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def tolist(self) -> Any:
        """Give the value in Python's own type."""
        return self.value


class Part:
    """A part of another library."""

    def model_dump(self, *, exclude_none: bool) -> Any:
        """Give the fields."""
        return {"type": Text("text"), "text": Text("x"), "exclude": exclude_none}


@dataclass
class Point:
    """A dataclass."""

    x: Any


class Pair(NamedTuple):
    """A tuple with names."""

    x: Any
    y: Any


class Struct(msgspec.Struct, rename={"x": "y"}):
    """A Struct of the caller."""

    x: Any


def sent(**params: Any) -> dict[str, Any]:
    """Return what is sent, after all checks."""
    extra_body = params.pop("extra_body", None)
    checked = check_params({**BASE, **params}, stream=False)
    body: dict[str, Any] = json.loads(encode_request(checked, stream=None, extra_body=extra_body))
    return body


def refused(**params: Any) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as raised:
        sent(**params)
    assert raised.value.__context__ is None
    return raised.value


def user(content: Any, **more: Any) -> list[Any]:
    return [{"role": "user", "content": content, **more}]


NEARLY: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"messages": user(Text("x"))}, {"messages": user("x")}),
    ({"messages": user(Effort.LOW)}, {"messages": user("low")}),
    ({"messages": [{"role": Role.USER, "content": "x"}]}, {"messages": user("x")}),
    ({"messages": [{Text("role"): Text("user"), "content": "x"}]}, {"messages": user("x")}),
    ({"messages": user(collections.UserString("x"))}, {"messages": user("x")}),
    ({"messages": user([Text("x"), {"type": Text("text"), "text": Text("y")}])}, {"messages": user(["x", {"type": "text", "text": "y"}])}),
    ({"messages": user(("x", "y"))}, {"messages": user(["x", "y"])}),
    ({"messages": user(collections.deque(["x"]))}, {"messages": user(["x"])}),
    ({"messages": user(text for text in ("x", "y"))}, {"messages": user(["x", "y"])}),
    ({"messages": user(types.MappingProxyType({"type": "text", "text": "x"}))}, {"messages": user({"type": "text", "text": "x"})}),
    ({"messages": user(Part())}, {"messages": user({"type": "text", "text": "x", "exclude": True})}),
    ({"messages": [collections.ChainMap({"role": "user"}, {"content": "x"})]}, {"messages": user("x")}),
    ({"messages": collections.UserList(user("x"))}, {"messages": user("x")}),
    ({"messages": user("x", name=NOT_GIVEN)}, {"messages": user("x")}),
    ({"model": Text("n")}, {"model": "n"}),
    ({"model": Role.USER}, {"model": "user"}),
    ({"model": Model.LLAMA}, {"model": "llama"}),
    ({"max_tokens": Whole(5)}, {"max_tokens": 5}),
    ({"max_tokens": Scalar(5)}, {"max_tokens": 5}),
    ({"n": Count.TWO}, {"n": 2}),
    ({"temperature": Number(0.5)}, {"temperature": 0.5}),
    ({"temperature": Scalar(0.5)}, {"temperature": 0.5}),
    ({"temperature": Whole(1)}, {"temperature": 1}),
    ({"logprobs": Scalar(True), "top_logprobs": Scalar(3)}, {"logprobs": True, "top_logprobs": 3}),
    ({"tool_choice": Text("auto")}, {"tool_choice": "auto"}),
    ({"stop": Text("END")}, {"stop": "END"}),
    ({"stop": (Text("END"),)}, {"stop": ["END"]}),
    ({"stop": Scalar(["a", "b"])}, {"stop": ["a", "b"]}),
    ({"metadata": {Text("a"): Text("b")}}, {"metadata": {"a": "b"}}),
    ({"metadata": collections.UserDict(a="b")}, {"metadata": {"a": "b"}}),
    ({"logit_bias": {Whole(5): Number(1.5), Text("6"): Whole(-1)}}, {"logit_bias": {"5": 1.5, "6": -1}}),
    ({"reasoning_effort": Effort.LOW}, {"reasoning_effort": "low"}),
    ({"response_format": types.MappingProxyType({"type": Text("json_object")})}, {"response_format": {"type": "json_object"}}),
    ({"tools": ({"type": "function", "function": {"name": Text(name)}} for name in "ab")},
     {"tools": [{"type": "function", "function": {"name": name}} for name in "ab"]}),
]  # fmt: skip


@pytest.mark.parametrize(("params", "expected"), NEARLY, ids=map(str, range(len(NEARLY))))
def test_what_is_nearly_of_a_type_is_sent_as_its_base(
    params: dict[str, Any], expected: dict[str, Any]
) -> None:
    """Never as a list of letters, and never as what it shows itself as."""
    if isinstance(params.get("tools"), Iterator):
        params = {"tools": list(params["tools"])}
    given = {**BASE, **expected}
    if not any("generator" in repr(value) for value in params.values()):
        assert given == json.loads(encode_request({**BASE, **params}, stream=None))  # without any checks
    assert given == sent(**params)


FOREIGN: list[tuple[Any, Any]] = [
    (Text("x"), "x"),
    (Whole(5), 5),
    (Number(0.5), 0.5),
    (Role.USER, "user"),
    (Model.LLAMA, "llama"),
    (Count.TWO, 2),
    ({Model.LLAMA: 1, Count.TWO: 2, 3: 4, Text("t"): 5}, {"llama": 1, "2": 2, "3": 4, "t": 5}),
    (range(3), [0, 1, 2]),
    ({1}, [1]),
    (frozenset({"x"}), ["x"]),
    ({"a": 1}.keys(), ["a"]),
    (Pair(1, Text("z")), [1, "z"]),
    (collections.OrderedDict(a=Text("b")), {"a": "b"}),
    (collections.defaultdict(list, a=[Text("b")]), {"a": ["b"]}),
    (Point(Text("x")), {"x": "x"}),
    (Point(Point(Scalar(1))), {"x": {"x": 1}}),
    (Struct(Number(1.5)), {"y": 1.5}),
    (Point([Part()]), {"x": [{"type": "text", "text": "x", "exclude": True}]}),
    (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
    (dt.date(2026, 7, 1), "2026-07-01"),
    (ChatCompletionMessage(content="x"), {"role": "assistant", "content": "x"}),
    (ToolCall(id="c", function=Function(name="f")), {"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}),
    ({"a": NOT_GIVEN, "b": None}, {"b": None}),
    (10**300, 10**300),
    (-0.0, -0.0),
    (True, True),
]  # fmt: skip


@pytest.mark.parametrize(("value", "expected"), FOREIGN, ids=map(str, range(len(FOREIGN))))
def test_values_of_other_types(value: Any, expected: Any) -> None:
    """Alone, in objects and in lists."""
    found = sent(extra_body={"x": value, "y": {"z": value}, "l": [[value]]})
    assert (expected, {"z": expected}, [[expected]]) == (found["x"], found["y"], found["l"])


def test_not_given_of_other_packages_is_not_given() -> None:
    """Whichever package a class of that name is from."""

    class NotGiven:
        pass

    class Omit:
        pass

    for absent in (NotGiven(), Omit()):
        assert BASE == sent(temperature=absent, extra_body={"x": absent})
        assert user("x") == sent(messages=user("x", name=absent))["messages"]


class Broken:
    """Cannot be converted."""

    def to_dict(self) -> Any:
        """Fail."""
        raise ValueError("no such field")


class Recursive:
    """Converts itself without an end."""

    def to_dict(self) -> Any:
        """Call itself."""
        return self.to_dict()


class Endless:
    """Turns into another one of its kind, as mocks do."""

    def __init__(self, **_options: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return Endless


def cyclic() -> Any:
    value: dict[str, Any] = {"a": []}
    value["a"].append({"b": value})
    return value


def deep(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


BYTES = "bytes are not text; decode them, or write them as base64"
NONE: list[tuple[Any, str, str]] = [
    (b"x", "", BYTES),
    (bytearray(b"x"), "", BYTES),
    (memoryview(b"x"), "", BYTES),
    (Decimal("0.5"), "", "JSON has no Decimal"),
    (math.nan, "", "JSON has no such number"),
    (math.inf, "", "JSON has no such number"),
    (Number("-inf"), "", "JSON has no such number"),
    ("a\ud800", "", "half a surrogate pair"),
    (Text("\udfff"), "", "half a surrogate pair"),
    ({"\ud800": 1}, "", "half a surrogate pair"),
    (10**5000, "", "no number of so many digits"),
    (object(), "", "object has no JSON form"),
    (1j, "", "complex has no JSON form"),
    (Point, "", "a class has no JSON form"),
    (Broken(), "", "no such field"),
    (Recursive(), "", "nested too deep"),
    (Endless(), "", "Endless turns into other objects again and again"),
    ({b"k": 1}, "", BYTES),
    ({None: 1}, "", "keys of a dictionary"),
    ({True: 1}, "", "keys of a dictionary"),
    ({1.5: 1}, "", "keys of a dictionary"),
    ({(1, 2): 1}, "", "keys of a dictionary"),
    ({"a": 1, "b": [2, {"c": b"x"}]}, ".b[1].c", BYTES),
    ([[], [1, [Decimal(1)]]], "[1][1][0]", "JSON has no Decimal"),
    ([NOT_GIVEN, 1, [NOT_GIVEN, Decimal(1)]], "[2][1]", "JSON has no Decimal"),
    (("x", types.MappingProxyType({"y": math.nan})), "[1].y", "JSON has no such number"),
    (Point({"y": b"x"}), ".x.y", BYTES),
    (Point(object()), "", "object has no JSON form"),
    (Struct(Struct(b"x")), ".y.y", BYTES),
    ({"a": ["x", {"b": "\ud800"}]}, ".a[1].b", "half a surrogate pair"),
    (cyclic(), "", "contains itself"),
    (deep(64), "[0]" * 63, "nested too deep, more than 64 levels"),
    (deep(100_000), "[0]" * 63, "nested too deep, more than 64 levels"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "path", "problem"), NONE, ids=map(str, range(len(NONE))))
def test_what_has_no_json_form_is_refused_by_its_place(value: Any, path: str, problem: str) -> None:
    error = refused(extra_body={"x": value})
    assert f"x{path}" == error.param
    assert error.message.startswith(f"x{path}=")
    assert problem in error.message
    assert error.message.endswith("; the request can't be written as JSON")
    assert len(error.message) < 600


@pytest.mark.parametrize("value", [b"x", Decimal(1), math.nan, "\ud800"])
def test_the_place_is_told_as_a_path(value: Any) -> None:
    messages = [*BASE["messages"] * 3, *user([{"type": "text", "text": value}])]
    error = refused(messages=messages)
    assert "messages[3].content[0].text" == error.param
    assert error.message.startswith("messages[3].content[0].text=")
    for params, param in (
        ({"messages": user(value)}, "messages[0].content"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"x": [value]}}}]},
            "tools[0].function.parameters.x[0]",
        ),
        ({"response_format": {"type": value}}, "response_format.type"),
        ({"reasoning": {"effort": value}}, "reasoning.effort"),
    ):
        assert param == refused(**params).param


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["temperature", "top_p", "frequency_penalty", "presence_penalty"])
def test_a_parameter_that_is_no_number(name: str, value: float) -> None:
    """Refused without checks as well, since it cannot be sent."""
    assert name == refused(**{name: value}).param
    with pytest.raises(InvalidRequestError, match=f"^{name}="):
        encode_request({**BASE, name: value}, stream=None)


@pytest.mark.parametrize("role", [5, b"user", Scalar("usr"), ["user"], Endless()])
def test_a_role_of_another_type(role: Any) -> None:
    assert "messages[0].role" == refused(messages=[{"role": role, "content": "x"}]).param


@pytest.mark.parametrize("content", [5, Scalar(5), 1.5, True])
def test_content_of_another_type(content: Any) -> None:
    error = refused(messages=user(content))
    assert ("messages[0].content", True) == (
        error.param,
        "expected text, a part, or a list of them" in error.message,
    )


class Unshowable:
    """Its repr fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_any_value_can_be_shown() -> None:
    """Those whose repr fails, is long, or has characters that deceive."""
    assert "x=<Unshowable>: " in refused(extra_body={"x": Unshowable()}).message
    assert len(refused(extra_body={"x": b"\xff" * 10**6}).message) < 300
    assert refused(extra_body={"\x1b\u202e" * 999: Unshowable()}).message.isprintable()


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
)
WRAPPERS: dict[type, list[Callable[[Any], Any]]] = {
    str: [Text, collections.UserString, Scalar],
    int: [Whole, Scalar],
    float: [Number, Scalar],
    list: [tuple, collections.deque, collections.UserList, iter, Scalar],
    dict: [types.MappingProxyType, collections.OrderedDict, collections.UserDict, collections.ChainMap],
}


def wrapped(draw: Any, value: Any) -> Any:
    """Replace values by others that are nearly the same."""
    if isinstance(value, list):
        value = [wrapped(draw, item) for item in cast("list[Any]", value)]
    elif isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        value = {wrapped_name(draw, name): wrapped(draw, item) for name, item in fields.items()}
    kind = cast("type[Any]", type(value))
    wrap = draw(st.sampled_from([None, *WRAPPERS.get(kind, [])]))
    return value if wrap is None else wrap(value)


def wrapped_name(draw: Any, name: str) -> str:
    return Text(name) if draw(st.booleans()) else name


@given(plain, st.data())
def test_plain_data_and_what_is_nearly_plain_is_sent_unchanged(value: Any, data: st.DataObject) -> None:
    assert value == sent(extra_body={"x": value})["x"]
    assert value == sent(extra_body={"x": wrapped(data.draw, value)})["x"]


@given(
    st.recursive(
        st.none() | st.text("ab") | st.binary(max_size=2),
        lambda inner: st.lists(inner) | st.dictionaries(st.text("ab.[0]"), inner),
    )
)
def test_the_path_leads_to_the_value(value: Any) -> None:
    """Of the first value that cannot be sent; nothing is refused otherwise."""

    def bad(value: Any, path: str) -> Iterator[str]:
        if isinstance(value, bytes):
            yield path
        elif isinstance(value, dict):
            for name, item in cast("dict[str, Any]", value).items():
                yield from bad(item, f"{path}.{name}")
        elif isinstance(value, list):
            for index, item in enumerate(cast("list[Any]", value)):
                yield from bad(item, f"{path}[{index}]")

    first = next(bad(value, "x"), None)
    if first is None:
        assert value == sent(extra_body={"x": value})["x"]
    else:
        assert first == refused(extra_body={"x": value}).param


def test_the_callers_values_stay_as_they_are() -> None:
    content: list[Any] = [Text("x"), {"type": "text", "text": Text("y")}]
    message: dict[str, Any] = {"role": Role.USER, "content": content, "name": NOT_GIVEN}
    sent(messages=[message])
    assert message == {"role": Role.USER, "content": content, "name": NOT_GIVEN}
    assert (Text, Text) == (type(content[0]), type(content[1]["text"]))


def test_the_work_is_linear() -> None:
    """Also where the value that cannot be sent comes last."""

    def lines(size: int, last: Any) -> int:
        value = [{"a": ["b", "c"]} for _ in range(size)] + [last]

        def encode() -> None:
            with contextlib.suppress(InvalidRequestError):
                encode_request(BASE, stream=None, extra_body={"x": value})

        return lines_run(encode)

    for last in ("x", "\ud800", b"x"):
        assert lines(800, last) < 8.5 * lines(100, last)
