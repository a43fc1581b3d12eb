"""What a reply has besides its fields: the JSON of the server, and the headers."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import msgspec
import pytest

from gradient_async.types import ChatCompletion, ChatCompletionChunk, Headers, Received

decoded: list[bytes] = []


def decode(content: bytes) -> Any:
    """Decode, and note that it was asked for."""
    decoded.append(content)
    return json.loads(content)


CONTENT = b'{"id":"c","citations":["x"]}'
BODY = {"id": "c", "citations": ["x"]}
HEADERS = Headers([("x-model-router-selected-route", "r")])


def received(kind: type[ChatCompletion | ChatCompletionChunk]) -> ChatCompletion | ChatCompletionChunk:
    reply = kind(id="c")
    reply.receive(CONTENT, decode, tuple(HEADERS.items()))
    return reply


KINDS = pytest.mark.parametrize("kind", [ChatCompletion, ChatCompletionChunk])


@KINDS
def test_the_body_is_decoded_when_it_is_asked_for_and_once(
    kind: type[ChatCompletion | ChatCompletionChunk],
) -> None:
    decoded.clear()
    reply = received(kind)
    copies = [copy.copy(reply), copy.deepcopy(reply), pickle.loads(pickle.dumps(reply))]  # noqa: S301  # our own
    assert (kind(id="c"), {"id": "c"}) == (reply, {"id": reply.to_dict()["id"]})
    assert repr(reply)
    assert [] == decoded
    for each in (reply, *copies):
        assert BODY == each.body
        assert each.body is each.body
    assert [CONTENT] * 4 == decoded


@KINDS
def test_it_is_no_field(kind: type[ChatCompletion | ChatCompletionChunk]) -> None:
    """Not a part of equality, repr, conversion or encoding, before the body was decoded and after."""
    plain, reply = kind(id="c"), received(kind)
    for _ in range(2):
        assert plain == reply
        assert repr(plain) == repr(reply)
        assert plain.to_dict() == reply.to_dict()
        assert plain.model_dump() == reply.model_dump()
        assert msgspec.json.encode(plain) == msgspec.json.encode(reply)
        assert msgspec.structs.asdict(plain) == msgspec.structs.asdict(reply)
        assert BODY == reply.body


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@KINDS
def test_it_survives_pickling(kind: type[ChatCompletion | ChatCompletionChunk], protocol: int) -> None:
    reply = received(kind)
    sizes = [len(pickle.dumps(reply, protocol))]
    assert BODY == reply.body
    again = pickle.loads(pickle.dumps(reply, protocol))  # noqa: S301  # our own
    assert (reply, BODY) == (again, again.body)
    if isinstance(reply, ChatCompletion):
        assert HEADERS == again.headers
    assert sizes == [len(pickle.dumps(reply, protocol))]  # what was decoded is not pickled as well
    plain = kind(id="c")
    assert None is pickle.loads(pickle.dumps(plain, protocol)).body  # noqa: S301  # our own


@KINDS
def test_nothing_is_known_of_what_no_server_sent(kind: type[ChatCompletion | ChatCompletionChunk]) -> None:
    reply = kind(id="c")
    for each in (reply, copy.copy(reply), kind().receive_as(reply)):
        assert (None, 0) == (each.body, each.body_size)
        if isinstance(each, ChatCompletion):
            assert Headers() == each.headers
    assert (BODY, len(CONTENT)) == (kind().receive_as(received(kind)).body, received(kind).body_size)


def test_plain_data_need_no_decoder() -> None:
    reply = ChatCompletion()
    reply.receive(BODY)
    assert (BODY, 0, Headers()) == (reply.body, reply.body_size, reply.headers)


@pytest.mark.parametrize("key", ["source", "_source", "_body", "body", "headers"])
def test_no_server_sets_it(key: str) -> None:
    """A reply decodes to the fields of its type alone."""
    reply = msgspec.json.decode(f'{{"{key}":{{"a":"b"}}}}'.encode(), type=ChatCompletion)
    assert (None, Headers()) == (reply.body, reply.headers)


def test_memory_is_given_back() -> None:
    """The slot belongs to a base class that is no Struct, so that msgspec has to know that it must be cleared."""

    class Watched(bytes):
        freed = 0

        def __del__(self) -> None:
            Watched.freed += 1

    for _ in range(10):
        ChatCompletionChunk().receive(Watched(b"{}"), json.loads)
        msgspec.json.decode(b"{}", type=ChatCompletion).receive(Watched(b"{}"), json.loads)
    assert 20 == Watched.freed
    assert issubclass(ChatCompletion, Received)
