"""`client.models`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Mapping
from typing import TYPE_CHECKING, Any

from ..secrets import hide_headers
from ..types import NOT_GIVEN, ModelInfo, ModelList
from .options import check_mappings
from .replies import fetch, finish_models

if TYPE_CHECKING:
    from ..session.reply import Reply
    from .core import AsyncGradient
    from .raw import RawModels

__all__ = ["Models", "ModelsRequest"]


class ModelsRequest:
    """The list of models, on its way: await it, or iterate over it with ``async for``."""

    def __init__(self, models: Models, options: Mapping[str, Any]) -> None:
        self._models = models
        self._options = options

    def __await__(self) -> Generator[Any, None, ModelList]:
        return self._models.fetch(self._options).__await__()

    async def __aiter__(self) -> AsyncIterator[ModelInfo]:
        for model in (await self).data:
            yield model


class Models:
    """`client.models`."""

    def __init__(self, client: AsyncGradient) -> None:
        self.client = client

    def list(
        self,
        *,
        extra_headers: Mapping[str, Any] | None = None,
        extra_query: Mapping[str, Any] | None = None,
        timeout: Any = NOT_GIVEN,
    ) -> ModelsRequest:
        """List the models that the key may use: ``await`` gives a list, ``async for`` each model.

        Args:
            extra_headers: More headers.
            extra_query: More parameters of the URL's query.
            timeout: A `Timeout`, seconds, or None.

        Raises:
            GradientError: When awaited; as `Completions.create`.
        """
        check_mappings({"extra_headers": extra_headers, "extra_query": extra_query})
        return ModelsRequest(
            self,
            {
                "extra_headers": hide_headers(extra_headers),
                "extra_query": extra_query,
                "timeout": timeout,
            },
        )

    async def send(self, options: Mapping[str, Any]) -> Reply:
        """Send the request."""
        client = self.client
        return await client._send(client._prepare("GET", "/models", options=options, params={}))  # noqa: SLF001  # one package

    async def fetch(self, options: Mapping[str, Any]) -> ModelList:
        """Send the request and decode the reply."""
        reply = await self.send(options)
        return await fetch(reply, self.client.limits, finish_models)

    @property
    def with_raw_response(self) -> RawModels:
        """The same methods, which return status, headers and body; ``await .parse()`` as usual."""
        from .raw import RawModels  # noqa: PLC0415  # few need it

        return RawModels(self)
