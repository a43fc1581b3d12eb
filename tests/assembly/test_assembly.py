"""`CompletionAssembler` adds chunks up to the completion that the server would have sent at once."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from chunking import assembled, chunk, head, message

from gradient_async.assembly import CompletionAssembler
from gradient_async.config import Limits
from gradient_async.errors import StreamLimitError, StreamProtocolError
from gradient_async.types import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    ChoiceLogprobs,
    CompletionUsage,
    PromptTokensDetails,
    TokenLogprob,
    TopLogprob,
)


class TestText:
    def test_pieces_join(self) -> None:
        found = message(
            chunk(role="assistant", content=""), chunk(content="Hel"), chunk(), chunk(content="lo")
        )
        assert ChatCompletionMessage(role="assistant", content="Hello") == found

    @pytest.mark.parametrize("name", ["content", "reasoning_content", "refusal"])
    def test_null_where_no_string_was_ever_seen(self, name: str) -> None:
        """An empty string is a string; nothing is None."""
        assert None is getattr(message(chunk(**{name: None}), chunk()), name)
        assert "" == getattr(message(chunk(**{name: None}), chunk(**{name: ""})), name)
        assert "ab" == getattr(
            message(chunk(**{name: "a"}), chunk(**{name: None}), chunk(**{name: "b"})), name
        )

    def test_kinds_do_not_mix(self) -> None:
        found = message(chunk(content="c", reasoning_content="r", refusal="f"), chunk(reasoning_content="R"))
        assert ("c", "rR", "f") == (found.content, found.reasoning_content, found.refusal)

    @pytest.mark.parametrize(
        ("roles", "expected"),
        [
            ([None], "assistant"),
            (["", None, "tool"], "tool"),
            (["assistant"] * 3, "assistant"),
            (["a", "b"], "a"),
        ],
    )
    def test_role_is_the_first_that_is_not_empty(self, roles: list[str | None], expected: str) -> None:
        assert expected == message(*(chunk(role=role) for role in roles)).role


class TestChoices:
    def test_any_number_in_any_order(self) -> None:
        """Choices come ordered by index, whatever order their chunks came in."""
        pieces = [chunk(index, content=f"{index}:{step} ") for index in range(5) for step in range(3)]
        expected = [f"{index}:0 {index}:1 {index}:2 " for index in range(5)]
        for seed in range(20):
            queues = {index: pieces[3 * index : 3 * index + 3] for index in range(5)}
            dice = random.Random(seed)  # seeded: it has to be the same each time
            mixed: list[ChatCompletionChunk] = []
            while queues:
                index = dice.choice(list(queues))
                mixed.append(queues[index].pop(0))
                if not queues[index]:
                    del queues[index]
            found = assembled(*mixed, n=5).choices
            assert [0, 1, 2, 3, 4] == [choice.index for choice in found]
            assert expected == [choice.message.content for choice in found]

    def test_several_in_one_chunk(self) -> None:
        both = ChatCompletionChunk(choices=[*chunk(1, content="b").choices, *chunk(0, content="a").choices])
        assert ["aa", "bb"] == [choice.message.content for choice in assembled(both, both).choices]

    def test_an_index_may_be_left_out(self) -> None:
        assert [0, 7] == [
            choice.index for choice in assembled(chunk(7, content="x"), chunk(content="y")).choices
        ]

    @pytest.mark.parametrize(("n", "limit", "most"), [(1, 128, 127), (3, 2, 2), (1, 2, 1), (200, 128, 199)])
    def test_most_choices(self, n: int, limit: int, most: int) -> None:
        """As many as were asked for, and as `Limits.choices` if that is more."""
        limits = Limits(choices=limit)
        assert most == assembled(chunk(most, content="x"), n=n, limits=limits).choices[0].index
        with pytest.raises(
            StreamLimitError, match=rf"index {most + 1}, and choices={most + 1} .*Limits\(choices="
        ):
            CompletionAssembler(n=n, limits=limits).add(chunk(most + 1))

    @pytest.mark.parametrize("index", [-1, -(10**9)])
    def test_a_negative_index_is_refused(self, index: int) -> None:
        assembler = CompletionAssembler()
        with pytest.raises(StreamProtocolError, match=f"index {index}"):
            assembler.add(chunk(index, content="x"))
        assert {} == assembler.choices

    def test_an_index_of_a_billion_allocates_nothing(self) -> None:
        assembler = CompletionAssembler(limits=Limits(choices=2 * 10**9))
        assembler.add(chunk(10**9, content="x"))
        assert [10**9] == list(assembler.choices)


class TestFinish:
    def test_the_last_reason_counts(self) -> None:
        """In the content chunk, in one of its own, or twice; chunks after it still count."""
        pieces = [chunk(content="a", finish="stop"), chunk(finish="length"), chunk(content="b", finish=None)]
        found = assembled(*pieces).choices[0]
        assert ("length", "ab") == (found.finish_reason, found.message.content)

    def test_none_while_unfinished(self) -> None:
        assert None is assembled(chunk(content="a")).choices[0].finish_reason

    def test_complete_once_every_choice_asked_for_is_finished(self) -> None:
        assembler = CompletionAssembler(n=2)
        states = [assembler.complete]
        for piece in (chunk(0, finish="stop"), chunk(1, content="x"), chunk(1, finish="stop")):
            assembler.add(piece)
            states.append(assembler.complete)
        assert [False, False, False, True] == states

    def test_nothing_is_never_complete(self) -> None:
        """Not even if no choice was asked for."""
        assert not CompletionAssembler(n=0).complete

    def test_a_choice_beyond_those_asked_for_counts_too(self) -> None:
        assembler = CompletionAssembler(n=1)
        assembler.extend([chunk(0, finish="stop"), chunk(1, content="x")])
        assert not assembler.complete

    @pytest.mark.parametrize(
        "content",
        [
            {"content": "b"},
            {"reasoning_content": "b"},
            {"refusal": "b"},
            {"tool_calls": [{"index": 0, "function": {"name": "f"}}]},
            {"function_call": {"arguments": "{"}},
            {"images": [{"a": 1}]},
            {"audio": {"data": "x"}},
        ],
    )
    def test_content_takes_a_reason_back(self, content: dict[str, Any]) -> None:
        """Until another comes, or `[DONE]`; what is shown is the last reason in any case."""
        for strict in (False, True):
            assembler = CompletionAssembler(strict=strict)
            states: list[tuple[bool, str | None]] = []
            for piece in (chunk(content="a", finish="stop"), chunk(**content), chunk(finish="length")):
                assembler.add(piece)
                states.append((assembler.complete, assembler.completion.choices[0].finish_reason))
            assert [(True, "stop"), (False, "stop"), (True, "length")] == states
            assembler = CompletionAssembler(strict=strict)
            assembler.extend([chunk(finish="stop"), chunk(**content)])
            assembler.end(done=True)
            assert assembler.complete

    @pytest.mark.parametrize(
        "nothing",
        [
            {},
            {"content": "", "reasoning_content": "", "refusal": ""},
            {"role": "assistant"},
            {"tool_calls": [{"index": 0}]},
            {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a": 1}'}}]},
            {"images": []},
            {"annotations": [{"a": 1}], "extra_content": {"a": 1}},
        ],
    )
    def test_what_is_no_content_takes_nothing_back(self, nothing: dict[str, Any]) -> None:
        call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a":1}'}}
        assembler = CompletionAssembler()
        assembler.extend([chunk(tool_calls=[call], finish="tool_calls"), chunk(**nothing)])
        assembler.add(head(usage=CompletionUsage(total_tokens=1)))
        assert assembler.complete

    def test_each_choice_has_its_own(self) -> None:
        assembler = CompletionAssembler(n=2)
        for piece in (chunk(0, finish="stop"), chunk(1, finish="stop"), chunk(0, content="a")):
            assembler.add(piece)
        assert not assembler.complete
        assembler.add(chunk(0, finish="stop"))
        assert assembler.complete

    @pytest.mark.parametrize(
        ("pieces", "done", "strict", "complete"),
        [
            ([], False, False, False),
            ([], True, False, False),
            ([], True, True, False),
            ([chunk(content="a")], False, False, False),
            ([chunk(content="a")], True, False, True),
            ([chunk(content="a")], True, True, False),
            ([chunk(finish="stop")], False, False, True),
            ([chunk(finish="stop")], False, True, True),
            ([chunk(finish="stop")], True, True, True),
            ([head()], False, False, False),
            ([head()], True, False, False),
        ],
    )
    def test_done_after_at_least_one_choice(
        self,
        pieces: list[ChatCompletionChunk],
        done: bool,
        strict: bool,
        complete: bool,
    ) -> None:
        """`[DONE]` completes what had at least one choice, unless a finish_reason is insisted on."""
        assembler = CompletionAssembler(strict=strict)
        assembler.extend(pieces)
        assembler.end(done=done)
        assert complete == assembler.complete


class TestHead:
    def test_first_that_is_not_empty(self) -> None:
        """Of id, model and time, each by itself, however long it takes."""
        pieces = [
            head(),
            head(model="m"),
            head(id="i"),
            chunk(content="x"),
            head(created=5),
            head(id="j", model="n", created=6),
        ]
        found = assembled(*pieces)
        assert ("i", "m", 5, "chat.completion") == (found.id, found.model, found.created, found.object)
        found = assembled(*reversed(pieces))
        assert ("j", "n", 6) == (found.id, found.model, found.created)

    @pytest.mark.parametrize("late", [{"id": "i"}, {"model": "m"}, {"created": 5}])
    def test_one_may_come_after_the_others(self, late: dict[str, Any]) -> None:
        early = {
            name: value for name, value in {"id": "i", "model": "m", "created": 5}.items() if name not in late
        }
        found = assembled(head(**early), head(**late))
        assert ("i", "m", 5) == (found.id, found.model, found.created)

    def test_the_first_time_stays_while_a_name_is_missing(self) -> None:
        found = assembled(head(created=5), head(created=6, model="m"), head(created=7, model="n", id="i"))
        assert ("i", "m", 5) == (found.id, found.model, found.created)

    def test_nothing_came(self) -> None:
        """`.completion` is always a completion, with no choices if nothing came."""
        assert ChatCompletion() == assembled()

    def test_first_fingerprint_and_tier(self) -> None:
        found = assembled(
            head(),
            head(system_fingerprint="a"),
            head(service_tier="t", system_fingerprint="b"),
            head(service_tier="u"),
        )
        assert ("a", "t") == (found.system_fingerprint, found.service_tier)

    def test_agents_fields_merge_by_key(self) -> None:
        found = assembled(
            head(retrieval={"retrieved_data": [1]}, functions=["f"]),
            head(retrieval={"more": {"a": 1}}, guardrails={"g": None}),
            head(
                retrieval={"more": {"b": 2, "a": None}, "retrieved_data": [1, 2]},
                guardrails={"g": 5},
                functions={"x": 1},
            ),
        )
        assert {"retrieved_data": [1, 2], "more": {"a": 1, "b": 2}} == found.retrieval
        assert ({"x": 1}, {"g": 5}) == (found.functions, found.guardrails)


class TestUsage:
    def test_the_last_that_was_told(self) -> None:
        """In every chunk, in one without choices, or null after the real one."""
        one, two = CompletionUsage(total_tokens=1), CompletionUsage(total_tokens=2)
        assert two == assembled(head(usage=one), chunk(content="a"), head(usage=two), head(usage=None)).usage
        assert None is assembled(chunk(content="a")).usage

    def test_of_several_each_count_is_the_largest(self) -> None:
        """Zeros or a part of the usage at the end erase nothing."""
        real = CompletionUsage(
            prompt_tokens=7,
            completion_tokens=3,
            total_tokens=10,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=4),
        )
        part = CompletionUsage(
            completion_tokens=5,
            cache_read_input_tokens=2,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=1, audio_tokens=1),
        )
        found = assembled(head(usage=real), head(usage=CompletionUsage()), head(usage=part)).usage
        assert found is not None
        assert (7, 5, 12, 2) == (
            found.prompt_tokens,
            found.completion_tokens,
            found.total_tokens,
            found.cache_read_input_tokens,
        )
        assert PromptTokensDetails(cached_tokens=4, audio_tokens=1) == found.prompt_tokens_details

    def test_the_total_is_never_less_than_its_parts(self) -> None:
        assert 9 == CompletionUsage(prompt_tokens=4, completion_tokens=5).total_tokens
        assert (
            9
            == msgspec.json.decode(
                b'{"prompt_tokens":4,"completion_tokens":5,"total_tokens":4}', type=CompletionUsage
            ).total_tokens
        )
        assert 11 == CompletionUsage(prompt_tokens=4, completion_tokens=5, total_tokens=11).total_tokens


class TestLogprobs:
    def test_a_log_probability_that_was_left_out_is_very_unlikely(self) -> None:
        found = assembled(chunk(logprobs={"content": [{"token": "a", "top_logprobs": [{"token": "a"}]}]}))
        assert found.choices[0].logprobs is not None
        (entry,) = found.choices[0].logprobs.content or []
        assert (-9999.0, -9999.0) == (entry.logprob, entry.top_logprobs[0].logprob)

    def test_entries_of_text_and_refusal_join(self) -> None:
        a, b, c = (
            TokenLogprob(token=token, logprob=-1.0, top_logprobs=[TopLogprob(token="x")]) for token in "abc"
        )
        found = assembled(
            chunk(content="a", logprobs={"content": [msgspec.to_builtins(a)], "refusal": None}),
            chunk(content="b"),
            chunk(logprobs={"refusal": [msgspec.to_builtins(b)]}),
            chunk(logprobs={"content": [], "refusal": [msgspec.to_builtins(c)]}),
            chunk(logprobs={"content": [msgspec.to_builtins(b)]}),
        )
        assert ChoiceLogprobs(content=[a, b], refusal=[b, c]) == found.choices[0].logprobs

    def test_none_is_told_from_empty(self) -> None:
        assert None is assembled(chunk(content="a")).choices[0].logprobs
        assert ChoiceLogprobs() == assembled(chunk(logprobs={"content": None})).choices[0].logprobs
        assert ChoiceLogprobs(content=[]) == assembled(chunk(logprobs={"content": []})).choices[0].logprobs
