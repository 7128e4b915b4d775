"""What the runs were: named, whole settings. Any of them can be overridden on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sightline.errors import SettingInvalid
from sightline.settings import nearest
from trainer.config import (
    ContrastiveSettings,
    DataSettings,
    EvaluationSettings,
    FitConfig,
    GateSettings,
    GenerativeSettings,
    ModelSettings,
    RunSettings,
)

_TOYTOWN_GATE = GateSettings(
    min_grounded_accuracy=0.65,
    max_text_only_accuracy=0.45,
    max_random_picture_accuracy=0.5,
    min_retrieval_recall_at_1=0.8,
)
"""A floor some deviations below what seeds reach (docs/experiments.md): it stops defects, not bad luck."""

TOYTOWN_TINY = FitConfig(
    recipe="toytown-tiny",
    channel="stable",
    data=DataSettings(questions_seen=Path("questions_seen.jsonl")),
    model=ModelSettings(vision_layers=2, dropout=0.0),
    stage1=ContrastiveSettings(
        steps=900, learning_rate=2e-3, warmup_share=0.2, tamim_weight=10.0, tamim_share=0.5, small_talk_share=0.0
    ),
    stage2=GenerativeSettings(steps=1500, learning_rate=2e-3, warmup_share=0.1, weight_decay=1.0, swap_share=0.95),
    gate=_TOYTOWN_GATE,
)
"""Both stages on the generated world, in minutes on two cores."""

TOYTOWN_FINE = replace(
    TOYTOWN_TINY,
    recipe="toytown-fine",
    data=replace(TOYTOWN_TINY.data, root=Path("var/toytown-fine"), scenes=12_000),
    stage1=replace(TOYTOWN_TINY.stage1, steps=3000, tamim_weight=0.2, tamim_share=0.1, has_wrong_captions=True),
)
"""Towers of the same size that tell pictures apart by single facts, which composed retrieval lives by.

More scenes, more than three times the steps, little painting, and wrong captions beside the right ones. It talks as
well as toytown-tiny.
"""

TOYTOWN_TEXT_ONLY = replace(
    TOYTOWN_TINY,
    recipe="toytown-text-only",
    channel="",
    stage2=replace(TOYTOWN_TINY.stage2, image_dropout=1.0),
    gate=GateSettings(),
)
"""Control: stage 2 never sees a picture. What it answers right, text alone gives away."""

TOYTOWN_LEAKY = replace(
    TOYTOWN_TINY,
    recipe="toytown-leaky",
    channel="",
    stage1=replace(TOYTOWN_TINY.stage1, train_text_encoder=True, tamim_share=1.0),
    gate=GateSettings(),
)
"""Negative control: stage 1 trains the text encoder, so facts that only pictures show leak into the text path."""

TOYTOWN_FAITHFUL = replace(
    TOYTOWN_TINY,
    recipe="toytown-faithful",
    channel="",
    model=replace(TOYTOWN_TINY.model, variant="faithful", decoder="var/bart/toytown"),
    stage1=replace(TOYTOWN_TINY.stage1, steps=6000, tamim_weight=0.2),
    stage2=replace(TOYTOWN_TINY.stage2, weight_decay=0.1),
    gate=replace(_TOYTOWN_GATE, min_grounded_accuracy=None, min_retrieval_recall_at_1=None),
)
"""The published architecture in the same world. `python -m trainer pretrain toytown-faithful` makes its BART first.

Stage 1 is long, as one linear map is all of the text's side that it trains. The gate has no floors, since no run has
reached one; leaks into text it stops as every recipe's does.
"""

TOYTOWN_SMOKE = replace(
    TOYTOWN_TINY,
    recipe="toytown-smoke",
    channel="",
    data=replace(TOYTOWN_TINY.data, root=Path("var/toytown-smoke"), scenes=800),
    model=ModelSettings(vision_width=32, vision_layers=1, text_width=32, text_layers=1, decoder_layers=1),
    stage1=ContrastiveSettings(steps=8, batch_size=8),
    stage2=GenerativeSettings(steps=8, batch_size=8),
    evaluation=EvaluationSettings(max_questions=8, max_dialogues=8),
    gate=GateSettings(),
    run=RunSettings(checkpoint_every=4, log_every=1),
)
"""Every part once, in seconds; the scores mean nothing."""

TOYTOWN_QUICK = replace(
    TOYTOWN_TINY,
    recipe="toytown-quick",
    channel="",
    data=replace(TOYTOWN_TINY.data, root=Path("var/toytown-quick"), scenes=1000),
    model=replace(TOYTOWN_TINY.model, image_size=42, patch_size=7, token_grid=3, vision_width=64, decoder_layers=1),
    stage1=replace(TOYTOWN_TINY.stage1, steps=240, batch_size=32, tamim_share=0.25),
    stage2=replace(TOYTOWN_TINY.stage2, steps=160, batch_size=24),
    evaluation=EvaluationSettings(max_questions=128, max_dialogues=64),
    gate=GateSettings(),
)
"""One model in well under a minute on one core: for many models at once. A smoke test, too short to read facts."""

FOLDER = FitConfig(
    recipe="folder",
    data=DataSettings(
        kind="folder",
        root=Path(),
        captions_train=Path("captions.jsonl"),
        captions_val=None,
        dialogues_train=Path("dialogues.jsonl"),
        dialogues_val=None,
        pool=None,
        questions=None,
    ),
    model=ModelSettings(
        vision_width=128, vision_layers=4, text_width=128, text_layers=2, embed_dim=128, vocab_size=8000
    ),
    stage1=ContrastiveSettings(steps=1500),
    stage2=GenerativeSettings(steps=1500),
)
"""Your own captions and dialogues: `--data.root FOLDER` and the file names below it."""

EMOJI = replace(
    FOLDER,
    recipe="emoji",
    data=replace(
        FOLDER.data,
        root=Path("var/emoji"),
        captions_train=Path("captions_train.jsonl"),
        captions_val=Path("captions_val.jsonl"),
        dialogues_train=Path("dialogues_train.jsonl"),
        dialogues_val=Path("dialogues_val.jsonl"),
        pool=Path("pool.jsonl"),
    ),
    model=replace(FOLDER.model, vision_layers=3),
    stage1=replace(FOLDER.stage1, steps=1000, tamim_share=0.25),
    stage2=replace(FOLDER.stage2, steps=1000, max_response_tokens=48),
    evaluation=EvaluationSettings(max_new_tokens=32),
)
"""Real pictures and real talk: emoji captioned by their names, and dialogues of Topical-Chat or ChatterBot."""

RECIPES: Mapping[str, FitConfig] = {
    config.recipe: config
    for config in (
        TOYTOWN_TINY,
        TOYTOWN_FINE,
        TOYTOWN_TEXT_ONLY,
        TOYTOWN_LEAKY,
        TOYTOWN_FAITHFUL,
        TOYTOWN_SMOKE,
        TOYTOWN_QUICK,
        FOLDER,
        EMOJI,
    )
}
"""Every recipe by name."""


def recipe(name: str) -> FitConfig:
    """The recipe of that name. Raises SettingInvalid naming the nearest ones."""
    if name not in RECIPES:
        raise SettingInvalid(f"no recipe {name!r}{nearest(name, list(RECIPES))}; known: {', '.join(RECIPES)}")
    return RECIPES[name]
