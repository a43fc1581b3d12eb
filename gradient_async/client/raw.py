"""Replies with their status, headers and bytes: `with_raw_response` and `with_streaming_response`.

The classes in this file hold the core and not the resources whose calls they make, because those resources hold them.
"""

from __future__ import annotations

import codecs
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, TypeVar, Unpack, overload

from ..errors import RequestInfo, ResponseInfo
from ..output import Answer, parse_completion
from ..stream import AsyncOnly, ChatCompletionStream
from ..types import (
    NOT_GIVEN,
    ChatCompletion,
    Headers,
    ModelList,
    NotGiven,
    ParsedChatCompletion,
    RateLimits,
    is_given,
)
from ..types.nesting import UNLIMITED, decode_json
from ..types.params import ResponseCreate, ResponseParse
from .answers import refuse_retries, typed_arguments
from .core import Core, Operation, check_options, models_of, read_reply
from .hints import STREAMING, Hinted
from .options import AnswerOptions
from .parameters import spelled_out

if TYPE_CHECKING:
    from ..session.reply import Reply

T = TypeVar("T")


class APIResponse(Generic[T]):
    """A reply of status 2xx, whose body may have been read or not.

    Args:
        reply: The reply of the session.
        parse: Makes the result of this response: reads the whole body, or makes a stream, which reads it.
    """

    # `parse` gets the response as an argument. If it held the response, the two would refer to each other, and only
    # the garbage collector would free them and the connection.
    def __init__(self, reply: Reply, parse: Callable[[APIResponse[T]], Awaitable[T]]) -> None:
        self._reply = reply
        self._parse = parse
        self._content: bytes | None = None
        self._parsed: T | None = None

    @property
    def status_code(self) -> int:
        """HTTP status."""
        return self._reply.status

    @property
    def headers(self) -> Headers:
        """The reply's headers."""
        return self._reply.headers

    @property
    def request_id(self) -> str | None:
        """The server's id of the request."""
        return self._reply.request_id

    @property
    def rate_limits(self) -> RateLimits | None:
        """The rate limits in the headers."""
        return self._reply.rate_limits

    @property
    def http_request(self) -> RequestInfo:
        """Method and URL of the request."""
        return self._reply.request

    @property
    def http_response(self) -> ResponseInfo:
        """Status, headers, and the body if it has been read."""
        return self._reply.info(self._content or b"")

    @property
    def url(self) -> str:
        """URL of the request."""
        return self._reply.request.url

    @property
    def method(self) -> str:
        """HTTP method of the request."""
        return self._reply.request.method

    @property
    def http_version(self) -> str:
        """Version of HTTP, such as ``HTTP/1.1``."""
        return self._reply.http_version

    @property
    def elapsed(self) -> dt.timedelta:
        """Time from the sent request to the reply's headers."""
        return dt.timedelta(seconds=self._reply.received - self._reply.sent)

    @property
    def retries_taken(self) -> int:
        """How many attempts followed the first."""
        return self._reply.attempts - 1

    @property
    def is_closed(self) -> bool:
        """Whether the body was read to its end or closed."""
        return self._reply.body.closed

    async def parse(self) -> T:
        """Return what the call returns without this wrapper: a completion, a stream, a list of models.

        Raises:
            APIConnectionError: If the connection was lost before the body's end.
            APIResponseValidationError: If the body does not have the expected content.
        """
        if self._parsed is None:
            self._parsed = await self._parse(self)
        return self._parsed

    async def read(self) -> bytes:
        """Return the whole body.

        Raises:
            APIConnectionError: If the connection was lost before the end of the body.
            APIResponseValidationError: If the body is larger than ``Limits.body_bytes``.
        """
        if self._content is None:
            self._content = await read_reply(self._reply, _content_of)
        return self._content

    async def text(self) -> str:
        """Return the whole body as text; bytes that are not UTF-8 are replaced."""
        return (await self.read()).decode("utf-8", "replace")

    async def json(self) -> Any:
        """Decode the whole body.

        Raises:
            ValueError: If the body is not JSON, is nested too deep, or has too many values: more than a completion may
                have together with its log probabilities.
        """
        return decode_json(await self.read(), 26 * (self._reply.limits.values or UNLIMITED))

    async def iter_bytes(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        """Yield the body as it arrives.

        Args:
            chunk_size: Number of bytes in each piece except the last; None yields whatever has arrived.

        Raises:
            APIConnectionError: If the connection was lost before the body's end, or a time limit ran out.
            APIResponseValidationError: If the body can't be decompressed.
        """
        rest = bytearray()
        async for data in self._pieces():
            if chunk_size is None:
                yield data
                continue
            rest += data
            end = len(rest) - len(rest) % chunk_size
            for start in range(0, end, chunk_size):
                yield bytes(rest[start : start + chunk_size])
            del rest[:end]  # deletes all pieces at once, because each deletion copies the bytes that remain
        if rest:
            yield bytes(rest)

    async def iter_text(self, chunk_size: int | None = None) -> AsyncIterator[str]:
        """Yield the body as text as it arrives; no character is split.

        Args:
            chunk_size: The same as for `iter_bytes`, in bytes.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        async for data in self.iter_bytes(chunk_size):
            text = decoder.decode(data)
            if text:
                yield text
        rest = decoder.decode(b"", final=True)
        if rest:
            yield rest

    async def iter_lines(self) -> AsyncIterator[str]:
        """Yield the lines of the body as they arrive, without line ends."""
        rest: list[str] = []  # pieces of the current line, which are joined once, so that the time is linear
        async for text in self.iter_text():
            first, *others = text.split("\n")
            rest.append(first)
            for start in others:
                yield "".join(rest).removesuffix("\r")
                rest = [start]
        line = "".join(rest)
        if line:
            yield line

    async def _pieces(self) -> AsyncIterator[bytes]:
        if self._content is not None:
            yield self._content
            return
        while data := await self._reply.read_some():
            yield data
        self._reply.end()

    async def close(self) -> None:
        """Close the body; if it was not read to its end, the connection is closed."""
        self._reply.body.close()
        self._reply.end(outcome="left")

    def __repr__(self) -> str:
        return f"<APIResponse {self.status_code} {self.url}>"


async def _content_of(_reply: Reply, content: bytes) -> bytes:
    return content


class ResponseContext(AsyncOnly, Generic[T]):
    """A response for ``async with``: the request is sent on entering, and the response is closed on leaving.

    Args:
        start: Sends the request.
    """

    _response: APIResponse[T]

    def __init__(self, start: Callable[[], Awaitable[APIResponse[T]]]) -> None:
        self._start = start

    if not TYPE_CHECKING:  # type checkers report this mistake without this method

        def __await__(self) -> NoReturn:
            raise TypeError(
                "write 'async with ...with_streaming_response...(...) as response' in place of 'await'"
            )

    async def __aenter__(self) -> APIResponse[T]:
        self._response = await self._start()
        return self._response

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._response.close()


class _ResponseCompletions:
    """The base of both kinds of completions: sends a request, and wraps its reply before the body is read."""

    def __init__(self, core: Core, operation: Operation) -> None:
        self._core = core
        self._operation: Operation = operation

    async def _respond(self, arguments: dict[str, Any], stream: Any) -> APIResponse[Any]:
        core = self._core
        reply = await core.send(self._operation, arguments, stream=stream)

        async def parse(response: APIResponse[Any]) -> ChatCompletion | ChatCompletionStream:
            if stream:
                return core.open_stream(reply, arguments)
            return await core.completion_of(reply, await response.read())

        return APIResponse(reply, parse)

    async def _respond_typed(self, arguments: dict[str, Any]) -> APIResponse[Any]:
        refuse_retries(arguments)
        answer = typed_arguments(arguments)
        core = self._core
        reply = await core.send(self._operation, arguments)

        async def parse(response: APIResponse[Any]) -> ParsedChatCompletion[Any]:
            return parse_completion(await core.completion_of(reply, await response.read()), answer)

        response = APIResponse(reply, parse)
        await response.read()
        return response


class RawCompletions(_ResponseCompletions):
    """`completions.with_raw_response`."""

    @overload
    async def create(
        self, *, stream: Literal[False] | None = ..., **params: Unpack[ResponseCreate]
    ) -> APIResponse[ChatCompletion]: ...
    @overload
    async def create(
        self, *, stream: Literal[True], **params: Unpack[ResponseCreate]
    ) -> APIResponse[ChatCompletionStream]: ...
    @spelled_out(ResponseCreate)
    async def create(self, *, stream: bool | NotGiven | None = None, **params: Any) -> APIResponse[Any]:
        """Request a completion; return the response, read to its end unless it is a stream.

        Args:
            stream: The same as for ``create``.
            **params: Parameters of the request, and options for sending it.
        """
        stream = stream if is_given(stream) else None
        response = await self._respond(params, stream)
        if not stream:
            await response.read()
        return response

    @overload
    async def parse(
        self,
        *,
        response_format: Mapping[str, Any] | None = ...,
        **params: Unpack[ResponseParse],
    ) -> APIResponse[ParsedChatCompletion[None]]: ...
    @overload
    async def parse(
        self, *, response_format: type[T] | Answer[T], **params: Unpack[ResponseParse]
    ) -> APIResponse[ParsedChatCompletion[T]]: ...
    @overload
    async def parse(
        self, *, response_format: object, **params: Unpack[ResponseParse]
    ) -> APIResponse[ParsedChatCompletion[Any]]: ...
    @spelled_out(AnswerOptions, ResponseParse)
    async def parse(self, **params: Any) -> APIResponse[Any]:
        """Request a typed answer; return the response, read to its end, whose ``parse`` gives the completion.

        There is no ``output_retries``: a response is that of one request.

        Args:
            **params: Parameters of the request, and options for sending it.
        """
        return await self._respond_typed(params)


class StreamingCompletions(_ResponseCompletions):
    """`completions.with_streaming_response`."""

    @overload
    def create(
        self, *, stream: Literal[False] | None = ..., **params: Unpack[ResponseCreate]
    ) -> ResponseContext[ChatCompletion]: ...
    @overload
    def create(
        self, *, stream: Literal[True], **params: Unpack[ResponseCreate]
    ) -> ResponseContext[ChatCompletionStream]: ...
    @spelled_out(ResponseCreate)
    def create(self, *, stream: bool | NotGiven | None = None, **params: Any) -> ResponseContext[Any]:
        """Request a completion: ``async with ...create(...) as response``; the body has not been read.

        Args:
            stream: The same as for ``create``.
            **params: Parameters of the request, and options for sending it.
        """
        return ResponseContext(lambda: self._respond(params, stream if is_given(stream) else None))


class RawModels:
    """`models.with_raw_response`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def list(
        self,
        *,
        extra_headers: Mapping[str, Any] | None = None,
        extra_query: Mapping[str, Any] | None = None,
        timeout: Any = NOT_GIVEN,  # noqa: ASYNC109  # several limits, which the session enforces
    ) -> APIResponse[ModelList]:
        """List the models; return the response, read to its end.

        Args:
            extra_headers: The same as for ``models.list``.
            extra_query: The same as for ``models.list``.
            timeout: The same as for ``models.list``.
        """
        options = {"extra_headers": extra_headers, "extra_query": extra_query, "timeout": timeout}
        check_options(options)
        reply = await self._core.send_models(options)

        async def parse(response: APIResponse[ModelList]) -> ModelList:
            return await models_of(reply, await response.read())

        response = APIResponse(reply, parse)
        await response.read()
        return response


C = TypeVar("C", bound=_ResponseCompletions)


class ResponseChat(Generic[C]):
    """`chat.with_raw_response` and `chat.with_streaming_response`."""

    def __init__(self, completions: C) -> None:
        self.completions = completions


class ResponseAgents(Generic[C]):
    """`agents.with_raw_response` and `agents.with_streaming_response`."""

    def __init__(self, chat: ResponseChat[C]) -> None:
        self.chat = chat


class RawClient:
    """`client.with_raw_response`."""

    def __init__(self, core: Core) -> None:
        self.chat = ResponseChat(RawCompletions(core, "chat"))
        self.agents = ResponseAgents(ResponseChat(RawCompletions(core, "agent")))
        self.models = RawModels(core)


class StreamingClient(Hinted):
    """`client.with_streaming_response`."""

    _hints = STREAMING

    def __init__(self, core: Core) -> None:
        self.chat = ResponseChat(StreamingCompletions(core, "chat"))
        self.agents = ResponseAgents(ResponseChat(StreamingCompletions(core, "agent")))
