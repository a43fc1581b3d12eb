"""The options of `parse`, `stream`, `fan_out`, `map` and `run` besides the parameters of their requests.

Like the parameters in `types/params.py`, they are defined once, here: type checkers read the TypedDicts, and `spelled_out`
makes signatures and docstrings from them.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, Required, TypedDict

from ..fanout import Journal
from ..output import Answer
from ..session.pace import Pace
from ..types import (
    AgentCompletionParse,
    AgentFanOut,
    AgentRun,
    ChatCompletionParse,
    ChatFanOut,
    ChatRun,
    Choice,
    MapDefaults,
    ToolCall,
)
from ..types.params import Tools
from .run import ToolRun

# The type of `response_format` or `stop_when` may decide what a method returns. The overloads of the methods name such
# arguments, so no TypedDict that a method unpacks may have them.


class AnswerOptions(TypedDict, total=False):
    """The argument of every method for typed answers."""

    response_format: type[Any] | Answer[Any] | Mapping[str, Any] | None
    """A type, such as a Struct, a dataclass, ``list[Invoice]`` or a model of pydantic; an `Answer`, which says more; or a schema
    as the API takes it, which is sent unchanged, and whose answers are not read."""


class _ParseOptions(TypedDict, total=False):
    output_retries: int
    """How often to ask again, with the faulty answer and a message that names the fault, if the answer is not JSON or not a
    value of the type; 0 by default. Each request is paid for."""


class ChatParseOptions(_ParseOptions, ChatCompletionParse, total=False):
    """Keyword arguments of `client.chat.completions.parse`."""


class AgentParseOptions(_ParseOptions, AgentCompletionParse, total=False):
    """Keyword arguments of `client.agents.chat.completions.parse`."""


class FanOutAnswerOptions(AnswerOptions, total=False):
    """Options of `fan_out` that depend on the type of the answer."""

    stop_when: Callable[[Choice], bool | Awaitable[bool]] | None
    """Called with each finished `Choice`. If it returns true, or an awaitable of true, the choice is a winner. Once there are
    as many winners as ``first`` says, by default one, the other requests are cancelled and their connections closed. It is
    not called for choices without a value of the type in ``response_format``."""


class _PaceOptions(TypedDict, total=False):
    pace: Pace | None
    """Rates that these requests share with everything else that has the same `Pace`. If None, the requests use the `Pace` of
    the client, or else a `Pace` of their own."""
    requests_per_minute: float | None
    """Maximum number of requests in any minute. This option and the next two are short for a `Pace` of these requests alone."""
    tokens_per_minute: float | None
    """Maximum number of tokens in any minute."""
    adaptive: bool
    """Adapt the number of requests in flight to what the server sustains."""


class _FanOutOptions(TypedDict, total=False):
    n: Required[int]
    """Number of choices."""
    max_concurrency: int | None
    """Maximum number of requests in flight; None is no limit."""
    stream: bool
    """Stream each reply; otherwise each choice arrives as one chunk."""
    native: bool | Literal["auto"]
    """Make one request with ``n`` in place of n requests. With ``"auto"``, choices that the server does not return are then
    requested one by one, for servers that ignore or refuse ``n``."""
    on_error: Literal["collect", "raise"]
    """``"raise"`` cancels the other requests at the first error; with ``"collect"`` they continue, and `FanOut.errors` has
    the errors."""
    first: int | None
    """How many winners are enough. Without ``stop_when`` every finished choice is a winner, or, if ``response_format`` is a
    type, every choice with a value of the type."""
    hedge_after: float | None
    """Seconds without content after which a second request is made for a choice. The first reply with content continues, and
    the other is cancelled. ``max_concurrency`` does not count the second request."""


class ChatFanOutOptions(_FanOutOptions, _PaceOptions, ChatFanOut, total=False):
    """Keyword arguments of `client.chat.completions.fan_out`."""


class AgentFanOutOptions(_FanOutOptions, _PaceOptions, AgentFanOut, total=False):
    """Keyword arguments of `client.agents.chat.completions.fan_out`."""


class _MapOptions(TypedDict, total=False):
    max_concurrency: int
    """Maximum number of requests in flight."""
    ordered: bool
    """Return results in the order of the requests, not as they finish."""
    on_error: Literal["collect", "raise"]
    """``"collect"`` returns each error in the place of its result; ``"raise"`` cancels the other requests at the first error,
    and raises once the results before the error are read."""
    window: int | None
    """Maximum number of requests in flight and unread results together; 4 times ``max_concurrency`` if None."""
    stream: bool
    """Stream each reply, so that the limits on stalls apply and errors have a ``partial``."""
    journal: Journal | str | os.PathLike[str] | None
    """Path of a file of results, or an open `Journal`. Each result is written to it as it arrives, and results of earlier
    runs are returned with ``resumed=True``: their requests are not sent again. Requests that ended with an error are sent
    again, unless the server refused them with 400, 404, 413 or 422. A request is known by its key and all of its parameters."""
    output_retries: int
    """How often to ask again for one answer, as for `parse`."""


class MapOptions(_MapOptions, _PaceOptions, MapDefaults, total=False):
    """Keyword arguments of `map`."""


class _RunOptions(TypedDict, total=False):
    tools: Required[Tools]
    """Functions, or tools made by `tool`. A call of a tool that is given as a dictionary ends the run."""
    max_turns: int
    """Maximum number of requests."""
    stream: bool
    """Stream each reply; otherwise each text arrives as one delta."""
    stop_when: Callable[[ToolRun[Any]], bool | Awaitable[bool]] | None
    """Called with the run after the results of each turn. If it returns true, or an awaitable of true, the run ends."""
    on_tool_error: Literal["tell", "raise"] | Callable[[ToolCall, Exception], str | Awaitable[str]]
    """How an exception of a function is handled. ``"tell"`` tells the model about it. ``"raise"`` cancels the other tools and
    raises the first exception. A callable returns the text for the model, or raises. Unknown tools, arguments that do not fit and
    exceeded time limits are always told to the model."""
    tool_timeout: float | None
    """Seconds for each call, for tools without a ``timeout``; None is no limit."""
    tool_concurrency: int | None
    """Maximum number of functions that run at once; None is no limit."""
    context: Any
    """An object for functions that have a parameter of type `ToolContext`."""


class ChatRunOptions(_RunOptions, ChatRun, total=False):
    """Keyword arguments of `client.chat.completions.run`."""


class AgentRunOptions(_RunOptions, AgentRun, total=False):
    """Keyword arguments of `client.agents.chat.completions.run`."""
