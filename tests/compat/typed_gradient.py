"""A module as users of ``gradient`` write it, with annotations everywhere; only its imports are changed.

Type checkers read it in strict mode, and `test_typed` runs it. Each ``as`` gives a class its name in
``gradient.types``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any, Protocol, Self, assert_type

import gradient_async as gradient
from gradient_async import (
    DEFAULT_MAX_RETRIES,
    NOT_GIVEN,
    APIResponse,
    AsyncGradient,
    AsyncStream,
    ChatCompletionChunk,
    Choice,
    CompletionUsage,
    Gradient,
    GradientError,
    NotGiven,
    Omit,
    Timeout,
    not_given,
    omit,
)
from gradient_async import ChatCompletion as CompletionCreateResponse
from gradient_async import ChunkChoice as ChatCompletionChunkChoice
from gradient_async.types import MessageParam as Message
from gradient_async.types import ToolParam as Tool


class Answers(Protocol):
    """What a service needs of a client."""

    async def answer(self, question: str) -> str:
        """Answer a question."""
        ...


class GradientAnswers:
    """The service's use of the SDK."""

    def __init__(
        self,
        client: AsyncGradient | None = None,
        *,
        base_url: str | None = None,
        timeout: float | Timeout | NotGiven | None = not_given,
        max_retries: int = DEFAULT_MAX_RETRIES,
        default_headers: Mapping[str, str] | None = None,
    ) -> None:
        self._client: AsyncGradient = client or AsyncGradient(
            base_url=base_url, timeout=timeout, max_retries=max_retries, default_headers=default_headers
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.close()

    async def answer(self, question: str) -> str:
        """Answer a question."""
        response = await self.complete([{"role": "user", "content": question}])
        return response.choices[0].message.content or ""

    async def complete(
        self,
        messages: Iterable[Message],
        *,
        max_tokens: int | Omit | None = omit,
        n: int | Omit | None = omit,
        stop: str | list[str] | Omit | None = omit,
        temperature: float | NotGiven | None = NOT_GIVEN,
        tools: Iterable[Tool] | Omit = omit,
        extra_headers: Mapping[str, str | Omit] | None = None,
        extra_body: Mapping[str, object] | None = None,
        timeout: float | Timeout | NotGiven | None = not_given,
    ) -> CompletionCreateResponse:
        """Pass arguments on, given or not."""
        response: CompletionCreateResponse = await self._client.chat.completions.create(
            messages=messages,
            model="llama3.3-70b-instruct",
            max_tokens=max_tokens,
            n=n,
            stop=stop,
            temperature=temperature,
            tools=tools,
            extra_headers=extra_headers,
            extra_body=extra_body,
            timeout=timeout,
        )
        return response

    async def open(self, question: str, *, stop: list[str] | Omit = omit) -> AsyncStream[ChatCompletionChunk]:
        """Open a stream."""
        return await self._client.chat.completions.create(
            messages=[{"role": "user", "content": question}],
            model="llama3.3-70b-instruct",
            stream=True,
            stream_options={"include_usage": True},
            stop=stop,
        )

    async def pieces(self, question: str) -> AsyncGenerator[str, None]:
        """Yield texts."""
        stream = await self.open(question)
        async for chunk in stream:
            for choice in chunk.choices:
                yield text_of(choice)

    async def maybe_streamed(self, question: str, *, stream: bool) -> str:
        """Tell both kinds of replies apart."""
        response: (
            CompletionCreateResponse | AsyncStream[ChatCompletionChunk]
        ) = await self._client.chat.completions.create(
            messages=[{"role": "user", "content": question}], model="m", stream=stream
        )
        if isinstance(response, AsyncStream):
            return "".join([text_of(chunk.choices[0]) async for chunk in response if chunk.choices])
        return response.choices[0].message.content or ""

    async def ask_agent(self, question: str) -> CompletionCreateResponse:
        """Ask the agent."""
        return await self._client.agents.chat.completions.create(
            messages=[{"role": "user", "content": question}], model="ignored", include_retrieval_info=True
        )

    async def raw(self, question: str) -> tuple[int, str | None, CompletionCreateResponse]:
        """Read status and headers."""
        response: APIResponse[
            CompletionCreateResponse
        ] = await self._client.chat.completions.with_raw_response.create(
            messages=[{"role": "user", "content": question}], model="m"
        )
        return response.status_code, response.headers.get("content-type"), await response.parse()


def text_of(choice: ChatCompletionChunkChoice) -> str:
    """Return the text of a choice."""
    return choice.delta.content or ""


def reasons_of(choices: list[Choice]) -> list[str | None]:
    """Return the reasons why choices ended."""
    return [choice.finish_reason for choice in choices]


def cost_of(usage: CompletionUsage | None) -> float:
    """Compute a price."""
    if usage is None:
        return 0.0
    return usage.prompt_tokens * 0.1 + usage.completion_tokens * 0.2


def first_given(*values: float | NotGiven) -> float | None:
    """Return the first value that is given."""
    for value in values:
        if not isinstance(value, NotGiven):
            return value
    return None


async def failing(answers: GradientAnswers, model: str) -> str:
    """Tell errors apart."""
    try:
        await answers.complete([{"role": "user", "content": "Hi"}], extra_body={"model": model})
    except gradient.RateLimitError as e:
        return f"rate limit {e.response.headers.get('retry-after')}"
    except gradient.APIStatusError as e:
        assert_type(e.status_code, int)
        return f"status {e.status_code} {e.response.status_code}"
    except gradient.APIConnectionError as e:
        cause: BaseException | None = e.__cause__
        return f"connection {cause!r}"
    except GradientError as e:
        return f"other {e}"
    return "none"


async def everything(base_url: str) -> dict[str, Any]:
    """Run all of the above against a server; return what was seen."""
    async with GradientAnswers(base_url=base_url, timeout=30.0, max_retries=0) as answers:
        service: Answers = answers
        response = await answers.complete(
            [{"role": "user", "content": "Count to three."}], n=2, extra_headers={"X-Team": "search"}
        )
        as_data: dict[str, object] = response.to_dict()
        errors = await asyncio.gather(failing(answers, "error-429"), failing(answers, "error-404"))
        return {
            "answer": await service.answer("Count to three."),
            "reasons": reasons_of(response.choices),
            "cost": cost_of(response.usage) > 0,
            "data": as_data["object"],
            "pieces": "".join([piece async for piece in answers.pieces("Count to three.")]),
            "both": [await answers.maybe_streamed("Count to three.", stream=flag) for flag in (False, True)],
            "agent": (await answers.ask_agent("Count to three.")).choices[0].message.content,
            "raw": (await answers.raw("Count to three."))[:2],
            "given": first_given(NOT_GIVEN, not_given, 0.5),
            "errors": errors,
        }


def synchronously(base_url: str) -> str | None:
    """The client without asyncio."""
    with Gradient(base_url=base_url) as client:
        response: CompletionCreateResponse = client.chat.completions.create(
            messages=[{"role": "user", "content": "Count to three."}], model="llama3.3-70b-instruct"
        )
        return response.choices[0].message.content
