"""The fusion tokens of a picture that a caller shows."""

from __future__ import annotations

from generator_svc.dependency_client import ask, read_tokens
from generator_svc.pictures import LookedAt, PicturesOfSpace
from sightline.errors import CapabilityMissing, DependencyUnavailable, PictureTooManyPixels, PictureUnreadable
from sightline.rpc.channels import ChannelSettings, Remote
from sightline.rpc.context import CallContext
from sightline.rpc.status import error_from_item
from sightline.v1 import common_pb2, encoder_pb2, encoder_pb2_grpc

SERVICE = "encoder"

# What is wrong with the picture itself. Its bytes are counted before it is sent.
_CALLERS_FAULTS = (PictureUnreadable, PictureTooManyPixels)


class EncoderClient:
    """Asks the encoder over one channel. Safe for concurrent calls of one event loop; made and closed inside it."""

    def __init__(self, settings: ChannelSettings) -> None:
        self._remote = Remote(settings)
        self._stub = encoder_pb2_grpc.EncoderServiceStub(self._remote.channel)

    async def close(self) -> None:
        """Close the channel."""
        await self._remote.close()

    async def encode(self, picture: bytes, *, space_id: str, call: CallContext) -> PicturesOfSpace:
        """The picture with its tokens in the space `space_id`, or in the encoder's own if that is empty.

        Its score and id stay zero and empty: it was shown, not found. Raises why
        the encoder refused the picture, or EmbeddingSpaceMismatch.
        """
        request = encoder_pb2.EncodeImagesRequest(
            pictures=[common_pb2.Picture(data=picture)], with_tokens=True, embedding_space_id=space_id
        )
        reply: encoder_pb2.EncodeImagesResponse = await ask(
            self._remote, self._stub.EncodeImages, request, call=call, service=SERVICE
        )
        shown = _read_item(reply.items[0])
        return PicturesOfSpace(images=(shown,), embedding_space_id=reply.served.embedding_space_id)


def _read_item(item: encoder_pb2.EncodedImage) -> LookedAt:
    refusal = error_from_item(item.status)
    if isinstance(refusal, _CALLERS_FAULTS):
        raise refusal
    if refusal is not None:
        raise DependencyUnavailable(f"{SERVICE}: {refusal.reason}: {refusal.message}", service=SERVICE)
    if not item.HasField("tokens"):
        raise CapabilityMissing("the encoder's release gives no fusion tokens", detail="fusion tokens")
    return LookedAt(image_id="", score=0.0, metadata={}, tokens=read_tokens(item.tokens, service=SERVICE))
