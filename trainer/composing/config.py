"""What one composer's training is: frozen settings, and nothing that acts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sightline.data.keywords import MASKERS
from sightline.data.toytown.plan import NAMED_SHARE
from sightline.errors import SettingInvalid
from sightline.models.composed_loss import TEMPERATURE
from sightline.models.composer_config import INVERSIONS, ComposerConfig, InversionConfig, PromptConfig, check_one_of
from trainer.config import RunSettings, SpeedSettings, check_least

REFERENCES = ("picture", "caption")


# Above the classes, because a default made below is checked when it is made.
def _check_stage(name: str, settings: Any) -> None:
    for field_name, least in (("steps", 0), ("batch_size", 1), ("validate_every", 1), ("patience", 0)):
        check_least(f"{name}.{field_name}", getattr(settings, field_name), least=least)
    for field_name in ("learning_rate", "weight_decay", "warmup_share"):
        check_least(f"{name}.{field_name}", getattr(settings, field_name), least=0)
    _check_above_zero(f"{name}.clip_norm", settings.clip_norm)
    if not 0.0 <= settings.ema < 1.0:
        raise SettingInvalid(f"{name}.ema: got {settings.ema}, must be at least 0 and below 1")


def _check_above_zero(name: str, value: float) -> None:
    if not 0.0 < value < math.inf:
        raise SettingInvalid(f"{name}: got {value}, must be above 0 and finite")


@dataclass(frozen=True, kw_only=True)
class ComposedDataSettings:
    """Where captions, edits and composed queries come from."""

    kind: str = "toytown"
    """`toytown` (generated under `root` when absent) or `folder` (your own files)."""
    root: Path = Path("var/toytown")
    """Folder that every file name below is relative to; absolute names ignore it."""
    captions_train: Path = Path("captions_train.jsonl")
    """What phi learns from, in any format that `sightline.data.formats` tells; of LinCIR's the texts alone are read."""
    captions_val: Path = Path("captions_val.jsonl")
    """Held-out captions, which say when phi is done."""
    images: Path | None = None
    """Folder of the pictures that COCO files name; None: where COCO's download has them, or `images`."""
    edits_train: Path | None = Path("composed/edits_train.jsonl")
    """Pictures, modifications and target captions, as `python -m trainer triplets` writes them."""
    edits_val: Path | None = Path("composed/edits_val.jsonl")
    """Held-out ones, which say when the rest is done."""
    queries: Path | None = Path("composed/queries_val.jsonl")
    """Composed queries with known answers, to measure the release by; None measures nothing."""
    gallery: Path | None = Path("composed/gallery_val.jsonl")
    """The pictures that those queries ask for."""
    skip_bad: bool = False
    """Count and skip bad lines and unreadable pictures instead of stopping at the first."""
    scenes: int = 4500
    """Toytown: scenes to draw."""
    named_share: float = NAMED_SHARE
    """Toytown: of the captioned scenes, those that show a subject; the others show anything, as composed queries do."""
    seed: int = 0
    """Toytown: seed of the world."""


@dataclass(frozen=True, kw_only=True)
class InversionSettings:
    """Stage 1: phi, on frozen towers."""

    steps: int = 1200
    """Optimiser steps at most; 0 takes the phi of the release that is continued."""
    method: str = "lincir"
    """`lincir`: captions alone. For comparison `pic2word`: pictures, told apart by sentences; `searle`: distilled from
    pseudo-words of single pictures, without its language model."""
    masker: str = "rules"
    """What finds a caption's keywords: `rules`, or `spacy` where its model is installed."""
    noise_scale: float = 1.0
    """`lincir`: noise on a caption's vector, in units of the encoder's own spread."""
    dropout: float = 0.5
    """Dropout of phi."""
    hidden_width: int = 0
    """Width of phi's hidden layers; 0 is four times the vector's."""
    batch_size: int = 256
    """Captions, or pictures, a step over all workers."""
    accumulate: int = 1
    """Parts that a worker's share of the batch is read in; of a method with negatives, a part meets those of its own
    number alone, of every worker."""
    learning_rate: float = 1e-3
    """Peak of the cosine schedule that ends at zero."""
    weight_decay: float = 0.01
    """Decay of matrices."""
    warmup_share: float = 0.05
    """Share of the steps that the rate rises over."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.0
    """Share of the moving average that a step keeps; 0 has no average, and the weights themselves are judged."""
    validate_every: int = 100
    """Steps between looks at held-out data; the best weights seen there are the result."""
    patience: int = 5
    """Looks without a better result before the stage ends; 0 never ends early."""
    optimisation_steps: int = 150
    """`searle`: steps that a single picture's pseudo-word is searched for."""

    def __post_init__(self) -> None:
        """Raise SettingInvalid for an unknown method or masker, or a number outside its limits."""
        check_one_of("inversion.method", self.method, tuple(INVERSIONS))
        check_one_of("inversion.masker", self.masker, MASKERS)
        _check_stage("inversion", self)
        check_least("inversion.optimisation_steps", self.optimisation_steps)
        check_least("inversion.noise_scale", self.noise_scale, least=0)

    def network(self) -> InversionConfig:
        """phi as this stage trains it: the method's network, as far as the settings leave it."""
        known = INVERSIONS[self.method]
        return replace(
            known,
            dropout=self.dropout,
            hidden_width=self.hidden_width or known.hidden_width,
            noise_scale=self.noise_scale if self.method == "lincir" else 0.0,
        )


@dataclass(frozen=True, kw_only=True)
class AlignmentSettings:
    """Stage 2: what brings queries to their targets' captions; the gallery's side stays as it is."""

    steps: int = 800
    """Optimiser steps at most; 0 leaves stage 1 as it is."""
    text_side: str = "prompts"
    """`prompts`: learned tokens in the text tower of queries. `tower`: a copy of it, trained whole (RTD). `none`:
    neither."""
    picture_side: str = "feature"
    """`feature`: an adapter of phi's input, which needs no pixels. `deep`: learned tokens in the picture tower of
    references. `none`: neither."""
    num_prompts: int = 4
    """Learned tokens of each side."""
    depth: int = 0
    """Blocks whose input prompts are learned; 0 is three quarters of the tower's."""
    coupling: str = "none"
    """`linear` derives the picture's prompts from the text's (MaPLe)."""
    num_experts: int = 1
    """Sets of text prompts, mixed by a gate that reads the edit."""
    adapter_width: int = 0
    """Width of the adapter's bottleneck; 0 is a quarter of the vector's."""
    phi_rate: float = 0.25
    """Rate of phi as a share of `learning_rate`; 0 leaves phi as stage 1 made it."""
    phi_dropout: float = 0.0
    """Dropout in phi while it learns here; stage 1 has its own."""
    text_tower_rate: float = 0.06
    """`tower`: its rate as a share of `learning_rate`: 3e-4, for towers as small as Toytown's. RTD's 1e-5 on CLIP's is
    0.002."""
    reference: str = "picture"
    """`picture`, as in service, or `caption`: the reference's caption in its place, for comparison (RTD)."""
    reference_noise: float = 0.5
    """`caption`: noise on its vector, in units of the encoder's own spread."""
    is_anchored: bool = True
    """Targets are what the frozen text tower makes of their captions. False has the branch that learns read them too,
    which RTD found to collapse: for comparison."""
    has_reference_pairs: bool = True
    """Double each batch by "a photo of $" and the reference's own caption: a query that ignores its edit meets it."""
    weighs_by_entropy: bool = False
    """Let queries whose choice is open count for more."""
    temperature: float = TEMPERATURE
    """Of the contrastive loss."""
    batch_size: int = 128
    """Edits a step over all workers."""
    accumulate: int = 1
    """Parts that a worker's share of the batch is read in; a part meets the negatives of its own number alone, of every
    worker."""
    learning_rate: float = 5e-3
    """Peak of the cosine schedule that ends at zero."""
    weight_decay: float = 0.01
    """Decay of matrices."""
    warmup_share: float = 0.05
    """Share of the steps that the rate rises over."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.0
    """Share of the moving average that a step keeps; 0 has no average."""
    validate_every: int = 100
    """Steps between looks at held-out edits; the best weights seen there are the result."""
    patience: int = 5
    """Looks without a better result before the stage ends; 0 never ends early."""

    def __post_init__(self) -> None:
        """Raise SettingInvalid for an unknown reference, a number outside its limits, or sides that cannot learn."""
        _check_stage("alignment", self)
        for name in ("phi_rate", "reference_noise"):
            check_least(f"alignment.{name}", getattr(self, name), least=0)
        _check_above_zero("alignment.temperature", self.temperature)
        check_one_of("alignment.reference", self.reference, REFERENCES)
        if self.text_side == "tower":
            _check_above_zero("alignment.text_tower_rate", self.text_tower_rate)
        if self.steps and self.text_side == self.picture_side == "none" and not self.phi_rate:
            raise SettingInvalid("alignment.phi_rate: got 0 with both sides 'none': nothing is left to learn")
        if self.text_side == "none" and not self.is_anchored:
            raise SettingInvalid("alignment.is_anchored: false needs a text side that learns, text_side is 'none'")

    def composer(self, first: ComposerConfig) -> ComposerConfig:
        """The composer that this stage trains, given that of stage 1, whose phi it goes on with."""
        prompts = PromptConfig(
            num_prompts=self.num_prompts, depth=self.depth, coupling=self.coupling, num_experts=self.num_experts
        )
        return replace(
            first,
            inversion=replace(first.inversion, dropout=self.phi_dropout),
            prompts=prompts,
            text_side=self.text_side,
            picture_side=self.picture_side,
            adapter_width=self.adapter_width,
        )


@dataclass(frozen=True, kw_only=True)
class ComposeGate:
    """What a composer must reach to be published. None does not ask."""

    min_map_at_10: float | None = None
    """Least mean average precision at 10 of the composed queries."""
    min_gain_over_sum: float | None = None
    """How much more than the plain sum of picture and text at its best weight that must be."""


@dataclass(frozen=True, kw_only=True)
class ComposeConfig:
    """One composer, whole: what `python -m trainer compose <recipe>` does."""

    recipe: str
    """Name of the recipe; goes into the release's lineage."""
    seed: int = 0
    """Seed of weights, order, noise and dropout."""
    registry: str = "var/registry"
    """Folder or URI of releases."""
    channel: str = ""
    """Channel moved to the new release when it passes; empty publishes without moving one."""
    init_from: str = "stable"
    """Release id or channel whose towers the composer is made for; the new release is that one, with a composer."""
    force_publish: bool = False
    """Publish although the gate refused."""
    data: ComposedDataSettings = field(default_factory=ComposedDataSettings)
    """Corpus."""
    inversion: InversionSettings = field(default_factory=InversionSettings)
    """Stage 1."""
    alignment: AlignmentSettings = field(default_factory=AlignmentSettings)
    """Stage 2."""
    speed: SpeedSettings = field(default_factory=SpeedSettings)
    """How steps are computed."""
    gate: ComposeGate = field(default_factory=ComposeGate)
    """Thresholds."""
    run: RunSettings = field(default_factory=RunSettings)
    """Process."""
