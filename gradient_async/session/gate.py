"""Holds new requests while a server said to wait."""

from __future__ import annotations

from ..errors import APIStatusError, RequestInfo

__all__ = ["Gate"]


class Gate:
    """One key's gate at one server: what the server said to one call counts for all.

    Args:
        until: When requests may be sent again, on the clock of `time.monotonic`.
        told: The answer that said so.
    """

    __slots__ = ("told", "until")

    def __init__(self, until: float, told: APIStatusError) -> None:
        self.until = until
        self.told = told

    def refusal(self, request: RequestInfo, *, left: float, host: str, elapsed: float) -> APIStatusError:
        """Make the error of a call that can't wait so long."""
        told = self.told
        return type(told)(
            f"not sent: {host} answered {told.status_code} to a call before this one, and asked to wait "
            f"{left:.3g} s more; that is longer than this call may wait (Retry.budget, Timeout.total)",
            request=request,
            response=told.response,
            body=told.body,
            code=told.code,
            type=told.type,
            request_id=told.request_id,
            retry_after=left,
            rate_limits=told.rate_limits,
            attempts=0,
            elapsed=elapsed,
        )
