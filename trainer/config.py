"""What one run is: frozen settings, their JSON form, and nothing that acts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from sightline.data.toytown.plan import NAMED_SHARE
from sightline.errors import SettingInvalid
from sightline.models.config import VARIANTS
from sightline.settings import nearest

SettingsT = TypeVar("SettingsT")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where captions, dialogues and pictures come from."""

    kind: str = "toytown"
    """`toytown` (generated under `root` when absent) or `folder` (your own files, each of any format that
    `sightline.data.formats` tells: JSON Lines, COCO, Image-Chat, Reddit, WebDataset tars, a folder of pictures)."""
    root: Path = Path("var/toytown")
    """Folder that every file name below is relative to; absolute names ignore it."""
    captions_train: Path = Path("captions_train.jsonl")
    """Captioned pictures: both stages look at these pictures only."""
    captions_val: Path | None = Path("captions_val.jsonl")
    """Held-out captioned pictures; None keeps `val_share` of the training pictures back."""
    dialogues_train: Path = Path("dialogues_train.jsonl")
    """Text-only dialogues for stage 2."""
    dialogues_val: Path | None = Path("dialogues_val.jsonl")
    """Held-out dialogues; None keeps `val_share` of the training dialogues back."""
    dialogues_annotated: Path | None = None
    """Training dialogues that name their picture, for `stage2.annotated_share`; None has none."""
    images: Path | None = None
    """Folder of the pictures that COCO and Image-Chat files name; None: where COCO's download has them, or `images`."""
    pool: Path | None = Path("pool.jsonl")
    """Pictures that retrieval is measured over: JSONL, COCO, tars or a folder; None: the held-out captioned ones."""
    pool_train: Path | None = None
    """More pictures, without captions, that training dialogues retrieve from; None: the captioned ones alone."""
    questions: Path | None = Path("questions.jsonl")
    """Held-out questions with known answers; None skips the grounding scores."""
    questions_seen: Path | None = None
    """Held-out questions about subjects that training dialogues mention; None skips `seen_accuracy`."""
    strangers: Path | None = None
    """Held-out dialogues that ask for what no picture shows; None skips `invention_rate`."""
    val_share: float = 0.1
    """Share of pictures and of dialogues held out where no held-out file is named."""
    skip_bad: bool = False
    """Count and skip bad lines and unreadable pictures instead of stopping at the first."""
    scenes: int = 4500
    """Toytown: scenes to draw."""
    named_share: float = NAMED_SHARE
    """Toytown: of the captioned scenes, those that show a subject; the others show anything, as composed queries do."""
    num_strangers: int = 0
    """Toytown: training dialogues more that ask about names without a picture and are answered "i do not know"; then
    set `strangers` to `strangers.jsonl`, which asks about other such names."""
    seed: int = 0
    """Toytown: seed of the world; the run's own seed is apart, so that runs share one world."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Sizes of a model built from configuration, or names of pretrained parts."""

    variant: str = "clip"
    """`clip`: a frozen open_clip model finds and shows pictures. `faithful`: the authors' ViT and BART do, with vectors
    as wide as the decoder; stage 2 trains all of it, and is published apart from what retrieves."""
    tower: str = ""
    """An open_clip tower: `ViT-B-32:laion2b_s34b_b79k` (a pretrained tag), `ViT-B-32:weights.safetensors` (a file),
    `ViT-B-32` (random), `hf-hub:org/repo` or `local-dir:folder`; of a faithful model the folder of a ViT checkpoint.
    Empty builds the sizes below."""
    decoder: str = ""
    """A BART-family checkpoint: a folder, or a hub id such as `facebook/bart-base`; empty builds the sizes below."""
    image_size: int = 56
    """Side of the square that a picture is scaled and cut to, in pixels."""
    patch_size: int = 8
    """Side of one patch in pixels."""
    vision_width: int = 96
    """Width of the picture tower; a multiple of 32."""
    vision_layers: int = 3
    """Blocks of the picture tower."""
    text_width: int = 64
    """Width of the text tower; a multiple of 32."""
    text_layers: int = 2
    """Blocks of the text tower."""
    embed_dim: int = 64
    """Dimension of the shared space, and of the index."""
    context_length: int = 48
    """Tokens of a text that the text tower reads."""
    dialogue_length: int = 96
    """Tokens of a dialogue that the decoder's encoder reads; the newest are kept."""
    token_grid: int = 7
    """Pictures enter the fusion as this many by this many tokens."""
    vocab_size: int = 2000
    """Most entries of the tokenizer trained on the corpus."""
    decoder_width: int = 96
    """Width of the text encoder, the fusion and the decoder; a multiple of `decoder_heads`."""
    decoder_layers: int = 2
    """Blocks of the text encoder and of the decoder, each."""
    decoder_heads: int = 4
    """Attention heads of the text encoder and the decoder."""
    dropout: float = 0.1
    """Dropout of the text encoder, the fusion and the decoder."""
    wo_mf: bool = False
    """Ablation: multimodal fusion is left out; pictures are summed."""
    wo_it: bool = False
    """Ablation: information transfer is left out; the decoder attends to text, then to pictures, without gates."""

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise SettingInvalid(f"model.variant: got {self.variant!r}, expected {' or '.join(VARIANTS)}")


@dataclass(frozen=True, kw_only=True)
class ContrastiveSettings:
    """Stage 1: text-image matching plus text-assisted masked image modelling."""

    steps: int = 320
    """Optimiser steps; 0 with `init_from` keeps the towers and their embedding space."""
    batch_size: int = 64
    """Pictures a step over all workers; each picture with one of its captions."""
    pair_share: float = 1.0
    """Share of the captioned pictures to learn from, above 0; a smaller share is part of a larger one. Stage 2
    retrieves from all of them whatever stands here."""
    accumulate: int = 1
    """Parts that a worker's share of the batch is read in, one after the other: memory of one part. A part meets the
    negatives of its own and of the other workers' same part, so more parts mean fewer negatives than `batch_size`;
    `speed.gradient_checkpointing` saves memory and keeps them."""
    learning_rate: float = 1e-3
    """Peak of the cosine schedule that ends at zero."""
    weight_decay: float = 0.05
    """Decay of matrices; gains, biases and the temperature are spared."""
    warmup_share: float = 0.1
    """Share of the steps that the rate rises over."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    tim_weight: float = 1.0
    """Weight of the matching loss; 0 leaves it out, and the towers only learn to paint."""
    tamim_weight: float = 0.2
    """Weight of the masked image loss; 0 leaves it out."""
    tamim_share: float = 0.5
    """Share of the batch that the masked image loss reads: its pass through the tower costs as much as matching."""
    small_talk_share: float = 0.5
    """Share of captions wrapped in unpaired turns of training dialogues, so that the text tower copes with chat."""
    has_wrong_captions: bool = False
    """Tell each picture, too, from its caption with one word exchanged: random pictures of a batch rarely differ by a
    single fact. Reads twice as many texts."""
    flip_share: float = 0.5
    """Share of pictures mirrored left to right."""
    shift_pixels: int = 4
    """Largest shift of a picture, either way, in pixels."""
    train_text_encoder: bool = False
    """Negative control: lets the masked loss teach the decoder's text encoder what only pictures show."""


@dataclass(frozen=True, kw_only=True)
class GenerativeSettings:
    """Stage 2: multimodal fusion and information transfer; the towers that retrieve stay frozen in either variant."""

    steps: int = 600
    """Optimiser steps."""
    batch_size: int = 32
    """Dialogues a step over all workers."""
    accumulate: int = 1
    """Parts that a worker's share of the batch is read in, one after the other: memory of one part, and the same
    gradient as the whole, save that a faithful model's preservation loss meets the pictures of one part alone."""
    learning_rate: float = 1e-3
    """Peak of the cosine schedule that ends at zero."""
    weight_decay: float = 0.01
    """Decay of matrices."""
    warmup_share: float = 0.05
    """Share of the steps that the rate rises over."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    label_smoothing: float = 0.0
    """Share of the target mass spread over the vocabulary."""
    preservation_weight: float = 0.1
    """Weight of a faithful model's preservation loss, which keeps contexts and pictures matched; 0 leaves it out."""
    num_images: int = 3
    """Most pictures shown with a training dialogue; 1 to this many, so that a single given picture works too."""
    num_candidates: int = 16
    """Pictures retrieved for a training dialogue; those shown are drawn anew at each visit."""
    query: str = "context"
    """What retrieves training pictures: `context`, as in service, or `context_response`, which knows the answer and
    finds pictures that no bot could find. Evaluation takes `context` whatever stands here."""
    image_dropout: float = 0.1
    """Share of training dialogues shown no picture at all, so that replies without one work."""
    swap_share: float = 0.0
    """Share of a context's names (words rare in dialogues and in captions) exchanged for others, in the response alike,
    so that facts must be seen: for generated worlds. Above 0 it scrambles what natural dialogues mean."""
    annotated_share: float = 0.0
    """Share of the annotated dialogues to train on, each with the picture it names and no other; a smaller
    share is part of a larger one. 0 trains on the text-only dialogues."""
    max_response_tokens: int = 32
    """Longest response trained on, in tokens; longer ones are cut."""

    def __post_init__(self) -> None:
        """Raise SettingInvalid for a number of pictures that is none; `image_dropout` 1 shows none."""
        check_least("stage2.num_images", self.num_images)
        check_least("stage2.num_candidates", self.num_candidates)


@dataclass(frozen=True, kw_only=True)
class SpeedSettings:
    """How a step is computed: none of it changes what is learned but by rounding."""

    precision: str = "float32"
    """`float32`, or `bfloat16`: matrices multiply in bfloat16, weights, optimiser and losses stay float32."""
    gradient_checkpointing: bool = False
    """Keep the inputs of blocks alone and compute them again on the way back: less memory for a third more time."""
    compile_backend: str = ""
    """`torch.compile` backend such as `inductor`; empty runs eagerly. Pays for long runs of large models."""

    def __post_init__(self) -> None:
        """Raise SettingInvalid for a precision that is not known."""
        if self.precision not in {"float32", "bfloat16"}:
            raise SettingInvalid(f"speed.precision: got {self.precision!r}, expected float32 or bfloat16")


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How a release is measured before it may be published."""

    max_new_tokens: int = 16
    """Longest reply to a held-out question, in tokens."""
    batch_size: int = 64
    """Questions or pictures a forward pass."""
    max_questions: int = 0
    """Held-out questions to ask, spread evenly over the file; 0 asks all."""
    max_dialogues: int = 300
    """Held-out dialogues for perplexity and seen accuracy."""
    num_images: int = 3
    """Pictures retrieved for a question."""
    floor_tolerance: float = 0.001
    """Nats a token that held-out replies may cost more for the sake of a higher score floor: the higher the floor, the
    fewer pictures are shown to dialogues that do not need one. Below 0 keeps every picture."""

    def __post_init__(self) -> None:
        """Raise SettingInvalid for a number of pictures that is none; replies without any are measured anyway."""
        check_least("evaluation.num_images", self.num_images)


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """What a release must reach to be published. None does not ask."""

    min_grounded_accuracy: float | None = None
    """Least share of held-out questions answered right with retrieved pictures."""
    max_text_only_accuracy: float | None = None
    """Largest share answered right without a picture: more means that facts leaked into text."""
    max_random_picture_accuracy: float | None = None
    """Largest share answered right with random pictures."""
    min_retrieval_recall_at_1: float | None = None
    """Least share of questions whose first picture shows the subject."""
    min_caption_recall_at_10: float | None = None
    """Least share of held-out captions whose picture is among the first ten."""
    max_perplexity: float | None = None
    """Largest perplexity of held-out responses."""
    tolerance: float = 0.05
    """How far below the channel's release a score may fall."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Where and how a run runs."""

    root: Path = Path("var/runs")
    """Folder of run folders; with several machines, storage that all of them share."""
    name: str = ""
    """Name of the run folder; an unfinished run of this name is resumed. Empty takes recipe, seed and time."""
    num_workers: int = 1
    """Ray Train workers; 0 trains in this process without Ray."""
    threads_per_worker: int = 0
    """Threads of each worker; 0 shares the machine's cores among the workers."""
    checkpoint_every: int = 100
    """Steps between checkpoints, each stage on its own count; the end of a stage is one too."""
    log_every: int = 10
    """Steps between lines of `metrics.jsonl`."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept."""
    max_failures: int = 3
    """Worker failures that a run resumes from before it gives up."""
    device: str = "cpu"
    """`cpu`, or `cuda` for one accelerator a worker."""


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """One run, whole: what `python -m trainer fit <recipe>` does."""

    recipe: str
    """Name of the recipe; goes into the release's lineage."""
    seed: int = 0
    """Seed of weights, order, masks, augmentation and dropout."""
    registry: str = "var/registry"
    """Folder or URI that the release is published to."""
    channel: str = ""
    """Channel moved to the release when it passes; empty publishes without moving one."""
    init_from: str = ""
    """Release id or channel to continue from: towers and embedding space are kept unless stage 1 runs."""
    force_publish: bool = False
    """Publish although the gate refused."""
    data: DataSettings = field(default_factory=DataSettings)
    """Corpus."""
    model: ModelSettings = field(default_factory=ModelSettings)
    """Architecture."""
    stage1: ContrastiveSettings = field(default_factory=ContrastiveSettings)
    """Contrastive stage."""
    stage2: GenerativeSettings = field(default_factory=GenerativeSettings)
    """Generative stage."""
    speed: SpeedSettings = field(default_factory=SpeedSettings)
    """How steps are computed."""
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    """Measurement."""
    gate: GateSettings = field(default_factory=GateSettings)
    """Thresholds."""
    run: RunSettings = field(default_factory=RunSettings)
    """Place and process."""


def flatten(config: Any, *, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Every leaf setting of `config` by dotted name, with its type and value."""
    leaves: dict[str, tuple[Any, Any]] = {}
    hints = get_type_hints(type(config))
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        name = f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            leaves |= flatten(value, prefix=f"{name}.")
        else:
            leaves[name] = (hints[item.name], value)
    return leaves


def to_json(config: Any) -> dict[str, Any]:
    """`config` as plain JSON values; paths become text with forward slashes."""
    return {item.name: _plain(getattr(config, item.name)) for item in dataclasses.fields(config)}


def from_json(kind: type[SettingsT], values: Mapping[str, Any]) -> SettingsT:
    """The `kind` that `to_json` wrote. Raises SettingInvalid for an unknown name."""
    hints = get_type_hints(kind)
    known = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise SettingInvalid(f"{kind.__name__} has no setting {name!r}{nearest(name, known)}")
    return kind(**{name: _typed(hints[name], value) for name, value in values.items()})


def training_settings(config: FitConfig) -> dict[str, Any]:
    """Every setting that decides the weights, by dotted name, as plain JSON values; a run resumes with equal ones."""
    return settings_of(config, sections={"data", "model", "stage1", "stage2", "speed", "seed", "init_from"})


def settings_of(config: Any, *, sections: Set[str]) -> dict[str, Any]:
    """Every setting of these sections of any configuration, by dotted name, as plain JSON values."""
    leaves = flatten(config).items()
    return {name: _plain(value) for name, (_, value) in leaves if name.partition(".")[0] in sections}


def training_digest(config: FitConfig) -> str:
    """Digest of `training_settings`: a name for what a run trains."""
    return hashlib.sha256(json.dumps(training_settings(config), sort_keys=True).encode()).hexdigest()


def check_least(name: str, value: float, *, least: float = 1) -> None:
    """Raise SettingInvalid for a value below the least, or one that is no finite number."""
    if not least <= value < math.inf:
        raise SettingInvalid(f"{name}: got {value}, must be at least {least}")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_json(value)
    return value.as_posix() if isinstance(value, Path) else value


def _typed(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value)  # type: ignore[arg-type]
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return Path(value) if Path in options and value is not None else value
