"""The scenarios of the soak: what the server does, and how the call must end. Run as a program, this is the server.

The model of a request names its scenario. The server counts the requests of each id. A GET returns the counts.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from gradient_async import errors
from gradient_async.testing import (
    CLOSE,
    HOLD,
    RESET,
    Connection,
    Reply,
    Request,
    chunk,
    completion,
    forever,
    head,
    http_chunk,
    reply_bytes,
    reply_json,
    reply_sse,
    reply_writes,
    serve,
    sse,
)  # fmt: skip

LIMIT = 4000  # bytes of an event that the client allows
_TOKENS = 12
_HALF = 5  # tokens that come before a fault
_REMEMBERED = 120.0  # seconds


def text_of(count: int = _TOKENS, choice: int = 0) -> str:
    """Return the text that a choice has after ``count`` tokens."""
    return "".join(f"{choice}.{number} " for number in range(count))


def _tokens(count: int = _TOKENS, choice: int = 0, **more: Any) -> list[dict[str, object]]:
    return [chunk(f"{choice}.{number} ", index=choice, **more) for number in range(count)]


@dataclass(frozen=True)
class Scenario:
    """What the server does to a request, and how the call has to end."""

    reply: Reply  # the reply to the first request of an id; later requests get a healthy reply
    # The call raises one of these errors. If there are none, it succeeds.
    errors: tuple[type[errors.GradientError], ...] = ()
    partial: int | None = None  # tokens in the error's partial completion
    posts: int = 1  # maximum number of requests of one id
    commits: bool = True  # whether the first reply has a status of 2xx, after which no request may follow
    recovers: bool = False  # whether the call may also succeed, with the healthy reply
    weight: int = 2  # how often the scenario is chosen


def _broken(error: type[errors.GradientError], *steps: Any, tokens: int = _HALF) -> Scenario:
    """A fault inside a stream, after the given number of tokens."""
    return Scenario(reply_writes(steps), (error,), tokens)


def _before(
    error: type[errors.GradientError], *steps: Any, posts: int = 1, recovers: bool = False
) -> Scenario:
    """A fault before a status of 2xx."""
    return Scenario(reply_writes(steps), (error,), posts=posts, commits=False, recovers=recovers)


def _refused(status: int, headers: dict[str, str | None] | None = None) -> bytes:
    return reply_json({"message": "no room"}, status, headers).data


# fmt: off
_FINISH = chunk(finish_reason="stop", usage={"prompt_tokens": 1, "completion_tokens": 12, "total_tokens": 13})
_WHOLE = [*_tokens(), _FINISH]
_STREAM = reply_sse(*_WHOLE)
_UNENDED = _STREAM.steps[:-1]  # `[DONE]` has come, the end of the HTTP body has not
_BEGUN = reply_sse(*_tokens(_HALF), done=False).steps[:-1]
_CALL = reply_json(completion(text_of())).data
_BODY = _CALL.find(b"\r\n\r\n") + 4  # where the body begins
_CUT = _BODY + 50
_THREE = [
    *(_tokens(number + 1, choice)[-1] for number in range(_TOKENS) for choice in range(3)),
    *(chunk(finish_reason="stop", index=choice) for choice in range(3)),
]
_CALLING = [
    chunk(tool_calls=[
        {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    ]),
    *(chunk(tool_calls=[{"index": 0, "function": {"arguments": f"{number} "}}]) for number in range(_TOKENS)),
    chunk(finish_reason="tool_calls"),
]
_LOGPROB = {"token": "t", "logprob": -0.5, "bytes": [116], "top_logprobs": []}
_LOGPROBS = {"content": [_LOGPROB], "refusal": None}
_SSE: dict[str, str | None] = {"content-type": "text/event-stream", "content-length": "9999"}

# Faults before a status of 2xx are the same for streams and for awaited calls. A call that is not retried,
# because too many other calls fail, raises the error of its attempt. A lost pooled connection is replaced once.
_BEFORE = {
    "status_400": _before(errors.BadRequestError, _refused(400)),
    "status_503_then_ok": _before(errors.OverloadedError, _refused(503), posts=3, recovers=True),
    "status_500_no_retry": _before(errors.InternalServerError, _refused(500, {"x-should-retry": "false"})),
    "status_429_then_ok": _before(
        errors.RateLimitError, _refused(429, {"retry-after-ms": "20"}), posts=3, recovers=True
    ),
    "status_429_absurd": _before(errors.RateLimitError, _refused(429, {"retry-after": "99999"})),
    "status_400_stall_body": _before(
        errors.BadRequestError, head(400, {"content-length": "99"}), b'{"mess', HOLD
    ),
    "close_no_response": _before(errors.APIConnectionError, 0.01, CLOSE, posts=2, recovers=True),
    "rst_no_response": _before(errors.APIConnectionError, 0.01, RESET, posts=2, recovers=True),
    "partial_headers": _before(errors.APIConnectionError, b"HTTP/1.1 200 OK\r\ncont", 0.01, CLOSE),
    "partial_headers_rst": _before(errors.APIConnectionError, b"HTTP/1.1 2", 0.01, RESET),
    "stall_headers": _before(errors.APITimeoutError, HOLD),
    "drip_headers": _before(errors.APITimeoutError, b"HTTP/1.1 200 OK\r\nx: ", forever(b"x", 0.05)),
    "interim_forever": _before(errors.APITimeoutError, forever(b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.002)),
    "status_504": _before(errors.GatewayTimeoutError, _refused(504)),
    "not_http": _before(errors.APIConnectionError, b"SSH-2.0-x\r\n", CLOSE),
}

STREAMS = {
    **_BEFORE,
    "ok": Scenario(_STREAM, weight=40),
    "ok_one_write": Scenario(reply_writes([_STREAM.data]), weight=10),
    "ok_slow": Scenario(reply_sse(*_WHOLE, gap=0.01), weight=10),
    "ok_late_end": Scenario(reply_sse(*_WHOLE, end_delay=0.02), weight=10),
    "ok_eof_framed": Scenario(reply_sse(*_WHOLE, framing="eof"), weight=4),
    "ok_then_fin": Scenario(reply_writes([*_STREAM.steps, 0.01, CLOSE]), weight=4),
    # All in one write, because a reset loses what the kernel holds back until earlier segments are acknowledged.
    "ok_then_rst": Scenario(reply_writes([_STREAM.data, 0.01, RESET]), weight=4),
    "ok_no_done": Scenario(reply_sse(*_WHOLE, done=False)),
    "ok_three": Scenario(reply_sse(*_THREE), weight=10),
    "ok_calling": Scenario(reply_sse(*_CALLING), weight=10),
    "ok_logprobs": Scenario(reply_sse(*_tokens(logprobs=_LOGPROBS), _FINISH), weight=10),
    "ok_buffered": Scenario(reply_json(completion(text_of()))),
    "garbage_after_done": Scenario(reply_writes([*_UNENDED, forever(http_chunk(b": x\n" * 250))])),
    "open_after_done": Scenario(reply_writes([*_UNENDED, HOLD])),
    "rst_mid_stream": _broken(errors.StreamInterruptedError, *_BEGUN, 0.01, RESET),
    "burst_then_rst": _broken(
        errors.StreamInterruptedError, reply_sse(*_tokens(_HALF), done=False).data[:-5], 0.01, RESET
    ),
    "fin_mid_http_chunk": _broken(errors.StreamInterruptedError, *_BEGUN, b"99\r\ndata: {", CLOSE),
    "bad_chunk_size": _broken(errors.StreamInterruptedError, *_BEGUN, b"zz\r\n", HOLD),
    "cut_clean": _broken(errors.StreamTruncatedError, *_BEGUN, http_chunk(b"")),
    "cut_mid_event": _broken(
        errors.StreamTruncatedError,
        *reply_sse(*_tokens(_HALF), b'data: {"choices', done=False, framing="eof").steps,
    ),
    "length_short": _broken(
        errors.StreamInterruptedError, head(200, _SSE), sse(*_tokens(_HALF), done=False), CLOSE
    ),
    "done_first": _broken(errors.StreamTruncatedError, *reply_sse().steps, tokens=0),
    "stall_first_event": _broken(errors.StreamTimeoutError, _BEGUN[0], HOLD, tokens=0),
    "stall_mid_stream": _broken(errors.StreamTimeoutError, *_BEGUN, HOLD),
    "comments_forever": _broken(errors.StreamTimeoutError, *_BEGUN, forever(http_chunk(b": x\n\n"), 0.02)),
    "error_event": _broken(
        errors.StreamServerError,
        *reply_sse(*_tokens(_HALF), {"error": {"message": "no room", "code": "overloaded"}}).steps,
    ),
    "bad_json": _broken(errors.StreamProtocolError, *reply_sse(*_tokens(_HALF), "{bad", *_WHOLE).steps),
    "too_large": _broken(errors.StreamLimitError, *reply_sse(*_tokens(_HALF), "x" * 2 * LIMIT).steps),
    "html": Scenario(reply_bytes(b"<html>", content_type="text/html"), (errors.StreamProtocolError,)),
}

CALLS = {
    **_BEFORE,
    "call_ok": Scenario(reply_writes([_CALL]), weight=60),
    "call_ok_slow": Scenario(
        reply_writes([_CALL[:_BODY], 0.01, _CALL[_BODY:_CUT], 0.01, _CALL[_CUT:]]), weight=10
    ),
    "call_ok_then_fin": Scenario(reply_writes([_CALL, 0.01, CLOSE]), weight=4),
    "call_stray": Scenario(reply_writes([_CALL + reply_json(completion("stray")).data]), weight=5),
    "call_rst_mid_body": Scenario(reply_writes([_CALL[:_CUT], 0.01, RESET]), (errors.APIConnectionError,)),
    "call_stall_body": Scenario(reply_writes([_CALL[:_CUT], HOLD]), (errors.APITimeoutError,)),
    "call_short": Scenario(reply_bytes(_CALL[_BODY:_CUT]), (errors.APIResponseValidationError,)),
    "call_wrong_shape": Scenario(reply_json({"choices": 1}), (errors.APIResponseValidationError,)),
}
# fmt: on

SCENARIOS = STREAMS | CALLS


class Ledger:
    """Counts the requests of each id, and finds those that should not have been sent."""

    def __init__(self) -> None:
        self._asked: dict[str, tuple[int, bool, float]] = {}
        self.faults: Counter[str] = Counter()  # number of faults of each kind
        self.requests = 0

    def note(self, key: str, name: str) -> int:
        """Note a request of an id and its scenario; return how often the id has asked before."""
        self.requests += 1
        now = time.monotonic()
        scenario = SCENARIOS[name]
        before, answered, _ = self._asked.pop(key, (0, False, now))
        if answered:
            self.faults[f"{name}: asked again after a status of 2xx"] += 1
        elif before >= scenario.posts:
            self.faults[f"{name}: asked {before + 1} times"] += 1
        self._asked[key] = (before + 1, before > 0 or scenario.commits, now)
        while now - next(iter(self._asked.values()))[2] > _REMEMBERED:
            del self._asked[next(iter(self._asked))]
        return before


def healthy(*, stream: bool) -> Reply:
    """Return the reply to the second request of an id."""
    return _STREAM if stream else reply_writes([_CALL])


async def _serve() -> None:
    ledger = Ledger()

    async def answer(request: Request, connection: Connection) -> None:
        if request.method == "GET":
            report = {
                "open": server.open_connections - 1,  # without the connection of this request
                "accepted": server.connections - 1,
                "requests": ledger.requests,
                "faults": dict(ledger.faults),
            }
            await reply_json(report)(request, connection)
            return
        params: dict[str, Any] = request.json
        again = ledger.note(request.headers["x-soak-id"], params["model"])
        reply = healthy(stream=params.get("stream", False)) if again else SCENARIOS[params["model"]].reply
        await reply(request, connection)
        if len(server.requests) > 1000:
            server.requests.clear()

    async with serve(handler=answer) as server:
        print(server.url, flush=True)
        # Standard input ends when the process that started this one is gone.
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve())
