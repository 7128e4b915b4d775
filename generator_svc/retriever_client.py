"""Pictures of the index, found for a dialogue or named by the caller, with the tokens that fusion needs."""

from __future__ import annotations

from collections.abc import Sequence

from generator_svc.dependency_client import ask, read_tokens
from generator_svc.pictures import LookedAt, PicturesOfSpace
from sightline.errors import CapabilityMissing, ImageNotFound, IndexEmpty
from sightline.rpc.channels import ChannelSettings, Remote
from sightline.rpc.context import CallContext
from sightline.v1 import common_pb2, retriever_pb2, retriever_pb2_grpc

SERVICE = "retriever"


class RetrieverClient:
    """Asks the retriever over one channel. Safe for concurrent calls of one event loop; made and closed inside it."""

    def __init__(self, settings: ChannelSettings) -> None:
        self._remote = Remote(settings)
        self._stub = retriever_pb2_grpc.RetrieverServiceStub(self._remote.channel)

    async def close(self) -> None:
        """Close the channel."""
        await self._remote.close()

    async def search(self, text: str, *, k: int, min_score: float, call: CallContext) -> PicturesOfSpace:
        """The `k` pictures nearest to `text` that score at least `min_score`; none from an empty index."""
        request = retriever_pb2.SearchImagesRequest(text=text, k=k, min_score=min_score, with_tokens=True)
        return await self._search(request, call=call)

    async def look_up(self, text: str, *, image_ids: Sequence[str], call: CallContext) -> PicturesOfSpace:
        """The named pictures, scored against `text`, best first.

        A search behind a filter and no plain read, since fusion weighs pictures
        by their scores. Raises ImageNotFound for the first id that is not stored.
        """
        named = retriever_pb2.Condition(key="image_id", any_of=image_ids)
        request = retriever_pb2.SearchImagesRequest(
            text=text, k=len(image_ids), filter=retriever_pb2.Filter(must=[named]), with_tokens=True
        )
        found = await self._search(request, call=call)
        stored = {image.image_id for image in found.images}
        for image_id in image_ids:
            if image_id not in stored:
                raise ImageNotFound(f"image_ids: {image_id!r} is not stored", image_id=image_id)
        return found

    async def _search(self, request: retriever_pb2.SearchImagesRequest, *, call: CallContext) -> PicturesOfSpace:
        try:
            reply: retriever_pb2.SearchImagesResponse = await ask(
                self._remote, self._stub.SearchImages, request, call=call, service=SERVICE
            )
        except IndexEmpty:
            return PicturesOfSpace(images=(), embedding_space_id="")
        images = tuple(_read_image(image) for image in reply.images)
        return PicturesOfSpace(images=images, embedding_space_id=reply.served.embedding_space_id)


def _read_image(image: common_pb2.ScoredImage) -> LookedAt:
    if not image.HasField("tokens"):
        message = f"picture {image.image_id!r} is stored without fusion tokens"
        raise CapabilityMissing(message, detail="fusion tokens")
    tokens = read_tokens(image.tokens, service=SERVICE)
    return LookedAt(image_id=image.image_id, score=image.score, metadata=dict(image.metadata), tokens=tokens)
