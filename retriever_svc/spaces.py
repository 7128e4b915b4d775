"""The pair that the retriever owns: which collection answers, and in which embedding space."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from retriever_svc.index import Layout, SpaceSpec, VectorIndex
from sightline.errors import IndexEmpty


class Spaces:
    """The layout of the index as this process last saw it, and the lock under which it and the points change.

    A search reads `layout` once and then names the space to encoder and index,
    so it meets one pair from beginning to end.
    """

    def __init__(self, index: VectorIndex) -> None:
        self._index = index
        self._layout = Layout()
        self.lock = asyncio.Lock()
        """Held by whoever writes points, and while the current collection changes."""
        self.is_next_behind = False
        """True once a write reached the current collection but not the next one; the next full comparison ends it."""

    @property
    def layout(self) -> Layout:
        """The layout as last seen."""
        return self._layout

    async def refresh(self) -> Layout:
        """The layout as of now."""
        self._layout = await self._index.layout()
        return self._layout

    def serving(self) -> SpaceSpec:
        """The current space; raises IndexEmpty before the first picture."""
        serving = self._layout.serving
        if serving is None:
            raise IndexEmpty("the index holds no picture")
        return serving

    @contextmanager
    def next_may_fall_behind(self) -> Iterator[None]:
        """Around a write to the next collection: if it fails, the current one has what the next one lacks."""
        try:
            yield
        except BaseException:
            self.is_next_behind = True
            raise

    async def found(self, space: SpaceSpec) -> None:
        """Make `space` the current one of an index that has none."""
        await self._index.create(space)
        await self._index.switch(space.space_id)
        await self.refresh()

    async def begin_move(self, space: SpaceSpec) -> None:
        """Create the collection that is to be filled, or take one up again."""
        await self._index.create(space)
        await self._index.set_next(space.space_id)
        await self.refresh()

    async def give_up_move(self) -> None:
        """Let the next collection go."""
        await self._index.set_next(None)
        await self.refresh()

    async def complete_move(self) -> None:
        """Let the next collection answer from now on."""
        assert self._layout.next is not None
        await self._index.switch(self._layout.next)
        await self.refresh()
