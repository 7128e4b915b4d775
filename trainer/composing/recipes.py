"""Composers to train: named, whole settings. Any of them can be overridden on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sightline.errors import SettingInvalid
from sightline.settings import nearest
from trainer.composing.config import (
    AlignmentSettings,
    ComposeConfig,
    ComposedDataSettings,
    ComposeGate,
    InversionSettings,
)
from trainer.recipes import TOYTOWN_FINE

_WORLD = TOYTOWN_FINE.data

TOYTOWN_COMPOSED = ComposeConfig(
    recipe="toytown-composed",
    channel="stable",
    data=ComposedDataSettings(root=_WORLD.root, scenes=_WORLD.scenes, named_share=_WORLD.named_share, seed=_WORLD.seed),
    inversion=InversionSettings(steps=700),
    alignment=AlignmentSettings(steps=1200, text_side="tower", text_tower_rate=0.3),
    gate=ComposeGate(min_gain_over_sum=0.05),
)
"""Both stages on the towers of the channel's release, `toytown-fine`'s, with edits that Toytown writes about itself.

Which parts learn is decided by a table of three seeds (docs/composed-retrieval.md).
"""

FOLDER_COMPOSED = ComposeConfig(
    recipe="folder-composed",
    data=ComposedDataSettings(
        kind="folder",
        root=Path(),
        captions_train=Path("captions.jsonl"),
        captions_val=Path("captions_val.jsonl"),
        edits_train=Path("edits.jsonl"),
        edits_val=Path("edits_val.jsonl"),
        queries=None,
        gallery=None,
    ),
)
"""Your own captions, and edits that `python -m trainer triplets` wrote about them."""

COMPOSED_SMOKE = replace(
    TOYTOWN_COMPOSED,
    recipe="composed-smoke",
    channel="",
    data=ComposedDataSettings(),
    gate=ComposeGate(),
    inversion=InversionSettings(steps=8, batch_size=16, validate_every=4),
    alignment=AlignmentSettings(steps=8, batch_size=16, validate_every=4),
)
"""Every part once, in seconds; the scores mean nothing."""

COMPOSED_RECIPES: Mapping[str, ComposeConfig] = {
    config.recipe: config for config in (TOYTOWN_COMPOSED, FOLDER_COMPOSED, COMPOSED_SMOKE)
}
"""Every recipe by name."""


def composed_recipe(name: str) -> ComposeConfig:
    """The recipe of that name. Raises SettingInvalid naming the nearest ones."""
    if name not in COMPOSED_RECIPES:
        known = list(COMPOSED_RECIPES)
        raise SettingInvalid(f"no composer recipe {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    return COMPOSED_RECIPES[name]
