"""What the server does to a request, told by the name of its model, and what has to come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gradient_async.errors import (
    APIConnectionError,
    APIResponseValidationError,
    APITimeoutError,
    BadRequestError,
    GatewayTimeoutError,
    GradientError,
    InternalServerError,
    OverloadedError,
    RateLimitError,
    StreamInterruptedError,
    StreamLimitError,
    StreamProtocolError,
    StreamServerError,
    StreamTimeoutError,
    StreamTruncatedError,
)
from gradient_async.testing import (
    CLOSE,
    HOLD,
    RESET,
    Reply,
    chunk,
    completion,
    forever,
    head,
    http_chunk,
    reply_bytes,
    reply_json,
    reply_sse,
    reply_writes,
    sse,
)
from gradient_async.testing.script import Step

__all__ = ["CALLS", "LIMIT", "SCENARIOS", "STREAMS", "Scenario", "healthy", "text_of"]

TOKENS = 12
HALF = 5  # tokens that come before a fault
LIMIT = 4000  # bytes of an event that the client allows
USAGE = {"prompt_tokens": 1, "completion_tokens": TOKENS, "total_tokens": TOKENS + 1}
SSE = {"content-type": "text/event-stream"}
NO_ROOM = {"message": "no room"}


def text_of(count: int = TOKENS, choice: int = 0) -> str:
    """The text that a choice has after so many tokens."""
    return "".join(f"{choice}.{number} " for number in range(count))


def _tokens(count: int = TOKENS, choice: int = 0) -> list[dict[str, object]]:
    return [chunk(f"{choice}.{number} ", index=choice) for number in range(count)]


FINISH = chunk(finish_reason="stop", usage=USAGE)
WHOLE = [*_tokens(), FINISH]
THREE = [
    *(
        piece
        for group in zip(*(_tokens(choice=choice) for choice in range(3)), strict=True)
        for piece in group
    ),
    *(chunk(finish_reason="stop", index=choice) for choice in range(3)),
]
CALLING = [
    chunk(
        tool_calls=[{"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}]
    ),
    *(chunk(tool_calls=[{"index": 0, "function": {"arguments": f"{number} "}}]) for number in range(TOKENS)),
    chunk(finish_reason="tool_calls"),
]
LOGPROBS = [
    chunk(
        f"0.{number} ",
        logprobs={
            "content": [{"token": "t", "logprob": -0.5, "bytes": [116], "top_logprobs": []}],
            "refusal": None,
        },
    )
    for number in range(TOKENS)
]


def _begun(count: int = HALF) -> list[Step]:
    """The writes of a stream that has come so far."""
    return list(reply_sse(*_tokens(count), done=False).steps[:-1])


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing that may happen.

    Attributes:
        reply: Makes the server's answer to the first request of that id; later ones get a healthy one.
        errors: Classes that may be raised; none means that the call succeeds.
        partial: How many tokens have come before the error.
        posts: How many requests of one id are right at most.
        commits: Whether the first answer has a status of 2xx, after which nobody may ask again.
        recovers: Whether the call may succeed as well, with the healthy answer that a second request gets.
        weight: How often it is chosen.
    """

    reply: Callable[[], Reply]
    errors: tuple[type[GradientError], ...] = ()
    partial: int | None = None
    posts: int = 1
    commits: bool = True
    recovers: bool = False
    weight: int = 2


def _refused(status: int, headers: dict[str, str | None] | None = None) -> Callable[[], Reply]:
    return lambda: reply_json(NO_ROOM, status, headers)


CALL_BODY = reply_json(completion(text_of())).data
_HEADERS, _, _BODY = CALL_BODY.partition(b"\r\n\r\n")


def _before(
    reply: Callable[[], Reply], error: type[GradientError], *, posts: int = 1, recovers: bool = False
) -> Scenario:
    return Scenario(reply, (error,), posts=posts, commits=False, recovers=recovers)


# What happens before a status of 2xx is the same for both ways of asking. A call that is not tried again because
# too many others fail raises what the attempt failed with; a pooled connection that is lost is replaced once.
BEFORE: dict[str, Scenario] = {
    "status_400": _before(_refused(400), BadRequestError),
    "status_503_then_ok": _before(_refused(503), OverloadedError, posts=3, recovers=True),
    "status_500_no_retry": _before(_refused(500, {"x-should-retry": "false"}), InternalServerError),
    "status_429_then_ok": _before(
        _refused(429, {"retry-after-ms": "20"}), RateLimitError, posts=3, recovers=True
    ),
    "status_429_absurd": _before(_refused(429, {"retry-after": "99999"}), RateLimitError),
    "status_400_stall_body": _before(
        lambda: reply_writes([head(400, {"content-length": "99"}), b'{"mess', HOLD]), BadRequestError
    ),
    "close_no_response": _before(
        lambda: reply_writes([0.01, CLOSE]), APIConnectionError, posts=2, recovers=True
    ),
    "rst_no_response": _before(
        lambda: reply_writes([0.01, RESET]), APIConnectionError, posts=2, recovers=True
    ),
    "partial_headers": _before(
        lambda: reply_writes([b"HTTP/1.1 200 OK\r\ncont", 0.01, CLOSE]), APIConnectionError
    ),
    "partial_headers_rst": _before(lambda: reply_writes([b"HTTP/1.1 2", 0.01, RESET]), APIConnectionError),
    "stall_headers": _before(lambda: reply_writes([HOLD]), APITimeoutError),
    "drip_headers": _before(
        lambda: reply_writes([b"HTTP/1.1 200 OK\r\nx: ", forever(b"x", 0.05)]), APITimeoutError
    ),
    "interim_forever": _before(
        lambda: reply_writes([forever(b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.002)]), APITimeoutError
    ),
    "status_504": _before(_refused(504), GatewayTimeoutError),
    "not_http": _before(lambda: reply_writes([b"SSH-2.0-x\r\n", CLOSE]), APIConnectionError),
}

STREAMS: dict[str, Scenario] = {
    **BEFORE,
    "ok": Scenario(lambda: reply_sse(*WHOLE), weight=40),
    "ok_one_write": Scenario(lambda: reply_writes([reply_sse(*WHOLE).data]), weight=10),
    "ok_slow": Scenario(lambda: reply_sse(*WHOLE, gap=0.01), weight=10),
    "ok_late_end": Scenario(lambda: reply_sse(*WHOLE, end_delay=0.02), weight=10),
    "ok_eof_framed": Scenario(lambda: reply_sse(*WHOLE, framing="eof"), weight=4),
    "ok_then_fin": Scenario(lambda: reply_writes([*reply_sse(*WHOLE).steps, 0.01, CLOSE]), weight=4),
    # In one write: a reset also loses what the kernel holds back until earlier segments are acknowledged.
    "ok_then_rst": Scenario(lambda: reply_writes([reply_sse(*WHOLE).data, 0.01, RESET]), weight=4),
    "ok_no_done": Scenario(lambda: reply_sse(*WHOLE, done=False)),
    "ok_three": Scenario(lambda: reply_sse(*THREE), weight=10),
    "ok_calling": Scenario(lambda: reply_sse(*CALLING), weight=10),
    "ok_logprobs": Scenario(lambda: reply_sse(*LOGPROBS, FINISH), weight=10),
    "ok_buffered": Scenario(lambda: reply_json(completion(text_of()))),
    "garbage_after_done": Scenario(
        lambda: reply_writes([*reply_sse(*WHOLE).steps[:-1], forever(http_chunk(b": x\n" * 250))])
    ),
    "open_after_done": Scenario(lambda: reply_writes([*reply_sse(*WHOLE).steps[:-1], HOLD])),
    "rst_mid_stream": Scenario(
        lambda: reply_writes([*_begun(), 0.01, RESET]), (StreamInterruptedError,), HALF
    ),
    "burst_then_rst": Scenario(
        lambda: reply_writes([reply_sse(*_tokens(HALF), done=False).data[:-5], 0.01, RESET]),
        (StreamInterruptedError,),
        HALF,
    ),
    "fin_mid_http_chunk": Scenario(
        lambda: reply_writes([*_begun(), b"99\r\ndata: {", CLOSE]), (StreamInterruptedError,), HALF
    ),
    "bad_chunk_size": Scenario(
        lambda: reply_writes([*_begun(), b"zz\r\n", HOLD]), (StreamInterruptedError,), HALF
    ),
    "cut_clean": Scenario(lambda: reply_sse(*_tokens(HALF), done=False), (StreamTruncatedError,), HALF),
    "cut_mid_event": Scenario(
        lambda: reply_sse(*_tokens(HALF), b'data: {"choices', done=False, framing="eof"),
        (StreamTruncatedError,),
        HALF,
    ),
    "length_short": Scenario(
        lambda: reply_writes(
            [head(200, SSE | {"content-length": "9999"}), sse(*_tokens(HALF), done=False), CLOSE]
        ),
        (StreamInterruptedError,),
        HALF,
    ),
    "done_first": Scenario(reply_sse, (StreamTruncatedError,), 0),
    "stall_first_event": Scenario(lambda: reply_writes([*_begun(0), HOLD]), (StreamTimeoutError,), 0),
    "stall_mid_stream": Scenario(lambda: reply_writes([*_begun(), HOLD]), (StreamTimeoutError,), HALF),
    "comments_forever": Scenario(
        lambda: reply_writes([*_begun(), forever(http_chunk(b": x\n\n"), 0.02)]), (StreamTimeoutError,), HALF
    ),
    "error_event": Scenario(
        lambda: reply_sse(*_tokens(HALF), {"error": {"message": "no room", "code": "overloaded"}}),
        (StreamServerError,),
        HALF,
    ),
    "bad_json": Scenario(lambda: reply_sse(*_tokens(HALF), "{bad", *WHOLE), (StreamProtocolError,), HALF),
    "too_large": Scenario(lambda: reply_sse(*_tokens(HALF), "x" * 2 * LIMIT), (StreamLimitError,), HALF),
    "html": Scenario(
        lambda: reply_bytes(b"<html>", 200, {"content-type": "text/html"}), (StreamProtocolError,)
    ),
}

CALLS: dict[str, Scenario] = {
    **BEFORE,
    "call_ok": Scenario(lambda: reply_json(completion(text_of())), weight=60),
    "call_ok_slow": Scenario(
        lambda: reply_writes([_HEADERS + b"\r\n\r\n", 0.01, _BODY[:50], 0.01, _BODY[50:]]), weight=10
    ),
    "call_ok_then_fin": Scenario(lambda: reply_writes([CALL_BODY, 0.01, CLOSE]), weight=4),
    "call_stray": Scenario(
        lambda: reply_writes([CALL_BODY + reply_json(completion("stray")).data]), weight=5
    ),
    "call_rst_mid_body": Scenario(
        lambda: reply_writes([_HEADERS + b"\r\n\r\n" + _BODY[:50], 0.01, RESET]), (APIConnectionError,)
    ),
    "call_stall_body": Scenario(
        lambda: reply_writes([_HEADERS + b"\r\n\r\n" + _BODY[:50], HOLD]), (APITimeoutError,)
    ),
    "call_short": Scenario(lambda: reply_bytes(_BODY[:50], 200), (APIResponseValidationError,)),
    "call_wrong_shape": Scenario(lambda: reply_json({"choices": 1}), (APIResponseValidationError,)),
}

SCENARIOS = STREAMS | CALLS


def healthy(*, stream: bool) -> Reply:
    """What a second request of an id gets."""
    return reply_sse(*WHOLE) if stream else reply_json(completion(text_of()))
