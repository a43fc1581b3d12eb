"""Keys, paths and headers of the API."""

from __future__ import annotations

from peer import USER, ask, connect

from gradient_async.testing import serve


class TestRoutes:
    async def test_keys(self) -> None:
        """A server with keys refuses any other key with an error in DigitalOcean's shape."""
        body = {"model": "m", "messages": USER}
        async with serve(keys=["k1", "k2"]) as server:
            for key in ("Bearer k1", "bearer  k2"):
                assert 200 == (await ask(server, body=body, authorization=key)).status
            for key in ("Bearer k", "Basic k1", "k1"):
                answer = await ask(server, body=body, authorization=key)
                assert (401, "unauthorized") == (answer.status, answer.json["id"])
            assert 401 == (await ask(server, "/v1/models")).status
            assert 200 == (await ask(server, "/health")).status

    async def test_models(self) -> None:
        """Models are listed; a server with a list of models refuses any other model."""
        async with serve() as server:
            names = [entry["id"] for entry in (await ask(server, "/models")).json["data"]]
            assert "simulated" in names
        async with serve(models="ab") as server:
            assert ["ab"] == [model["id"] for model in (await ask(server, "/v1/models")).json["data"]]
        async with serve(models=["a", "b"]) as server:
            listed = (await ask(server, "/v1/models")).json
            assert ("list", ["a", "b"]) == (listed["object"], [entry["id"] for entry in listed["data"]])
            assert 200 == (await ask(server, body={"model": "b", "messages": USER})).status
            answer = await ask(server, body={"model": "c", "messages": USER})
            assert (404, "model_not_found") == (answer.status, answer.json["error"]["code"])
            assert 503 == (await ask(server, body={"model": "error-503", "messages": USER})).status

    async def test_routes(self) -> None:
        """Unknown paths and wrong methods are refused; the reply to HEAD has no body."""
        async with serve() as server, connect(server) as peer:
            assert {"status": "ok"} == (await peer.ask("/health")).json
            answer = await peer.ask("/v2")
            assert (404, "not_found") == (answer.status, answer.json["id"])
            answer = await peer.ask("/v1/chat/completions")
            assert (405, "POST") == (answer.status, answer.headers["allow"])
            await peer.send(b"HEAD /v1/models HTTP/1.1\r\n\r\n")
            assert (405, b"") == ((answer := await peer.answer()).status, answer.body)
            assert 200 == (await peer.ask("/health")).status

    async def test_headers(self) -> None:
        """Replies are numbered."""
        async with serve() as server, connect(server) as peer:
            seen = [(await peer.ask("/health")).headers["x-request-id"] for _ in range(2)]
            assert ["req-000001", "req-000002"] == seen
