"""What a client and its copies have in common: connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from ..config import Limits
    from ..session.manager import SessionManager

__all__ = ["Shared"]


class Shared:
    """The connections, opened when the first request is sent.

    Args:
        session: The caller's own session, or None.
        max_connections: Connections at a time in one loop.
        trust_env: Whether aiohttp reads proxies and ``.netrc`` from the environment.
        limits: Sizes of headers, unless a call has others.

    Attributes:
        closed: Whether they were closed.
    """

    __slots__ = ("_limits", "_manager", "_max_connections", "_session", "_trust_env", "closed")

    def __init__(
        self, session: ClientSession | None, max_connections: int, *, trust_env: bool, limits: Limits
    ) -> None:
        self._session = session
        self._max_connections = max_connections
        self._trust_env = trust_env
        self._limits = limits
        self._manager: SessionManager | None = None
        self.closed = False

    @property
    def manager(self) -> SessionManager:
        """Where requests are sent."""
        if self._manager is None:
            # aiohttp takes a third of a second of CPU to import: only who sends a request pays.
            from ..session.manager import SessionManager  # noqa: PLC0415  # see above

            self._manager = SessionManager(
                session=self._session,
                max_connections=self._max_connections,
                trust_env=self._trust_env,
                limits=self._limits,
            )
        return self._manager

    async def close(self) -> None:
        """Close them."""
        self.closed = True
        if self._manager is not None:
            await self._manager.close()
