"""The Python SDK for bots: `AsyncClient` for programs with an event loop, `Client` for all others.

    async with AsyncClient("127.0.0.1:9000") as client:
        reply = await client.reply([Turn(speaker="user", text="What colour is the mill at Hollow Ford?")])
        print(reply.text, [image.image_id for image in reply.images])

Failures are the SightlineErrors that the services raised, class by class. Calls
are tried again where that is safe, and end by their deadline.
"""

from sightline.client.async_client import AsyncClient
from sightline.client.endpoints import Endpoints, Tls
from sightline.client.follow_ups import follow_up
from sightline.client.requests import (
    ComposedQuery,
    ComposedSearch,
    ImageQuery,
    NewImage,
    ReplyOptions,
    SearchOptions,
    Turn,
)
from sightline.client.results import (
    DeletedImages,
    EncodedComposed,
    EncodedComposedQueries,
    EncodedImage,
    EncodedImages,
    EncodedText,
    EncodedTexts,
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
    UpsertedImages,
    Usage,
    UsedImage,
)
from sightline.client.sync_client import Client
from sightline.composition import Edit

__all__ = [
    "AsyncClient",
    "Client",
    "ComposedQuery",
    "ComposedSearch",
    "DeletedImages",
    "Edit",
    "EncodedComposed",
    "EncodedComposedQueries",
    "EncodedImage",
    "EncodedImages",
    "EncodedText",
    "EncodedTexts",
    "EncoderDescription",
    "Endpoints",
    "FoundImage",
    "FoundImages",
    "GeneratorDescription",
    "ImagePage",
    "ImageQuery",
    "IndexDescription",
    "NewImage",
    "Reload",
    "Reply",
    "ReplyEvent",
    "ReplyFinish",
    "ReplyHeader",
    "ReplyOptions",
    "ReplyText",
    "Rollout",
    "SearchOptions",
    "Served",
    "StoredImage",
    "Tls",
    "Turn",
    "UpsertedImages",
    "Usage",
    "UsedImage",
    "follow_up",
]
