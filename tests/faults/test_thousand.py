"""A thousand requests at once, a tenth of which fail, in every way a reply can."""

from __future__ import annotations

import gzip
import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from fault_requests import CALL_BODY, begun
from fault_rows import CALL, FINISH, TEXT, TOKENS, Start, tokens

from gradient_async import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ChatCompletion,
    ConflictError,
    GatewayTimeoutError,
    InternalServerError,
    Limits,
    MapResult,
    NotFoundError,
    OverloadedError,
    PaymentRequiredError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    RequestTimeoutError,
    RequestTooLargeError,
    Retry,
    StreamInterruptedError,
    StreamLimitError,
    StreamProtocolError,
    StreamServerError,
    StreamTimeoutError,
    StreamTruncatedError,
    Timeout,
    UnexpectedRedirectError,
    UnprocessableEntityError,
)
from gradient_async.testing import (
    CLOSE,
    HOLD,
    RESET,
    Connection,
    Handler,
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
    sse,
)

COUNT, EACH = 1000, 10
JSON = {"content-type": "application/json"}
CHUNKED = head(200, JSON | {"transfer-encoding": "chunked"})
SSE = {"content-type": "text/event-stream"}
HALF = CALL_BODY[: len(CALL_BODY) // 2]
DEEP = b"[" * 100_000 + b"]" * 100_000
PROBLEM = {"error": {"message": "no", "type": "t", "code": "c"}}
UNENDING = {"content-type": "text/plain", "transfer-encoding": "chunked"}
BOMB = gzip.compress(b": %a\n" % (b"x" * 1000) * 9000)
EMPTY = http_chunk(sse(chunk(""), done=False))
THREE = TOKENS[:3]
SAID = sse(*THREE, done=False)


@dataclass(frozen=True, slots=True)
class Way:
    """A way to fail.

    Attributes:
        name: What happens.
        reply: What the server does.
        kind: The class of the error.
        text: What the error's partial completion has to hold; None where nothing of it had come.
        again: Whether the request may be sent once more, as a connection that died idle ends in just that way.
    """

    name: str
    reply: Handler
    kind: type[APIError]
    text: str | None = None
    again: bool = False


def status(code: int, kind: type[APIError], body: Any = PROBLEM) -> Way:
    return Way(f"status {code}", reply_json(body, code), kind)


ANY_REQUEST = [
    status(400, BadRequestError),
    status(401, AuthenticationError),
    status(402, PaymentRequiredError),
    status(403, PermissionDeniedError),
    status(404, NotFoundError),
    status(405, APIStatusError),
    status(408, RequestTimeoutError),
    status(409, ConflictError),
    status(413, RequestTooLargeError),
    status(422, UnprocessableEntityError),
    status(429, RateLimitError),
    status(429, QuotaExceededError, {"error": {"message": "no", "code": "insufficient_quota"}}),
    status(500, InternalServerError),
    status(502, InternalServerError),
    status(503, InternalServerError),
    status(504, GatewayTimeoutError),
    status(529, OverloadedError),
    Way("status 500 in HTML", reply_bytes(b"<html>no</html>", 500, {"content-type": "text/html"}), InternalServerError),
    Way(
        "status 400, its body cut",
        reply_writes([head(400, JSON | {"content-length": "999"}), b'{"error":', CLOSE]),
        BadRequestError,
    ),
    Way("status 400, its body without end", reply_writes([head(400, UNENDING), http_chunk(b"no"), HOLD]), BadRequestError),
    Way(
        "status 400, its body a drip",
        reply_writes([head(400, UNENDING), forever(http_chunk(b" "), 0.1)]),
        BadRequestError,
    ),
    Way("status 400, its body huge", reply_bytes(b"x" * 2_000_000, 400, {"content-type": "text/plain"}), BadRequestError),
    Way("status 204", reply_writes([b"HTTP/1.1 204 No Content\r\n\r\n"]), APIResponseValidationError),
    Way("status 429, a day to wait", reply_json(PROBLEM, 429, {"retry-after": "99999"}), RateLimitError),
    Way("redirect", reply_bytes(b"", 307, {"location": "http://127.0.0.1:1/"}), UnexpectedRedirectError),
    Way("redirect to itself", reply_bytes(b"", 307, {"location": "/v1/chat/completions"}), UnexpectedRedirectError),
    Way("redirect to a file", reply_bytes(b"", 302, {"location": "file:///etc/passwd"}), UnexpectedRedirectError),
    Way("redirect to nowhere", reply_bytes(b"", 307, {"location": "http://[::"}), UnexpectedRedirectError),
    Way("reset before the status line", reply_writes([RESET]), APIConnectionError, again=True),
    Way("closed before the status line", reply_writes([CLOSE]), APIConnectionError, again=True),
    Way("closed within the headers", reply_writes([b"HTTP/1.1 200 OK\r\ncontent-ty", CLOSE]), APIConnectionError),
    Way("not HTTP", reply_writes([b"SSH-2.0-OpenSSH_9.6\r\n", CLOSE]), APIConnectionError),
    Way(
        "two lengths",
        reply_writes([b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nabc", CLOSE]),
        APIConnectionError,
    ),
    Way("no status line in time", reply_writes([HOLD]), APITimeoutError),
    Way("headers that drip", reply_writes([b"HTTP/1.1 200 OK\r\nx: ", forever(b"x", 0.1)]), APITimeoutError),
    Way("headers too large", reply_writes([b"HTTP/1.1 200 OK\r\nx: %a" % (b"v" * 99_999), CLOSE]), APIConnectionError),
    Way(
        "control characters in a header",
        reply_writes([b"HTTP/1.1 200 OK\r\nx-bad: a\x00\x1b[2Jb\r\ncontent-length: 0\r\n\r\n", CLOSE]),
        APIConnectionError,
    ),
    Way("hints without an answer", reply_writes([forever(b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.02)]), APIConnectionError),
    Way("an error object", reply_json(PROBLEM), APIError),
]  # fmt: skip

AWAITED = [
    Way("reset in the body", reply_writes([CHUNKED, http_chunk(HALF), 0.02, RESET]), APIConnectionError),
    Way("closed in the body", reply_writes([CHUNKED, http_chunk(HALF), CLOSE]), APIConnectionError),
    Way("bad chunk size", reply_writes([CHUNKED, http_chunk(HALF), b"zz\r\n"]), APIConnectionError),
    Way(
        "shorter than said",
        reply_writes([head(200, JSON | {"content-length": "9999"}), CALL_BODY, CLOSE]),
        APIConnectionError,
    ),
    Way("half of the JSON", reply_bytes(HALF, 200, JSON), APIResponseValidationError),
    Way("an empty body", reply_bytes(b"", 200, JSON), APIResponseValidationError),
    Way("a list", reply_bytes(b"[]", 200, JSON), APIResponseValidationError),
    Way("HTML", reply_bytes(b"<html>hello</html>", 200, {"content-type": "text/html"}), APIResponseValidationError),
    Way("nested too deep", reply_bytes(DEEP, 200, JSON), APIResponseValidationError),
    Way("plain text said to be gzip", reply_bytes(CALL_BODY, 200, JSON | {"content-encoding": "gzip"}), APIResponseValidationError),
    Way("a coding unasked for", reply_bytes(CALL_BODY, 200, JSON | {"content-encoding": "zstd"}), APIResponseValidationError),
    Way("too large", reply_json(completion("x" * 400_000)), APIResponseValidationError),
    Way("a bomb", reply_bytes(BOMB, 200, JSON | {"content-encoding": "gzip"}), APIResponseValidationError),
    Way("null", reply_bytes(b"null", 200, JSON), APIResponseValidationError),
    Way("another shape", reply_bytes(b'{"choices":"x","id":[1]}', 200, JSON), APIResponseValidationError),
    Way("no choices", reply_json({**completion(TEXT), "choices": None}), APIResponseValidationError),
    Way("a body that never comes", reply_writes([CHUNKED, HOLD]), APITimeoutError),
    Way("a body that drips", reply_writes([CHUNKED, forever(http_chunk(b" "), 0.1)]), APITimeoutError),
    Way("a body that never ends", reply_writes([CHUNKED, http_chunk(HALF), HOLD]), APITimeoutError),
]  # fmt: skip

STREAMED = [
    Way("reset after three", reply_writes([*begun(*THREE), 0.02, RESET]), StreamInterruptedError, tokens(3)),
    Way("closed after three", reply_writes([*begun(*THREE), CLOSE]), StreamInterruptedError, tokens(3)),
    Way("closed after the headers", reply_writes([*begun(), CLOSE]), StreamInterruptedError, ""),
    Way(
        "shorter than said",
        reply_writes([head(200, SSE | {"content-length": "99999"}), sse(*THREE, done=False), CLOSE]),
        StreamInterruptedError,
        tokens(3),
    ),
    Way(
        "longer than said",
        reply_writes([head(200, SSE | {"content-length": str(len(SAID))}), SAID]),
        StreamTruncatedError,
        tokens(3),
    ),
    Way(
        "closed within an event, and with no other end",
        reply_writes([*begun(*THREE, framing="eof"), b'data: {"choices":', CLOSE]),
        StreamTruncatedError,
        tokens(3),
    ),
    Way(
        "a huge chunk of HTTP, closed",
        reply_writes([*begun(*THREE), 0.02, b"FFFFFFFFFFFFFFF0\r\n0123456789", 0.02, CLOSE]),
        StreamInterruptedError,
        tokens(3),
    ),
    Way("bad chunk size", reply_writes([*begun(*THREE), b"zz\r\n"]), StreamInterruptedError, tokens(3)),
    Way(
        "closed within an event",
        reply_writes([*begun(*THREE), http_chunk(b'data: {"choices":'), CLOSE]),
        StreamInterruptedError,
        tokens(3),
    ),
    Way("ended after three", reply_sse(*THREE, done=False), StreamTruncatedError, tokens(3)),
    Way("ended within an event", reply_sse(*THREE, b'data: {"choices":', done=False), StreamTruncatedError, tokens(3)),
    Way("ended before it began", reply_sse(done=False), StreamTruncatedError, ""),
    Way("nothing but [DONE]", reply_sse(), StreamTruncatedError, ""),
    Way("an error event", reply_sse(*THREE, PROBLEM), StreamServerError, tokens(3)),
    Way("an error event at first", reply_sse(PROBLEM), StreamServerError, ""),
    Way(
        "an error event by its name",
        reply_sse(*THREE, b'event: error\ndata: {"message":"no","code":529}\n\n'),
        StreamServerError,
        tokens(3),
    ),
    Way("an error in a word", reply_sse(*THREE, {"error": "no"}), StreamServerError, tokens(3)),
    Way("an error by id", reply_sse(*THREE, {"id": "server_error", "message": "no"}), StreamServerError, tokens(3)),
    Way("an error beside choices", reply_sse(*THREE, {**chunk(finish_reason="error"), **PROBLEM}), StreamServerError, tokens(3)),
    Way("an event not in JSON", reply_sse(*THREE, "{no", FINISH), StreamProtocolError, tokens(3)),
    Way("an event nested too deep", reply_sse(*THREE, DEEP.decode(), FINISH), StreamProtocolError, tokens(3)),
    Way("a scalar", reply_sse(*THREE, "1", FINISH), StreamProtocolError, tokens(3)),
    Way("a negative index", reply_sse(*THREE, chunk("no", index=-1), FINISH), StreamProtocolError, tokens(3)),
    Way(
        "a huge index of a tool call",
        reply_sse(*THREE, chunk(tool_calls=[{"index": 10**9, "function": {"arguments": "x"}}]), FINISH),
        StreamLimitError,
        tokens(3),
    ),
    Way("a huge index", reply_sse(*THREE, chunk("no", index=10**9), FINISH), StreamLimitError, tokens(3)),
    Way("too large an event", reply_sse(*THREE, chunk("x" * 400_000), FINISH), StreamLimitError, tokens(3)),
    Way(
        "plain text said to be gzip",
        reply_sse(*TOKENS, FINISH, headers={"content-encoding": "gzip"}),
        StreamProtocolError,
        "",
    ),
    Way("HTML", reply_bytes(b"<html>hello</html>", 200, {"content-type": "text/html"}), StreamProtocolError, ""),
    Way("a coding unasked for", reply_sse(*TOKENS, FINISH, headers={"content-encoding": "zstd"}), StreamProtocolError, ""),
    Way("a bomb", reply_bytes(BOMB, 200, SSE | {"content-encoding": "gzip"}), StreamLimitError, ""),
    Way("null", reply_bytes(b"null", 200, JSON), APIResponseValidationError),
    Way("bytes that drip", reply_writes([*begun(), forever(http_chunk(b"x"), 0.1)]), StreamTimeoutError, ""),
    Way("nothing but comments", reply_writes([*begun(), forever(http_chunk(b": x\n\n"), 0.1)]), StreamTimeoutError, ""),
    Way("comments after three", reply_writes([*begun(*THREE), forever(http_chunk(b": x\n\n"), 0.1)]), StreamTimeoutError, tokens(3)),
    Way("empty deltas", reply_writes([*begun(), forever(EMPTY, 0.1)]), StreamTimeoutError, ""),
    Way("nothing after the headers", reply_writes([*begun(), HOLD]), StreamTimeoutError, ""),
    Way("nothing after three", reply_writes([*begun(*THREE), HOLD]), StreamTimeoutError, tokens(3)),
]  # fmt: skip

BOTH = pytest.mark.parametrize(
    ("stream", "ways"),
    [
        pytest.param(False, ANY_REQUEST + AWAITED, id="awaited"),
        pytest.param(True, ANY_REQUEST + STREAMED, id="streamed"),
    ],
)
OPTIONS: dict[str, Any] = {
    "retry": Retry(budget=0),  # a refusal because of a quota is an error, and nobody waits
    "timeout": Timeout(connect=5, first_token=4, idle=4, response=4),
    "limits": Limits(event_bytes=300_000, body_bytes=300_000, error_body_seconds=0.5),
}


class Faulty:
    """Answers a prompt with itself, or in the way it is to fail.

    Args:
        ways: By prompt.

    Attributes:
        seen: How often each prompt came.
    """

    def __init__(self, ways: dict[str, Way]) -> None:
        self._ways = ways
        self.seen: Counter[str] = Counter()

    async def __call__(self, request: Request, connection: Connection) -> None:
        """Answer."""
        body = request.json
        prompt = body["messages"][-1]["content"]
        self.seen[prompt] += 1
        await connection.sleep(0.001 * (int(prompt) % 7))  # so that they end in another order
        if prompt in self._ways:
            reply = self._ways[prompt].reply
        elif body.get("stream"):
            reply = reply_sse(chunk(f"{prompt} "), chunk("yes"), chunk(finish_reason="stop"))
        else:
            reply = reply_json(completion(f"{prompt} yes"))
        await reply(request, connection)


def partial_text(error: Exception) -> str | None:
    """The text of what came before an error."""
    partial: ChatCompletion | None = getattr(error, "partial", None)
    if partial is None:
        return None
    return "".join(choice.message.content or "" for choice in partial.choices[:1])


def check(result: MapResult, way: Way | None) -> None:
    """Expect the prompt's own text, or the error of its way with what had come by then."""
    if way is None:
        assert result.error is None
        assert isinstance(result.completion, ChatCompletion)
        assert f"{result.index} yes" == result.completion.choices[0].message.content
        return
    assert result.completion is None
    error = result.error
    assert isinstance(error, way.kind), f"{way.name}: {way.kind.__name__} expected, not {error!r}"
    assert 1 == error.attempts
    assert way.text in (None, partial_text(error)), way.name


@pytest.mark.parametrize("ordered", [False, True])
@BOTH
async def test_a_thousand_requests_of_which_a_tenth_fail(
    start: Start, stream: bool, ways: list[Way], ordered: bool
) -> None:
    """Each result is right or a typed error, in the right place; none is lost, none comes twice."""
    assert len(ways) <= COUNT // EACH  # so that each way is met
    turns = itertools.cycle(ways)
    failing = {str(number): next(turns) for number in range(3, COUNT, EACH)}
    server, client = await start(handler=(faulty := Faulty(failing)), **OPTIONS)
    requests = (
        {"model": "m", "messages": [{"role": "user", "content": str(number)}], "stream": stream}
        for number in range(COUNT)
    )
    seen: list[int] = []
    async for result in client.chat.completions.map(requests, max_concurrency=64, ordered=ordered):
        check(result, failing.get(str(result.index)))
        seen.append(result.index)
    assert list(range(COUNT)) == (seen if ordered else sorted(seen))
    assert COUNT == len(faulty.seen)
    more = {prompt for prompt, count in faulty.seen.items() if count > 1}
    assert not {prompt for prompt in more if not (prompt in failing and failing[prompt].again)}
    assert not faulty.seen.total() - COUNT - len(more)  # and none a third time
    await client.close()
    await server.wait_closed_connections()


class InTurn:
    """Answers the first request with "0", and so on, but some in the ways they are to fail in.

    Attributes:
        answered: Numbers that it answered.
        failed: Ways that it failed in.
    """

    def __init__(self, ways: list[Way]) -> None:
        self._ways = ways
        self._count = 0
        self.answered: list[str] = []
        self.failed: list[Way] = []

    async def __call__(self, request: Request, connection: Connection) -> None:
        """Answer."""
        number = self._count
        self._count += 1
        await connection.sleep(0.001 * (number % 7))
        if number % 5 == 3:
            way = self._ways[number // 5 % len(self._ways)]
            self.failed.append(way)
            reply = way.reply
        else:
            self.answered.append(str(number))
            stream = request.json.get("stream")
            text = [chunk(str(number)), chunk(finish_reason="stop")]
            reply = reply_sse(*text) if stream else reply_json(completion(str(number)))
        await reply(request, connection)


@BOTH
async def test_choices_of_which_a_fifth_fail(start: Start, stream: bool, ways: list[Way]) -> None:
    """Each choice is an answer that no other has, or has its error."""
    ways = [way for way in ways if not way.again]
    server, client = await start(handler=(server_says := InTurn(ways)), **OPTIONS)
    n = 5 * len(ways)
    async with client.chat.completions.fan_out(
        n=n, max_concurrency=50, on_error="collect", stream=stream, **CALL
    ) as fan:
        found = await fan.completion()
    assert n == len(server.requests)
    assert sorted(server_says.answered) == sorted(choice.message.content or "" for choice in found.choices)
    assert set(fan.errors) == set(range(n)) - {choice.index for choice in found.choices}
    assert ways == sorted(server_says.failed, key=ways.index)
    left = list(fan.errors.values())
    # An error may be of the class of several ways: the narrowest class first, and each takes the plainest error.
    for way in sorted(ways, key=lambda way: -len(way.kind.__mro__)):
        alike = [
            error for error in left if isinstance(error, way.kind) and way.text in (None, partial_text(error))
        ]
        assert alike, way.name
        left.remove(min(alike, key=lambda error: len(type(error).__mro__)))
    assert not left
