"""EncoderService: protobuf to domain and back, and the limits of the contract. No model here."""

from __future__ import annotations

from collections.abc import Sequence

from encoder_svc.batching import Stages
from encoder_svc.composing import ComposedAsk, ComposedVector
from encoder_svc.engine import (
    EncoderEngine,
    Encoding,
    TextVector,
    build_engine,
)
from encoder_svc.pictures import PictureVector, RefusedPicture
from encoder_svc.settings import EncoderSettings
from sightline.errors import SightlineError
from sightline.limits import MAX_COMPOSED_PER_CALL, MAX_PICTURES_PER_CALL, MAX_TEXTS_PER_CALL
from sightline.rpc.context import CallContext
from sightline.rpc.edits import edit_from_proto
from sightline.rpc.served import reload_status, served_by
from sightline.rpc.status import item_status
from sightline.rpc.tensors import tensor_from_proto, tensor_to_proto
from sightline.rpc.timings import StageClock
from sightline.rpc.validate import check_count, check_present, check_text
from sightline.rpc.vectors import unit_vector
from sightline.v1 import common_pb2, encoder_pb2


class EncoderServicer:
    """Answers EncoderService under either host."""

    def __init__(self, engine: EncoderEngine) -> None:
        self._engine = engine

    async def start(self) -> None:
        """Load the first release, if there is one yet."""
        await self._engine.start()

    async def stop(self) -> None:
        """Let go of everything; no call runs any more."""
        await self._engine.stop()

    def is_ready(self) -> bool:
        """True once a release is loaded."""
        return self._engine.is_ready

    async def EncodeTexts(
        self, request: encoder_pb2.EncodeTextsRequest, call: CallContext
    ) -> encoder_pb2.EncodeTextsResponse:
        """One vector or refusal per text, in order.

        Raises FieldMissing, TooManyItems, EmbeddingSpaceMismatch, QueueFull, NotReady or Draining.
        """
        clock = StageClock()
        check_count(len(request.texts), field="texts", limit=MAX_TEXTS_PER_CALL)
        refusals = [_text_refusal(text, index=index) for index, text in enumerate(request.texts)]
        texts = [text for text, refusal in zip(request.texts, refusals, strict=True) if refusal is None]
        encoding = await self._engine.encode_texts(texts, space_id=request.embedding_space_id)
        encoded = iter(encoding.items)
        items = [_text_item(refusal or next(encoded)) for refusal in refusals]
        return encoder_pb2.EncodeTextsResponse(items=items, served=_served_encoding(encoding, clock=clock, call=call))

    async def EncodeImages(
        self, request: encoder_pb2.EncodeImagesRequest, call: CallContext
    ) -> encoder_pb2.EncodeImagesResponse:
        """One vector or refusal per picture, in order.

        Raises FieldMissing, TooManyItems, EmbeddingSpaceMismatch, QueueFull, NotReady or Draining.
        """
        clock = StageClock()
        check_count(len(request.pictures), field="pictures", limit=MAX_PICTURES_PER_CALL)
        refusals = [_picture_refusal(picture, index=index) for index, picture in enumerate(request.pictures)]
        pictures = [
            picture.data for picture, refusal in zip(request.pictures, refusals, strict=True) if refusal is None
        ]
        encoding = await self._engine.encode_pictures(pictures, space_id=request.embedding_space_id)
        encoded = iter(encoding.items)
        items = [_picture_item(refusal or next(encoded), with_tokens=request.with_tokens) for refusal in refusals]
        return encoder_pb2.EncodeImagesResponse(items=items, served=_served_encoding(encoding, clock=clock, call=call))

    async def EncodeComposed(
        self, request: encoder_pb2.EncodeComposedRequest, call: CallContext
    ) -> encoder_pb2.EncodeComposedResponse:
        """One vector or refusal per composed query, in order.

        Raises FieldMissing, TooManyItems, EmbeddingSpaceMismatch,
        CapabilityMissing, QueueFull, NotReady or Draining.
        """
        clock = StageClock()
        check_count(len(request.queries), field="queries", limit=MAX_COMPOSED_PER_CALL)
        if any(query.HasField("vector") for query in request.queries):
            check_present(bool(request.embedding_space_id), field="embedding_space_id")
        asks = [_composed_ask(query, index=index) for index, query in enumerate(request.queries)]
        accepted = [ask for ask in asks if isinstance(ask, ComposedAsk)]
        encoding = await self._engine.encode_composed(accepted, space_id=request.embedding_space_id)
        encoded = iter(encoding.items)
        items = [_composed_item(ask if isinstance(ask, SightlineError) else next(encoded)) for ask in asks]
        return encoder_pb2.EncodeComposedResponse(
            items=items, served=_served_encoding(encoding, clock=clock, call=call)
        )

    async def DescribeEncoder(
        self, request: encoder_pb2.DescribeEncoderRequest, call: CallContext
    ) -> encoder_pb2.DescribeEncoderResponse:
        """What the serving release can do, and where the hot reload stands. Raises NotReady."""
        clock = StageClock()
        release = self._engine.newest()
        model = release.value
        return encoder_pb2.DescribeEncoderResponse(
            served=served_by(release, clock=clock, call=call),
            dimension=model.dimension,
            context_length=model.context_length,
            image_size=model.image_size,
            num_tokens=model.num_tokens,
            token_width=model.token_width,
            compute_dtype=model.compute_dtype,
            reload=reload_status(self._engine.reload_state()),
            can_compose=model.can_compose,
            composes_vectors=model.composes_vectors,
        )


def build_servicer(settings: EncoderSettings) -> EncoderServicer:
    """A servicer that follows the channel of `settings` once it is started."""
    return EncoderServicer(build_engine(settings))


def _text_refusal(text: str, *, index: int) -> SightlineError | None:
    try:
        check_text(text, field=f"texts[{index}]")
    except SightlineError as error:
        return error
    return None


def _picture_refusal(picture: common_pb2.Picture, *, index: int) -> SightlineError | None:
    try:
        check_present(bool(picture.data), field=f"pictures[{index}].data")
    except SightlineError as error:
        return error
    return None


def _composed_ask(query: encoder_pb2.ComposedQuery, *, index: int) -> ComposedAsk | SightlineError:
    field = f"queries[{index}]"
    try:
        kind = query.WhichOneof("reference")
        edit = edit_from_proto(query.edit, field=f"{field}.edit", has_reference=kind is not None)
        if kind == "picture":
            check_present(bool(query.picture.data), field=f"{field}.picture.data")
            return ComposedAsk(reference=query.picture.data, edit=edit)
        if kind == "vector":
            name = f"{field}.vector"
            return ComposedAsk(reference=unit_vector(tensor_from_proto(query.vector, name=name), name=name), edit=edit)
        return ComposedAsk(reference=None, edit=edit)
    except SightlineError as error:
        return error


def _text_item(outcome: TextVector | SightlineError) -> encoder_pb2.EncodedText:
    if isinstance(outcome, SightlineError):
        return encoder_pb2.EncodedText(status=item_status(outcome))
    return encoder_pb2.EncodedText(
        status=item_status(None),
        vector=tensor_to_proto(outcome.vector),
        num_tokens=outcome.num_tokens,
        is_truncated=outcome.is_truncated,
    )


def _picture_item(
    outcome: PictureVector | RefusedPicture | SightlineError, *, with_tokens: bool
) -> encoder_pb2.EncodedImage:
    if isinstance(outcome, SightlineError):
        return encoder_pb2.EncodedImage(status=item_status(outcome))
    if isinstance(outcome, RefusedPicture):
        return encoder_pb2.EncodedImage(status=item_status(outcome.error), sha256=outcome.digest.hex())
    return encoder_pb2.EncodedImage(
        status=item_status(None),
        vector=tensor_to_proto(outcome.vector),
        tokens=tensor_to_proto(outcome.tokens) if with_tokens else None,
        sha256=outcome.digest.hex(),
        width=outcome.width,
        height=outcome.height,
    )


def _composed_item(outcome: ComposedVector | RefusedPicture | SightlineError) -> encoder_pb2.EncodedComposed:
    if isinstance(outcome, SightlineError):
        return encoder_pb2.EncodedComposed(status=item_status(outcome))
    if isinstance(outcome, RefusedPicture):
        return encoder_pb2.EncodedComposed(status=item_status(outcome.error), sha256=outcome.digest.hex())
    return encoder_pb2.EncodedComposed(
        status=item_status(None),
        vector=tensor_to_proto(outcome.vector),
        num_tokens=outcome.num_tokens,
        is_truncated=outcome.is_truncated,
        sha256=outcome.digest.hex(),
    )


def _served_encoding(
    encoding: Encoding[TextVector]
    | Encoding[PictureVector | RefusedPicture]
    | Encoding[ComposedVector | RefusedPicture],
    *,
    clock: StageClock,
    call: CallContext,
) -> common_pb2.Served:
    _add_stages(clock, encoding.stages)
    return served_by(encoding.release, clock=clock, call=call)


def _add_stages(clock: StageClock, stages: Stages) -> None:
    pairs: Sequence[tuple[str, float]] = (
        ("queue", stages.queue),
        ("decode", stages.decode),
        ("forward", stages.forward),
    )
    for name, seconds in pairs:
        if seconds:
            clock.add(name, seconds=seconds)
