"""`policy.pace`: accounts and schedules, by themselves and with simulated servers, in virtual time."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import pytest

from gradient_async import Headers, Retry
from gradient_async.errors import ResponseInfo, status_error_class
from gradient_async.policy.pace import Account, Admission, Schedule, count_characters
from gradient_async.policy.ratelimit import rate_limits, retry_after
from gradient_async.policy.retry import is_refusal, wait_before_retry
from gradient_async.testing import Quota
from gradient_async.testing.quota import Meter
from gradient_async.types import ChatCompletionMessage, CompletionUsage, RateLimit, RateLimits

WALL = 1_800_000_000.25  # Unix time at which the clock reads 0
PARAMS: dict[str, Any] = {"messages": [{"role": "user", "content": "x" * 396}]}


def usage(total: int) -> CompletionUsage:
    return CompletionUsage(prompt_tokens=total // 2, completion_tokens=total - total // 2, total_tokens=total)


def delay(schedule: Schedule, account: Account, now: float, tokens: float = 0.0) -> float | None:
    wait = schedule.delay(account, tokens, now, jitter=0.0, max_wait=60.0)
    return schedule.rate_delay(tokens, now) if wait == 0 else wait


def respond(schedule: Schedule, admission: Admission, now: float, **facts: Any) -> float | None:
    """Note a reply; by default a success without rate limits."""
    reply: dict[str, Any] = {
        "limits": None,
        "refused": False,
        "wait": None,
        "overloaded": False,
        "jitter": 0.0,
    }
    return schedule.on_response(admission, now=now, wall=WALL + now, max_wait=60.0, **(reply | facts))


class TestSchedule:
    def test_an_account_is_one_key_at_one_server(self) -> None:
        schedule = Schedule()
        assert schedule.account(("host", "key")) is schedule.account(("host", "key"))
        assert schedule.account(("host", "key")) is not schedule.account(("host", "other"))

    def test_rates_hold_over_all_accounts(self) -> None:
        schedule = Schedule(requests_per_minute=60)
        schedule.admit(schedule.account("a"), 0.0, 0.0)
        assert 1 == pytest.approx(delay(schedule, schedule.account("b"), 0.0))

    def test_tokens_are_estimated_and_corrected(self) -> None:
        schedule = Schedule(tokens_per_minute=6000)
        account = schedule.account("a")
        tokens = schedule.estimate({**PARAMS, "max_tokens": 500})
        assert 600 == round(tokens)
        first = schedule.admit(account, tokens, 0.0)
        assert 5.0 <= (delay(schedule, account, 0.0, 100.0) or 0) <= 6.1
        schedule.finish(first, succeeded=True, usage=usage(100))
        assert 0.0 <= (delay(schedule, account, 0.0, 100.0) or 0) <= 1.1
        assert 150 == round(schedule.estimate(PARAMS))  # 100 of the prompt, and the mean completion
        second = schedule.admit(account, 150.0, 10.0)
        schedule.finish(second, succeeded=True, usage=usage(200))
        assert 155 == round(schedule.estimate(PARAMS))
        assert 0 == account.in_flight

    def test_without_a_rate_of_tokens_the_mean_is_the_estimate(self) -> None:
        schedule = Schedule()
        assert 0 == schedule.estimate(PARAMS)
        schedule.finish(schedule.admit(schedule.account("a"), 0.0, 0.0), succeeded=True, usage=usage(40))
        assert 40 == schedule.estimate(PARAMS)

    def test_a_refused_request_took_no_tokens(self) -> None:
        schedule = Schedule(tokens_per_minute=6000)
        account = schedule.account("a")
        admission = schedule.admit(account, 3000.0, 0.0)
        assert (delay(schedule, account, 0.0) or 0) > 20
        respond(schedule, admission, 0.1, refused=True, wait=0.5)
        assert 0.5 == pytest.approx(delay(schedule, account, 0.1))

    @pytest.mark.parametrize(
        "rates",
        [{}, {"requests_per_minute": 60}, {"tokens_per_minute": 6000}],
        ids=["none", "requests", "tokens"],
    )
    def test_a_request_that_was_not_sent_took_nothing(self, rates: dict[str, Any]) -> None:
        schedule = Schedule(**rates)
        account = schedule.account("a")
        limits = RateLimits(requests=RateLimit(remaining=1), tokens_per_minute=RateLimit(remaining=90))
        respond(schedule, schedule.admit(account, 10.0, 0.0), 0.0, limits=limits)
        admission = schedule.admit(account, 90.0, 10.0)
        assert bool(rates) == (schedule.rate_delay(90.0, 10.0) > 0)
        schedule.withdraw(admission)
        assert (0, 1) == (delay(schedule, account, 10.0, 90.0), account.in_flight)

    def test_the_quota_in_headers(self) -> None:
        """A level of requests, and one of tokens with a reset."""
        for limits in (
            RateLimits(requests=RateLimit(limit=9, remaining=0, reset=WALL + 30)),
            RateLimits(tokens_per_minute=RateLimit(limit=900, remaining=0, reset=WALL + 30)),
        ):
            schedule = Schedule()
            account = schedule.account("a")
            assert account.ready(5.0, 0.0)
            respond(schedule, schedule.admit(account, 5.0, 0.0), 0.0, limits=limits)
            assert not account.ready(5.0, 0.0)
            assert 30 <= (delay(schedule, account, 0.0, 5.0) or 0) <= 30.5
            assert schedule.account("b").ready(5.0, 0.0)

    def test_headers_without_a_level_tell_nothing(self) -> None:
        schedule = Schedule()
        account = schedule.account("a")
        limits = RateLimits(requests=RateLimit(limit=9, reset=0.0), tokens_per_minute=RateLimit(remaining=50))
        respond(schedule, schedule.admit(account, 5.0, 0.0), 0.0, limits=limits)
        assert (False, True) == (account.requests.reported, account.tokens.reported)

    @pytest.mark.parametrize(("wait", "held"), [(2.0, True), (61.0, False)])
    def test_a_wait_that_a_refusal_names_holds_all(self, wait: float, held: bool) -> None:
        """A wait beyond the longest holds none: it may apply to one model only."""
        schedule = Schedule()
        account = schedule.account("a")
        admission = schedule.admit(account, 0.0, 0.0)
        assert respond(schedule, admission, 0.0, refused=True, wait=wait) is None
        assert (wait if held else 0.0) == delay(schedule, account, 0.0)

    def test_a_longer_hold_is_not_shortened(self) -> None:
        schedule = Schedule()
        account = schedule.account("a")
        for wait in (5.0, 1.0):
            respond(schedule, schedule.admit(account, 0.0, 0.0), 0.0, refused=True, wait=wait)
        assert 5.0 == delay(schedule, account, 0.0)

    def test_refusals_that_name_no_wait_hold_all_longer_and_longer(self) -> None:
        """Requests that were sent together are refused together: that is one round, and doubles nothing."""
        schedule = Schedule()
        account = schedule.account("a")
        now = 0.0
        for expected in (0.25, 0.5, 1.0, 2.0):
            together = [schedule.admit(account, 0.0, now) for _ in range(5)]
            for admission in together:
                assert expected == pytest.approx(respond(schedule, admission, now, refused=True))
                schedule.finish(admission)
            assert expected == pytest.approx(delay(schedule, account, now))
            now += expected
        respond(schedule, schedule.admit(account, 0.0, now), now)
        assert 0.25 == respond(schedule, schedule.admit(account, 0.0, now), now, refused=True)

    def test_refusals_for_longer_than_the_longest_wait_are_no_quota(self) -> None:
        schedule = Schedule()
        account = schedule.account("a")
        respond(schedule, schedule.admit(account, 0.0, 0.0), 0.0, refused=True)
        assert respond(schedule, schedule.admit(account, 0.0, 60.1), 60.1, refused=True) is None

    def test_a_request_must_end_first(self) -> None:
        schedule = Schedule(adaptive=True)
        account = schedule.account("a")
        admissions = [schedule.admit(account, 0.0, 0.0) for _ in range(8)]
        assert delay(schedule, account, 0.0) is None
        schedule.finish(admissions[0])
        schedule.finish(admissions[0], succeeded=True, usage=usage(5))  # a second call does nothing
        assert (7, 0.0) == (account.in_flight, delay(schedule, account, 0.0))
        respond(schedule, admissions[1], 0.0, refused=True, overloaded=True, wait=0.1)
        assert 4.0 == account.concurrency.limit

    def test_the_ramp_is_a_wait(self) -> None:
        schedule = Schedule()
        account = schedule.account("a")
        for _ in range(16):
            assert 0 == delay(schedule, account, 0.0)
            schedule.admit(account, 0.0, 0.0)
        assert 0.01 == delay(schedule, account, 0.0)


def test_characters_of_all_text_count() -> None:
    parts = [{"type": "text", "text": "ab"}, ("cd", 1, None)]
    assert 4 == count_characters(parts) - len("text")
    assert len("assistant") + 2 == count_characters([ChatCompletionMessage(content="hi")])


# Simulations


class Answer(NamedTuple):
    """How a simulated server answers."""

    status: int
    headers: Mapping[str, str] = {}


Server = Callable[[float, int], Answer]


class Result(NamedTuple):
    """What a simulation has shown.

    Attributes:
        lost: Requests that failed.
        posts: Requests that were sent, for each that had to be.
        seconds: When the last was answered.
        tokens: The tokens of all answers.
    """

    lost: int
    posts: float
    seconds: float
    tokens: int


def metered(quota: Quota) -> Server:
    """Hold a quota as DigitalOcean does, and tell its levels."""
    meter = Meter(quota)

    def answer(now: float, tokens: int) -> Answer:
        accepted, headers = meter.admit(tokens, now=now, wall=WALL + now)
        return Answer(200 if accepted else quota.status, headers)

    return answer


def silent(quota: Quota, headers: Mapping[str, str]) -> Server:
    """Hold a quota, and tell nothing of it but these headers of a refusal."""
    meter = Meter(quota)

    def answer(now: float, tokens: int) -> Answer:
        accepted, _ = meter.admit(tokens, now=now, wall=WALL + now)
        return Answer(200) if accepted else Answer(quota.status, headers)

    return answer


def windows(allowed: int, seconds: float) -> Server:
    """Allow a number of requests in each window, which begins with the first request after the end of the one before."""
    start, count = -math.inf, 0

    def answer(now: float, _tokens: int) -> Answer:
        nonlocal start, count
        if now >= start + seconds:
            start, count = now, 0
        count += 1
        headers = {
            "x-ratelimit-limit-requests": str(allowed),
            "x-ratelimit-remaining-requests": str(max(0, allowed - count)),
            "x-ratelimit-reset-requests": str(int(WALL + start + seconds)),
        }
        return Answer(200 if count <= allowed else 429, headers)

    return answer


class Simulation:
    """Sends requests to a server as `map` does: a number of workers, whose retries go first.

    Args:
        server: Answers at the moment when a request arrives.
        seed: Of all random numbers.
        rows: How many requests are to be answered.
        workers: How many are at work at once.
        latency: Mean seconds of an answer; the time is random, and so replies overtake each other.
        travel: Largest number of seconds that a request is under way, so that requests overtake each other.
        tokens: The fewest and most tokens of a reply.
        schedule: The schedule; one without rates if None.
        idle: How many seconds pass without a request, after half of the rows.
        params: The parameters of each request.
    """

    def __init__(
        self,
        server: Server,
        *,
        seed: int,
        rows: int = 200,
        workers: int = 64,
        latency: float = 0.02,
        travel: float = 0.002,
        tokens: tuple[int, int] = (20, 40),
        schedule: Schedule | None = None,
        idle: float = 0.0,
        params: Mapping[str, Any] = PARAMS,
    ) -> None:
        self._server = server
        self._dice = random.Random(seed)
        self._rows = rows
        self._workers = workers
        self._latency = latency
        self._travel = travel
        self._tokens = tokens
        self._schedule = schedule or Schedule()
        self._idle = idle
        self._params = params
        self._account = self._schedule.account("key")
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._retries: deque[int] = deque()
        self._spent = [0.0] * rows
        self._next = self._working = self._posts = self._done = self._lost = 0
        self._total = 0
        self._idling = False
        self._woken_at = math.inf
        self._now = self._dice.random()

    def run(self) -> Result:
        """Return the result; the time is counted from the first request on, without the idle time."""
        started, idle = self._now, self._idle
        self._send()
        while self._done + self._lost < self._rows:
            assert self._events, "nothing is under way, and nothing will wake the requests that wait"
            self._now, _, event = heapq.heappop(self._events)
            event()
            self._send()
        assert 0 == self._account.in_flight
        return Result(self._lost, self._posts / self._rows, self._now - started - idle, self._total)

    def _later(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now + seconds, next(self._numbers), event))

    def _send(self) -> None:
        """Send what may be sent now."""
        schedule = self._schedule
        while self._retries or (self._next < self._rows and self._working < self._workers):
            if self._idle and self._next >= self._rows // 2 and not self._retries:
                if not (self._working or self._idling):
                    self._idling = True
                    self._later(self._idle, self._end_idle_time)
                return
            tokens = schedule.estimate(self._params)
            wait = schedule.delay(self._account, tokens, self._now, jitter=self._dice.random(), max_wait=60.0)
            wait = schedule.rate_delay(tokens, self._now) if wait == 0 else wait
            if wait != 0:
                if wait is not None and self._now + wait < self._woken_at:
                    self._woken_at = self._now + wait
                    self._later(wait, self._wake)
                return
            if self._retries:
                row = self._retries.popleft()
            else:
                row = self._next
                self._next += 1
                self._working += 1
            self._posts += 1
            admission = schedule.admit(self._account, tokens, self._now)
            self._later(self._dice.random() * self._travel, partial(self._arrive, row, admission))

    def _wake(self) -> None:
        self._woken_at = math.inf

    def _end_idle_time(self) -> None:
        self._idle = 0.0

    def _arrive(self, row: int, admission: Admission) -> None:
        total = self._dice.randint(*self._tokens)
        answer = self._server(self._now, total)
        took = self._latency * (0.5 + self._dice.random()) if answer.status == 200 else 0.001
        self._later(took, partial(self._reply, row, admission, answer, total))

    def _reply(self, row: int, admission: Admission, answer: Answer, total: int) -> None:
        wall = WALL + self._now
        jitter = self._dice.random()
        headers = Headers(answer.headers.items())
        limits = rate_limits(headers, wall)
        ok = answer.status == 200
        info = ResponseInfo(status_code=answer.status, headers=headers)
        asked = None if ok else retry_after(headers, status=answer.status, now=wall, jitter=jitter)
        error = status_error_class(answer.status, None)(
            "", response=info, retry_after=asked, rate_limits=limits
        )
        refused = not ok and is_refusal(error)
        hold = self._schedule.on_response(
            admission,
            limits=limits,
            refused=refused,
            wait=asked if refused else None,
            overloaded=refused,
            now=self._now,
            wall=wall,
            jitter=jitter,
            max_wait=60.0,
        )
        self._schedule.finish(admission, succeeded=ok, usage=usage(total) if ok else None)
        if ok:
            self._done += 1
            self._total += total
            self._working -= 1
            return
        wait = wait_before_retry(
            error, Retry(), failures=0, max_retries=0, spent=self._spent[row], jitter=jitter, hold=hold
        )
        if wait is None:
            self._lost += 1
            self._working -= 1
        else:
            self._spent[row] += wait
            self._later(wait, partial(self._retries.append, row))


REQUESTS: dict[str, Any] = {"requests": 30, "per_second": 8}
TOKENS: dict[str, Any] = {"tokens": 3000, "tokens_per_second": 800}
SERVERS: dict[str, Callable[[dict[str, Any]], Server]] = {
    "levels and resets": lambda quota: metered(Quota(**quota)),
    "levels and Retry-After": lambda quota: metered(Quota(**quota, wait="retry-after")),
    "levels and no wait": lambda quota: metered(Quota(**quota, wait="unknown")),
    "529 and levels": lambda quota: metered(Quota(**quota, status=529)),
    "529, levels and no wait": lambda quota: metered(Quota(**quota, status=529, wait="unknown")),
    "503, levels and Retry-After": lambda quota: metered(Quota(**quota, status=503, wait="retry-after")),
    "Retry-After alone": lambda quota: silent(Quota(**quota), {"retry-after": "1"}),
    "529 and Retry-After alone": lambda quota: silent(Quota(**quota, status=529), {"retry-after": "1"}),
    "a short Retry-After alone": lambda quota: silent(Quota(**quota), {"retry-after": "0.2"}),
    "nothing": lambda quota: silent(Quota(**quota), {}),
    "529 and nothing": lambda quota: silent(Quota(**quota, status=529), {}),
}
SEEDS = range(3)


def check(result: Result, ideal: float, name: object) -> None:
    """Expect what the library promises of `map` at a quota."""
    assert (0, True, True) == (result.lost, result.posts <= 1.3, result.seconds <= 1.15 * ideal + 2), (
        name,
        result,
        ideal,
    )


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="quick"),
        pytest.param({"latency": 0.2}, id="slower"),
        pytest.param({"latency": 1.0}, id="slow"),
        pytest.param({"latency": 0.3, "travel": 0.1}, id="overtaking"),
        pytest.param({"workers": 4, "latency": 0.1}, id="4 workers"),
        pytest.param({"workers": 200}, id="200 workers"),
        pytest.param({"idle": 60.0}, id="idle time"),
    ],
)
def test_a_quota_of_requests(server: str, options: dict[str, Any]) -> None:
    """No request is lost, few are sent twice, and little time is lost."""
    for seed in SEEDS:
        ideal = (200 - 30 * (2 if options.get("idle") else 1)) / 8
        check(Simulation(SERVERS[server](REQUESTS), seed=seed, **options).run(), ideal, seed)


@pytest.mark.parametrize("server", SERVERS)
def test_a_quota_of_tokens(server: str) -> None:
    for seed in SEEDS:
        result = Simulation(SERVERS[server](TOKENS), seed=seed, rows=400).run()
        check(result, max(0, result.tokens - 3000) / 800, seed)


@pytest.mark.parametrize("workers", [16, 64, 500])
@pytest.mark.parametrize("latency", [0.005, 0.3, 3.0])
@pytest.mark.parametrize("adaptive", [False, True], ids=["fixed", "adaptive"])
def test_a_server_that_allows_200_in_5_seconds(workers: int, latency: float, adaptive: bool) -> None:
    """At most one answer of twenty is a 429, though resets are in whole seconds and windows begin at any fraction."""
    for seed in SEEDS:
        schedule = Schedule(adaptive=adaptive)
        simulation = Simulation(
            windows(200, 5.0), seed=seed, rows=500, workers=workers, latency=latency, schedule=schedule
        )
        result = simulation.run()
        assert (0, True) == (result.lost, result.posts <= 1 / 0.95), (seed, result)


@pytest.mark.parametrize("headers", ["levels", "Retry-After alone", "nothing"])
def test_another_client_with_the_same_key(headers: str) -> None:
    """A quarter of the quota goes elsewhere."""
    for seed in SEEDS:
        meter = Meter(Quota(requests=30, per_second=8))
        others = itertools.count(0, 0.5)
        due = next(others)

        def answer(now: float, tokens: int, meter: Meter = meter, others: Any = others) -> Answer:
            nonlocal due
            while due <= now:
                meter.admit(1, now=due, wall=WALL + due)
                due = next(others)
            accepted, told = meter.admit(tokens, now=now, wall=WALL + now)
            if headers != "levels":
                told = {"retry-after": "1"} if headers == "Retry-After alone" else {}
            return Answer(200 if accepted else 429, told if headers == "levels" or not accepted else {})

        check(Simulation(answer, seed=seed).run(), 170 / 6, (headers, seed))


@pytest.mark.parametrize("headers", [{}, {"retry-after": "1"}], ids=["nothing", "Retry-After"])
def test_refusals_at_random_do_not_end_in_a_crawl(headers: dict[str, str]) -> None:
    """One request in twenty is refused, however many are sent: the rest is as fast as if each refusal were only waited for."""
    for seed in SEEDS:
        dice = random.Random(seed)

        def answer(_now: float, _tokens: int, dice: random.Random = dice) -> Answer:
            return Answer(429, headers) if dice.random() < 0.05 else Answer(200)

        simulation = Simulation(answer, seed=seed, rows=1000, latency=0.1)
        result = simulation.run()
        alone = max(1000 / 64 * 0.1, 1000 * 0.05 / 1.5 * (1.125 if headers else 0.375))
        assert (0, True) == (result.lost, result.seconds <= 3 * alone), (seed, result, alone)


def test_tokens_per_minute_hold_with_wrong_estimates() -> None:
    """Estimates are twice as high as what comes, or half of it; a minute holds no more than the rate and what was too low."""
    for maximum, largest in ((400, 200), (100, 200)):
        schedule = Schedule(tokens_per_minute=60_000)
        times: list[tuple[float, int]] = []

        def answer(now: float, tokens: int, times: list[tuple[float, int]] = times) -> Answer:
            times.append((now, tokens))
            return Answer(200)

        params: dict[str, Any] = {"messages": [], "max_tokens": maximum}
        Simulation(
            answer, seed=1, rows=1000, tokens=(largest, largest), schedule=schedule, params=params
        ).run()
        for start, _ in times:
            within = sum(tokens for time, tokens in times if start <= time < start + 60)
            assert within <= 60_000 * 1.02, (maximum, start)
