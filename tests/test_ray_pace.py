"""`SharedPace`: its actor, its leases, and a rate that processes share."""

from __future__ import annotations

import asyncio
import importlib
import pickle
import random
import time
from typing import Any

import pytest
from ray_rows import ANSWER, NO, client, echo, window

from gradient_async import AsyncGradient, ConfigurationError, Pace
from gradient_async.testing import Connection, Request, reply_json, serve

pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
pytestmark = pytest.mark.filterwarnings("default")  # Ray warns of its own dependencies, and leaves files open

stages: Any = importlib.import_module("gradient_async.ray")
paces: Any = importlib.import_module("gradient_async.ray.pace")


async def test_the_keeper_begins_without_a_burst() -> None:
    """A new one does not know what was sent before: slower, never faster."""
    rates = (600, None)
    keeper = paces.PaceKeeper(rates, 1.0)
    began = time.monotonic()
    turns = 0
    while time.monotonic() < began + 1:
        lease = await keeper.lease(paces.Ask(64, 0, 0, 0, 0), rates, 1.0)
        turns += lease.turns
        assert 1 == lease.turns and float("inf") == lease.tokens
    assert 3 <= turns <= 11


async def test_the_keeper_gives_small_leases() -> None:
    """A tenth of a second's worth, as much as is asked for at most, and enough for the next request."""
    rates = (60_000, 600_000)
    keeper = paces.PaceKeeper(rates, 1.0)
    lease = await keeper.lease(paces.Ask(500, 1e6, 10, 0, 0), rates, 1.0)
    assert (100, 1000) == lease[:2]
    lease = await keeper.lease(paces.Ask(5, 50, 10, -20, 0, last=lease.mark), rates, 1.0)
    assert (5, 50) == lease[:2]
    foreign = paces.LeaseMark("another", lease.mark.at)
    lease = await keeper.lease(paces.Ask(1, 1100, 1100, -90, -900, last=foreign), rates, 1.0)
    assert (1, 1100) == lease[:2]


async def test_the_latest_pace_sets_the_rates() -> None:
    """Also of an ask that waits; workers of earlier programs change nothing."""
    slow, fast, unlimited = (1, None), (60_000, None), (None, None)
    keeper = paces.PaceKeeper(slow, 1.0)
    ask = paces.Ask(1, 1, 1, 0, 0)
    waiting = asyncio.create_task(keeper.lease(ask, slow, 1.0))
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await keeper.lease(ask, fast, 2.0)
        await waiting
    await keeper.lease(ask, slow, 1.5)
    await keeper.lease(ask, fast, 4.0)
    await keeper.lease(ask, slow, 3.0)
    assert fast == keeper._rates
    lease = await keeper.lease(ask, unlimited, 5.0)
    lease = await keeper.lease(paces.Ask(1, 1, 1, 0, 0, last=lease.mark), unlimited, 5.0)
    assert (float("inf"), float("inf")) == lease[:2]


async def test_the_keeper_tells_waits_until_they_are_over() -> None:
    """The longest that was told for each account."""
    rates = (None, None)
    keeper = paces.PaceKeeper(rates, 1.0)
    ask = paces.Ask(1, 1, 1, 0, 0)
    await keeper.hold("a", 5.0)
    await keeper.hold("a", 2.0)
    await keeper.hold("b", 0.05)
    waits = (await keeper.lease(ask, rates, 1.0)).waits
    assert 2.0 < waits["a"] <= 5.0
    await asyncio.sleep(0.1)
    assert {"a"} == set((await keeper.lease(ask, rates, 1.0)).waits)


def test_a_lease_returns_what_is_left() -> None:
    """Except what no rate limits."""
    rate = paces.LeasedRate()
    assert rate.delay(0.0, 2.0) > 0 and 2.0 == rate.missing
    rate.renew(5.0, until=1.0)
    assert 0.0 == rate.delay(0.5) == rate.missing
    rate.spend(0.5)
    rate.correct(0.5, 0.0)
    assert rate.delay(0.5, 5.0) > 0
    assert rate.delay(1.0) > 0
    assert -3.5 == rate.count_used()
    assert 0.0 == rate.count_used()
    rate.renew(float("inf"), until=3.0)
    assert 0.0 == rate.delay(2.0, 1e9)
    assert 0.0 == rate.count_used()


def test_a_shared_pace_pickles_as_its_options() -> None:
    """And is made with the words of `Pace`."""
    pace: Any = stages.SharedPace(
        "mine", requests_per_minute=600, tokens_per_minute=9, adaptive=True, across_jobs=True
    )
    copied: Any = pickle.loads(pickle.dumps(pace))  # noqa: S301  # our own
    assert repr(pace) == repr(copied)
    assert pace._made_at == copied._made_at
    assert Pace in type(pace).__mro__
    pace.forget_parent()  # as a forked process does
    assert repr(pace) == repr(copied)
    assert "SharedPace(name='mine', across_jobs=True, requests_per_minute=600" in repr(pace)
    with pytest.raises(ConfigurationError, match="name"):
        stages.SharedPace("", requests_per_minute=600)
    with pytest.raises(ConfigurationError, match="requests_per_minute"):
        stages.SharedPace("mine", requests_per_minute=0)


async def send(url: str, pace: Any, count: int, at_once: int = 64, **options: Any) -> list[Any]:
    """Send requests through a client with a pace; return the results."""
    async with AsyncGradient(**client(url), **options) as mine:
        prompts = (
            {"model": "m", "messages": [{"role": "user", "content": f"row {i}"}]} for i in range(count)
        )
        return [
            result async for result in mine.chat.completions.map(prompts, pace=pace, max_concurrency=at_once)
        ]


async def test_processes_share_a_rate(ray: Any) -> None:
    """Here two objects of one name stand for two processes. Every attempt takes a turn."""
    dice = random.Random(1)

    async def answer(request: Request, connection: Connection) -> None:
        reply = reply_json(NO, 500) if dice.random() < 0.2 else reply_json(ANSWER)
        await reply(request, connection)

    with serve(handler=answer) as server:
        both = [stages.SharedPace("rate", requests_per_minute=3000) for _ in "ab"]
        began = time.monotonic()
        done = await asyncio.gather(*(send(server.url, pace, 100, max_retries=5) for pace in both))
        took = time.monotonic() - began
        sent = len(server.requests)
        assert all(result.error is None for results in done for result in results)
        assert sent > 200
        assert window(server.requests, 1.0) <= 50 + 50 + 2 * 5
        assert took >= (sent - 50) / 50 - 0.5


async def test_tokens_share_a_rate(ray: Any) -> None:
    """Estimates are corrected by usage, as in `Pace`."""
    reply = reply_json(
        {**ANSWER, "usage": {"prompt_tokens": 50, "completion_tokens": 50, "total_tokens": 100}}
    )
    with serve(reply, repeat=True) as server:
        pace = stages.SharedPace("tokens", tokens_per_minute=60_000)
        began = time.monotonic()
        await send(server.url, pace, 30)
        assert time.monotonic() - began > 1.0
        assert window(server.requests, 1.0) <= 25


async def test_all_wait_when_one_is_told_to(ray: Any) -> None:
    """A refusal that names its wait stops the others within the time of a lease."""
    refusal = reply_json({"id": "too_many_requests", "message": "slow"}, 429, {"retry-after": "2"})
    with serve(*[reply_json(ANSWER)] * 100, refusal, handler=echo(lambda: 0.02)) as server:
        one, two = (stages.SharedPace("wait") for _ in "ab")
        many = asyncio.create_task(send(server.url, two, 400, at_once=2))
        while len(server.requests) < 100:  # noqa: ASYNC110  # a server has no event
            await asyncio.sleep(0.01)
        # Whoever gets the refusal, the other hears of it from the actor.
        await asyncio.gather(send(server.url, one, 400, at_once=2), many)
        times = sorted(request.received_at for request in server.requests)
    assert 801 == len(times)
    quiet = [at for at in times if times[100] + 0.75 < at < times[100] + 1.9]
    assert [] == quiet


async def test_a_dead_keeper_is_made_anew(ray: Any) -> None:
    """Its rate holds on, and no request is lost."""
    with serve(handler=echo()) as server:
        pace = stages.SharedPace("killed", requests_per_minute=3000)
        sending = asyncio.create_task(send(server.url, pace, 150))
        while len(server.requests) < 50:  # noqa: ASYNC110  # a server has no event
            await asyncio.sleep(0.01)
        old = ray.get_actor("killed", namespace="gradient")
        await asyncio.to_thread(ray.kill, old)
        assert 150 == len([result for result in await sending if result.error is None])
        assert old._actor_id != ray.get_actor("killed", namespace="gradient")._actor_id
        assert window(server.requests, 1.0) <= 50 + 50 + 5


async def test_a_keeper_can_outlive_its_job(ray: Any) -> None:
    """Where it is detached; otherwise it ends with its pace."""
    kept, own = stages.SharedPace("kept", across_jobs=True), stages.SharedPace("own")
    assert kept.open() is kept.open()
    own.open()
    del kept, own
    await asyncio.sleep(0)
    for _ in range(100):
        try:
            ray.get_actor("own", namespace="gradient")
        except ValueError:
            break
        await asyncio.sleep(0.1)
    else:
        pytest.fail("the actor did not end")
    await asyncio.to_thread(ray.kill, ray.get_actor("kept", namespace="gradient"))


async def test_the_last_program_sets_the_rates(ray: Any) -> None:
    """So a changed rate of an actor that stays is not lost."""
    slow = stages.SharedPace("changed", requests_per_minute=1)
    slow.open()
    with serve(handler=echo()) as server:
        async with asyncio.timeout(30):
            await send(server.url, stages.SharedPace("changed", requests_per_minute=6000), 20)
