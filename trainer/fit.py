"""One run from settings to a published release: train, evaluate, pass the gate, publish, move the channel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from rich.console import Console
from rich.table import Table

from sightline.errors import SettingInvalid
from sightline.models.config import FAITHFUL
from sightline.registry import ChannelState, Manifest, Registry
from trainer.architecture import Built, build, released
from trainer.checkpoint import read_weights
from trainer.config import FitConfig
from trainer.data import Corpus, load_corpus
from trainer.evaluate import Scores, evaluate, score_floor
from trainer.gate import refusals
from trainer.journal import Journal, skipped_pictures
from trainer.loop import train
from trainer.progress import stage_steps, watching
from trainer.publish import champion_of, kept_composer, publish, publish_past_gate, publish_retrieval
from trainer.relevance import calibrated
from trainer.runs import release_cache, resolve, run_folder, settled, trained_checkpoint

SHOWN = (
    "grounded_accuracy",
    "text_only_accuracy",
    "random_picture_accuracy",
    "oracle_accuracy",
    "seen_accuracy",
    "retrieval_recall_at_1",
    "retrieval_recall_at_5",
    "caption_recall_at_1",
    "caption_recall_at_5",
    "caption_recall_at_10",
    "perplexity",
    "unigram_perplexity",
    "score_floor",
    "small_talk_picture_rate",
    "small_talk_ungated_perplexity",
    "small_talk_gated_perplexity",
    "gated_accuracy",
    "invention_rate",
    "gated_invention_rate",
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run came to."""

    manifest: Manifest
    scores: Scores
    channel: ChannelState | None
    """Where the channel stands now; None if the recipe names none."""


def fit(config: FitConfig, *, console: Console) -> Outcome:
    """Run `config` to its published release. An unfinished run of the same name is resumed.

    Raises GateRefused, after which nothing is published, ChannelConflict if
    another publisher moved the channel first, and SettingInvalid if stage 1 would
    hold pictures against a text encoder that is random and stays so.
    """
    _check_text_encoder(config)
    registry = Registry(config.registry)
    config = settled(config, registry=registry)
    corpus = load_corpus(config.data)
    console.print(f"run {config.run.name} in {run_folder(config)}, seed {config.seed}")
    with watching(run_folder(config), steps=stage_steps(config), console=console):
        checkpoint = trained_checkpoint(config, loop=train)
    num_skipped, num_pictures = skipped_pictures(run_folder(config))
    if num_skipped:
        console.print(f"skipped {num_skipped} of {num_pictures} training pictures, which cannot be decoded")
    built = build(config, texts=corpus.texts())
    read_weights(checkpoint, model=built.model)
    built = _calibrated(built, config=config, corpus=corpus)
    scores = _evaluated(built, config=config, corpus=corpus)
    console.print(score_table(scores))
    return _published(built, config=config, registry=registry, scores=scores, corpus=corpus, console=console)


def evaluate_release(release_id: str, *, config: FitConfig) -> Scores:
    """Every score of a published release, or of a channel's, on the data of `config`."""
    registry = Registry(config.registry)
    built = released(resolve(release_id, registry=registry), registry=registry, cache=release_cache(config))
    return _evaluated(built, config=config, corpus=load_corpus(config.data))


def score_table(scores: Scores) -> Table:
    """The scores that a person looks at first."""
    table = Table("score", "value", show_edge=False)
    for name in SHOWN:
        if name in scores:
            table.add_row(name, f"{scores[name]:.3f}")
    return table


def _check_text_encoder(config: FitConfig) -> None:
    is_fresh = config.model.variant == FAITHFUL and not (config.model.decoder or config.init_from)
    if is_fresh and config.stage1.steps and not config.stage1.train_text_encoder:
        raise SettingInvalid(
            "model.decoder: got '', but stage 1 freezes a faithful model's text encoder, which would be random; name a "
            f"trained BART, or make one: python -m trainer pretrain {config.recipe} --model.decoder FOLDER"
        )


def _calibrated(built: Built, *, config: FitConfig, corpus: Corpus) -> Built:
    built.model.eval().to(config.run.device)
    cache = config.run.root / "cache"
    return calibrated(built, floor=score_floor(built, corpus=corpus, settings=config.evaluation, cache=cache))


def _evaluated(built: Built, *, config: FitConfig, corpus: Corpus) -> Scores:
    built.model.eval().to(config.run.device)
    return evaluate(built, corpus=corpus, settings=config.evaluation, cache=config.run.root / "cache", seed=config.seed)


def _published(
    built: Built, *, config: FitConfig, registry: Registry, scores: Scores, corpus: Corpus, console: Console
) -> Outcome:
    _tell_of_composer(built, config=config, console=console)
    generation, champion = champion_of(registry, channel=config.channel)
    reasons = refusals(scores, settings=config.gate, champion=champion.metrics if champion else None)
    manifest, state = publish_past_gate(
        partial(_publish, built, config=config, registry=registry, scores=scores, corpus=corpus),
        config=config,
        registry=registry,
        scores=scores,
        reasons=reasons,
        generation=generation,
        console=console,
    )
    return Outcome(manifest=manifest, scores=scores, channel=state)


def _tell_of_composer(built: Built, *, config: FitConfig, console: Console) -> None:
    if built.composer is None:
        return
    is_kept = kept_composer(built) is not None
    Journal(run_folder(config)).write("composer", is_kept=is_kept, init_from=config.init_from)
    if not is_kept:
        told = "is left out: stage 1 left the embedding space that it was trained in (python -m trainer compose)"
        console.print(f"the composer of {config.init_from[:19]} {told}", soft_wrap=True)


def _publish(built: Built, *, config: FitConfig, registry: Registry, scores: Scores, corpus: Corpus) -> Manifest:
    """The whole release; that of a faithful model follows one of its towers alone, which keeps on retrieving."""
    retrieval = ""
    if built.model.config.variant == FAITHFUL:
        towers = publish_retrieval(built, config=config, registry=registry, data_digest=corpus.digest)
        retrieval = towers.release_id
    return publish(
        built,
        config=config,
        registry=registry,
        scores=scores,
        data_digest=corpus.digest,
        retrieval_release=retrieval,
    )
