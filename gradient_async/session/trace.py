"""Informs hooks and the log about what happens to a call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import APIError, escape
from ..hooks import CallInfo, Hook, Outcome, log, tell
from .exceptions import request_id_of

if TYPE_CHECKING:
    from ..types import ChatCompletion, Headers, RateLimits
    from .call import Call

__all__ = ["Trace", "log"]

_MAX_MODEL = 200  # characters of the name of a model
_LONG_QUEUE = 0.001  # a longer wait for a free connection, in seconds, is logged


class Trace:
    """Informs hooks and the log about one call.

    Lines of the log have names, numbers and the server's ids, and never bodies, keys or the server's text.

    Args:
        call: The call.
        started: When the call began, on the loop's clock.
    """

    __slots__ = ("_hooks", "_loop", "_over", "_redactor", "_started", "info")

    def __init__(self, call: Call, started: float) -> None:
        self._hooks: Sequence[Hook] = call.hooks
        self._loop = asyncio.get_running_loop()
        self._started = started
        self._over = False
        self._redactor = call.redactor
        self.info = CallInfo(
            operation=call.operation,
            method=call.method,
            url=call.url,
            params=call.params,
            stream=call.stream,
            redact=call.redactor.text,
        )

    def request(self, attempt: int) -> None:
        """Report that a request is sent next."""
        info = self.info
        info.attempts = attempt
        info.elapsed = self._loop.time() - self._started
        log.debug(
            "request %s %s attempt=%d model=%s stream=%s",
            info.method,
            info.url,
            attempt,
            escape(
                str(info.params.get("model")), _MAX_MODEL
            ),  # the name may come from users of the program, so it is escaped and cut
            info.stream,
        )
        for hook in self._hooks:
            tell(hook.on_request, self.info)

    def response(self, status: int, headers: Headers, rate_limits: RateLimits | None, queued: float) -> None:
        """Report that the headers of a reply have arrived.

        Args:
            status: HTTP status.
            headers: The reply's headers.
            rate_limits: The rate limits in the headers.
            queued: Seconds that the request waited for a free connection.
        """
        info = self.info
        info.status_code = status
        info.request_id = self._shown(request_id_of(headers))
        info.rate_limits = rate_limits
        info.queued += queued
        info.elapsed = self._loop.time() - self._started
        log.debug(
            "response %d after %.3f s attempt=%d request_id=%s",
            status,
            info.elapsed,
            info.attempts,
            info.request_id,
        )
        if queued > _LONG_QUEUE:
            log.info(
                "waited %.3f s for a free connection; raise max_connections if this happens often", queued
            )
        for hook in self._hooks:
            tell(hook.on_response, self.info)

    def cooldown(self, wait: float) -> None:
        """Report that the call waits, because the server asked another call to wait."""
        log.info("waiting %.3f s: the server asked another call to wait", wait)

    def retry(self, error: APIError, wait: float) -> None:
        """Report that an attempt failed and another one follows."""
        info = self.info
        info.error = error
        info.wait = wait
        info.elapsed = self._loop.time() - self._started
        log.info(
            "retry in %.3f s after %s attempt=%d status=%s phase=%s request_id=%s",
            wait,
            type(error).__name__,
            info.attempts,
            error.status_code,
            error.phase,
            self._shown(error.request_id),
        )
        for hook in self._hooks:
            tell(hook.on_retry, self.info)
        info.error = None
        info.wait = None

    def end(
        self,
        outcome: Outcome,
        *,
        error: BaseException | None = None,
        completion: ChatCompletion | None = None,
        first_token: float | None = None,
        gaps: Sequence[float] = (),
    ) -> None:
        """Report that the call has ended; only the first call of this method counts.

        Args:
            outcome: How the call ended.
            error: The error, if the call failed.
            completion: The completion, as far as it was received.
            first_token: For a stream, seconds from the sent request to the first content.
            gaps: For a stream, seconds between the reads that brought content.
        """
        if self._over:
            return
        self._over = True
        info = self.info
        info.outcome = outcome
        info.error = error
        info.completion = completion
        info.first_token = first_token
        info.gaps = gaps
        info.elapsed = self._loop.time() - self._started
        if isinstance(error, APIError):
            info.request_id = self._shown(error.request_id) or info.request_id
        usage = None if completion is None else completion.usage
        log.log(
            logging.INFO if outcome == "failed" else logging.DEBUG,
            "end %s%s after %.3f s attempts=%d status=%s request_id=%s first_token=%s tokens=%s",
            outcome,
            "" if error is None else f" {type(error).__name__}",
            info.elapsed,
            info.attempts,
            info.status_code,
            info.request_id,
            None if first_token is None else f"{first_token:.3f} s",
            None if usage is None else f"{usage.prompt_tokens}+{usage.completion_tokens}",
        )
        for hook in self._hooks:
            tell(hook.on_end, self.info)
        # The error in `info` holds its traceback, and the frames there hold this object. Without these lines `info`, or the
        # hooks, which may keep `info`, would close a reference cycle; see `copy_of`.
        del self.info
        self._hooks = ()

    def _shown(self, name: str | None) -> str | None:
        """Return a server's id of a request in a form that may be logged: without keys."""
        return None if name is None else self._redactor.text(name)
