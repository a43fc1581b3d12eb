"""Makes calls: retries by policy, with cooldowns and token buckets that all calls of a client share."""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import time
import weakref

import aiohttp
from yarl import URL

from ..config import Limits
from ..errors import (
    APIError,
    APIStatusError,
    GradientError,
    OverloadedError,
    QuotaExceededError,
    RateLimitError,
    RequestInfo,
    copy_of,
)
from ..policy.retry import TokenBucket, is_appointment, is_refusal, spread, wait_before_retry
from ..secrets import Secret
from .attempt import Attempt
from .call import Call
from .connector import request_of
from .pace import Turn
from .pool import Pool
from .reply import Reply
from .trace import Trace, log


class Cooldown:
    """The time until which requests of one key to one server wait, because the server asked one call to wait.

    Attributes:
        until: When requests may be sent again, on the clock of `time.monotonic`.
        cause: The error reply that asked for the wait.
    """

    def __init__(self, until: float, cause: APIStatusError) -> None:
        self.until = until
        self.cause = cause

    def refusal(self, request: RequestInfo, *, left: float, host: str, elapsed: float) -> APIStatusError:
        """Make the error of a call that may not wait so long."""
        cause = self.cause
        return type(cause)(
            f"not sent: {host} answered {cause.status_code} to a call before this one, and asked to wait "
            f"{left:.3g} s more; that is longer than this call may wait (Retry.budget, Timeout.total)",
            request=request,
            response=cause.response,
            body=cause.body,
            code=cause.code,
            type=cause.type,
            request_id=cause.request_id,
            retry_after=left,
            rate_limits=cause.rate_limits,
            attempts=0,
            elapsed=elapsed,
        )


class SessionManager:
    """Makes calls, each with the aiohttp session of the running loop.

    Args:
        session: The caller's own session, which is used in every loop and never closed; or None.
        max_connections: Maximum number of connections in one loop; further calls wait for a free connection.
        trust_env: Whether aiohttp reads proxies and ``.netrc`` from the environment.
        limits: Limits on headers.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession | None = None,
        max_connections: int = 1000,
        trust_env: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self.pool = Pool(
            session=session, max_connections=max_connections, trust_env=trust_env, limits=limits or Limits()
        )
        # References to the replies that are being read. The reference of a reply that is deleted removes itself. This is not a
        # `WeakSet`, because calls in other threads may change the set while it is copied.
        self._open: set[weakref.ref[Reply]] = set()
        # The key of this dictionary is origin and API key, because a quota belongs to an API key.
        self._buckets: dict[tuple[str, Secret | None], TokenBucket] = {}
        self._cooldowns: dict[tuple[str, Secret | None], Cooldown] = {}

    async def send(self, call: Call) -> Reply:
        """Make a call; return the reply as soon as its headers have arrived.

        Raises:
            APIStatusError: If the server answered with an error and no attempt is left.
            APIConnectionError: If no answer came and no attempt is left.
            ConfigurationError: If the client has been closed, or a setting of the session does not permit the request.
        """
        session = await self.pool.session()
        if call.turns is None:
            return await self._trace(session, call, None)
        turn = Turn(call.turns, (_origin(call.url), call.key), call.params, call.retry)
        try:
            if not turn.take():
                await turn.wait()
            reply = await self._trace(session, call, turn)
        except BaseException as error:
            turn.finish(error)
            raise
        reply.turn = turn
        return reply

    async def _trace(self, session: aiohttp.ClientSession, call: Call, turn: Turn | None) -> Reply:
        """Make a call, and inform hooks and the log if there are any."""
        started = asyncio.get_running_loop().time()
        if not call.hooks and not log.isEnabledFor(logging.INFO):
            return await self._send(session, call, started, None, turn)
        trace = Trace(call, started)
        try:
            return await self._send(session, call, started, trace, turn)
        except GradientError as error:
            trace.end("failed", error=error)
            raise
        except BaseException as error:
            trace.end("cancelled", error=error)
            raise

    async def _send(
        self,
        session: aiohttp.ClientSession,
        call: Call,
        started: float,
        trace: Trace | None,
        turn: Turn | None,
    ) -> Reply:
        loop = asyncio.get_running_loop()
        deadline = _deadline(call, started)
        origin = _origin(call.url)
        patient = turn is not None and turn.patient
        attempts = failures = 0
        spent = paid = 0.0
        while True:
            if self._cooldowns:
                waited = await self._wait_for_cooldown(call, origin, started, spent, trace, turn=turn)
                # A patient call waits for its turns anyway, so waits that the server named to other calls do not use up its
                # budget.
                spent = spent if patient else waited
            attempts += 1
            if trace is not None:
                trace.request(attempts)
            attempt = Attempt(
                session, call, deadline=deadline, started=started, trace=trace, foreign=self.pool.foreign
            )
            outcome = await attempt.send()
            again = isinstance(outcome, APIError) and attempt.died_idle
            outcome = await attempt.send(new_connection=True) if again else outcome
            outcome.attempts = attempts
            hold = None if turn is None else turn.on_response(outcome)
            if isinstance(outcome, Reply):
                if self._buckets and (bucket := self._buckets.get((origin, call.key))) is not None:
                    with self.pool.lock:
                        bucket.succeeded(paid)
                outcome.body.keep_alive_ref = self.pool
                if not outcome.body.closed:  # a body that has arrived in full holds no connection
                    self._open.add(weakref.ref(outcome, self._open.discard))
                return outcome
            outcome.elapsed = loop.time() - started
            self._start_cooldown(call, origin, outcome)
            failures += not (patient and (is_appointment(outcome) or hold is not None))
            wait = wait_before_retry(
                outcome,
                call.retry,
                failures=failures,
                max_retries=call.max_retries,
                spent=spent,
                jitter=_dice(),
                hold=hold if patient else None,
            )
            if wait is None or (deadline is not None and loop.time() + wait >= deadline):
                raise copy_of(outcome)
            # A server that refuses because of a quota is not failing, so this retry takes no tokens.
            if not is_refusal(outcome):
                paid += self._pay(call, origin, outcome)
            spent += wait
            if trace is not None:
                trace.retry(outcome, wait)
            if turn is None:
                await asyncio.sleep(wait)
            else:
                await _wait_for_turn(turn, wait, deadline, outcome, started)

    def _pay(self, call: Call, origin: str, error: APIError) -> float:
        """Take the tokens for a retry; return their number.

        Raises:
            APIError: If there are too few.
        """
        # A bucket is full until the first retry takes tokens, so the bucket is only made then.
        bucket = self._buckets.setdefault((origin, call.key), TokenBucket())
        with self.pool.lock:
            price = bucket.take(error)
        if not price:
            error.message += f"; not tried again: too many calls to {origin} are failing"
            error.args = (error.message,)
            raise copy_of(error)
        return price

    def _start_cooldown(self, call: Call, origin: str, error: APIError) -> None:
        """Let new requests of this key wait as long as the server asked for.

        A wait beyond the retry budget starts no cooldown: every call would fail, although the wait may apply to one model
        only.
        """
        wait = error.retry_after
        if not wait or wait > call.retry.budget:
            return
        # Only 429, 503 and 529 concern the server as a whole. With any other status, the wait is for this request alone.
        if not isinstance(error, (RateLimitError, OverloadedError)) or isinstance(error, QuotaExceededError):
            return
        until = time.monotonic() + wait
        with self.pool.lock:
            cooldown = self._cooldowns.get((origin, call.key))
            if cooldown is None or cooldown.until < until:
                self._cooldowns[origin, call.key] = Cooldown(until, error)

    async def _wait_for_cooldown(
        self,
        call: Call,
        origin: str,
        started: float,
        spent: float,
        trace: Trace | None,
        *,
        turn: Turn | None,
    ) -> float:
        """Wait until the cooldown of this key is over; return the seconds that the call has waited in all.

        Raises:
            APIStatusError: If the cooldown is longer than the call may wait.
        """
        name = (origin, call.key)
        loop = asyncio.get_running_loop()
        deadline = _deadline(call, started)
        while (cooldown := self._cooldowns.get(name)) is not None:
            left = cooldown.until - time.monotonic()
            if left <= 0:
                # Another thread may have removed this cooldown already, or may have set a new one.
                with self.pool.lock:
                    if self._cooldowns.get(name) is cooldown:
                        del self._cooldowns[name]
                continue
            room = call.retry.budget - spent
            if deadline is not None:
                room = min(room, deadline - loop.time())
            refusal = cooldown.refusal(
                request_of(call), left=left, host=origin, elapsed=loop.time() - started
            )
            if left > room:
                raise refusal
            wait = min(spread(left, _dice()), room)
            if trace is not None:
                trace.cooldown(wait)
            spent += left
            if turn is None:
                await asyncio.sleep(wait)
                continue
            # The call gives back its turn. All calls that kept their turns would be sent in the same moment.
            turn.withdraw()
            await _wait_for_turn(turn, wait, deadline, refusal, started)
        return spent

    async def close(self) -> None:
        """Close every stream and every session of this manager, each in its own loop.

        The caller's own session stays open.
        """
        for reply in filter(None, [reference() for reference in self._open.copy()]):
            reply.body.abandon()
        await self.pool.close()


async def _wait_for_turn(
    turn: Turn, wait: float, deadline: float | None, error: APIError, started: float
) -> None:
    """Wait until another attempt may be sent; raise the last attempt's error if the call's deadline comes first."""
    late = False
    try:
        async with asyncio.timeout_at(deadline):
            await turn.wait(wait)
    except TimeoutError:
        late = True
    if late:
        error.elapsed = asyncio.get_running_loop().time() - started
        raise copy_of(error)


def _deadline(call: Call, started: float) -> float | None:
    """Return when a call has to be over, on the loop's clock; None is no deadline."""
    return None if call.timeout.total is None else started + call.timeout.total


@functools.lru_cache
def _origin(url: str) -> str:
    return str(URL(url).origin())


def _dice() -> float:
    return random.random()  # noqa: S311  # spreads load; needs no cryptography
