"""The asyncio session manager: connections, attempts, time limits, mapped errors.

The only package that names aiohttp; none of its exceptions leaves it.
"""

from aiohttp import ClientSession

from .body import Body
from .manager import SessionManager
from .reply import Reply

__all__ = ["Body", "ClientSession", "Reply", "SessionManager"]
