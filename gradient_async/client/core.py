"""The core, which the resources of one client share: its settings, its connections, and how a call is made.

The client holds its resources, and the resources hold the core. The core never holds the client, so a client that
is dropped is freed at once, without the cyclic garbage collector, and a call in progress keeps the connections open
after the client is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast

import msgspec

from .._version import __version__
from ..assembly import CompletionAssembler
from ..config import Endpoints, Limits, Timeout
from ..decoding import (
    ChunkDecoder,
    check_bounds,
    check_params,
    decode_body,
    decode_completion,
    decode_models,
    encode_request,
    is_stream,
    reply_error,
)
from ..errors import (
    APIError,
    APIResponseValidationError,
    APIStatusError,
    ConfigurationError,
    InvalidRequestError,
    StreamError,
    copy_of,
)
from ..output import Answer, is_type
from ..secrets import Redactor, check_headers, hide_headers, secrets_in
from ..session.call import Call
from ..session.forks import no_fork
from ..session.pace import Turns
from ..stream import ChatCompletionStream, ParsedChatCompletionStream, StreamReader, premature_end
from ..tools import tool_params
from ..types import NOT_GIVEN, ChatCompletion, ModelList, NotGiven, given, is_given
from ..types.nesting import TooManyValuesError
from .settings import Settings, query_pairs

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from ..session.manager import SessionManager
    from ..session.reply import Reply

T = TypeVar("T")
Operation: TypeAlias = Literal["chat", "agent", "models"]


class Connections:
    """The connections that a client and its copies share, opened when the first request is sent.

    Args:
        session: The caller's own session, or None.
        max_connections: Maximum number of connections in one event loop.
        trust_env: Whether aiohttp reads proxies and ``.netrc`` from the environment.
        limits: Sizes of headers.

    Attributes:
        manager: The session manager, which sends the requests; made when it is read for the first time.
        closed: Whether `close` was called.
    """

    manager: SessionManager

    def __init__(
        self, session: ClientSession | None, max_connections: int, *, trust_env: bool, limits: Limits
    ) -> None:
        self._session = session
        self._max_connections = max_connections
        self._trust_env = trust_env
        self._limits = limits
        self.closed = False

    def unopened(self) -> Connections:
        """Return connections with the same options, none of which is open.

        Raises:
            TypeError: If the session is the caller's own.
        """
        if self._session is not None:
            raise TypeError(
                "a client with session=... can't be pickled or deep-copied, because a session can't: make the client "
                "without session=, or share the session by with_options()"
            )
        return Connections(None, self._max_connections, trust_env=self._trust_env, limits=self._limits)

    # `manager` is not a cached property: in Python 3.11 all instances share the lock of such a property. A fork while a thread
    # imports aiohttp would copy the locked lock, which no thread of the child would ever release.
    if not TYPE_CHECKING:  # with `__getattr__`, type checkers would accept every name

        def __getattr__(self, name: str) -> Any:
            if name != "manager":
                return object.__getattribute__(self, name)  # raises the usual AttributeError
            if self.closed:
                raise ConfigurationError("this client has been closed; make a new one")
            return self._make_manager()

    def _make_manager(self) -> SessionManager:
        # This import loads aiohttp, which takes a third of a second of CPU. A program that sends no request does
        # not pay for it.
        with no_fork:
            from ..session.manager import SessionManager  # noqa: PLC0415  # see above

        manager = SessionManager(
            session=self._session,
            max_connections=self._max_connections,
            trust_env=self._trust_env,
            limits=self._limits,
        )
        # Threads that make their first calls at the same time must get the same manager. `setdefault` is atomic.
        manager = cast("SessionManager", vars(self).setdefault("manager", manager))
        if self.closed:  # another thread may have closed the client before it saw the manager
            manager.pool.closed = True
        return manager

    async def close(self) -> None:
        """Close the connections and every open stream."""
        self.closed = True
        if "manager" in vars(self):  # a client that has sent nothing has no manager to close
            await self.manager.close()


# Requests

_ROUTES: dict[Operation, tuple[str, str]] = {
    "chat": ("POST", "/chat/completions"),
    "agent": ("POST", "/chat/completions"),
    "models": ("GET", "/models"),
}
_MAPPINGS = frozenset({"extra_headers", "extra_query", "extra_body"})
OPTIONS = _MAPPINGS | {"timeout"}
_MAX_ERROR = 1024 * 1024  # maximum bytes of the body of a 2xx reply that is searched for an error


class RequestTemplate:
    """The part of a call that many calls of a client share, made once: everything except body and parameters.

    Attributes:
        call: The call; `msgspec.structs.replace` adds body and parameters, in a sixth of the time of a new
            `Call`.
    """

    def __init__(
        self, settings: Settings, operation: Operation, options: Mapping[str, Any], *, stream: bool
    ) -> None:
        self.call = _make_call(settings, operation, options, stream=stream)
        self._settings = settings
        # The dictionaries are copied, so that later changes in place are noticed.
        self._default_headers = dict(settings.default_headers)
        self._default_query = dict(settings.default_query)

    def suits(self, settings: Settings) -> bool:
        """Return whether these settings would give the same call."""
        return (
            settings is self._settings
            and settings.default_headers == self._default_headers
            and settings.default_query == self._default_query
        )


def _make_call(settings: Settings, operation: Operation, options: Mapping[str, Any], *, stream: bool) -> Call:
    """Make a call without body and parameters.

    Raises:
        ConfigurationError: If there is no key or no agent, or a header can't be sent.
    """
    method, path = _ROUTES[operation]
    agent = operation == "agent"
    # Without Accept-Encoding and Content-Type, the reply or the request may be misread. So the user can replace these
    # headers, but not remove them.
    codings = {"Accept-Encoding": "identity"}
    if method == "POST":
        codings["Content-Type"] = "application/json"
    headers: dict[str, str] = {
        "Accept": "text/event-stream" if stream else "application/json",
        "User-Agent": f"gradient_async/{__version__}",
        **codings,
    }
    key = settings.endpoints.agent_key if agent else settings.endpoints.model_key
    # The user may have changed the dictionary since it was checked. The second check refuses line breaks and marks
    # keys, so that they are not shown.
    default_headers = check_headers(settings.default_headers)
    extra_headers = check_headers(options.get("extra_headers") or {})
    if any(name.lower() == "authorization" for name in (*default_headers, *extra_headers)):
        key = None
    elif key is None:
        raise ConfigurationError(_missing_key(settings.endpoints, agent=agent))
    for more in (default_headers, extra_headers):
        for name, value in more.items():
            for same in [same for same in headers if same.lower() == name.lower()]:
                del headers[same]
            if is_given(value):
                headers[name] = value
    given_names = {name.lower() for name in headers}
    headers |= {name: value for name, value in codings.items() if name.lower() not in given_names}
    query: dict[str, object] = {"agent": True} if agent else {}
    query |= settings.default_query
    query |= options.get("extra_query") or {}
    keys = (settings.endpoints.model_key, settings.endpoints.agent_key)
    return Call(
        method=method,
        url=(settings.agent_url if agent else settings.endpoints.inference_url) + path,
        query=tuple(query_pairs(query)),
        headers=headers,
        key=key,
        body=None,
        stream=stream,
        timeout=settings.timeout,
        max_retries=settings.max_retries,
        retry=settings.retry,
        limits=settings.limits,
        redactor=Redactor((*(key for key in keys if key is not None), *secrets_in(headers))),
        operation=operation,
        hooks=settings.hooks,
        turns=None if settings.pace is None or operation == "models" else Turns(settings.pace),
    )


def _missing_key(endpoints: Endpoints, *, agent: bool) -> str:
    if agent:
        return "no agent access key: pass agent_access_key=... or set GRADIENT_AGENT_ACCESS_KEY"
    return (
        f"no model access key for {endpoints.inference_url}: pass model_access_key=... or set "
        "GRADIENT_MODEL_ACCESS_KEY; a server that needs no key accepts any"
    )


def check_options(arguments: dict[str, Any]) -> None:
    """Check the types of a call's options, remove those that are not given, and hide the keys in its headers.

    Raises:
        TypeError: If an option is not a mapping; it may be None or left out.
    """
    # Changed in the caller's dict: either frame's locals may appear in a traceback.
    for name in _MAPPINGS & arguments.keys():
        value = arguments.pop(name)
        if value is None or not is_given(value):
            continue
        if not isinstance(value, Mapping):
            kind = type(value).__name__
            del value  # the value may hold a key
            raise TypeError(f"{name}: expected a dict, not {kind}")
        options = cast("Mapping[Any, Any]", value)
        arguments[name] = hide_headers(options) if name == "extra_headers" else given(options)


class Core:
    """Settings and connections of one client, and the calls that its resources make.

    Attributes:
        settings: The settings; later calls use what is set here.
        connections: The connections, shared with the copies of the client.
    """

    def __init__(self, settings: Settings, connections: Connections) -> None:
        self.settings = settings
        self.connections = connections
        self._templates: dict[tuple[Operation, bool], RequestTemplate] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Core, (self.settings, self.connections.unopened())

    async def send(
        self,
        operation: Operation,
        arguments: dict[str, Any],
        *,
        stream: Any = None,
        turns: Turns | None = None,
    ) -> Reply:
        """Check the arguments of a completion, and send its request.

        Args:
            operation: ``"chat"`` or ``"agent"``.
            arguments: Keyword arguments of ``create``, except ``stream``.
            stream: Value of ``stream``; None leaves it out of the request.
            turns: Where each attempt takes a turn; None for those of the client, if it has a `Pace`.

        Returns:
            The reply, with its body unread.
        """
        if "tools" in arguments:
            arguments["tools"] = tool_params(arguments["tools"])
        if "response_format" in arguments and is_type(arguments["response_format"]):
            raise InvalidRequestError(
                "response_format is a type: use parse() or stream()", param="response_format"
            )
        params: Mapping[str, Any] = arguments
        options: Mapping[str, Any] = {}
        extra_body: Mapping[str, Any] = {}
        if not OPTIONS.isdisjoint(arguments):
            options = arguments
            check_options(arguments)
            extra_body = arguments.get("extra_body") or {}
            # A parameter that extra_body replaces is not sent, and need not be valid.
            params = {
                name: value
                for name, value in arguments.items()
                if name not in OPTIONS and name not in extra_body
            }
        params = check_params(
            params,
            stream=bool(stream),
            agent=operation == "agent",
            # Validation requires messages and model among the arguments, so it is skipped if extra_body has either.
            validate=self.settings.validate
            and (not extra_body or extra_body.keys().isdisjoint({"messages", "model"})),
        )
        body = encode_request(params, stream=stream, extra_body=extra_body)
        call = self.template(operation, options, stream=bool(stream))
        call = msgspec.structs.replace(call, body=body, params=params, turns=turns or call.turns)
        return await self.connections.manager.send(call)

    async def create(
        self, operation: Operation, arguments: dict[str, Any], *, stream: bool | NotGiven | None
    ) -> ChatCompletion | ChatCompletionStream:
        """Send a request; return its completion or, if ``stream`` is true, the open stream."""
        stream = None if stream is None or not is_given(stream) else stream
        reply = await self.send(operation, arguments, stream=stream)
        return self.open_stream(reply, arguments) if stream else await read_reply(reply, self.completion_of)

    async def send_models(self, options: dict[str, Any]) -> Reply:
        """Send the request for the list of models."""
        return await self.connections.manager.send(self.template("models", options, stream=False))

    def redact(self, operation: Operation, options: Mapping[str, Any], text: str) -> str:
        """Remove the keys of requests with these options from a text."""
        return self.template(operation, options, stream=False).redactor.text(text)

    def template(self, operation: Operation, options: Mapping[str, Any], *, stream: bool) -> Call:
        """Return a call without body and parameters."""
        settings = self.settings
        template = self._templates.get((operation, stream))
        if options and (options.get("extra_headers") or options.get("extra_query")):
            template = RequestTemplate(settings, operation, options, stream=stream)
        elif template is None or not template.suits(settings):
            template = RequestTemplate(settings, operation, options, stream=stream)
            self._templates[operation, stream] = template
        if not options or not is_given(timeout := options.get("timeout", NOT_GIVEN)):
            return template.call
        return msgspec.structs.replace(template.call, timeout=Timeout.of(timeout))

    def open_stream(
        self, reply: Reply, arguments: Mapping[str, Any], answer: Answer[Any] | None = None
    ) -> ChatCompletionStream:
        """Make the stream of a reply whose body has not been read."""
        extra_body: Mapping[str, Any] = arguments.get("extra_body") or {}
        n = extra_body.get("n", reply.n)
        kind = ChatCompletionStream if answer is None else ParsedChatCompletionStream
        return kind(
            reply,
            n=n if isinstance(n, int) and n > 0 else 1,
            answer=answer,
            **self._stream_options(arguments),
        )

    def open_reader(
        self, reply: Reply, arguments: Mapping[str, Any], *, n: int
    ) -> tuple[StreamReader, CompletionAssembler]:
        """Make the reader of a reply, and the assembler by which the reader judges whether n choices are whole."""
        settings = self.settings
        assembler = CompletionAssembler(n=n, limits=settings.limits, strict=settings.strict)
        return StreamReader(reply, assembler, n=n, **self._stream_options(arguments)), assembler

    async def completion_of(self, reply: Reply, content: bytes) -> ChatCompletion:
        """Decode the body of an awaited reply, and add what the session knows of it.

        Some servers always send a stream. A body that is an event stream is assembled, and must be whole.

        Raises:
            APIStatusError: If a reply of status 200 holds an error.
            APIResponseValidationError: If the body holds no completion.
            StreamError: If the body is an event stream that is not whole, or that holds an error.
        """
        if is_stream(content):
            completion = await self._assemble(reply, content)
            # The server sent chunks, so the completion as plain data stands in for the body.
            completion.receive(completion.to_dict(), None, reply.header_pairs)
        else:
            completion = _decode(reply, content)
            # This does the same as `receive`, and saves the call.
            completion.source = (content, decode_body, reply.header_pairs)
        completion.request_id = reply.request_id
        completion.rate_limits = reply.rate_limits
        completion.attempts = reply.attempts
        return completion

    async def _assemble(self, reply: Reply, content: bytes) -> ChatCompletion:
        settings, n = self.settings, reply.n if isinstance(reply.n, int) and reply.n > 0 else 1
        decoder = ChunkDecoder(
            limits=reply.limits, strict=settings.strict, on_bad_event=settings.on_bad_event, n=n
        )
        assembler = CompletionAssembler(n=n, limits=reply.limits, strict=settings.strict)
        failure: StreamError | None = None
        try:
            decoder.push(content)
            decoder.finish()
            while decoder.pending or decoder.error is not None:
                assembler.extend(decoder.decode_slice())
                await asyncio.sleep(0)  # lets other tasks run before the next slice of the body is decoded
        except StreamError as error:
            failure = error.with_traceback(None)
        assembler.end(done=decoder.done)
        if failure is None and not assembler.complete:
            failure = premature_end(decoder, assembler, len(content))
        if failure is None:
            return assembler.completion
        failure.partial = assembler.completion
        failure.events = decoder.events
        failure.bytes_received = len(content)
        reply.describe(failure, content)
        raise copy_of(failure)

    def _stream_options(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        settings = self.settings
        timeout = arguments.get("timeout", NOT_GIVEN)
        return {
            "timeout": Timeout.of(timeout) if is_given(timeout) else settings.timeout,
            "limits": settings.limits,
            "strict": settings.strict,
            "on_bad_event": settings.on_bad_event,
            "keep_body": settings.keep_body,
        }


# Replies


async def read_reply(reply: Reply, make_result: Callable[[Reply, bytes], Awaitable[T]]) -> T:
    """Read a reply to its end; return the result that ``make_result`` makes from its body.

    Raises:
        APIError: If the body could not be read, or does not have the expected content.
    """
    failure: APIError
    try:
        result = await make_result(reply, await reply.read_all(reply.limits))
    except APIError as error:
        # The error is raised below, without the frames that hold the body: a traceback may show locals, and servers echo keys.
        failure = error.with_traceback(None)
    except BaseException as error:
        reply.end(error)
        raise
    else:
        reply.end(completion=result if isinstance(result, ChatCompletion) else None)
        return result
    reply.end(failure)
    raise copy_of(failure)


def _decode(reply: Reply, content: bytes) -> ChatCompletion:
    """Decode the JSON body of an awaited reply."""
    failure: APIResponseValidationError
    try:
        n, limits = reply.n, reply.limits
        completion = decode_completion(content, max_values=limits.values)
        max_choices = max(limits.choices, n) if isinstance(n, int) else limits.choices
        check_bounds(completion, choices=max_choices, tool_calls=limits.tool_calls)
    except TooManyValuesError as error:
        failure = APIResponseValidationError(f"the reply has {error}")
    except APIResponseValidationError as error:
        failure = error.with_traceback(None)
    else:
        return completion
    raise copy_of(_wrong_body(reply, content, failure))


async def models_of(reply: Reply, content: bytes) -> ModelList:
    """Decode the list of models.

    Raises:
        APIStatusError: If a reply of status 200 holds an error.
        APIResponseValidationError: If it holds no list of models.
    """
    failure: APIResponseValidationError
    try:
        return decode_models(content, max_values=reply.limits.values)
    except APIResponseValidationError as error:
        failure = error.with_traceback(None)
    raise copy_of(_wrong_body(reply, content, failure))


def _wrong_body(
    reply: Reply, content: bytes, failure: APIResponseValidationError
) -> APIResponseValidationError | APIStatusError:
    """Make the error of a reply whose body is an error of the server, or not the expected content."""
    # The decoder has already read the body twice. Reading a long body a third time would block the event loop for too long.
    error_body = reply_error(content) if len(content) <= _MAX_ERROR else None
    if error_body is not None:
        return reply.refusal(error_body, content)
    failure.body = content[: reply.limits.error_body_bytes].decode("utf-8", "replace")
    reply.describe(failure, content)
    return failure
