"""Every error: one tree, the attributes of its kind, safe to print, and whole after pickling."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import gradient_async
from gradient_async import errors
from gradient_async.errors import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    FanOutError,
    GradientError,
    InvalidRequestError,
    JournalError,
    OutputError,
    RequestInfo,
    ResponseInfo,
    StreamError,
    StreamServerError,
    escape,
    status_error_class,
)
from gradient_async.types import (
    ChatCompletion,
    Choice,
    Headers,
    ParsedChatCompletion,
    ParsedChatCompletionMessage,
    ParsedChoice,
    RateLimit,
    RateLimits,
)

TREE = {
    "GradientError": ("Exception",),
    "ConfigurationError": ("GradientError", "ValueError"),
    "InvalidRequestError": ("GradientError", "ValueError"),
    "ToolArgumentsError": ("GradientError", "ValueError"),
    "MaxTurnsError": ("GradientError",),
    "FanOutError": ("GradientError", "ExceptionGroup"),
    "JournalError": ("GradientError",),
    "APIError": ("GradientError",),
    "APIConnectionError": ("APIError",),
    "APITimeoutError": ("APIConnectionError", "TimeoutError"),
    "APIStatusError": ("APIError",),
    "BadRequestError": ("APIStatusError",),
    "AuthenticationError": ("APIStatusError",),
    "PaymentRequiredError": ("APIStatusError",),
    "PermissionDeniedError": ("APIStatusError",),
    "NotFoundError": ("APIStatusError",),
    "RequestTimeoutError": ("APIStatusError",),
    "ConflictError": ("APIStatusError",),
    "RequestTooLargeError": ("APIStatusError",),
    "UnprocessableEntityError": ("APIStatusError",),
    "RateLimitError": ("APIStatusError",),
    "QuotaExceededError": ("RateLimitError",),
    "InternalServerError": ("APIStatusError",),
    "OverloadedError": ("InternalServerError",),
    "GatewayTimeoutError": ("InternalServerError",),
    "UnexpectedRedirectError": ("APIStatusError",),
    "APIResponseValidationError": ("APIError",),
    "OutputError": ("APIError",),
    "LengthFinishReasonError": ("OutputError",),
    "ContentFilterFinishReasonError": ("OutputError",),
    "OutputDecodeError": ("OutputError", "ValueError"),
    "OutputValidationError": ("OutputError", "ValueError"),
    "StreamError": ("APIError",),
    "StreamInterruptedError": ("StreamError", "APIConnectionError"),
    "StreamTruncatedError": ("StreamError",),
    "StreamTimeoutError": ("StreamError", "APITimeoutError"),
    "StreamServerError": ("StreamError",),
    "StreamProtocolError": ("StreamError",),
    "StreamLimitError": ("StreamError",),
}

REQUEST = RequestInfo(method="POST", url="https://x.test/v1/chat/completions")
RESPONSE = ResponseInfo(
    status_code=429,
    headers=Headers([("Retry-After", "3")]),
    request=REQUEST,
    content='{"error":"né"}'.encode(),
)
DETAILS: dict[str, Any] = {
    "response": RESPONSE,
    "body": {"error": "né"},
    "code": "c",
    "type": "t",
    "param": "p",
    "request_id": "r-1",
    "retry_after": 3.0,
    "rate_limits": RateLimits(requests=RateLimit(limit=5, remaining=0, reset=1.5)),
    "phase": "body",
    "ambiguous": True,
    "attempts": 3,
    "elapsed": 1.25,
}
PARSED = ParsedChatCompletion[int](
    choices=[ParsedChoice(message=ParsedChatCompletionMessage(content="1", parsed=1))]
)
PARTIAL = ChatCompletion(id="c-1", choices=[Choice()])


def kind_of(name: str) -> type[GradientError]:
    kind: type[GradientError] = getattr(errors, name)
    return kind


class SameError(ValueError):
    """An error that equals its copy."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SameError) and self.args == other.args

    def __hash__(self) -> int:
        return hash(self.args)


def make(name: str) -> GradientError:
    """Make an error of a class with everything that class takes."""
    kind = kind_of(name)
    if issubclass(kind, StreamError):
        return kind("what\nhappened", partial=PARTIAL, events=7, bytes_received=99, **DETAILS)
    if issubclass(kind, OutputError):
        answer: dict[str, Any] = {
            "completion": PARSED,
            "choice": 1,
            "text": "{}",
            "path": "$.a",
            "parsed": {},
        }
        return kind("what\nhappened", **answer, **DETAILS)
    if issubclass(kind, APIError):
        return kind("what\nhappened", **DETAILS)
    if issubclass(kind, InvalidRequestError):
        return kind("what\nhappened", param="n")
    if issubclass(kind, FanOutError):
        return kind("what\nhappened", [SameError("why")], errors={3: SameError("why")}, partial=PARTIAL)
    if issubclass(kind, JournalError):
        return kind("what\nhappened", path="results.jsonl")
    return kind("what\nhappened")


class TestTree:
    @pytest.mark.parametrize(("name", "bases"), TREE.items(), ids=TREE)
    def test_bases(self, name: str, bases: tuple[str, ...]) -> None:
        assert bases == tuple(base.__name__ for base in kind_of(name).__bases__)

    def test_nothing_else(self) -> None:
        found = {
            name
            for name in dir(errors)
            if isinstance(getattr(errors, name), type) and issubclass(getattr(errors, name), Exception)
        }
        assert TREE.keys() == found
        assert found <= set(gradient_async.__all__)

    @pytest.mark.parametrize("name", TREE)
    def test_each_says_what_it_is(self, name: str) -> None:
        doc = kind_of(name).__doc__
        assert doc
        assert doc.strip()


class TestAttributes:
    @pytest.mark.parametrize("name", [name for name in TREE if issubclass(kind_of(name), APIError)])
    def test_all_are_kept(self, name: str) -> None:
        error = make(name)
        assert isinstance(error, APIError)
        assert DETAILS == {detail: getattr(error, detail) for detail in DETAILS}
        assert ("what\nhappened", "what\nhappened") == (error.message, str(error))
        assert REQUEST == error.request, "taken from the response"
        assert error.headers is not None
        assert (429, "3") == (error.status_code, error.headers["retry-after"])

    def test_without_a_reply(self) -> None:
        error = APIConnectionError("lost", request=REQUEST)
        assert (None, None, None, REQUEST, 1, False) == (
            error.status_code,
            error.headers,
            error.response,
            error.request,
            error.attempts,
            error.ambiguous,
        )
        assert None is APIError("x").request

    def test_own_request_wins(self) -> None:
        other = RequestInfo(method="GET", url="https://y.test")
        assert other == APIError("x", request=other, response=RESPONSE).request

    def test_status_errors_are_made_as_elsewhere(self) -> None:
        """With a response and a body, as users of other clients make them; never without a response."""
        error = APIStatusError("no", response=RESPONSE, body={"a": 1})
        assert (429, {"a": 1}, RESPONSE) == (error.status_code, error.body, error.response)
        with pytest.raises(TypeError, match="response"):
            APIStatusError("no")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # the mistake

    def test_stream_errors_carry_what_came(self) -> None:
        error = make("StreamTruncatedError")
        assert isinstance(error, StreamError)
        assert (PARTIAL, 7, 99) == (error.partial, error.events, error.bytes_received)
        bare = StreamError("x")
        assert (None, 0, 0) == (bare.partial, bare.events, bare.bytes_received)

    def test_an_invalid_request_names_its_parameter(self) -> None:
        assert ("n", None) == (InvalidRequestError("x", param="n").param, InvalidRequestError("x").param)

    def test_body_head(self) -> None:
        response = ResponseInfo(status_code=200, headers=Headers(), content=b"x" * 300)
        assert b"x" * 200 == APIResponseValidationError("x", response=response).body_head
        assert b"" == APIResponseValidationError("x").body_head

    def test_response_reads_as_elsewhere(self) -> None:
        assert ('{"error":"né"}', {"error": "né"}) == (RESPONSE.text, RESPONSE.json())
        broken = ResponseInfo(status_code=500, headers=Headers(), content=b"\xff<")
        assert "\ufffd<" == broken.text
        with pytest.raises(ValueError, match=r"malformed|invalid"):
            broken.json()

    @pytest.mark.parametrize("name", ["APITimeoutError", "StreamTimeoutError"])
    def test_timeouts_are_the_builtin_ones_too(self, name: str) -> None:
        """`except TimeoutError` catches them, and they print their message like the others."""
        with pytest.raises(TimeoutError, match=r"^what\nhappened$"):
            raise make(name)


class TestGroup:
    """`FanOutError` is a group like others."""

    def test_it_is_split_by_kind(self) -> None:
        lost, limited = APIConnectionError("lost"), InvalidRequestError("limited")
        group = FanOutError("two failed", [lost, limited], errors={4: lost, 7: limited}, partial=PARTIAL)
        found: list[Any] = []
        try:
            raise group
        except* APIConnectionError as part:
            found.append(part)
        except* InvalidRequestError as part:
            found.append(part)
        assert ({4: lost}, PARTIAL) == (found[0].errors, found[0].partial)
        assert ({7: limited}, (limited,)) == (found[1].errors, found[1].exceptions)

    def test_it_prints_its_message_alone(self) -> None:
        group = FanOutError("two failed", [ValueError()])
        assert "two failed" == str(group) == group.message


class TestPickling:
    @pytest.mark.parametrize("name", TREE)
    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_nothing_is_lost(self, name: str, protocol: int) -> None:
        error = make(name)
        error.add_note("noted")
        found = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301  # our own
        assert type(error) is type(found)
        assert (error.args, str(error), repr(error)) == (found.args, str(found), repr(found))
        assert vars(error) == vars(found)
        assert ["noted"] == found.__notes__

    @pytest.mark.parametrize("name", TREE)
    def test_copying(self, name: str) -> None:
        error = make(name)
        found = copy.copy(error)
        assert (type(error), vars(error)) == (type(found), vars(found))


STATUSES = {
    302: "UnexpectedRedirectError",
    307: "UnexpectedRedirectError",
    399: "UnexpectedRedirectError",
    400: "BadRequestError",
    401: "AuthenticationError",
    402: "PaymentRequiredError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    405: "APIStatusError",
    408: "RequestTimeoutError",
    409: "ConflictError",
    413: "RequestTooLargeError",
    418: "APIStatusError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
    499: "APIStatusError",
    500: "InternalServerError",
    502: "InternalServerError",
    503: "OverloadedError",
    504: "GatewayTimeoutError",
    529: "OverloadedError",
    599: "InternalServerError",
    200: "APIStatusError",
    299: "APIStatusError",
}


@pytest.mark.parametrize(("status", "name"), STATUSES.items())
def test_class_of_a_status(status: int, name: str) -> None:
    assert kind_of(name) is status_error_class(status)


@pytest.mark.parametrize("code", ["insufficient_quota", "quota_exceeded"])
def test_a_spent_quota_is_no_busy_minute(code: str) -> None:
    """Waiting does not mend it; only a 429 is one."""
    assert errors.QuotaExceededError is status_error_class(429, code)
    assert errors.RateLimitError is status_error_class(429, "rate_limit_exceeded")
    assert errors.BadRequestError is status_error_class(400, code)


@pytest.mark.parametrize(
    ("code", "kind", "name", "retryable"),
    [
        ("overloaded", "server_error", "OverloadedError", True),
        ("529", None, "OverloadedError", True),
        ("503", "x", "OverloadedError", True),
        (None, "overloaded_error", "OverloadedError", True),
        ("unknown", "server_error", "InternalServerError", True),
        (None, "api_error", "InternalServerError", True),
        ("timeout", None, "GatewayTimeoutError", True),
        ("408", None, "RequestTimeoutError", True),
        ("too_many_requests", None, "RateLimitError", True),
        ("RateLimitReached", None, "RateLimitError", True),
        ("RESOURCE_EXHAUSTED", None, "RateLimitError", True),
        ("insufficient_quota", None, "QuotaExceededError", False),
        ("429", "insufficient_quota", "RateLimitError", True),
        ("unauthorized", None, "AuthenticationError", False),
        ("invalid_api_key", "invalid_request_error", "AuthenticationError", False),
        ("forbidden", None, "PermissionDeniedError", False),
        ("not_found", None, "NotFoundError", False),
        ("tool_use_failed", "invalid_request_error", "BadRequestError", False),
        ("400", "Bad Request", "BadRequestError", False),
        (None, "Bad Request", "BadRequestError", False),
        ("12345", "what", "APIStatusError", False),
        (None, None, "APIStatusError", False),
    ],
)
def test_class_of_an_error_inside_a_stream(
    code: str | None,
    kind: str | None,
    name: str,
    retryable: bool,
) -> None:
    """The code counts before the type; what is not known is not retryable."""
    error = StreamServerError("x", code=code, type=kind)
    assert kind_of(name) is error.status_class
    assert retryable is error.retryable
    assert not isinstance(error, APIStatusError)


class TestEscape:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("plain é💡", "plain é💡"),
            ("a\r\nb\tc", "a\\r\\nb\\tc"),
            ("\x00\x1b\x7f\x85\x9f", "\\x00\\x1b\\x7f\\x85\\x9f"),
            ("\u2028\u2029", "\\u2028\\u2029"),
            (
                "\u061c\u200e\u200f\u202a\u202e\u2066\u2069",
                "\\u061c\\u200e\\u200f\\u202a\\u202e\\u2066\\u2069",
            ),
            ("\ud83d", "\\ud83d"),
            ("\\n", "\\n"),
        ],
    )
    def test_what_would_not_print(self, text: str, expected: str) -> None:
        assert expected == escape(text)
        assert expected.encode("utf-8")

    def test_it_is_cut_at_500(self) -> None:
        assert "x" * 500 == escape("x" * 500)
        assert "x" * 500 + "…" == escape("x" * 501)
        assert "xx…" == escape("x" * 501, 2)
