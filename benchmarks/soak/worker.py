"""The client's side of the soak: makes exchanges, and compares each with its scenario."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Any

from gradient_async import (
    APIConnectionError,
    APITimeoutError,
    AsyncGradient,
    ChatCompletion,
    ChatCompletionStream,
    GradientError,
    Timeout,
)

from ..clients import MESSAGES
from .scenarios import CALLS, SCENARIOS, STREAMS, Scenario, text_of

HANG = 30.0  # seconds after which an exchange counts as hanging
_PATIENT = Timeout(connect=20, first_token=20, idle=20, response=20)
_QUICK = Timeout(connect=20, first_token=1, idle=1, response=1)
_INTERVAL = 0.05  # seconds between two measurements of the loop's lateness
_MAX_LATE = 0.5  # seconds by which the loop may be late before it counts as late
# Prefixes of the names of scenarios that end by a time limit.
_STALLS = ("stall", "drip", "comments", "call_stall")


class Tally:
    """Counts outcomes and faults."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()  # number of exchanges by how they ended
        self.wrong: Counter[str] = Counter()  # number of faults of each kind
        self.examples: list[str] = []  # the first twenty faults
        self.dropped = 0  # open streams that were dropped; each must warn
        self.latest = 0.0  # the loop's greatest lateness, in seconds
        self.late_at = 0.0  # when the loop was last more than `_MAX_LATE` late

    async def watch_loop(self) -> None:
        """Note the lateness of the loop, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _INTERVAL
            await asyncio.sleep(_INTERVAL)
            late = loop.time() - due
            self.latest = max(self.latest, late)
            if late > _MAX_LATE:
                self.late_at = loop.time()

    def blame(self, kind: str, name: str, seen: object) -> None:
        """Note a fault."""
        self.wrong[kind] += 1
        if len(self.examples) < 20:
            self.examples.append(f"{kind}: {name}: {seen!r}")


async def drain(pieces: AsyncIterable[Any]) -> None:
    """Read an iterator to its end."""
    async for _ in pieces:
        pass


async def read_choices(stream: ChatCompletionStream) -> None:
    """Read three choices, each in its own task."""
    reads = (drain(stream.choice(index)) for index in range(3))
    for result in await asyncio.gather(*reads, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


async def _read_text(stream: ChatCompletionStream) -> None:
    text = "".join([piece async for piece in stream.text])
    assert text == ((await stream.completion()).choices[0].message.content or "")


async def call(client: AsyncGradient, params: dict[str, Any]) -> Any:
    """Create a completion or a stream."""
    completions: Any = client.chat.completions  # only keyword arguments choose between overloads
    return await completions.create(**params)


READERS: list[Callable[[ChatCompletionStream], Awaitable[object]]] = [
    drain,
    _read_text,
    lambda stream: drain(stream.events()),
    lambda stream: drain(stream.raw),
    ChatCompletionStream.completion,
    read_choices,
]


class Worker:
    """Makes exchanges, and notes how each ended."""

    def __init__(self, client: AsyncGradient, tally: Tally, dice: random.Random, number: int) -> None:
        self._client = client
        self._tally = tally
        self._dice = dice
        self._number = number  # part of the ids of this worker's requests
        self._count = 0

    async def run(self, until: float) -> None:
        """Make exchanges until the loop's clock reads ``until``."""
        loop = asyncio.get_running_loop()
        while loop.time() < until:
            await self._exchange()

    async def _exchange(self) -> None:
        dice = self._dice
        streamed = dice.random() < 0.7
        names = STREAMS if streamed else CALLS
        (name,) = dice.choices(list(names), [scenario.weight for scenario in names.values()])
        self._count += 1
        # Each exchange has its own key: the client obeys the server's `Retry-After` for all calls of a key.
        client = self._client.with_options(
            model_access_key=f"key-{self._number:04}-{self._count:08}",
            timeout=_QUICK if name.startswith(_STALLS) else _PATIENT,
        )
        headers = {"x-soak-id": f"{self._number}-{self._count}"}
        params = {"model": name, "messages": MESSAGES, "stream": streamed, "extra_headers": headers}
        way = dice.random()
        try:
            async with asyncio.timeout(HANG):
                if way < 0.65:
                    await self._whole(client, name, params)
                elif way < 0.75:
                    await self._cancelled(client, params)
                elif way < 0.79:
                    await self._hurried(client, params)
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
        except Exception as error:  # noqa: BLE001  # no other error may escape
            self._tally.blame("unmapped", name, error)

    async def _whole(self, client: AsyncGradient, name: str, params: dict[str, Any]) -> None:
        """Read to the end, and compare the outcome with the scenario of that name."""
        scenario = SCENARIOS[name]
        began = asyncio.get_running_loop().time()
        try:
            reply: ChatCompletion | ChatCompletionStream = await call(client, params)
            if isinstance(reply, ChatCompletionStream):
                async with reply:
                    await self._dice.choice(READERS)(reply)
                    reply = await reply.completion()
        except GradientError as error:
            await self._judge(name, scenario, error, began)
            return
        self._tally.outcomes["whole"] += 1
        if scenario.errors and not scenario.recovers:
            self._tally.blame("silent", name, reply)
        elif not _is_right(name, reply):
            self._tally.blame("wrong text", name, reply)

    async def _judge(self, name: str, scenario: Scenario, error: GradientError, began: float) -> None:
        """Compare an error with the errors that the scenario allows."""
        self._tally.outcomes[type(error).__name__] += 1
        if name.startswith(_STALLS) and isinstance(error, APITimeoutError) and error.phase != "idle":
            return  # on a busy machine, the limit may expire before the first header or the first token has arrived
        if type(error) is APIConnectionError and APIConnectionError not in scenario.errors:
            # The pooled connection was dead, but the loop was too late to notice before the request was
            # written. The server may have read the request, so the library does not send it again.
            await asyncio.sleep(2 * _INTERVAL)
            if self._tally.late_at > began:
                self._tally.outcomes["lost while the loop was late"] += 1
                return
        if type(error) not in scenario.errors:
            self._tally.blame("unexpected error", name, error)
        elif scenario.partial is not None:
            partial: Any = getattr(error, "partial", None)
            got = "".join(choice.message.content or "" for choice in partial.choices)
            if got != text_of(scenario.partial):
                self._tally.blame("wrong partial", name, (got, str(error)))

    async def _read(self, client: AsyncGradient, params: dict[str, Any]) -> None:
        """Read to the end. A stream whose reading is cancelled is dropped without `aclose`."""
        reply: Any = None
        try:
            reply = await call(client, params)
            if params["stream"]:
                await reply.completion()
        except asyncio.CancelledError:
            self._tally.dropped += _has_to_warn(reply)
            raise

    async def _cancelled(self, client: AsyncGradient, params: dict[str, Any]) -> None:
        """Cancel a call at a random moment; sometimes cancel it again in the next iteration of the loop."""
        task = asyncio.create_task(self._read(client, params))
        await asyncio.sleep(self._moment())
        task.cancel()
        if self._dice.random() < 0.3:
            await asyncio.sleep(0)
            task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        self._note_end("cancelled", result, asyncio.CancelledError)

    async def _hurried(self, client: AsyncGradient, params: dict[str, Any]) -> None:
        """Put a random timeout around a call."""
        result: BaseException | None = None
        try:
            async with asyncio.timeout(self._moment()):
                await self._read(client, params)
        except (TimeoutError, GradientError) as error:
            result = error
        self._note_end("hurried", result, TimeoutError)
        del result  # breaks the cycle of this frame and the error's traceback

    async def _closing(self, parent: AsyncGradient, params: dict[str, Any]) -> None:
        """Close a client while calls are in progress; all of them must end."""
        url = parent.inference_endpoint
        client = AsyncGradient(inference_endpoint=url, model_access_key="any", timeout=_QUICK, max_retries=0)
        calls: list[asyncio.Task[None]] = []
        for turn in range(3):
            headers = {"x-soak-id": f"{params['extra_headers']['x-soak-id']}-{turn}"}
            each = params | {"stream": True, "extra_headers": headers}
            calls.append(asyncio.create_task(self._read(client, each)))
        await asyncio.sleep(self._moment())
        await client.close()
        for result in await asyncio.gather(*calls, return_exceptions=True):
            self._note_end("closed", result, GradientError)

    def _moment(self) -> float:
        return self._dice.random() ** 2 * 0.2

    def _note_end(self, how: str, result: BaseException | None, expected: type[BaseException]) -> None:
        """Note how an interrupted call ended, or that it had ended before."""
        early = not isinstance(result, expected)
        self._tally.outcomes["ended before" if early else how] += 1
        if early and isinstance(result, Exception) and not isinstance(result, GradientError):
            raise result

    async def _left(self, client: AsyncGradient, params: dict[str, Any], *, dropped: bool) -> None:
        """Stop reading a stream in its middle, and close it or drop it."""
        pieces = self._dice.randrange(8)
        try:
            stream: Any = await call(client, params)
            async for _ in stream:
                pieces -= 1
                if pieces < 0:
                    break
            if dropped:
                self._tally.dropped += _has_to_warn(stream)
            else:
                await stream.aclose()
            self._tally.outcomes["dropped" if dropped else "left"] += 1
        except GradientError as error:
            self._tally.outcomes[type(error).__name__] += 1

    async def _raw(self, client: AsyncGradient, params: dict[str, Any]) -> None:
        """Use the raw and the streaming response."""
        completions: Any = client.chat.completions
        try:
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


def _is_right(name: str, completion: ChatCompletion) -> bool:
    message = completion.choices[0].message
    if name == "ok_calling":
        calls = message.tool_calls or []
        return [call.function.arguments for call in calls] == ["".join(f"{n} " for n in range(12))]
    if name == "ok_three":
        texts = [choice.message.content for choice in completion.choices]
        return texts == [text_of(choice=choice) for choice in range(3)]
    return message.content == text_of() and completion.choices[0].finish_reason == "stop"


def _has_to_warn(stream: object) -> bool:
    """Whether a dropped stream must warn; a stream that failed while it was cancelled is closed already."""
    return repr(stream).startswith("<ChatCompletionStream open ")
