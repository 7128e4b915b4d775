"""The encoder over gRPC."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from retriever_svc.encoding import EncodedBatch, EncodedPicture
from retriever_svc.index import SPACE_ID, Floats, SpaceSpec
from sightline.composition import Edit
from sightline.errors import DataCorrupt, DependencyUnavailable, EmbeddingSpaceMismatch, NotReady, SightlineError
from sightline.limits import MAX_MESSAGE_BYTES, MAX_PICTURES_PER_CALL
from sightline.rpc.channels import ChannelSettings, Remote
from sightline.rpc.context import CallContext
from sightline.rpc.edits import edit_to_proto
from sightline.rpc.status import error_from_item
from sightline.rpc.tensors import tensor_from_proto, tensor_to_proto
from sightline.rpc.vectors import unit_vector
from sightline.v1 import common_pb2, encoder_pb2, encoder_pb2_grpc

_MAX_CALL_BYTES = MAX_MESSAGE_BYTES - 1024 * 1024


class EncoderClient:
    """An `Encoder` behind a channel."""

    def __init__(self, settings: ChannelSettings) -> None:
        self._remote = Remote(settings)
        self._stub = encoder_pb2_grpc.EncoderServiceStub(self._remote.channel)

    async def close(self) -> None:
        """Close the channel."""
        await self._remote.close()

    async def announced(self, *, call: CallContext) -> SpaceSpec:
        """The space of the release that the encoder serves now."""
        reply = await self._remote.unary(self._stub.DescribeEncoder, encoder_pb2.DescribeEncoderRequest(), parent=call)
        space_id = reply.served.embedding_space_id
        if not space_id:
            raise NotReady("the encoder serves no release yet")
        _check_served(reply.served, space_id="")
        return SpaceSpec(space_id=space_id, dimension=reply.dimension, token_width=reply.token_width)

    async def encode_text(self, text: str, *, space_id: str, call: CallContext) -> Floats:
        """The unit vector [D] of a text in the space `space_id`."""
        request = encoder_pb2.EncodeTextsRequest(texts=[text], embedding_space_id=space_id)
        reply = await self._remote.unary(self._stub.EncodeTexts, request, parent=call)
        _check_served(reply.served, space_id=space_id)
        _check_length(len(reply.items), expected=1)
        _raise_if_failed(reply.items[0].status)
        return unit_vector(tensor_from_proto(reply.items[0].vector, name="vector"), name="vector")

    async def encode_composed(
        self, reference: bytes | Floats | None, *, edit: Edit, space_id: str, call: CallContext
    ) -> Floats:
        """The unit vector [D] of what an edit makes of an encoded picture, of a unit vector [D], or of nothing."""
        request = encoder_pb2.EncodeComposedRequest(
            queries=[_composed_query(reference, edit=edit)], embedding_space_id=space_id
        )
        reply = await self._remote.unary(self._stub.EncodeComposed, request, parent=call)
        _check_served(reply.served, space_id=space_id)
        _check_length(len(reply.items), expected=1)
        _raise_if_failed(reply.items[0].status)
        return unit_vector(tensor_from_proto(reply.items[0].vector, name="vector"), name="vector")

    async def encode_pictures(
        self, pictures: Sequence[bytes], *, space_id: str, with_tokens: bool, call: CallContext
    ) -> EncodedBatch:
        """The vectors of any number of pictures; an empty `space_id` leaves the choice to the encoder."""
        items: list[EncodedPicture | SightlineError] = []
        for chunk in _chunks(pictures):
            batch = await self._encode_chunk(chunk, space_id=space_id, with_tokens=with_tokens, call=call)
            items += batch.items
            space_id = batch.space_id
        return EncodedBatch(space_id=space_id, items=tuple(items))

    async def _encode_chunk(
        self, pictures: Sequence[bytes], *, space_id: str, with_tokens: bool, call: CallContext
    ) -> EncodedBatch:
        request = encoder_pb2.EncodeImagesRequest(
            pictures=[common_pb2.Picture(data=data) for data in pictures],
            with_tokens=with_tokens,
            embedding_space_id=space_id,
        )
        reply = await self._remote.unary(self._stub.EncodeImages, request, parent=call)
        _check_served(reply.served, space_id=space_id)
        _check_length(len(reply.items), expected=len(pictures))
        items = tuple(_outcome(item) for item in reply.items)
        return EncodedBatch(space_id=reply.served.embedding_space_id, items=items)


def _chunks(pictures: Sequence[bytes]) -> Iterator[list[bytes]]:
    """`pictures` in order, in lists that fit into one call."""
    chunk: list[bytes] = []
    num_bytes = 0
    for data in pictures:
        if chunk and (len(chunk) == MAX_PICTURES_PER_CALL or num_bytes + len(data) > _MAX_CALL_BYTES):
            yield chunk
            chunk, num_bytes = [], 0
        chunk.append(data)
        num_bytes += len(data)
    if chunk:
        yield chunk


def _composed_query(reference: bytes | Floats | None, *, edit: Edit) -> encoder_pb2.ComposedQuery:
    query = encoder_pb2.ComposedQuery(edit=edit_to_proto(edit))
    if isinstance(reference, bytes):
        query.picture.data = reference
    elif reference is not None:
        query.vector.CopyFrom(tensor_to_proto(reference))
    return query


def _outcome(item: encoder_pb2.EncodedImage) -> EncodedPicture | SightlineError:
    error = error_from_item(item.status)
    if error is not None:
        return error
    vector = unit_vector(tensor_from_proto(item.vector, name="vector"), name="vector")
    tokens = tensor_from_proto(item.tokens, name="tokens") if item.HasField("tokens") else None
    return EncodedPicture(vector=vector, tokens=tokens)


def _raise_if_failed(status: common_pb2.ItemStatus) -> None:
    error = error_from_item(status)
    if error is not None:
        raise error


def _check_served(served: common_pb2.Served, *, space_id: str) -> None:
    # A defect of the encoder must not become a wrong answer of ours.
    if not SPACE_ID.fullmatch(served.embedding_space_id):
        got = served.embedding_space_id[:64]
        raise DataCorrupt(f"the encoder names the space {got!r}, expected 16 hex digits", detail="embedding_space_id")
    if space_id and served.embedding_space_id != space_id:
        got = served.embedding_space_id
        raise EmbeddingSpaceMismatch(
            f"the encoder answered in {got!r}, asked for {space_id!r}", expected=space_id, got=got
        )


def _check_length(got: int, *, expected: int) -> None:
    if got != expected:
        raise DependencyUnavailable(f"the encoder answered {got} items, expected {expected}", service="encoder")
