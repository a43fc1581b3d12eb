"""The client's side of the soak: one exchange after another, each held against what it should have come to."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

from gradient_async import (
    APIConnectionError,
    APITimeoutError,
    AsyncGradient,
    ChatCompletion,
    ChatCompletionStream,
    GradientError,
    Timeout,
)

from .scenarios import CALLS, STREAMS, Scenario, text_of

__all__ = ["HANG", "Tally", "Worker"]

MESSAGES: list[Any] = [{"role": "user", "content": "Hello"}]
PATIENT = Timeout(connect=20, first_token=20, idle=20, response=20)
QUICK = Timeout(connect=20, first_token=1, idle=1, response=1)
HANG = 30.0  # seconds that no exchange takes
LOOK = 0.05  # seconds between two looks at the loop
MOST_LATE = 0.5  # seconds
_STALLS = ("stall", "drip", "comments", "call_stall")


class Tally:
    """What was seen.

    Attributes:
        outcomes: Exchanges by how they ended.
        wrong: Outcomes that should not be, by kind.
        examples: The first few of them, in words.
        dropped: Streams that nobody closed; each has to warn.
        latest: How late the loop was at most, in seconds.
        late_at: When it was last so late that a dead connection can't be told by its early loss.
    """

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.examples: list[str] = []
        self.dropped = 0
        self.latest = self.late_at = 0.0

    async def watch_loop(self) -> None:
        """Note how late the loop is, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOK
            await asyncio.sleep(LOOK)
            late = loop.time() - due
            self.latest = max(self.latest, late)
            if late > MOST_LATE:
                self.late_at = loop.time()

    def blame(self, kind: str, name: str, what: object) -> None:
        """Note an outcome that should not be."""
        self.wrong[kind] += 1
        if len(self.examples) < 20:
            self.examples.append(f"{kind}: {name}: {what!r}")


Reader = Callable[[ChatCompletionStream], Awaitable[ChatCompletion]]


async def by_chunks(stream: ChatCompletionStream) -> ChatCompletion:
    async for _ in stream:
        pass
    return await stream.completion()


async def by_text(stream: ChatCompletionStream) -> ChatCompletion:
    text = "".join([piece async for piece in stream.text])
    completion = await stream.completion()
    assert text == (completion.choices[0].message.content or "")
    return completion


async def by_events(stream: ChatCompletionStream) -> ChatCompletion:
    async for _ in stream.events():
        pass
    return await stream.completion()


async def by_raw(stream: ChatCompletionStream) -> ChatCompletion:
    async for _ in stream.raw:
        pass
    return await stream.completion()


async def at_once(stream: ChatCompletionStream) -> ChatCompletion:
    return await stream.completion()


async def by_choices(stream: ChatCompletionStream) -> ChatCompletion:
    async def read(pieces: AsyncIterator[Any]) -> None:
        async for _ in pieces:
            pass

    results = await asyncio.gather(
        *(read(stream.choice(index)) for index in range(3)), return_exceptions=True
    )
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return await stream.completion()


READERS: list[Reader] = [by_chunks, by_text, by_events, by_raw, at_once, by_choices]


class Worker:
    """Makes exchanges until it is told to stop.

    Args:
        client: What to make them with.
        tally: Where to note them.
        dice: What to choose by.
        number: Which worker it is, for the ids of its requests.
    """

    def __init__(self, client: AsyncGradient, tally: Tally, dice: random.Random, number: int) -> None:
        self._client = client
        self._tally = tally
        self._dice = dice
        self._number = number
        self._count = 0

    async def run(self, until: float) -> None:
        """Make exchanges until then, on the loop's clock."""
        loop = asyncio.get_running_loop()
        while loop.time() < until:
            await self._exchange()

    async def _exchange(self) -> None:
        dice = self._dice
        streamed = dice.random() < 0.7
        names = STREAMS if streamed else CALLS
        (name,) = dice.choices(list(names), [scenario.weight for scenario in names.values()])
        self._count += 1
        # A key of its own, for what the server says of waits is said to a key.
        client = self._client.with_options(
            model_access_key=f"key-{self._number:04}-{self._count:08}",
            timeout=QUICK if name.startswith(_STALLS) else PATIENT,
        )
        params = {
            "model": name,
            "messages": MESSAGES,
            "extra_headers": {"x-soak-id": f"{self._number}-{self._count}"},
        }
        way = dice.random()
        try:
            async with asyncio.timeout(HANG):
                if way < 0.65:
                    await self._whole(client, name, names[name], params, streamed=streamed)
                elif way < 0.75:
                    await self._cancelled(client, params, streamed=streamed)
                elif way < 0.79:
                    await self._hurried(client, params, streamed=streamed)
                elif way < 0.8:
                    await self._closing(client, params)
                elif streamed:
                    await self._left(client, params, dropped=way < 0.9)
                else:
                    await self._raw(client, params)
        except TimeoutError:
            self._tally.blame("hang", name, way)
        except AssertionError as error:
            self._tally.blame("wrong", name, error)
        except Exception as error:  # noqa: BLE001  # just what is looked for
            self._tally.blame("unmapped", name, error)

    async def _whole(
        self, client: AsyncGradient, name: str, scenario: Scenario, params: dict[str, Any], *, streamed: bool
    ) -> None:
        """Read to the end, and look whether it is what it should be."""
        failure: GradientError
        began = asyncio.get_running_loop().time()
        try:
            if streamed:
                stream = await client.chat.completions.create(stream=True, **params)
                async with stream:
                    completion = await self._dice.choice(READERS)(stream)
            else:
                completion = cast("ChatCompletion", await client.chat.completions.create(**params))
        except GradientError as error:
            failure = error
        else:
            self._tally.outcomes["whole"] += 1
            if scenario.errors and not scenario.recovers:
                self._tally.blame("silent", name, completion)
            elif not _right(name, completion):
                self._tally.blame("wrong text", name, completion)
            return
        self._tally.outcomes[type(failure).__name__] += 1
        if type(failure) is APITimeoutError and name.startswith(_STALLS):
            return  # before the first header, on a busy machine
        if type(failure) is APIConnectionError and APIConnectionError not in scenario.errors:
            # A pooled connection was dead, and the loop too late to see it at once: nobody can tell what
            # the server had read, and it is not asked again.
            await asyncio.sleep(2 * LOOK)
            if self._tally.late_at > began:
                self._tally.outcomes["lost while the loop was late"] += 1
                return
        if type(failure) not in scenario.errors:
            self._tally.blame("unexpected error", name, failure)
        elif scenario.partial is not None:
            partial: Any = getattr(failure, "partial", None)
            got = "".join(choice.message.content or "" for choice in partial.choices)
            if got != text_of(scenario.partial):
                self._tally.blame("wrong partial", name, got)

    async def _read(self, client: AsyncGradient, params: dict[str, Any], *, streamed: bool) -> None:
        """Read to the end; a stream that is cancelled is left for whoever collects it."""
        stream: ChatCompletionStream | None = None
        try:
            reply = await client.chat.completions.create(stream=streamed, **params)
            if streamed:
                stream = cast("ChatCompletionStream", reply)
                await stream.completion()
        except asyncio.CancelledError:
            self._tally.dropped += stream is not None and is_open(stream)
            raise

    async def _cancelled(self, client: AsyncGradient, params: dict[str, Any], *, streamed: bool) -> None:
        """Cancel it at some moment, and once more in the same turn of the loop or soon after."""
        task = asyncio.create_task(self._read(client, params, streamed=streamed))
        await asyncio.sleep(self._moment())
        task.cancel()
        if self._dice.random() < 0.3:
            await asyncio.sleep(0)
            task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        self._ended("cancelled", result, asyncio.CancelledError)

    async def _hurried(self, client: AsyncGradient, params: dict[str, Any], *, streamed: bool) -> None:
        """Allow it too little time, by a timeout of our own."""
        result: BaseException | None = None
        try:
            async with asyncio.timeout(self._moment()):
                await self._read(client, params, streamed=streamed)
        except (TimeoutError, GradientError) as error:
            result = error
        self._ended("hurried", result, TimeoutError)
        del result

    async def _closing(self, parent: AsyncGradient, params: dict[str, Any]) -> None:
        """Close a client with calls under way; all of them end."""
        client = AsyncGradient(
            inference_endpoint=parent.inference_endpoint, model_access_key="any", timeout=QUICK, max_retries=0
        )
        header = params["extra_headers"]["x-soak-id"]
        calls = [
            asyncio.create_task(
                self._read(
                    client, params | {"extra_headers": {"x-soak-id": f"{header}-{turn}"}}, streamed=True
                )
            )
            for turn in range(3)
        ]
        await asyncio.sleep(self._moment())
        await client.close()
        for result in await asyncio.gather(*calls, return_exceptions=True):
            self._ended("closed", result, GradientError)

    def _moment(self) -> float:
        return self._dice.random() ** 2 * 0.2

    def _ended(self, how: str, result: BaseException | None, expected: type[BaseException]) -> None:
        """Note how something ended that was not left to end by itself."""
        early = not isinstance(result, expected)
        self._tally.outcomes["ended before" if early else how] += 1
        if early and isinstance(result, Exception) and not isinstance(result, GradientError):
            raise result

    async def _left(self, client: AsyncGradient, params: dict[str, Any], *, dropped: bool) -> None:
        """Leave a stream in its middle, with or without a word."""
        pieces = self._dice.randrange(8)
        try:
            stream: Any = await client.chat.completions.create(stream=True, **params)
            async for _ in stream:
                pieces -= 1
                if pieces < 0:
                    break
            if dropped:
                self._tally.dropped += is_open(stream)
            else:
                await stream.aclose()
            self._tally.outcomes["dropped" if dropped else "left"] += 1
        except GradientError as error:
            self._tally.outcomes[type(error).__name__] += 1

    async def _raw(self, client: AsyncGradient, params: dict[str, Any]) -> None:
        """Take the reply as it came."""
        try:
            completions: Any = client.chat.completions
            if self._dice.random() < 0.5:
                response = await completions.with_raw_response.create(**params)
                await response.parse()
            else:
                async with completions.with_streaming_response.create(**params) as response:
                    async for _ in response.iter_bytes():
                        break
            self._tally.outcomes["raw"] += 1
        except GradientError as error:
            self._tally.outcomes[type(error).__name__] += 1


def _right(name: str, completion: ChatCompletion) -> bool:
    message = completion.choices[0].message
    if name == "ok_calling":
        calls = message.tool_calls or []
        return [call.function.arguments for call in calls] == ["".join(f"{n} " for n in range(12))]
    if name == "ok_three":
        texts = [choice.message.content for choice in completion.choices]
        return texts == [text_of(choice=choice) for choice in range(3)]
    return message.content == text_of() and completion.choices[0].finish_reason == "stop"


def is_open(stream: ChatCompletionStream) -> bool:
    """Whether a stream that nobody closes has to warn: one that was cancelled while it failed is over."""
    return repr(stream).startswith("<ChatCompletionStream open ")
