"""Replies of the services as the SDK's plain values."""

from __future__ import annotations

from typing import Any

from sightline.client.results import (
    Array,
    EncodedComposed,
    EncodedImage,
    EncodedText,
    EncoderDescription,
    FoundImage,
    FoundImages,
    GeneratorDescription,
    ImagePage,
    IndexDescription,
    Reload,
    Reply,
    ReplyEvent,
    ReplyFinish,
    ReplyHeader,
    ReplyText,
    Rollout,
    Served,
    StoredImage,
    Usage,
    UsedImage,
)
from sightline.rpc.status import error_from_item
from sightline.rpc.tensors import tensor_from_proto
from sightline.v1 import common_pb2, encoder_pb2, generator_pb2, retriever_pb2

_FINISHES = {generator_pb2.FINISH_REASON_STOP: "stop", generator_pb2.FINISH_REASON_LENGTH: "length"}


def served(message: common_pb2.Served) -> Served:
    """What answered."""
    return Served(
        release_id=message.release_id,
        generation=message.generation,
        embedding_space_id=message.embedding_space_id,
        request_id=message.request_id,
        timings_us={timing.stage: timing.duration_us for timing in message.timings},
    )


def encoded_text(message: encoder_pb2.EncodedText) -> EncodedText:
    """The outcome for one text."""
    return EncodedText(
        error=error_from_item(message.status),
        vector=_tensor(message, "vector"),
        num_tokens=message.num_tokens,
        is_truncated=message.is_truncated,
    )


def encoded_image(message: encoder_pb2.EncodedImage) -> EncodedImage:
    """The outcome for one picture."""
    return EncodedImage(
        error=error_from_item(message.status),
        vector=_tensor(message, "vector"),
        tokens=_tensor(message, "tokens"),
        sha256=message.sha256,
        width=message.width,
        height=message.height,
    )


def encoded_composed(message: encoder_pb2.EncodedComposed) -> EncodedComposed:
    """The outcome for one composed query."""
    return EncodedComposed(
        error=error_from_item(message.status),
        vector=_tensor(message, "vector"),
        num_tokens=message.num_tokens,
        is_truncated=message.is_truncated,
        sha256=message.sha256,
    )


def found_images(message: retriever_pb2.SearchImagesResponse) -> FoundImages:
    """The hits of a search."""
    images = tuple(
        FoundImage(
            image_id=image.image_id,
            score=image.score,
            metadata=dict(image.metadata),
            tokens=_tensor(image, "tokens"),
        )
        for image in message.images
    )
    return FoundImages(images=images, served=served(message.served))


def stored_image(message: retriever_pb2.StoredImage) -> StoredImage:
    """One picture of the index."""
    return StoredImage(
        image_id=message.image_id,
        metadata=dict(message.metadata),
        sha256=message.sha256,
        picture=message.picture.data if message.HasField("picture") else None,
        vector=_tensor(message, "vector"),
        tokens=_tensor(message, "tokens"),
    )


def image_page(message: retriever_pb2.ListImagesResponse) -> ImagePage:
    """One page of the index."""
    images = tuple(stored_image(image) for image in message.images)
    return ImagePage(images=images, next_page_token=message.next_page_token, served=served(message.served))


def encoder_description(message: encoder_pb2.DescribeEncoderResponse) -> EncoderDescription:
    """What the encoder is."""
    return EncoderDescription(
        dimension=message.dimension,
        context_length=message.context_length,
        image_size=message.image_size,
        num_tokens=message.num_tokens,
        token_width=message.token_width,
        compute_dtype=message.compute_dtype,
        can_compose=message.can_compose,
        composes_vectors=message.composes_vectors,
        reload=_reload(message.reload),
        served=served(message.served),
    )


def index_description(message: retriever_pb2.DescribeIndexResponse) -> IndexDescription:
    """What the index holds."""
    return IndexDescription(
        num_images=message.num_images,
        num_indexed=message.num_indexed,
        dimension=message.dimension,
        driver=message.driver,
        collection=message.collection,
        rollout=Rollout(
            target_space_id=message.rollout.target_space_id,
            num_done=message.rollout.num_done,
            num_total=message.rollout.num_total,
            last_error=message.rollout.last_error,
        ),
        served=served(message.served),
    )


def generator_description(message: generator_pb2.DescribeGeneratorResponse) -> GeneratorDescription:
    """What the generator is."""
    return GeneratorDescription(
        context_length=message.context_length,
        num_image_tokens=message.num_image_tokens,
        image_token_width=message.image_token_width,
        reload=_reload(message.reload),
        served=served(message.served),
    )


def reply(message: generator_pb2.ReplyResponse) -> Reply:
    """A whole reply."""
    return Reply(
        text=message.text,
        images=tuple(_used_image(image) for image in message.images),
        finish_reason=_FINISHES.get(message.finish_reason, ""),
        usage=_usage(message.usage),
        served=served(message.served),
    )


def reply_event(message: generator_pb2.StreamReplyResponse) -> ReplyEvent:
    """One event of a streamed reply."""
    kind = message.WhichOneof("frame")
    if kind == "header":
        images = tuple(_used_image(image) for image in message.header.images)
        return ReplyHeader(images=images, served=served(message.header.served))
    if kind == "chunk":
        return ReplyText(text=message.chunk.text)
    finish = message.finish
    return ReplyFinish(
        finish_reason=_FINISHES.get(finish.finish_reason, ""), usage=_usage(finish.usage), served=served(finish.served)
    )


def _reload(message: common_pb2.ReloadStatus) -> Reload:
    return Reload(
        phase=message.phase,
        serving_generation=message.serving_generation,
        reloads=message.reloads,
        failures=message.failures,
        quarantined_release_ids=tuple(message.quarantined_release_ids),
        last_error=message.last_error,
    )


def _used_image(message: generator_pb2.UsedImage) -> UsedImage:
    return UsedImage(
        image_id=message.image_id, score=message.score, weight=message.weight, metadata=dict(message.metadata)
    )


def _usage(message: generator_pb2.Usage) -> Usage:
    return Usage(
        context_tokens=message.context_tokens,
        generated_tokens=message.generated_tokens,
        dropped_turns=message.dropped_turns,
        num_images=message.num_images,
    )


def _tensor(message: Any, name: str) -> Array | None:
    return tensor_from_proto(getattr(message, name), name=name) if message.HasField(name) else None
