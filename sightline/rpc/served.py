"""What a reply says of the release that answered, and of the reload behind it."""

from __future__ import annotations

from typing import Any

from sightline.registry import Loaded, ReloadState
from sightline.rpc.context import CallContext
from sightline.rpc.timings import StageClock
from sightline.v1 import common_pb2


def served_by(loaded: Loaded[Any], *, call: CallContext, clock: StageClock) -> common_pb2.Served:
    """The release that answers `call`, and where the time went so far."""
    return common_pb2.Served(
        release_id=loaded.manifest.release_id,
        generation=loaded.generation,
        embedding_space_id=loaded.manifest.embedding_space_id,
        request_id=call.request_id,
        timings=clock.timings(),
    )


def reload_status(state: ReloadState) -> common_pb2.ReloadStatus:
    """Where a service stands with its channel."""
    return common_pb2.ReloadStatus(
        phase=state.phase,
        serving_generation=state.serving_generation,
        reloads=state.reloads,
        failures=state.failures,
        quarantined_release_ids=state.quarantined,
        last_error=state.last_error,
    )
