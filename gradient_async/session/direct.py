"""Small requests over connections of our own: what aiohttp would work out for each is kept, and written at once.

aiohttp makes a request of a hundred small decisions, most of which come out the same for each call of a client. Here
they are made once for all calls with the same URL, headers and key; its connector, connections, parser and responses
do the rest.
"""

from __future__ import annotations

import asyncio
import re
from types import FunctionType
from typing import Any

import aiohttp
from aiohttp import client, hdrs
from aiohttp.helpers import TimerNoop
from multidict import CIMultiDict
from yarl import URL

from ..secrets import HiddenHeader
from .call import Call
from .deadlines import Rounds, Watch
from .protocol import Response, UnsentError

__all__ = ["Connector", "Route", "headers_of", "url_of"]

_MOST_AT_ONCE = 32 * 1024  # bytes of a request's body; of more than the transport's 64 KiB aiohttp takes care
_MOST_ROUTES = 100
# Headers that change how a request is sent.
_OTHERWISE = frozenset(
    {"connection", "content-encoding", "content-length", "expect", "transfer-encoding", "upgrade"}
)
_REFUSED = re.compile("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")  # by aiohttp, in its own words
_NO_TIMER = TimerNoop()
_NO_LIMIT = aiohttp.ClientTimeout(total=None)  # an attempt's watch is told when the connecting begins


class _Bytes(bytes):
    """The beginning of a request, which a traceback with captured locals does not show: it has the key."""

    def __repr__(self) -> str:
        return "b'…'"


class _Written:
    """Stands in for the writer of a request that has been written."""

    output_size = 0


class Route:
    """What requests with the same URL, headers and key have in common.

    Args:
        session: Whose connections they go over.
        call: One of them.

    Attributes:
        request: What the connector is asked for a connection with.
        info: What aiohttp's responses tell of it.
        direct: Whether they may be written here; aiohttp knows better what some headers want.
        head: A request's bytes up to the length of its body.
    """

    __slots__ = ("direct", "head", "info", "request")

    def __init__(self, session: aiohttp.ClientSession, call: Call) -> None:
        url = url_of(call)
        self.request = aiohttp.ClientRequest(
            call.method,
            url,
            headers=headers_of(call),
            skip_auto_headers=session.skip_auto_headers,
            data=b"",
            loop=asyncio.get_running_loop(),
        )
        self.info = self.request.request_info
        lines = [f"{call.method} {url.raw_path_qs} HTTP/1.1"]
        lines += [
            f"{name}: {value}" for name, value in self.request.headers.items() if name != hdrs.CONTENT_LENGTH
        ]
        self.direct = _OTHERWISE.isdisjoint(map(str.lower, call.headers)) and not any(
            map(_REFUSED.search, lines)
        )
        self.head = _Bytes("\r\n".join([*lines, f"{hdrs.CONTENT_LENGTH}: "]).encode(errors="replace"))


class Connector(aiohttp.TCPConnector):
    """Connections of a session of ours.

    Attributes:
        rounds: Who ends attempts whose time is up.
        direct: Whether requests may be written here: nobody but us wants to know of them.
    """

    direct = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # pyright: ignore[reportUnknownMemberType]  # aiohttp's own types are partial
        self.rounds = Rounds.of(self._loop)
        self._routes: dict[object, Route] = {}

    def route(self, session: aiohttp.ClientSession, call: Call) -> Route | None:
        """Return what a call has in common with others; None if aiohttp is to send it."""
        body = call.body
        if not self.direct or body is None or len(body) > _MOST_AT_ONCE or self._closed or _replaced():
            return None
        name = (
            call.method,
            call.url,
            call.key,
            tuple(call.query.items()),
            tuple(call.headers.items()),
        )
        route = self._routes.get(name)
        if route is None:
            if len(self._routes) >= _MOST_ROUTES:
                self._routes.clear()  # some header is another one in each call
            route = self._routes[name] = Route(session, call)
        return route if route.direct else None

    async def send(
        self, session: aiohttp.ClientSession, route: Route, call: Call, watch: Watch
    ) -> aiohttp.ClientResponse:
        """Send a request; return the response once its head is there.

        Args:
            session: Whose connector this is.
            route: What `route` returned.
            call: What to send.
            watch: Who is told what happens.

        Raises:
            aiohttp.ClientError: As aiohttp's own `request`; and `OSError` and `ValueError`.
        """
        request = route.request
        traces: Any = (watch,)
        connection = await self.connect(request, traces=traces, timeout=_NO_LIMIT)
        try:
            protocol: Any = connection.protocol
            limits = call.limits
            protocol.set_response_params(
                timer=_NO_TIMER,
                read_until_eof=True,
                auto_decompress=False,
                max_line_size=limits.header_bytes,
                max_field_size=limits.header_bytes,
                max_headers=limits.headers,
            )
            if watch.reused:
                watch.sending()
            else:
                await watch.send_request_headers()
            _write(protocol, route.head, call.body or b"")
            writer: Any = _Written
            response = Response(
                request.method,
                request.url,
                writer=None,
                continue100=None,
                timer=_NO_TIMER,
                request_info=route.info,
                traces=[],
                loop=self._loop,
                session=session,
                stream_writer=writer,
            )
            try:
                protocol.interim_left = limits.interim_responses
                await aiohttp.ClientResponse.start(response, connection)
                response.content.on_eof(protocol.rest)
                response.protocol = protocol
            except BaseException:
                response.close()
                raise
        except BaseException:
            connection.close()
            raise
        return response


def _write(protocol: Any, head: bytes, body: bytes) -> None:
    if protocol.is_eof():
        raise UnsentError
    if protocol.transport is None or protocol.transport.is_closing():
        raise aiohttp.ClientConnectionResetError("the connection is closing")
    protocol.transport.write(_Bytes(b"%b%d\r\n\r\n%b" % (head, len(body), body)))


def headers_of(call: Call) -> CIMultiDict[str]:
    """Return the headers of a call, its key among them."""
    headers = CIMultiDict[str]()
    if call.key is not None:
        headers["Authorization"] = HiddenHeader(f"Bearer {call.key.reveal()}")
    headers.update(call.headers)
    return headers


def url_of(call: Call) -> URL:
    """Return where a call goes to."""
    return URL(call.url).update_query(call.query)


def _replaced() -> bool:
    """Whether somebody has put something in the place of aiohttp's way to send: a mock, or an instrument."""
    request: Any = aiohttp.ClientSession._request  # noqa: SLF001  # where all of them do so
    names = request.__globals__ if isinstance(request, FunctionType) else {}
    return names.get("__name__") != client.__name__
