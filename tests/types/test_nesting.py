"""JSON that is nested too deep is found before it is decoded, and wherever a field may hold any JSON."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from work import expect_linear

from gradient_async.errors import ResponseInfo
from gradient_async.types import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    ChoiceDelta,
    Headers,
    ToolCall,
    ToolCallDelta,
    nesting,
)
from gradient_async.types.nesting import (
    CONTAINER,
    ESCAPES,
    MAX_DEPTH,
    TooManyValuesError,
    check_json,
    decode_json,
    has_long_number,
    is_deeper,
    max_light,
    may_be_heavy,
)

KINDS: dict[str, Callable[[int], bytes]] = {
    "arrays": lambda depth: b"[" * depth + b"]" * depth,
    "objects": lambda depth: b'{"k":' * depth + b"1" + b"}" * depth,
    "both": lambda depth: (
        b'[{"k":' * (depth // 2) + b"[]" * (depth % 2) + b"1" * (1 - depth % 2) + b"}]" * (depth // 2)
    ),
}
DEPTHS = [1, 2, MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1, MAX_DEPTH + 2, 700]


def too_deep(data: bytes) -> bool:
    try:
        check_json(data)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_limit_is_exact(kind: str, depth: int) -> None:
    """Before decoding and behind it, whatever else is beside it."""
    data = KINDS[kind](depth)
    assert (depth > MAX_DEPTH) is too_deep(data)
    assert (depth > MAX_DEPTH) is is_deeper(json.loads(data))
    beside = b'["]]]}}\\"[[[", [[], {}], ' + data + b', "' + b"[" * 200 + b'"]'
    assert (depth + 1 > MAX_DEPTH) is too_deep(beside)
    assert (depth + 1 > MAX_DEPTH) is is_deeper(json.loads(beside))


def test_brackets_in_text_balance_none_outside() -> None:
    for depth in (64, 65, 700):
        data = b'["]",' * depth + b"1" + b',"["]' * depth
        json.loads(data)
        assert (depth > MAX_DEPTH) is too_deep(data)


@pytest.mark.parametrize("depth", [1000, 100_000])
def test_no_depth_is_too_much(depth: int) -> None:
    for make in KINDS.values():
        assert too_deep(make(depth))
    value: Any = []
    for _ in range(depth):
        value = [value]
    assert is_deeper(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'"',
        b'"\\',
        b"]}" * 500,
        b'{"a": [1' + b"[]" * 500,
        b'"' + b"[" * 500,
        b"[" * MAX_DEPTH,
        b'\\"' + b"[]" * 99,
    ],
)
def test_what_is_no_json_is_not_called_deep(data: bytes) -> None:
    """The decoder says better what is wrong with it."""
    assert not too_deep(data)


def values_of(value: Any) -> int:
    """Count commas, objects and arrays as the documentation says: one for each comma, ten for each of the others."""
    items: list[Any]
    if isinstance(value, dict):
        items = list(cast("dict[str, Any]", value).values())
    elif isinstance(value, list):
        items = cast("list[Any]", value)
    else:
        return 0
    return CONTAINER + max(len(items) - 1, 0) + sum(map(values_of, items))


ANYTHING = st.recursive(
    st.text('[]{},\\"a') | st.none() | st.integers(0, 50).map(chr(0).__mul__),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('[{\\",'), inner),
)


@given(ANYTHING, st.integers(1, 9))
def test_values_are_counted_exactly(value: Any, size: int) -> None:
    """Wherever a slice ends: in a string, behind a backslash, between two quotation marks."""
    data = json.dumps(value).encode()
    values = values_of(value) + data.count(b"\\") // ESCAPES
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nesting, "_SLICE", 2 * size)
        patch.setattr(nesting, "_SHORT", 0)
        check_json(data, values)
        if values:
            with pytest.raises(TooManyValuesError, match=rf"values={values - 1}\b.*Limits\(values"):
                check_json(data, values - 1)
    assert not values or len(data) > max_light(values - 1)
    assert not values or may_be_heavy(data, values - 1)


@pytest.mark.parametrize("before", [0, 1, 31, 32, 33, 63, 64, 65, 100_000])
def test_long_numbers_are_found_wherever_they_stand(before: int) -> None:
    for digits, found in ((32, False), (96, True), (5000, True)):
        for behind in (b"", b" ", b"]" * 600):
            assert found is has_long_number(b"[" * before + b"7" * digits + behind)


@pytest.mark.parametrize("count", [1, 100, 2_000, 200_000])
@pytest.mark.parametrize("kind", [b"[]", b"{}", b"7", b'"\\",[{"', b'{"a":[1,2]}'])
def test_values_of_each_size(kind: bytes, count: int) -> None:
    data = b"[" + b",".join([kind] * count) + b"]"
    values = values_of(json.loads(data)) + data.count(b"\\") // ESCAPES
    check_json(data)
    check_json(data, values)
    with pytest.raises(TooManyValuesError):
        check_json(data, values - 1)
    with pytest.raises(ValueError, match="nested too deep"):
        check_json(b"[" * 65 + data + b"]" * 65, values)


@given(
    st.recursive(
        st.text('[]{}\\"a') | st.none(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text('[{\\"'), inner),
    )
)
def test_brackets_in_text_do_not_count(value: Any) -> None:
    """Nor do they hide others."""
    depth = next(depth for depth in range(100) if not is_deeper(value, depth))
    outer = MAX_DEPTH - depth
    data = json.dumps(value).encode()
    assert not too_deep(b"[" * outer + data + b"]" * outer)
    if depth:
        assert too_deep(b"[" * (outer + 1) + data + b"]" * (outer + 1))


@pytest.mark.parametrize(
    "piece",
    [b"[", b"[]", b'{"a":', b'"', b'"\\', b"][", b"[" * 64 + b"]" * 64, b'"[",'],
    ids=["open", "pairs", "objects", "quotes", "escapes", "odd", "deep", "strings"],
)
def test_the_work_is_linear(piece: bytes) -> None:
    def work(size: int) -> Callable[[], object]:
        data = piece * (size // len(piece))
        return lambda: too_deep(data)

    expect_linear(work, 1 << 17)


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        (ChatCompletion, "retrieval"), (ChatCompletion, "functions"), (ChatCompletion, "guardrails"), (ChatCompletion, "error"),
        (ChatCompletionChunk, "retrieval"), (ChatCompletionChunk, "functions"), (ChatCompletionChunk, "guardrails"),
        (ChatCompletionChunk, "error"), (ToolCall, "custom"), (ToolCall, "extra_content"), (ToolCallDelta, "custom"),
        (ToolCallDelta, "extra_content"), (ChatCompletionMessage, "audio"), (ChatCompletionMessage, "extra_content"),
        (ChoiceDelta, "audio"), (ChoiceDelta, "extra_content"),
    ],
)  # fmt: skip
def test_a_field_of_any_json_is_not_deep(kind: type[msgspec.Struct], field: str) -> None:
    """Nobody who decodes the Struct, or converts plain data to it, gets a value that is nested deeper."""
    for value in (b"null", b"1", b'"x"', b"[[]]", KINDS["both"](MAX_DEPTH - 1)):
        msgspec.json.decode(b'{"%b":%b}' % (field.encode(), value), type=kind)
    deep = b'{"%b":%b}' % (field.encode(), KINDS["both"](MAX_DEPTH))
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(deep, type=kind)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(json.loads(deep), kind)


@pytest.mark.parametrize("kind", [ChatCompletionMessage, ChoiceDelta])
@pytest.mark.parametrize("field", ["annotations", "reasoning_details", "content_parts"])
def test_items_of_any_json_are_not_deep(kind: type[msgspec.Struct], field: str) -> None:
    name = field.encode()
    msgspec.json.decode(b'{"%b":[1,"x",null,%b]}' % (name, KINDS["both"](MAX_DEPTH - 1)), type=kind)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"%b":[1,%b]}' % (name, KINDS["both"](MAX_DEPTH)), type=kind)


def test_what_is_accepted_can_be_used() -> None:
    """Converted, written, copied, compared, pickled, and shown."""
    deepest = KINDS["both"](MAX_DEPTH - 1)
    message = msgspec.json.decode(
        b'{"annotations":[%b],"audio":%b}' % (deepest, deepest), type=ChatCompletionMessage
    )
    assert message == copy.deepcopy(message)
    assert message == pickle.loads(pickle.dumps(message))  # noqa: S301  # our own
    for dumped in (
        message.to_dict(),
        message.model_dump(),
        json.loads(message.to_json()),
        json.loads(message.model_dump_json()),
    ):
        assert json.loads(deepest) == dumped["audio"] == dumped["annotations"][0]
    assert repr(message)


def test_a_message_of_the_callers_own_is_converted_whatever_its_depth() -> None:
    value: Any = []
    for _ in range(5000):
        value = [value]
    message = ChatCompletionMessage(annotations=[value], audio=value)
    assert value[0] is message.to_dict()["audio"][0]
    assert value is message.model_dump()["annotations"][0]


def test_decoding_refuses_what_is_too_deep() -> None:
    assert [{"k": 1}] == decode_json(b'[{"k":1}]') == decode_json('[{"k":1}]')
    for data in (KINDS["arrays"](65), KINDS["objects"](100_000).decode(), b"{", "\ud800", b"\xff"):
        with pytest.raises(ValueError):  # noqa: PT011  # of msgspec, or of the codec
            decode_json(data)
    with pytest.raises(ValueError, match="nested too deep, more than 64 levels"):
        check_json(KINDS["arrays"](65))
    check_json(KINDS["arrays"](64))


@pytest.mark.parametrize("depth", [65, 700, 100_000])
def test_the_body_of_an_error_is_decoded_or_a_value_error(depth: int) -> None:
    info = ResponseInfo(status_code=500, headers=Headers(), content=KINDS["arrays"](depth))
    with pytest.raises(ValueError, match="nested too deep"):
        info.json()
