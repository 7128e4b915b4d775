"""From a finished run to a release in the registry, and a channel that points to it."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

import sightline
from sightline.errors import UsageError
from sightline.models.composer import Composer
from sightline.models.release import embedding_space_of, save_release
from sightline.registry import ChannelState, Manifest, Registry
from trainer.architecture import Built, device_of
from trainer.config import FitConfig, to_json
from trainer.journal import Journal
from trainer.runs import AnyConfig, run_folder

ROOT = Path(__file__).resolve().parents[1]


class GateRefused(UsageError):
    """The scores do not allow publishing; nothing was published. The message says why."""


def champion_of(registry: Registry, *, channel: str) -> tuple[int, Manifest | None]:
    """(generation, manifest) of what the channel serves now; (0, None) if it never moved."""
    state = registry.channel(channel) if channel else None
    return (state.generation, registry.manifest(state.release_id)) if state else (0, None)


def kept_composer(built: Built) -> Composer | None:
    """The composer of the release that the run began from, beside the model; None if training left its space."""
    if built.composer is None:
        return None
    space_id = embedding_space_of(built.model, tower_tokenizer=built.tower_tokenizer)
    return built.composer.to(device_of(built.model)) if built.composer.embedding_space_id == space_id else None


RETRIEVAL_CHANNEL = "{channel}-retrieval"
"""Channel of the releases that only retrieve, beside the one of those that generate."""


def publish_retrieval(built: Built, *, config: FitConfig, registry: Registry, data_digest: str) -> Manifest:
    """The manifest of the release that holds the towers as stage 1 left them: whoever encodes needs no more.

    It is of the embedding space of the whole release, since stage 2 trains a
    copy. Its channel, if the recipe names one, is `<channel>-retrieval`, and
    moves only if the release is new.
    """
    with tempfile.TemporaryDirectory(prefix="sightline-release-") as folder:
        architecture = save_release(
            Path(folder),
            model=built.model.retrieval_part(),
            tower_tokenizer=built.tower_tokenizer,
            composer=kept_composer(built),
        )
        manifest = registry.publish(
            Path(folder), architecture=architecture, metrics={}, lineage=lineage(config, data_digest)
        )
    if config.channel:
        channel = RETRIEVAL_CHANNEL.format(channel=config.channel)
        generation, champion = champion_of(registry, channel=channel)
        if champion is None or champion.release_id != manifest.release_id:
            registry.promote(channel, manifest.release_id, expected_generation=generation)
    return manifest


def publish(
    built: Built,
    *,
    config: FitConfig,
    registry: Registry,
    scores: Mapping[str, float],
    data_digest: str,
    retrieval_release: str = "",
) -> Manifest:
    """The manifest of the release that holds the model; no channel moves.

    `retrieval_release` names the release that finds its pictures, where that is another.
    """
    origin = lineage(config, data_digest) | ({"retrieval_release": retrieval_release} if retrieval_release else {})
    with tempfile.TemporaryDirectory(prefix="sightline-release-") as folder:
        architecture = save_release(
            Path(folder),
            model=built.model,
            tower_tokenizer=built.tower_tokenizer,
            dialogue_tokenizer=built.dialogue_tokenizer,
            composer=kept_composer(built),
        )
        return registry.publish(Path(folder), architecture=architecture, metrics=dict(scores), lineage=origin)


def publish_past_gate(
    make: Callable[[], Manifest],
    *,
    config: AnyConfig,
    registry: Registry,
    scores: Mapping[str, float],
    reasons: Sequence[str],
    generation: int,
    console: Console,
) -> tuple[Manifest, ChannelState | None]:
    """(what `make` published, where the channel stands now), told to the run's journal and the console.

    `reasons` are why the gate refuses, `generation` where the channel stood when
    they were found. Raises GateRefused, after which nothing is published, and
    ChannelConflict if another publisher moved the channel first.
    """
    journal = Journal(run_folder(config))
    journal.write("gate", scores=scores, refusals=reasons)
    if reasons and not config.force_publish:
        raise GateRefused(f"the gate refused the release: {'; '.join(reasons)}")
    manifest, state = make(), None
    if config.channel:
        state = registry.promote(config.channel, manifest.release_id, expected_generation=generation)
    journal.write("published", release_id=manifest.release_id, generation=state.generation if state else 0)
    where = f", channel {config.channel} generation {state.generation}" if state else ""
    console.print(f"published {manifest.release_id[:19]} in {registry.uri}{where}")
    return manifest, state


def lineage(config: AnyConfig, data_digest: str) -> dict[str, Any]:
    """Where a release comes from: recipe with every setting, data, code and package version."""
    return {
        "recipe": config.recipe,
        "seed": config.seed,
        "settings": to_json(config),
        "data_sha256": data_digest,
        "git_commit": _git_commit(),
        "sightline": sightline.__version__,
    }


def _git_commit() -> str:
    """The checkout's commit, or "" outside one, as inside an image or a Ray job's working folder."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
