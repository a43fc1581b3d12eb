"""Every field of a reply survives a stream: a field that the assembler forgets would vanish without an error."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gradient_async.assembly import CompletionAssembler
from gradient_async.decoding import as_chunk
from gradient_async.types import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    Choice,
    ChoiceDelta,
    ChunkChoice,
    CompletionUsage,
    Function,
    ToolCall,
)
from gradient_async.types.messages import ANSWER_FIELDS, TEXT_FIELDS

# All but constants, fields that the session sets, and fields that decoding uses up.
_OF_A_COMPLETION = set(ChatCompletion.__struct_fields__) - {
    "choices", "object", "request_id", "rate_limits", "attempts", "_error", "_x_groq",
}  # fmt: skip
_OF_A_MESSAGE = set(ChatCompletionMessage.__struct_fields__) - {"_reasoning"}
_BESIDE_THE_ANSWER = {"role", "annotations", "extra_content"}
_CALL = ToolCall(id="c", function=Function(name="f", arguments="{}"))
_EXAMPLES: dict[str, Any] = {
    "role": "assistant",
    "created": 7,
    "usage": CompletionUsage(total_tokens=3),
    "tool_calls": [_CALL],
    "function_call": Function(name="f", arguments="{}"),
    "audio": {"id": "a", "data": "x"},
}
_LOST = 'the field is lost: see "Add a field of a reply" in docs/contributing.md'
# After this chunk the assembler knows the head of the completion, and takes its fast path.
_FIRST = ChatCompletionChunk(
    id="x", model="x", created=7, choices=[ChunkChoice(delta=ChoiceDelta(role="assistant"))]
)


def example(kind: type[msgspec.Struct], name: str) -> Any:
    """Return a value that fits the field."""
    if name in _EXAMPLES:
        return _EXAMPLES[name]
    (field,) = (field for field in msgspec.structs.fields(kind) if field.name == name)
    return "x" if "str" in str(field.type) else [{"a": 1}] if "list" in str(field.type) else {"a": 1}


def streamed(completion: ChatCompletion, *before: ChatCompletionChunk) -> ChatCompletion:
    """Assemble the completion from chunks: these, and one with all that the completion holds."""
    assembler = CompletionAssembler()
    for chunk in (*before, as_chunk(completion)):
        assembler.add(chunk)
    return assembler.completion


@pytest.mark.parametrize("before", [[], [_FIRST]], ids=["first chunk", "later chunk"])
@pytest.mark.parametrize("name", sorted(_OF_A_COMPLETION))
def test_of_a_completion(name: str, before: list[ChatCompletionChunk]) -> None:
    value = example(ChatCompletion, name)
    completion = ChatCompletion(**{name: value}, choices=[Choice()])
    assert value == getattr(streamed(completion, *before), name), _LOST


@pytest.mark.parametrize("before", [[], [_FIRST]], ids=["first chunk", "later chunk"])
@pytest.mark.parametrize("name", sorted(_OF_A_MESSAGE))
def test_of_a_message(name: str, before: list[ChatCompletionChunk]) -> None:
    value = example(ChatCompletionMessage, name)
    completion = ChatCompletion(choices=[Choice(message=ChatCompletionMessage(**{name: value}))])
    assert value == getattr(streamed(completion, *before).choices[0].message, name), _LOST


@pytest.mark.parametrize("name", sorted(set(ANSWER_FIELDS) - {"content_parts", "reasoning_details"}))
def test_a_part_of_the_answer_continues_a_finished_choice(name: str) -> None:
    """Otherwise a stream that is cut after it would count as whole."""
    value = example(ChatCompletionMessage, name)
    more = ChatCompletion(choices=[Choice(message=ChatCompletionMessage(**{name: value}))])
    assembler = CompletionAssembler()
    assembler.add(as_chunk(ChatCompletion(choices=[Choice(finish_reason="stop")])))
    assert assembler.finished
    assembler.add(as_chunk(more))
    assert not assembler.finished


def test_every_field_is_known_to_be_a_part_of_the_answer_or_not() -> None:
    """A part of the answer that is in neither list would not restart the time limits of a stream."""
    known = _BESIDE_THE_ANSWER | set(ANSWER_FIELDS)
    assert known == _OF_A_MESSAGE, "add the field to ANSWER_FIELDS, or to _BESIDE_THE_ANSWER in this file"


def test_every_text_is_known_to_come_in_pieces() -> None:
    """A surrogate pair that is cut between two pieces would be lost in a text that is not in the list."""
    texts = {field.name for field in msgspec.structs.fields(ChoiceDelta) if field.type == str | None}
    assert set(TEXT_FIELDS) == texts - {"role", "_reasoning"}, "add the field to TEXT_FIELDS"
