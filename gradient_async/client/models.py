"""`client.models`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Mapping
from functools import cached_property
from typing import Any

from ..stream import AsyncForOnly
from ..types import NOT_GIVEN, ModelInfo, ModelList
from .core import Core, check_options, models_of, read_reply
from .hints import MODELS, Hinted
from .raw import RawModels


class ModelsRequest(AsyncForOnly):
    """A request for the list of models, sent when it is awaited or iterated over with ``async for``."""

    def __init__(self, core: Core, options: dict[str, Any]) -> None:
        self._core = core
        self._options = options

    def __await__(self) -> Generator[Any, None, ModelList]:
        return self._fetch().__await__()

    async def __aiter__(self) -> AsyncIterator[ModelInfo]:
        for model in (await self).data:
            yield model

    async def _fetch(self) -> ModelList:
        return await read_reply(await self._core.send_models(self._options), models_of)


class Models(Hinted):
    """`client.models`."""

    _hints = MODELS

    def __init__(self, core: Core) -> None:
        self._core = core

    def list(
        self,
        *,
        extra_headers: Mapping[str, Any] | None = None,
        extra_query: Mapping[str, Any] | None = None,
        timeout: Any = NOT_GIVEN,
    ) -> ModelsRequest:
        """List the models that the key may use: ``await`` gives a list, ``async for`` each model.

        Args:
            extra_headers: Additional headers.
            extra_query: Additional parameters for the URL's query.
            timeout: A `Timeout`, seconds, or None.

        Raises:
            GradientError: When awaited, for the same reasons as `Completions.create`.
        """
        options = {"extra_headers": extra_headers, "extra_query": extra_query, "timeout": timeout}
        check_options(options)
        return ModelsRequest(self._core, options)

    @cached_property
    def with_raw_response(self) -> RawModels:
        """The same methods; they return status, headers and body, and ``await .parse()`` gives the result."""
        return RawModels(self._core)
