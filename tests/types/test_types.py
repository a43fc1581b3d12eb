"""Messages convert to plain data and back, and hold only what the server said."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import msgspec
import pytest

from gradient_async import types
from gradient_async.decoding import ChunkDecoder, decode_completion
from gradient_async.types import (
    NOT_GIVEN,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    Choice,
    ChoiceDelta,
    ChunkChoice,
    CompletionTokensDetails,
    CompletionUsage,
    Function,
    Headers,
    Model,
    NotGiven,
    RateLimit,
    RateLimits,
    ToolCall,
    ToolCallDelta,
    omit,
    sum_usage,
)

COMPLETION = ChatCompletion(
    id="c",
    choices=[
        Choice(message=ChatCompletionMessage(content="é", annotations=[{"a": None}]), finish_reason="stop")
    ],
    created=5,
    model="m",
    request_id="r-1",
    rate_limits=RateLimits(requests=RateLimit(limit=3)),
    attempts=2,
)
PLAIN: dict[str, Any] = {
    "id": "c",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "é", "annotations": [{"a": None}]},
            "finish_reason": "stop",
        }
    ],
    "created": 5,
    "model": "m",
    "object": "chat.completion",
}

NESTED = ChatCompletion(
    id="n",
    choices=[
        Choice(
            message=ChatCompletionMessage(
                content="a", annotations=[{"u": 1, "v": 2}, {"u": 3}], audio={"id": "z", "data": "w"}
            )
        ),
        Choice(index=1, message=ChatCompletionMessage(content="b")),
    ],
)
FIRST, SECOND = NESTED.to_dict()["choices"]
# The argument of `model_dump`, the selection of the choices, and the choices that are left.
SELECTIONS: list[tuple[str, Any, list[dict[str, Any]]]] = [
    ("include", True, [FIRST, SECOND]),
    ("include", ..., [FIRST, SECOND]),
    ("include", {0}, [FIRST]),
    ("include", {-1}, [SECOND]),
    ("include", {0: True, "x": True, "0": True}, [FIRST]),
    ("include", {-1: {"message": ...}}, [{"message": SECOND["message"]}]),
    ("include", {"__all__": {"message": {"content"}}}, [{"message": {"content": text}} for text in "ab"]),
    ("include", {"__all__": {"index"}, 1: {"message": {"role"}}}, [{"index": 0}, {"index": 1, "message": {"role": "assistant"}}]),
    ("include", {"__all__": {"index": True}, 0: ...}, [FIRST, {"index": 1}]),
    ("include", {"__all__": True, 0: {"index"}}, [{"index": 0}, SECOND]),
    ("include", {"__all__"}, [FIRST, SECOND]),
    ("include", {0: {"message": {"annotations": {0: {"u"}}, "audio": {"id"}}}}, [{"message": {"annotations": [{"u": 1}], "audio": {"id": "z"}}}]),
    ("include", {0: {"index": {"x"}}}, [{"index": 0}]),
    ("include", {"index"}, []),
    ("include", {}, []),
    ("exclude", {0}, [SECOND]),
    ("exclude", {-1}, [FIRST]),
    ("exclude", {0: {"message"}, 1: ...}, [{"index": 0}]),
    ("exclude", {"__all__": {"message": {"content", "annotations", "audio"}}}, [{"index": 0, "message": {"role": "assistant"}}, {"index": 1, "message": {"role": "assistant"}}]),
    ("exclude", {"__all__": {"message"}, 1: {"index": True}}, [{"index": 0}, {}]),
    ("exclude", {"__all__": {"message"}, 1: ...}, [{"index": 0}]),
    ("exclude", {"__all__": ..., 0: {"message"}}, [{"index": 0}]),
    ("exclude", {"__all__"}, []),
    ("exclude", {"__all__": {"message": {"annotations": {"__all__": {"u"}}, "audio": True}}}, [{"index": 0, "message": {"role": "assistant", "content": "a", "annotations": [{"v": 2}, {}]}}, SECOND]),
    ("exclude", {"index"}, [FIRST, SECOND]),
    ("exclude", {0: {"index": False}}, [FIRST, SECOND]),
    ("exclude", {}, [FIRST, SECOND]),
]  # fmt: skip


class TestConversion:
    def test_to_dict_leaves_out_what_is_none_and_the_sessions_own(self) -> None:
        """What came through as it came keeps its nulls."""
        assert PLAIN == COMPLETION.to_dict()

    def test_to_json(self) -> None:
        assert PLAIN == json.loads(COMPLETION.to_json())
        assert '{\n  "id"' in COMPLETION.to_json()
        assert "\n" not in COMPLETION.to_json(indent=None)
        assert '{\n    "id"' in COMPLETION.to_json(indent=4)

    def test_model_dump_has_every_field(self) -> None:
        """As users of pydantic models know it, but for the session's fields and private ones."""
        found = COMPLETION.model_dump()
        assert {**PLAIN, "choices": found["choices"]} == {name: found[name] for name in PLAIN}
        of_the_session = {"request_id", "rate_limits", "attempts"}
        names = {
            name for name in ChatCompletion.__struct_fields__ if not name.startswith("_")
        } - of_the_session
        assert dict.fromkeys(names - PLAIN.keys()) == {
            name: found[name] for name in found.keys() - PLAIN.keys()
        }
        message = found["choices"][0]["message"]
        assert set(ChatCompletionMessage.__struct_fields__) - {"_reasoning"} == message.keys()

    @pytest.mark.parametrize("option", ["exclude_none", "exclude_unset", "exclude_defaults"])
    def test_model_dump_without_none(self, option: str) -> None:
        options: dict[str, Any] = {option: True}
        assert PLAIN == COMPLETION.model_dump(**options)

    def test_model_dump_of_some_fields(self) -> None:
        assert {"id": "c", "model": "m"} == COMPLETION.model_dump(include={"id", "model"})
        assert {"id": "c"} == COMPLETION.model_dump(include=["id", "model"], exclude=["model"])
        assert "id" not in COMPLETION.model_dump(exclude={"id"})

    def test_model_dump_takes_what_pydantic_takes(self) -> None:
        options: dict[str, Any] = {
            "mode": "json",
            "context": {"a": 1},
            "by_alias": True,
            "exclude_computed_fields": True,
            "round_trip": True,
            "warnings": "error",
            "fallback": str,
            "serialize_as_any": True,
            "polymorphic_serialization": True,
        }
        assert COMPLETION.model_dump() == COMPLETION.model_dump(**options)
        assert COMPLETION.model_dump_json() == COMPLETION.model_dump_json(**options)
        odd: dict[str, Any] = {"exclude_nones": True}
        for method in (COMPLETION.model_dump, COMPLETION.model_dump_json, COMPLETION.to_dict):
            with pytest.raises(TypeError, match="exclude_nones"):
                method(**odd)

    @pytest.mark.parametrize(("option", "chosen", "expected"), SELECTIONS)
    def test_model_dump_of_nested_fields(
        self, option: str, chosen: Any, expected: list[dict[str, Any]]
    ) -> None:
        """As pydantic selects them, see the next test."""
        options: dict[str, Any] = {option: {"choices": chosen}}
        assert expected == NESTED.model_dump(exclude_none=True, **options)["choices"]
        assert expected == json.loads(NESTED.model_dump_json(exclude_none=True, **options))["choices"]

    @pytest.mark.parametrize(("option", "chosen", "expected"), SELECTIONS)
    def test_pydantic_selects_the_same(
        self, option: str, chosen: Any, expected: list[dict[str, Any]]
    ) -> None:
        pydantic: Any = pytest.importorskip("pydantic")
        message = pydantic.create_model(
            "Message", role=(str, ...), **dict.fromkeys(("content", "annotations", "audio"), (Any, None))
        )
        choice = pydantic.create_model("Choice", index=(int, ...), message=(message, ...))
        kind: Any = list
        completion = pydantic.create_model("Completion", choices=(kind[choice], ...))(choices=[FIRST, SECOND])
        options: dict[str, Any] = {option: {"choices": chosen}}
        assert expected == completion.model_dump(exclude_none=True, **options).get("choices", [])

    def test_model_dump_with_both_selections(self) -> None:
        found = NESTED.model_dump(
            include={"id": ..., "choices": {0: {"message"}}},
            exclude={"choices": {"__all__": {"message": {"annotations", "role"}}}},
            exclude_none=True,
        )
        assert {
            "id": "n",
            "choices": [{"message": {"content": "a", "audio": {"id": "z", "data": "w"}}}],
        } == found
        assert {} == NESTED.model_dump(include=set())
        assert [SECOND] == NESTED.model_dump(include={"choices": [-1]}, exclude_none=True)["choices"]
        assert [FIRST] == NESTED.model_dump(exclude={"choices": (-1,)}, exclude_none=True)["choices"]
        assert (
            NESTED.model_dump() == NESTED.model_dump(exclude=set()) == NESTED.model_dump(include={"__all__"})
        )

    @pytest.mark.parametrize("option", ["include", "exclude"])
    @pytest.mark.parametrize(
        "chosen",
        [
            "id",
            5,
            {"choices": "message"},
            {"choices": {0: False}},
            {"choices": {"__all__": {"index"}, 0: 5}},
            {"choices": {"__all__": 5}},
        ],
    )
    def test_a_selection_of_another_form_is_refused(self, option: str, chosen: Any) -> None:
        """A text, for example, would be a set of its letters."""
        options: dict[str, Any] = {option: chosen}
        with pytest.raises(TypeError, match=f"{option}: expected a set of names, or a dict, not "):
            NESTED.model_dump(**options)

    def test_model_dump_json_in_ascii(self) -> None:
        assert COMPLETION.model_dump() == json.loads(COMPLETION.model_dump_json(ensure_ascii=True))
        assert '"content":"\\u00e9"' in COMPLETION.model_dump_json(ensure_ascii=True)
        assert '"content": "\\u00e9"' in COMPLETION.model_dump_json(ensure_ascii=True, indent=2)

    def test_model_dump_json(self) -> None:
        assert COMPLETION.model_dump() == json.loads(COMPLETION.model_dump_json())
        assert PLAIN == json.loads(COMPLETION.model_dump_json(indent=2, exclude_none=True))
        assert "\n" not in COMPLETION.model_dump_json()
        assert "\n" in COMPLETION.model_dump_json(indent=1)

    def test_a_dump_reads_back(self) -> None:
        again = decode_completion(COMPLETION.to_json().encode())
        assert PLAIN == again.to_dict()
        assert (None, None, 1) == (again.request_id, again.rate_limits, again.attempts)

    def test_reasoning_by_another_name_shows_under_one(self) -> None:
        chunk = ChunkDecoder().feed(b'data: {"choices":[{"delta":{"reasoning":"r"}}],"error":null}\n\n')[0]
        assert [{"index": 0, "delta": {"reasoning_content": "r"}}] == chunk.to_dict()["choices"]
        assert "reasoning" not in chunk.model_dump()["choices"][0]["delta"]
        assert "error" not in chunk.model_dump()

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_pickling(self, protocol: int) -> None:
        found: ChatCompletion = pickle.loads(pickle.dumps(COMPLETION, protocol))  # noqa: S301  # our own
        assert (COMPLETION, "r-1", 2) == (found, found.request_id, found.attempts)
        assert COMPLETION == copy.deepcopy(COMPLETION)


class TestShapes:
    def test_what_is_never_none(self) -> None:
        """`choices`, `delta`, `message` and a call's `function` are always there; no tool calls are None."""
        assert ([], []) == (ChatCompletion().choices, ChatCompletionChunk().choices)
        assert ChoiceDelta() == ChunkChoice().delta
        assert ChatCompletionMessage() == Choice().message
        assert (Function(), None) == (ToolCall().function, ToolCallDelta().function.name)
        assert (None, None) == (ChatCompletionMessage().tool_calls, ChoiceDelta().tool_calls)

    def test_defaults_are_not_shared(self) -> None:
        ChatCompletion().choices.append(Choice())
        Choice().message.content = "x"
        assert ([], None) == (ChatCompletion().choices, Choice().message.content)

    @pytest.mark.parametrize("key", ["request_id", "rate_limits", "attempts", "@request_id", "@attempts"])
    def test_session_fields_never_come_from_a_body(self, key: str) -> None:
        """A server can't set what the session is to say."""
        for value in ('"x"', "7", "null", '{"limit":1}'):
            body = f'{{"{key}":{value},"choices":[{{"message":{{"content":"a"}}}}]}}'
            found = decode_completion(body.encode())
            assert (None, None, 1) == (found.request_id, found.rate_limits, found.attempts)

    @pytest.mark.parametrize(
        "model", [kind for kind in vars(types).values() if isinstance(kind, type) and issubclass(kind, Model)]
    )
    def test_every_message_is_documented_and_light(self, model: type[Model]) -> None:
        """Each has words for its users, and no garbage collector tracks it, unless it holds a value of the user."""
        assert model.__doc__
        assert model.__name__.startswith("Parsed") == model.__struct_config__.gc
        assert model().to_dict() == json.loads(model().to_json())
        assert model() == msgspec.convert(model().to_dict(), model)

    def test_rate_limits_are_empty_until_told(self) -> None:
        limits = RateLimits()
        assert (None, None, None) == (
            limits.requests.limit,
            limits.tokens_per_minute.remaining,
            limits.tokens_per_day.reset,
        )


class TestNotGiven:
    def test_there_is_one_and_it_is_false(self) -> None:
        assert NOT_GIVEN is omit
        assert isinstance(NOT_GIVEN, NotGiven)
        assert not NOT_GIVEN
        assert "NOT_GIVEN" == repr(NOT_GIVEN)

    def test_it_stays_one(self) -> None:
        assert NOT_GIVEN is pickle.loads(pickle.dumps(NOT_GIVEN))  # noqa: S301  # our own
        assert NOT_GIVEN is copy.copy(NOT_GIVEN)
        assert NOT_GIVEN is copy.deepcopy({"a": NOT_GIVEN})["a"]


class TestHeaders:
    HEADERS = Headers([("X-Request-Id", "1"), ("Set-Cookie", "a"), ("set-cookie", "b")])

    def test_names_are_compared_without_case(self) -> None:
        assert ("1", "1", "1") == tuple(
            self.HEADERS[name] for name in ("x-request-id", "X-REQUEST-ID", "X-Request-Id")
        )
        assert "X-REQUEST-id" in self.HEADERS
        odd: Any = 5
        assert odd not in self.HEADERS
        with pytest.raises(KeyError):
            self.HEADERS["nope"]
        assert ("d", None) == (self.HEADERS.get("nope", "d"), self.HEADERS.get("nope"))

    def test_the_last_of_equal_names_counts(self) -> None:
        assert "b" == self.HEADERS["Set-Cookie"]
        assert (2, ["x-request-id", "set-cookie"]) == (len(self.HEADERS), list(self.HEADERS))

    def test_it_is_a_mapping_that_shows_itself(self) -> None:
        assert {"x-request-id": "1", "set-cookie": "b"} == self.HEADERS
        assert "Headers({'x-request-id': '1', 'set-cookie': 'b'})" == repr(self.HEADERS)
        assert self.HEADERS == pickle.loads(pickle.dumps(self.HEADERS))  # noqa: S301  # our own
        assert {} == Headers()


class TestSumUsage:
    """What several requests used together, field by field."""

    def test_counts_add_up(self) -> None:
        first = CompletionUsage(
            prompt_tokens=1, completion_tokens=2, total_tokens=3, cache_read_input_tokens=4
        )
        second = CompletionUsage(prompt_tokens=10, completion_tokens=20, total_tokens=30)
        assert first == sum_usage(None, first)
        assert CompletionUsage(
            prompt_tokens=11, completion_tokens=22, total_tokens=33, cache_read_input_tokens=4
        ) == sum_usage(first, second)

    def test_details_add_up_and_a_field_that_nobody_reported_stays_none(self) -> None:
        details = CompletionTokensDetails(reasoning_tokens=5)
        first = CompletionUsage(completion_tokens_details=details)
        assert first == sum_usage(CompletionUsage(), first) == sum_usage(first, CompletionUsage())
        both = sum_usage(first, first).completion_tokens_details
        assert CompletionTokensDetails(reasoning_tokens=10) == both

    def test_what_a_request_reported_before_is_replaced(self) -> None:
        """Usage of some servers grows from chunk to chunk."""
        before = CompletionUsage(
            completion_tokens=2, completion_tokens_details=CompletionTokensDetails(reasoning_tokens=1)
        )
        after = CompletionUsage(
            completion_tokens=3, completion_tokens_details=CompletionTokensDetails(reasoning_tokens=2)
        )
        others = CompletionUsage(completion_tokens=10)
        total = sum_usage(sum_usage(others, before), after, less=before)
        assert (13, CompletionTokensDetails(reasoning_tokens=2)) == (
            total.completion_tokens,
            total.completion_tokens_details,
        )
