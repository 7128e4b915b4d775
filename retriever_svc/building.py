"""The retriever put together from its settings."""

from __future__ import annotations

from retriever_svc.edge_index import EdgeIndex
from retriever_svc.encoder_client import EncoderClient
from retriever_svc.engine import RetrieverEngine
from retriever_svc.index import VectorIndex
from retriever_svc.pictures import open_pictures
from retriever_svc.rollout import RolloutSettings
from retriever_svc.servicer import RetrieverServicer
from retriever_svc.settings import RetrieverSettings


def build_servicer(settings: RetrieverSettings) -> RetrieverServicer:
    """A servicer that opens its index once it is started."""
    encoder = EncoderClient(settings.encoder_channel())
    engine = RetrieverEngine(
        index=build_index(settings),
        pictures=open_pictures(settings.pictures_uri),
        encoder=encoder,
        rollout=RolloutSettings(
            poll_s=settings.poll_s, batch=settings.move_batch, retire_after_s=settings.retire_after_s
        ),
        max_pending_writes=settings.max_pending_writes,
    )
    return RetrieverServicer(engine)


def build_index(settings: RetrieverSettings) -> VectorIndex:
    """The index driver that the settings name."""
    if settings.driver == "edge":
        return EdgeIndex(
            settings.path,
            name=settings.collection,
            optimize_after=settings.optimize_after,
            lock_wait_s=settings.lock_wait_s,
        )
    # Qdrant's client takes more than a second to import.
    from retriever_svc.server_index import ServerIndex

    return ServerIndex(settings.qdrant())
