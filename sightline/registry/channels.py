"""A channel: a name, such as `stable`, that points to a release and only ever moves forward."""

from __future__ import annotations

import dataclasses
import json
import re

from sightline.errors import DataCorrupt, UsageError

_CHANNEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChannelState:
    """Where a channel points since one of its moves."""

    generation: int
    """The number of the move, from 1, without gaps."""
    release_id: str
    """The release that the channel names."""
    previous: str | None
    """The release that it named before; None for the first move."""
    published_at: str
    """When it moved, ISO 8601 in UTC."""
    restores: int | None = None
    """The generation that a rollback brought back; None for a promotion."""


def check_channel_name(name: str) -> str:
    """`name` itself. Raises UsageError unless it is 1 to 63 of a-z, 0-9, dot, dash, underscore."""
    if not _CHANNEL_NAME.fullmatch(name):
        raise UsageError(f"channel: got {name!r}, expected 1 to 63 of a-z, 0-9, '.', '-', '_', a letter or digit first")
    return name


def write_channel(state: ChannelState) -> bytes:
    """The state as the bytes of its file."""
    return json.dumps(dataclasses.asdict(state), sort_keys=True).encode() + b"\n"


def read_channel(data: bytes, *, name: str, generation: int) -> ChannelState:
    """The state in `data`. Raises DataCorrupt unless it is that generation's."""
    try:
        state = ChannelState(**json.loads(data))
    except (ValueError, TypeError) as error:
        message = f"channel {name}, generation {generation}: unreadable: {error}"
        raise DataCorrupt(message, detail="unreadable channel") from error
    if state.generation != generation:
        message = f"channel {name}: generation {generation} says it is {state.generation!r}"
        raise DataCorrupt(message, detail=f"generation {state.generation!r}")
    return state


def rollback_target(history: list[ChannelState]) -> ChannelState | None:
    """The move before the one that brought the current release; None if there is none.

    `history` is newest first. A second rollback goes one release further
    back, not forth again.
    """
    by_generation = {state.generation: state for state in history}
    current = history[0]
    generation = current.restores or current.generation
    while generation > 1:
        candidate = by_generation[generation - 1]
        if candidate.release_id != current.release_id:
            return candidate
        generation = candidate.restores or candidate.generation
    return None
