"""What the retriever's tests share: an encoder in this process, and an engine over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from retriever_svc.edge_index import EdgeIndex
from retriever_svc.encoding import EncodedBatch, EncodedPicture
from retriever_svc.engine import Ask, RetrieverEngine
from retriever_svc.index import Floats, SpaceSpec
from retriever_svc.pictures import FolderPictures
from retriever_svc.rollout import RolloutSettings
from retriever_svc.writing import NewImage
from sightline.composition import Edit
from sightline.errors import EmbeddingSpaceMismatch, PictureUnreadable, SightlineError
from sightline.rpc.context import CallContext, IncomingCall
from sightline.rpc.timings import StageClock
from sightline.testing.encoder import DIMENSION, FIRST_SPACE, TOKEN_WIDTH, colour_tokens, colour_vector, composed_vector
from sightline.testing.folders import quick_folder

COLOURS = [(step, (step * 7) % 256, (step * 13) % 256) for step in range(0, 250, 19)]


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder in memory; `tmp_path` is one on the disk."""
    with quick_folder() as made:
        yield made


@dataclass
class ColourEncoder:
    """An Encoder in this process; a "picture" is three bytes, its colour."""

    spaces: list[str] = field(default_factory=lambda: [FIRST_SPACE])
    num_encoded: int = 0
    unreadable: set[bytes] = field(default_factory=set)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Pictures of a space that is not the first wait while it is cleared."""

    def __post_init__(self) -> None:
        self.gate.set()

    async def close(self) -> None:
        """Nothing to close."""

    async def announced(self, *, call: CallContext) -> SpaceSpec:
        return SpaceSpec(space_id=self.spaces[0], dimension=DIMENSION, token_width=TOKEN_WIDTH)

    async def encode_text(self, text: str, *, space_id: str, call: CallContext) -> Floats:
        self._check(space_id)
        await asyncio.sleep(0)
        return colour_vector(tuple(text.encode("latin-1")[:3].ljust(3)), space_id=space_id)

    async def encode_composed(
        self, reference: bytes | Floats | None, *, edit: Edit, space_id: str, call: CallContext
    ) -> Floats:
        self._check(space_id)
        seen = colour_vector(tuple(reference), space_id=space_id) if isinstance(reference, bytes) else reference
        return composed_vector(seen, edit=edit, space_id=space_id)

    async def encode_pictures(
        self, pictures: list[bytes], *, space_id: str, with_tokens: bool, call: CallContext
    ) -> EncodedBatch:
        space_id = space_id or self.spaces[0]
        self._check(space_id)
        if space_id != FIRST_SPACE:
            await self.gate.wait()
        await asyncio.sleep(0)
        return EncodedBatch(space_id=space_id, items=tuple(self._item(data, space_id) for data in pictures))

    def _check(self, space_id: str) -> None:
        if space_id not in self.spaces:
            raise EmbeddingSpaceMismatch(f"got {space_id}", expected=self.spaces[0], got=space_id)

    def _item(self, data: bytes, space_id: str) -> EncodedPicture | SightlineError:
        if data in self.unreadable:
            return PictureUnreadable("not a picture", detail="test")
        self.num_encoded += 1
        colour = tuple(data)
        return EncodedPicture(
            vector=colour_vector(colour, space_id=space_id), tokens=colour_tokens(colour, space_id=space_id)
        )


@dataclass
class Bench:
    """An engine whose watcher sleeps, so that a test takes the steps."""

    folder: Path
    encoder: ColourEncoder = field(default_factory=ColourEncoder)
    now: float = 0.0
    engine: RetrieverEngine = field(init=False)
    index: EdgeIndex = field(init=False)

    async def open(self) -> None:
        self.index = EdgeIndex(self.folder)
        self.engine = RetrieverEngine(
            index=self.index,
            pictures=FolderPictures(self.folder / "pictures"),
            encoder=self.encoder,
            rollout=RolloutSettings(poll_s=3600.0, batch=5, retire_after_s=60.0),
            now=lambda: self.now,
        )
        await self.engine.start()

    async def store(self, *images: NewImage) -> list[SightlineError | None]:
        return await self.engine.upsert(images, call=IncomingCall(), clock=StageClock())

    async def fill(self) -> None:
        assert set(await self.store(*[image(f"p{n}", colour) for n, colour in enumerate(COLOURS)])) == {None}

    async def nearest(self, colour: tuple[int, int, int]) -> tuple[str, float, str]:
        """Best id, its score, and the space of the answer to a picture of that colour."""
        found = await self.engine.search_picture(bytes(colour), ask=Ask(k=1), call=IncomingCall(), clock=StageClock())
        return found.hits[0].point.image_id, found.hits[0].score, found.space_id

    async def assert_all_found(self, *, space_id: str) -> None:
        for number, colour in enumerate(COLOURS):
            name, score, space = await self.nearest(colour)
            assert (name, space) == (f"p{number}", space_id)
            assert score == pytest.approx(1.0, abs=1e-5)


def image(name: str, rgb: tuple[int, int, int], **metadata: str) -> NewImage:
    return NewImage(image_id=name, data=bytes(rgb), metadata=metadata)


@pytest.fixture
async def bench(folder: Path) -> AsyncIterator[Bench]:
    made = Bench(folder)
    await made.open()
    yield made
    await made.engine.stop()
