"""Log probabilities that are too many for `Limits.values` are taken out, decoded and given back; nothing else is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gradient_async.config import Limits
from gradient_async.decoding import ChunkDecoder, decode_completion, logprobs
from gradient_async.decoding.logprobs import give_back, take_logprobs
from gradient_async.errors import APIResponseValidationError, StreamLimitError, StreamProtocolError
from gradient_async.types import ChatCompletion, ChoiceLogprobs
from gradient_async.types.nesting import UNLIMITED, TooManyValuesError, check_json

ENTRY = {"token": " the", "logprob": -0.25, "bytes": [32, 116, 104, 101]}
MAX = 1000


def entries(count: int, alternatives: int = 2, **other: Any) -> list[dict[str, Any]]:
    return [{**ENTRY, "top_logprobs": [ENTRY] * alternatives, **other} for _ in range(count)]


def reply(*lists: Any, **other: Any) -> dict[str, Any]:
    return {
        "id": "c1",
        **other,
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": "a"},
                "logprobs": logprobs,
                "finish_reason": "stop",
            }
            for index, logprobs in enumerate(lists)
        ],
    }


def encode(body: Any) -> bytes:
    return json.dumps(body).encode()


def completion(data: bytes, max_values: int = MAX) -> ChatCompletion:
    return decode_completion(data, max_values=max_values)


LISTS: dict[str, list[Any]] = {
    "one choice": [{"content": entries(40)}],
    "two choices": [{"content": entries(40)}, {"content": entries(30, 3)}],
    "equal choices": [{"content": entries(40)}, {"content": entries(40)}],
    "a choice without": [None, {"content": entries(40)}],
    "refusal": [{"content": None, "refusal": entries(40)}],
    "both": [{"content": entries(40), "refusal": entries(20)}],
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("other", [{}, {"id": 5}, {"model": None, "x": [1, "logprobs"]}], ids=str)
def test_the_completion_is_the_same(name: str, other: dict[str, Any]) -> None:
    """In the documented shape, and where the rest has to be repaired."""
    data = encode(reply(*LISTS[name], **other))
    shorter, taken = take_logprobs(data, MAX)
    assert any(each is not None for each in taken)
    assert len(shorter) < len(data) / 4
    assert completion(data) == completion(data, 10**6)


@pytest.mark.parametrize("name", LISTS)
def test_the_chunk_is_the_same(name: str) -> None:
    data = encode(reply(*LISTS[name])).replace(b'"message"', b'"delta"')
    (small,) = ChunkDecoder(limits=Limits(values=MAX)).feed(b"data: " + data + b"\n\n")
    (large,) = ChunkDecoder().feed(b"data: " + data + b"\n\n")
    assert small == large
    assert small.choices[-1].logprobs is not None


@pytest.mark.parametrize("wrong", [None, float("nan"), float("-inf"), "-0.5"])
def test_entries_are_repaired(wrong: Any) -> None:
    data = encode(reply({"content": entries(40, logprob=wrong)}))
    found = completion(data)
    assert found == completion(data, 10**6)
    logprobs = found.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert logprobs.content[0].logprob == (-0.5 if wrong == "-0.5" else -9999.0)


def test_null_in_place_of_alternatives() -> None:
    data = encode(reply({"content": entries(200, top_logprobs=None)}))
    found = completion(data)
    assert found == completion(data, 10**6)
    assert found.choices[0].logprobs is not None


@pytest.mark.parametrize("other", [{"request": {"logprobs": True}}, {"x": ["logprobs"]}], ids=str)
def test_other_fields_of_the_same_name(other: dict[str, Any]) -> None:
    """And a choice without log probabilities."""
    body = reply({"content": entries(40)}, {"content": entries(40)}, **other)
    del body["choices"][1]["logprobs"]
    data = encode(body)
    assert completion(data) == completion(data, 10**6)


def test_of_another_shape_are_dropped() -> None:
    for content in ({"tokens": [ENTRY] * 200}, [{**ENTRY, "token": 5}] * 200):
        assert completion(encode(reply({"content": content}))).choices[0].logprobs is None


@pytest.mark.parametrize(
    "body",
    [
        reply({"content": [{}] * 200}),  # too dense
        reply({"content": entries(150, 0, bytes=[7] * 90)}),
        reply({"content": entries(2000)}),  # too many
        reply({"content": entries(40)}, x=[{}] * 200),  # too many values elsewhere
        reply({"content": entries(40)}, y={"logprobs": entries(40)}),  # not of a choice
        reply({"content": entries(40)}, x={"content": entries(2)}),  # begins like those of the choice
        reply(*[{"content": entries(2)}] * 200),  # too many choices
        {"choices": 5, "logprobs": entries(40)},
        reply(None, x=[{}] * 200),
    ],
    ids=[
        "dense",
        "dense with numbers",
        "many",
        "elsewhere",
        "not of a choice",
        "alike",
        "choices",
        "no choices",
        "none",
    ],
)
def test_what_is_refused(body: Any) -> None:
    data = encode(body)
    with pytest.raises(TooManyValuesError):
        take_logprobs(data, MAX)
    with pytest.raises(TooManyValuesError, match=r"^more than values=1000 .*Limits"):
        completion(data)
    decoder = ChunkDecoder(limits=Limits(values=MAX), on_bad_event="skip")
    with pytest.raises(StreamLimitError, match=r"^event 1 of the stream has more than values=1000 .*Limits"):
        decoder.feed(b"data: " + data.replace(b'"message"', b'"delta"') + b"\n\n")


def test_the_rest_is_not_nested_deeper_than_other_replies() -> None:
    deep: Any = "x"
    for _ in range(70):
        deep = [deep]
    data = encode(reply({"content": entries(40)}, x=deep))
    with pytest.raises(APIResponseValidationError, match="nested too deep"):
        completion(data)
    torn = b'data: {"choices":[' + b"[" * 70 + b"[]," * 40 + b"\n\n"
    decoder = ChunkDecoder(limits=Limits(values=MAX))
    assert decoder.feed(torn) == []
    with pytest.raises(StreamProtocolError, match="too deep"):
        decoder.close()


@pytest.mark.parametrize(
    "body",
    [
        reply({"content": [ENTRY]}, x=[1] * 2 * MAX, y=" " * 500_000),
        reply({"content": entries(1, bytes=[7] * 3_000_000)}),
        {"choices": [1] * 2 * MAX},
    ],
    ids=["long for its objects", "large", "none"],
)
def test_refused_without_a_search(monkeypatch: pytest.MonkeyPatch, body: Any) -> None:
    def search(_data: bytes) -> None:
        raise AssertionError

    monkeypatch.setattr(logprobs, "_find_lists", search)
    with pytest.raises(TooManyValuesError):
        take_logprobs(encode(body), MAX)


def test_the_guess_refuses_no_more_than_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only large JSON is refused because of a guess, for which commas in a text are values."""
    monkeypatch.setattr(logprobs, "_EARLY", 0)
    honest = encode(reply({"content": entries(40)}, x=" " * 5000))
    commas = encode(reply({"content": entries(40)}, x="," * 30 * MAX))
    assert take_logprobs(commas, MAX)[1]
    monkeypatch.setattr(logprobs, "_LARGE", 0)
    assert take_logprobs(honest, MAX)[1]
    with pytest.raises(TooManyValuesError):
        take_logprobs(commas, MAX)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The JSON whose values were counted."""
    counted: list[bytes] = []

    def check(data: bytes, max_values: int) -> None:
        counted.append(data)
        check_json(data, max_values)

    monkeypatch.setattr(logprobs, "check_json", check)
    return counted


def test_alternatives_behind_a_text_are_found_without_a_count(counted: list[bytes]) -> None:
    """The text of a long answer comes before its log probabilities."""
    data = encode(reply({"content": entries(40)}, x="a" * 20_000))
    rest, taken = take_logprobs(data, MAX)
    assert 1 == len(taken)
    assert [rest] == counted


def test_what_is_refused_is_counted_once(counted: list[bytes]) -> None:
    data = encode(reply({"content": [{}] * 200}))
    with pytest.raises(TooManyValuesError):
        take_logprobs(data, MAX)
    assert [data] == counted


def test_other_values_are_repaired_only_if_that_is_necessary() -> None:
    """Each of these could be decoded without."""
    for lists in LISTS.values():
        data = encode(reply(*lists, x={"logprob": None}))
        assert b'"x": {"logprob": null}' in take_logprobs(data, MAX)[0]


def test_entries_are_counted_too() -> None:
    """The shortest entries have few values, but each takes as long to decode as others."""
    for count, accepted in ((MAX - 1, True), (MAX, False)):
        data = encode(reply({"content": [{"token": "as long as usual"}] * count}))
        if accepted:
            assert len((completion(data).choices[0].logprobs or ChoiceLogprobs()).content or ()) == count
        else:
            with pytest.raises(TooManyValuesError):
                completion(data)


def test_too_many_names_are_not_repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(reply({"content": entries(40, logprob=float("nan"))}))
    names = data.count(b'"logprob"')
    for max_names in (names, names - 1):
        monkeypatch.setattr(logprobs, "_MAX_NAMES", max_names)
        if max_names == names:
            assert completion(data).choices[0].logprobs is not None
        else:
            with pytest.raises(TooManyValuesError):
                completion(data)


def test_too_many_choices_are_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(reply(*LISTS["two choices"]))
    for max_choices in (2, 1):
        monkeypatch.setattr(logprobs, "_MAX_CHOICES", max_choices)
        if max_choices == 2:
            assert 2 == len(take_logprobs(data, MAX)[1])
        else:
            with pytest.raises(TooManyValuesError):
                take_logprobs(data, MAX)


def test_few_values_are_left_where_they_are() -> None:
    """Unless they have alternatives near the beginning, which are taken without a count of everything."""
    data = encode(reply({"content": entries(3)}))
    assert 1 == len(take_logprobs(data, MAX)[1])
    elsewhere = encode(reply(None, x={"top_logprobs": []}))
    assert (elsewhere, ()) == take_logprobs(elsewhere, MAX)
    data = data.replace(b'"top_logprobs"', b'"top"')
    for max_values in (100_000, MAX, UNLIMITED):
        assert (data, ()) == take_logprobs(data, max_values)
    logprobs = ChoiceLogprobs()
    choice = completion(data).choices[0]
    give_back([choice], [None])
    assert choice.logprobs is not None
    give_back([choice], [logprobs])
    assert choice.logprobs is logprobs


@pytest.mark.parametrize("first", [b"", b'"top_logprobs":[],'], ids=["plain", "with alternatives"])
@pytest.mark.parametrize(
    "filling", [b'"logprob":-1,', b" " * 13], ids=["one field many times", "white space"]
)
def test_entries_that_are_much_longer_than_honest_ones_are_no_reason_to_accept_more(
    filling: bytes, first: bytes
) -> None:
    """To decode them would take several passes over a text that has few values."""

    def body(length: int) -> bytes:
        entry = b"{" + first + filling * (length // 13) + b'"logprob":-1}'
        return encode(reply({"content": []})).replace(b"[]", b"[" + b",".join([entry] * 150) + b"]")

    assert take_logprobs(body(26), MAX)[1]
    with pytest.raises(TooManyValuesError):
        take_logprobs(body(4000), MAX)
