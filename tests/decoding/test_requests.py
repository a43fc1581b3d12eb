"""Requests are checked against every documented limit before anything is sent, and sent as they were given."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
import pytest

from gradient_async.decoding import check_params, encode_request, known_params
from gradient_async.errors import GradientError, InvalidRequestError
from gradient_async.types import NOT_GIVEN, omit

MESSAGES = [{"role": "user", "content": "hi"}]
BASE: dict[str, Any] = {"messages": MESSAGES, "model": "m"}


def checked(
    *, stream: bool = False, agent: bool = False, validate: bool = True, **params: Any
) -> dict[str, Any]:
    return check_params({**BASE, **params}, stream=stream, agent=agent, validate=validate)


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


# Parameters that only models take, and those that only agents take.
MODELS_ONLY = {"routing_preference"}
AGENTS_ONLY = {
    *("k", "kb_filters", "filter_kb_content_by_query_metadata", "retrieval_method", "provide_citations"),
    *("instruction_override", "include_functions_info", "include_retrieval_info", "include_guardrails_info"),
}
# Parameters with tests of their own: a message has many forms, and the other two require another parameter.
TESTED_APART = {"messages", "stream_options", "top_logprobs"}

ACCEPTED: dict[str, list[Any]] = {
    "model": ["x"],
    "frequency_penalty": [-2, -2.0, 0, 1.5, 2, None],
    "presence_penalty": [-2, -2.0, 0, 1.5, 2, None],
    "temperature": [0, 0.0, 1, 2, 2.0, None],
    "top_p": [0, 0.5, 1, None],
    "max_tokens": [1, 10**9, None],
    "max_completion_tokens": [1, 255, None],
    "n": [1, 128, None],
    "stop": ["", "x", ["a"], ["a", "b", "c", "d"], None],
    "logit_bias": [{}, {"50256": -100}, {"1": 100.0}, {50256: 0}, None],
    "metadata": [{}, {"k" * 64: "v" * 512}, {str(key): "" for key in range(16)}, {"é" * 64: ""}, None],
    "tools": [
        *([], [tool("a")], [tool("aZ0_-" + "x" * 59)], [{"type": "custom"}], None),
        [{"type": "custom", "custom": {"name": "g", "description": "d", "format": {"type": "text"}}}],
    ],
    "tool_choice": [
        *("none", "auto", "required", {"type": "function", "function": {"name": "f"}}, None),
        {"type": "custom", "custom": {"name": "g"}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [tool("a")]}},
    ],
    "reasoning_effort": ["none", "minimal", "low", "medium", "high", "xhigh", "max", "other"],
    "logprobs": [True, False, None],
    "parallel_tool_calls": [True, False],
    "seed": [-5, 0],
    "user": ["u"],
    "prompt_cache_key": ["k"],
    "prompt_cache_retention": ["24h"],
    "reasoning": [{"effort": "low"}],
    "response_format": [{"type": "json_object"}],
    "audio": [{"voice": "v", "format": "wav"}, None],
    "function_call": ["none", "auto", "other", {"name": "f"}, None],
    "functions": [[], [{"name": "f", "parameters": {}}], [{"name": "any name"}], None],
    "modalities": [["text", "audio"], [], None],
    "moderation": [{"model": "m", "policy": None}, None],
    "prediction": [{"type": "content", "content": "x"}, None],
    "prompt_cache_options": [{"mode": "explicit", "ttl": "30m"}, None],
    "safety_identifier": ["u", None],
    "service_tier": ["auto", "fast", None],
    "store": [True, False, None],
    "verbosity": ["low", "other", None],
    "web_search_options": [{}, {"search_context_size": "low"}, None],
    "routing_preference": ["balanced", "budget", "quality", "other", None],
    "k": [0, 10**9, None],
    "kb_filters": [[{"a": 1}], {"a": 1}, None],
    "filter_kb_content_by_query_metadata": [True, None],
    "instruction_override": ["x", None],
    "include_functions_info": [True, None],
    "include_retrieval_info": [True, None],
    "include_guardrails_info": [False, None],
    "provide_citations": [True, None],
    "retrieval_method": ["rewrite", "other", None],
}

REFUSED: dict[str, list[Any]] = {
    "model": ["", 5, None],
    "frequency_penalty": [-2.01, 2.01, "1", True],
    "presence_penalty": [-2.01, 2.01, "1", True],
    "temperature": [-0.01, 2.01, "hot", True],
    "top_p": [-0.01, 1.01, "1"],
    "max_tokens": [0, -1, 1.5, "5", True],
    "max_completion_tokens": [0, -1, 1.5, "5", True],
    "n": [0, 129, -1, 1.0, "1", True],
    "stop": [[], ["a", "b", "c", "d", "e"], 5, [5], {"a": 1}],
    "logit_bias": [{"1": 101}, {"1": -100.5}, {"1": "x"}, [], "x"],
    "metadata": [{"k" * 65: "v"}, {"k": "v" * 513}, {str(key): "" for key in range(17)}, {"k": 5}, []],
    "tools": [
        *([tool(name)] for name in ("", "x" * 65, "a b", "a.b", "é", "a\n")),
        *("x", [5], [{}], [{"type": "function", "function": {}}]),
        *([{"type": "custom", "custom": custom}] for custom in ({}, {"name": "a b"}, "g")),
    ],
    "tool_choice": [
        *("any", 5, {"type": "function"}, {"type": "x", "function": {"name": "f"}}, {"type": "custom"}),
        *({"type": "custom", "custom": {}}, {"type": "custom", "function": {"name": "f"}}),
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}},
    ],
    "audio": ["alloy"],
    "function_call": [5],
    "functions": ["f", ["f"]],
    "modalities": ["text", [5]],
    "moderation": [True],
    "prediction": ["x"],
    "prompt_cache_options": ["explicit"],
    "safety_identifier": [5],
    "service_tier": [5],
    "store": ["yes", 1],
    "verbosity": [1],
    "web_search_options": [True],
    "reasoning_effort": [5],
    "logprobs": [1, "yes"],
    "parallel_tool_calls": ["no"],
    "seed": [1.5],
    "user": [5],
    "response_format": ["json"],
    "reasoning": ["low"],
    "prompt_cache_key": [5],
    "prompt_cache_retention": [24],
    "routing_preference": [5],
    "k": [-1, 1.5, "1", True],
    "kb_filters": ["x", 5],
    "filter_kb_content_by_query_metadata": [1, "yes"],
    "instruction_override": [5],
    "include_functions_info": [1, "yes"],
    "include_retrieval_info": [1, "yes"],
    "include_guardrails_info": [1, "yes"],
    "provide_citations": [1, "yes"],
    "retrieval_method": [5],
}


def each(values: dict[str, list[Any]]) -> list[tuple[str, Any]]:
    return [(name, value) for name, several in values.items() for value in several]


class TestLimits:
    @pytest.mark.parametrize(("name", "value"), each(ACCEPTED))
    @pytest.mark.parametrize("agent", [False, True])
    def test_what_is_allowed(self, name: str, value: Any, agent: bool) -> None:
        """Up to the bound and at it; what was given comes back as it was. Other names are refused."""
        if name in (MODELS_ONLY if agent else AGENTS_ONLY):
            with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
                checked(**{name: value}, agent=agent)
        else:
            assert value == checked(**{name: value}, agent=agent)[name]

    @pytest.mark.parametrize(("name", "value"), each(REFUSED))
    def test_what_is_not(self, name: str, value: Any) -> None:
        """Beyond the bound: the error names parameter, value and limit, and the way round."""
        agent = name in AGENTS_ONLY
        with pytest.raises(InvalidRequestError) as raised:
            checked(**{name: value}, agent=agent)
        error = raised.value
        assert name == error.param
        assert error.message.startswith(f"{name}={value!r}"[:60])
        assert error.message.endswith("; to send it anyway, use validate=False or extra_body={...}")
        assert isinstance(error, ValueError)
        assert value is checked(**{name: value}, agent=agent, validate=False)[name]

    @pytest.mark.parametrize(
        ("params", "words"),
        [
            ({"temperature": 2.5}, "temperature=2.5: expected `float` <= 2.0 (documented: 0 to 2)"),
            ({"n": 200}, "n=200: expected `int` <= 128 (documented: 1 to 128)"),
            ({"max_tokens": 0}, "max_tokens=0: expected `int` >= 1 (documented: at least 1)"),
            (
                {"stop": ["a"] * 5},
                "stop=['a', 'a', 'a', 'a', 'a']: expected `array` of length <= 4 (documented: a string, or 1 to 4",
            ),
            (
                {"tools": [tool("a b")]},
                " at tools[0].function.name (documented: names of 1 to 64 of a-z A-Z 0-9 _ -)",
            ),
            (
                {"top_logprobs": 21, "logprobs": True},
                "top_logprobs=21: expected `int` <= 20 (documented: 0 to 20)",
            ),
            (
                {"metadata": {"k" * 65: "v"}},
                ": expected `str` of length <= 64 as a key (documented: at most 16 pairs",
            ),
            ({"k": -1, "agent": True}, "k=-1: expected `int` >= 0 (documented: at least 0)"),
            ({"user": 5}, "user=5: expected `str | null`, got `int`;"),
        ],
    )
    def test_words(self, params: dict[str, Any], words: str) -> None:
        with pytest.raises(InvalidRequestError) as raised:
            checked(**params)
        assert words in raised.value.message

    def test_a_long_value_is_cut_and_escaped(self) -> None:
        with pytest.raises(InvalidRequestError) as raised:
            checked(metadata={"k": "\x1b\u202e" + "v" * 10_000})
        assert len(raised.value.message) < 400
        assert raised.value.message.isprintable()

    @pytest.mark.parametrize("value", [0, 1, 20])
    def test_top_logprobs_go_only_with_logprobs(self, value: int) -> None:
        assert value == checked(top_logprobs=value, logprobs=True)["top_logprobs"]
        for logprobs in (False, None, NOT_GIVEN):
            with pytest.raises(InvalidRequestError, match="it requires logprobs=True") as raised:
                checked(top_logprobs=value, logprobs=logprobs)
            assert "top_logprobs" == raised.value.param
        assert None is checked(top_logprobs=None)["top_logprobs"]

    @pytest.mark.parametrize("value", [-1, 21, 1.5, True])
    def test_top_logprobs_bounds(self, value: Any) -> None:
        with pytest.raises(InvalidRequestError):
            checked(top_logprobs=value, logprobs=True)

    def test_stream_options_go_only_with_a_stream(self) -> None:
        options = {"include_usage": True}
        for more in ({}, {"include_obfuscation": False}):
            assert options | more == checked(stream=True, stream_options=options | more)["stream_options"]
        assert None is checked(stream_options=None)["stream_options"]
        with pytest.raises(InvalidRequestError, match="it requires stream=True"):
            checked(stream_options=options)
        with pytest.raises(InvalidRequestError, match="stream_options"):
            checked(stream=True, stream_options={"include_usage": "yes"})
        with pytest.raises(InvalidRequestError, match="stream_options"):
            checked(stream=True, stream_options={"include_obfuscation": "no"})

    def test_agents_need_no_model(self) -> None:
        assert {"messages": MESSAGES} == check_params({"messages": MESSAGES}, stream=False, agent=True)
        assert None is checked(agent=True, model=None)["model"]
        with pytest.raises(InvalidRequestError, match="k=-1"):
            check_params({"messages": MESSAGES, "k": -1}, stream=False, agent=True)


class TestNames:
    def test_all_of_the_reference_are_known(self) -> None:
        """And each has values here that are accepted, and values that are refused."""
        assert ACCEPTED.keys() == REFUSED.keys(), "add values to ACCEPTED and REFUSED for each parameter"
        names = ACCEPTED.keys() | TESTED_APART
        assert names - AGENTS_ONLY == known_params(), "see ACCEPTED, REFUSED and AGENTS_ONLY"
        assert names - MODELS_ONLY == known_params(agent=True), "see ACCEPTED, REFUSED and MODELS_ONLY"

    @pytest.mark.parametrize(
        ("name", "nearest"),
        [("temprature", "temperature"), ("max_token", "max_tokens"), ("top_logprob", "top_logprobs"), ("steam", "stream"),
         ("tool", "tools"), ("message", "messages"), ("extra_headder", "extra_headers")],
    )  # fmt: skip
    def test_an_unknown_one_suggests_the_nearest(self, name: str, nearest: str) -> None:
        """Checked always: a typo that is sent is a parameter silently ignored."""
        for validate in (True, False):
            with pytest.raises(TypeError, match=rf"'{name}'. Did you mean '{nearest}'\? .*extra_body"):
                check_params({**BASE, name: 1}, stream=False, validate=validate)

    def test_one_without_a_near_name(self) -> None:
        with pytest.raises(
            TypeError, match=r"'qqqq'. Parameters that this library does not know go into extra_body"
        ):
            checked(qqqq=1)

    @pytest.mark.parametrize("name", ["messages", "model"])
    def test_required_ones(self, name: str) -> None:
        for params in ({}, {name: NOT_GIVEN}):
            given = {**{key: value for key, value in BASE.items() if key != name}, **params}
            with pytest.raises(TypeError, match=f"missing required keyword argument '{name}'"):
                check_params(given, stream=False)
            assert given.keys() - {name} == check_params(given, stream=False, validate=False).keys()


class TestGiven:
    @pytest.mark.parametrize("absent", [NOT_GIVEN, omit])
    def test_absent_values_are_dropped(self, absent: Any) -> None:
        found = checked(temperature=absent, stop=absent, top_p=1)
        assert {**BASE, "top_p": 1} == found
        assert {**BASE, "top_p": 1} == json.loads(
            encode_request(found, stream=None, extra_body={"x": absent})
        )

    def test_iterables_become_lists(self) -> None:
        """Messages, tools and stops may be any iterable, read once; what is given stays untouched."""
        messages = ({"role": "user", "content": str(number)} for number in range(2))
        given: dict[str, Any] = {
            "messages": messages,
            "model": "m",
            "tools": (tool(name) for name in "ab"),
            "stop": ("x", "y"),
            "functions": iter([{"name": "f"}]),
            "modalities": iter(["text"]),
        }
        found = check_params(given, stream=False)
        assert [{"role": "user", "content": "0"}, {"role": "user", "content": "1"}] == found["messages"]
        assert ([tool("a"), tool("b")], ["x", "y"]) == (found["tools"], found["stop"])
        assert ([{"name": "f"}], ["text"]) == (found["functions"], found["modalities"])
        assert messages is given["messages"]
        assert ["x"] == checked(stop={"x"})["stop"]
        assert [1] == checked(validate=False, stop=iter([1]))["stop"]

    def test_other_mappings_will_do(self) -> None:
        message: Mapping[str, Any] = MappingProxyType(
            {"role": "user", "content": OrderedDict(type="text", text="x")}
        )
        found = checked(messages=[message], metadata=OrderedDict(a="b"), reasoning=OrderedDict(effort="low"))
        body = json.loads(encode_request(found, stream=None))
        assert [{"role": "user", "content": {"type": "text", "text": "x"}}] == body["messages"]
        assert ({"a": "b"}, {"effort": "low"}) == (body["metadata"], body["reasoning"])


class TestEncoding:
    @pytest.mark.parametrize(
        ("stream", "expected"), [(True, {"stream": True}), (False, {"stream": False}), (None, {})]
    )
    def test_stream_is_sent_as_asked(self, stream: bool | None, expected: dict[str, Any]) -> None:
        assert {**BASE, **expected} == json.loads(encode_request(BASE, stream=stream))

    def test_none_is_null(self) -> None:
        assert {**BASE, "stop": None} == json.loads(encode_request(checked(stop=None), stream=None))

    @pytest.mark.parametrize("params", [{}, {"messages": "hi"}, {"messages": None}])
    def test_what_was_not_validated_is_sent_as_it_is(self, params: dict[str, Any]) -> None:
        assert params == json.loads(encode_request(params, stream=None))

    def test_extra_body_wins_and_goes_round(self) -> None:
        given = checked(temperature=1)
        extra = {"temperature": 9, "chat_template_kwargs": {"thinking": False}, "stream": False}
        assert {**BASE, **extra} == json.loads(encode_request(given, stream=True, extra_body=extra))
        assert 1 == given["temperature"]

    def test_any_mapping_and_iterable(self) -> None:
        def numbers() -> Iterator[int]:
            yield from (1, 2)

        extra = {"a": MappingProxyType({"b": numbers()}), "c": {3}}
        assert {**BASE, "a": {"b": [1, 2]}, "c": [3]} == json.loads(
            encode_request(BASE, stream=None, extra_body=extra)
        )

    def test_structs_of_the_caller(self) -> None:
        class Point(msgspec.Struct):
            x: int

        assert {"x": 1} == json.loads(encode_request(BASE, stream=None, extra_body={"p": Point(1)}))["p"]

    @pytest.mark.parametrize("value", [object(), {"a": object()}, "\ud83d", {(1, 2): 3}])
    def test_what_has_no_json_form(self, value: Any) -> None:
        with pytest.raises(InvalidRequestError, match="can't be written as JSON") as raised:
            encode_request(BASE, stream=None, extra_body={"x": value})
        assert isinstance(raised.value, GradientError)
        assert None is raised.value.__context__

    def test_what_is_nested_too_deep(self) -> None:
        deep: list[Any] = []
        for _ in range(200_000):
            deep = [deep]
        with pytest.raises(InvalidRequestError, match="nested too deep"):
            encode_request(BASE, stream=None, extra_body={"x": deep})


class Bounded(msgspec.Struct):
    """Parameters of which one has bounds."""

    messages: Any
    model: str
    width: Annotated[int, msgspec.Meta(ge=0, le=5)] | None = None


def test_a_bound_that_only_models_have_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradient_async.decoding.requests._CHAT_TYPES", Bounded)
    monkeypatch.setattr("gradient_async.decoding.requests._CHAT", frozenset(Bounded.__struct_fields__))
    with pytest.raises(InvalidRequestError, match="documented: 0 to 5"):
        checked(width=6)
