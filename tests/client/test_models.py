"""`client.models`."""

from __future__ import annotations

import pytest
from client_calls import Start

from gradient_async import (
    APIResponseValidationError,
    APIStatusError,
)
from gradient_async.testing import (
    reply_json,
)


async def test_models_can_be_awaited_and_iterated_over(start: Start) -> None:
    server, client = await start()
    listed = await client.models.list(extra_query={"page": 1}, timeout=5)
    assert [model.id for model in listed.data] == [model.id async for model in client.models.list()]
    assert (server.requests[0].method, server.requests[0].path) == ("GET", "/v1/models")
    assert {"page": "1"} == server.requests[0].query
    raw = await client.models.with_raw_response.list()
    assert listed == await raw.parse()
    assert listed == await (await client.with_raw_response.models.list()).parse()


async def test_a_list_of_models_that_is_none_is_an_error(start: Start) -> None:
    _, client = await start(
        reply_json({"data": "x"}), reply_json({"message": "starting"}), reply_json({"message": "Forbidden"})
    )
    with pytest.raises(APIResponseValidationError, match=r"no list named data$"):
        await client.models.list()
    with pytest.raises(APIResponseValidationError, match=r"no list named data, and says 'starting'$"):
        await client.models.list()
    with pytest.raises(APIStatusError, match="Forbidden"):
        await client.models.list()
