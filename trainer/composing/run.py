"""One composer from settings to a published release: train, measure, pass the gate, publish, move the channel."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sightline.models.composer import Composer
from sightline.models.release import LoadedModel, save_release
from sightline.registry import ChannelState, Manifest, Registry
from trainer.checkpoint import read_weights
from trainer.composing.config import ComposeConfig, ComposeGate
from trainer.composing.data import ComposedCorpus, corpus_of
from trainer.composing.loop import fresh_composers, load_towers, train_composer
from trainer.composing.measure import BEST_SUM, COMPOSED, measure_composer
from trainer.journal import COMPOSED_STAGES
from trainer.progress import watching
from trainer.publish import champion_of, lineage, publish_past_gate
from trainer.runs import run_folder, settled, trained_checkpoint

Scores = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Composed:
    """What a composer's run came to."""

    manifest: Manifest
    scores: Scores
    channel: ChannelState | None
    """Where the channel stands now; None if the recipe names none."""


def compose(config: ComposeConfig, *, console: Console) -> Composed:
    """Run `config` to its published release: the one it continues, with a composer. An unfinished run is resumed.

    Towers, embedding space and generator stay as they are, so no index has to
    be filled anew. Raises GateRefused, after which nothing is published, and
    ChannelConflict if another publisher moved the channel first.
    """
    registry = Registry(config.registry)
    config = settled(config, registry=registry)
    corpus = corpus_of(config)
    console.print(f"run {config.run.name} in {run_folder(config)}, seed {config.seed}")
    steps = dict(zip(COMPOSED_STAGES, (config.inversion.steps, config.alignment.steps), strict=True))
    with watching(run_folder(config), steps=steps, console=console):
        checkpoint = trained_checkpoint(config, loop=train_composer)
    loaded = load_towers(config)
    models = fresh_composers(config, loaded=loaded)
    read_weights(checkpoint, model=models)
    composer = models.chosen()
    scores = measure_composer(composer, loaded=loaded, config=config)
    console.print(_table(scores))
    return _published(composer, loaded=loaded, config=config, corpus=corpus, scores=scores, console=console)


def refusals(scores: Scores, *, gate: ComposeGate) -> list[str]:
    """Why these scores may not be published; [] if they may. A score that was not measured refuses what asks for it."""
    asked = {COMPOSED: gate.min_map_at_10, "gain_over_sum": gate.min_gain_over_sum}
    return [
        f"{name} is {scores.get(name, float('nan')):.3f}, must be at least {least}"
        for name, least in asked.items()
        if least is not None and not scores.get(name, float("nan")) >= least
    ]


def _published(
    composer: Composer,
    *,
    loaded: LoadedModel,
    config: ComposeConfig,
    corpus: ComposedCorpus,
    scores: Scores,
    console: Console,
) -> Composed:
    registry = Registry(config.registry)
    generation, _ = champion_of(registry, channel=config.channel)
    manifest, state = publish_past_gate(
        partial(_publish, composer, loaded=loaded, config=config, corpus=corpus, scores=scores),
        config=config,
        registry=registry,
        scores=scores,
        reasons=refusals(scores, gate=config.gate),
        generation=generation,
        console=console,
    )
    return Composed(manifest=manifest, scores=scores, channel=state)


def _publish(
    composer: Composer, *, loaded: LoadedModel, config: ComposeConfig, corpus: ComposedCorpus, scores: Scores
) -> Manifest:
    registry = Registry(config.registry)
    parent = registry.manifest(config.init_from)
    with tempfile.TemporaryDirectory(prefix="sightline-release-") as folder:
        architecture = save_release(
            Path(folder),
            model=loaded.model.cpu(),
            tower_tokenizer=loaded.tower_tokenizer,
            dialogue_tokenizer=loaded.dialogue_tokenizer,
            composer=composer.cpu(),
        )
        return registry.publish(
            Path(folder),
            architecture=architecture,
            metrics={**parent.metrics, **scores},
            lineage=lineage(config, corpus.digest) | {"parent_release": config.init_from},
        )


def _table(scores: Scores) -> Table:
    table = Table("score", "value", show_edge=False)
    for name in (COMPOSED, BEST_SUM, "gain_over_sum", "composed_recall_at_1"):
        if name in scores:
            table.add_row(name, f"{scores[name]:.3f}")
    return table
