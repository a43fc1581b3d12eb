"""A module as users of ``openai`` write it, with annotations everywhere; only its imports are changed.

Type checkers read it in strict mode, and `test_typed` runs it. Each ``as`` gives a class its name in ``openai`` and
``openai.types.chat``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, assert_type

import gradient_async as openai
from gradient_async import (
    NOT_GIVEN,
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AsyncStream,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    ChatCompletionStreamEvent,
    ChatCompletionStreamState,
    Choice,
    ChoiceDelta,
    ChoiceLogprobs,
    CompletionUsage,
    ContentDeltaEvent,
    ContentDoneEvent,
    NotGiven,
    Omit,
    RateLimitError,
    Timeout,
    omit,
)
from gradient_async import AsyncGradient as AsyncOpenAI
from gradient_async import Gradient as OpenAI
from gradient_async import TokenLogprob as ChatCompletionTokenLogprob
from gradient_async import ToolCall as ChatCompletionMessageToolCall
from gradient_async import ToolCallDelta as ChoiceDeltaToolCall
from gradient_async.types import AssistantMessage as ChatCompletionAssistantMessageParam
from gradient_async.types import MessageParam as ChatCompletionMessageParam
from gradient_async.types import StreamOptions as ChatCompletionStreamOptionsParam
from gradient_async.types import SystemMessage as ChatCompletionSystemMessageParam
from gradient_async.types import ToolMessage as ChatCompletionToolMessageParam
from gradient_async.types import ToolParam as ChatCompletionToolParam
from gradient_async.types import UserMessage as ChatCompletionUserMessageParam

TOOLS: list[ChatCompletionToolParam] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Weather at a place",
            "parameters": {
                "type": "object",
                "properties": {"place": {"type": "string"}},
                "required": ["place"],
            },
        },
    }
]


class Options(TypedDict, total=False):
    """Parameters that a program keeps."""

    temperature: float
    seed: int


@dataclass
class Assistant:
    """A class around a client."""

    client: AsyncOpenAI
    model: str = "m"
    timeout: float | Timeout | NotGiven | None = NOT_GIVEN

    async def ask(
        self,
        messages: Iterable[ChatCompletionMessageParam],
        *,
        temperature: float | Omit | None = omit,
        max_tokens: int | NotGiven = NOT_GIVEN,
        stop: str | list[str] | Omit = omit,
        tools: Iterable[ChatCompletionToolParam] | NotGiven = NOT_GIVEN,
        tool_choice: Literal["none", "auto", "required"] | Omit = omit,
        user: str | Omit = omit,
    ) -> ChatCompletion:
        """Pass arguments on, given or not."""
        return await self.client.chat.completions.create(
            model=self.model,
            messages=messages,
            temperature=temperature,
            max_tokens=max_tokens,
            stop=stop,
            tools=tools,
            tool_choice=tool_choice,
            user=user,
            timeout=self.timeout,
        )

    async def open(
        self,
        messages: list[ChatCompletionMessageParam],
        *,
        stream_options: ChatCompletionStreamOptionsParam | Omit = omit,
    ) -> AsyncStream[ChatCompletionChunk]:
        """Open a stream."""
        return await self.client.chat.completions.create(
            model=self.model, messages=messages, stream=True, stream_options=stream_options
        )

    async def texts(self, messages: list[ChatCompletionMessageParam]) -> AsyncIterator[str]:
        """Yield texts."""
        stream: AsyncStream[ChatCompletionChunk] = await self.open(messages)
        async with stream:
            async for chunk in stream:
                if text := text_of(chunk):
                    yield text

    async def run(self, question: str) -> tuple[str, list[ChatCompletionMessageParam]]:
        """Answer with tools."""
        system: ChatCompletionSystemMessageParam = {"role": "system", "content": "Be brief."}
        asked: ChatCompletionUserMessageParam = {"role": "user", "content": question}
        messages: list[ChatCompletionMessageParam] = [system, asked]
        completion = await self.ask(messages, tools=TOOLS)
        message = completion.choices[0].message
        calls: list[ChatCompletionMessageToolCall] = message.tool_calls or []
        messages.append(as_param(message))
        for call in calls:
            result: ChatCompletionToolMessageParam = {
                "role": "tool",
                "tool_call_id": call.id,
                "content": "sunny",
            }
            messages.append(result)
        answer = await self.ask(messages, tools=TOOLS)
        return answer.choices[0].message.content or "", messages


def as_param(message: ChatCompletionMessage) -> ChatCompletionAssistantMessageParam:
    """Write a reply as a parameter."""
    param: ChatCompletionAssistantMessageParam = {"role": "assistant", "content": message.content}
    if message.tool_calls:
        param["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in message.tool_calls
        ]
    return param


def text_of(chunk: ChatCompletionChunk) -> str:
    """Return the text of a chunk's first choice."""
    if not chunk.choices:
        return ""
    delta: ChoiceDelta = chunk.choices[0].delta
    return delta.content or ""


def join_calls(chunks: Iterable[ChatCompletionChunk]) -> dict[int, str]:
    """Join the arguments of tool calls."""
    arguments: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            deltas: list[ChoiceDeltaToolCall] = choice.delta.tool_calls or []
            for call in deltas:
                if call.index is not None and call.function.arguments:
                    arguments[call.index] = arguments.get(call.index, "") + call.function.arguments
    return arguments


def likeliest(choice: Choice) -> list[tuple[str, float]]:
    """Read log probabilities."""
    logprobs: ChoiceLogprobs | None = choice.logprobs
    tokens: list[ChatCompletionTokenLogprob] = (logprobs and logprobs.content) or []
    return [(token.token, token.logprob) for token in tokens]


def tokens_of(usage: CompletionUsage | None) -> int:
    """Read the usage."""
    return usage.total_tokens if usage is not None else 0


def on_event(event: ChatCompletionStreamEvent, texts: list[str]) -> None:
    """Tell events apart by their class and by their type."""
    if isinstance(event, ContentDoneEvent):
        texts.append(f"<{event.content}>")
    elif event.type == "content.delta":
        assert_type(event, ContentDeltaEvent)
        texts.append(event.delta)
    elif event.type == "chunk":
        assert_type(event.chunk, ChatCompletionChunk)


def kind_of(error: APIError) -> str:
    """Tell errors apart."""
    if isinstance(error, RateLimitError):
        assert_type(error.status_code, int)
        wait: str | None = error.response.headers.get("retry-after")
        return f"rate limit {wait}"
    if isinstance(error, APIStatusError):
        body: object = error.body
        return f"status {error.status_code} {body is not None} {error.request_id}"
    if isinstance(error, APITimeoutError):
        return "timeout"
    if isinstance(error, APIConnectionError):
        return f"connection {error.request and error.request.method}"
    return error.message


async def everything(base_url: str) -> dict[str, Any]:
    """Run all of the above against a server; return what was seen."""
    timeout = Timeout(connect=5, idle=30)
    async with AsyncOpenAI(base_url=base_url, api_key="k", timeout=timeout, max_retries=0) as client:
        assistant = Assistant(client)
        count: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Count to three."}]
        completion = await assistant.ask(count, temperature=0.5)
        chunks = [chunk async for chunk in await assistant.open(count)]
        state = ChatCompletionStreamState()
        events: list[str] = []
        for chunk in chunks:
            for event in state.handle_chunk(chunk):
                on_event(event, events)
        options: Options = {"temperature": 0.1, "seed": 3}
        scored = await client.chat.completions.create(model="m", messages=count, logprobs=True, **options)
        async with client.chat.completions.stream(model="m", messages=count) as stream:
            async for event in stream.events():
                on_event(event, events)
            final: ChatCompletion = await stream.get_final_completion()
        calls = await client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "What is the weather in Paris and Rome?"}],
            tools=TOOLS,
            stream=True,
        )
        arguments = join_calls([chunk async for chunk in calls])
        errors: list[str] = []
        for status in (404, 429):
            try:
                await client.chat.completions.create(model=f"error-{status}", messages=count)
            except openai.APIError as error:
                errors.append(kind_of(error))
        return {
            "answer": completion.choices[0].message.content,
            "tokens": tokens_of(completion.usage),
            "texts": [text async for text in assistant.texts(count)],
            "streamed": "".join(text_of(chunk) for chunk in chunks),
            "events": events,
            "likeliest": likeliest(scored.choices[0])[0][0],
            "final": final.choices[0].message.content,
            "arguments": arguments,
            "run": (await assistant.run("What is the weather in Paris?"))[0],
            "errors": errors,
        }


def synchronously(base_url: str) -> str | None:
    """The client without asyncio."""
    with OpenAI(base_url=base_url, api_key="k") as client:
        completion: ChatCompletion = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Count to three."}]
        )
        return completion.choices[0].message.content
