"""What a ZRIGF model is, as frozen dataclasses that round-trip through JSON and refuse unknown keys."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from sightline.errors import SettingInvalid

FORMAT_VERSION = 1
CLIP, FAITHFUL = "clip", "faithful"
VARIANTS = (CLIP, FAITHFUL)
_MIN_CELLS = 7


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """The dual encoder. With a `tag` open_clip decides and the numbers only describe."""

    vocab_size: int
    """Entries of the tower's tokenizer."""
    tag: str = ""
    """open_clip architecture (`ViT-B-32`, `local-dir:<folder>`); empty builds open_clip's CLIP class from below."""
    embed_dim: int = 96
    """Width of the vectors that texts and pictures meet in."""
    image_size: int = 56
    """Side in pixels to which pictures are brought."""
    patch_size: int = 8
    """Side of a patch in pixels; must divide image_size."""
    vision_width: int = 96
    """Width of a picture token."""
    vision_layers: int = 3
    vision_head_width: int = 32
    """Width of one attention head; must divide vision_width."""
    text_width: int = 96
    text_layers: int = 2
    text_heads: int = 3
    """Attention heads of the text tower; must divide text_width."""
    context_length: int = 48
    """Tokens of a text that are read, start and end included."""

    def __post_init__(self) -> None:
        if not self.tag:
            _check_divides("patch_size", self.patch_size, into="image_size", value=self.image_size)
            _check_divides("vision_head_width", self.vision_head_width, into="vision_width", value=self.vision_width)
            _check_divides("text_heads", self.text_heads, into="text_width", value=self.text_width)
        _check_positive(self, "vocab_size", "embed_dim", "image_size", "context_length")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A BART: text encoder and decoder of the dialogue part."""

    vocab_size: int
    """Entries of the decoder's tokenizer."""
    pad_id: int
    bos_id: int
    eos_id: int
    """End of text; a reply starts from it too, as BART's do."""
    d_model: int = 96
    """Width of the hidden states."""
    encoder_layers: int = 2
    decoder_layers: int = 2
    encoder_heads: int = 4
    decoder_heads: int = 4
    encoder_ffn: int = 256
    decoder_ffn: int = 256
    max_positions: int = 288
    """Positions of either side; bounds context_length and the longest reply."""
    context_length: int = 96
    """Tokens of a dialogue that are read, start and end included."""
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    """Dropout inside the feed-forward layers."""
    activation: str = "gelu"
    init_std: float = 0.02
    """Spread of fresh weights."""
    scale_embedding: bool = False

    def __post_init__(self) -> None:
        _check_divides("decoder_heads", self.decoder_heads, into="d_model", value=self.d_model)
        _check_divides("encoder_heads", self.encoder_heads, into="d_model", value=self.d_model)
        if not 2 < self.context_length <= self.max_positions:
            raise SettingInvalid(f"context_length: got {self.context_length}, limits 3 to {self.max_positions}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaithfulTowerConfig:
    """The dual encoder of the `faithful` variant: a ViT, and the encoder of a BART; vectors are as wide as BART."""

    text: DecoderConfig
    """The BART whose encoder reads the texts; of its decoder nothing is built."""
    image_size: int = 56
    """Side in pixels to which pictures are brought."""
    patch_size: int = 8
    """Side of a patch in pixels; must divide image_size."""
    vision_width: int = 96
    """Width of a patch's state."""
    vision_layers: int = 3
    vision_heads: int = 3
    """Attention heads of the ViT; must divide vision_width."""
    vision_ffn: int = 384
    vision_dropout: float = 0.0
    context_length: int = 48
    """Tokens of a text that are read for its vector, start and end included."""

    def __post_init__(self) -> None:
        _check_divides("patch_size", self.patch_size, into="image_size", value=self.image_size)
        _check_divides("vision_heads", self.vision_heads, into="vision_width", value=self.vision_width)
        if not 2 < self.context_length <= self.text.max_positions:
            raise SettingInvalid(f"context_length: got {self.context_length}, limits 3 to {self.text.max_positions}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """How pictures enter the dialogue (MF and IT of ZRIGF)."""

    token_grid: int = 7
    """Pictures are read as token_grid x token_grid tokens; a finer patch grid is average-pooled to it."""
    heads: int = 4
    """Attention heads of the two cross blocks; must divide the decoder's d_model."""
    dropout: float = 0.1
    text_gate_bias: float = 4.0
    """Start of the text gate of information transfer: sigmoid(4) is 0.98, open but still trainable."""
    vision_gate_bias: float = -2.0
    """Start of the vision gate: sigmoid(-2) is 0.12."""
    start: str = "bart"
    """`bart`: a fresh generator answers as its pretrained BART does. `open`: pictures count from the first step, for a
    decoder that knows nothing yet. `random`: as the authors' code, whose layers forget what BART knew (defect D).
    Weights that a release brings replace any of them."""
    wo_mf: bool = False
    """Ablation: pictures are summed unweighted, and neither they nor the text look at the other (authors' wo_mf)."""
    wo_it: bool = False
    """Ablation: text and picture attention follow one another without gates (the authors' wo_it). Such a layer cannot
    start as its BART does."""

    def __post_init__(self) -> None:
        if self.start not in {"bart", "open", "random"}:
            raise SettingInvalid(f"fusion start: got {self.start!r}, expected bart, open or random")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """What text-assisted masked image modelling hides (TAMIM of ZRIGF)."""

    cell_patches: int = 0
    """Side of a mask cell in patches; must divide the patch grid. Zero: the largest with 7 cells a side or more."""
    ratio: float = 0.4
    """Share of cells that are masked, rounded up: 20 of 49."""
    visible_ratio: float = 0.2
    """Share of masked patches that the tower still sees; the loss counts them all the same."""

    def __post_init__(self) -> None:
        if self.cell_patches < 0:
            raise SettingInvalid(f"cell_patches: got {self.cell_patches}, must be at least 0")
        for name in ("ratio", "visible_ratio"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise SettingInvalid(f"{name}: got {getattr(self, name)}, limits 0 to 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZrigfConfig:
    """A whole model; its tower says of which variant. Without a decoder it only encodes."""

    tower: TowerConfig | FaithfulTowerConfig
    decoder: DecoderConfig | None = None
    fusion: FusionConfig = FusionConfig()
    masking: MaskingConfig = MaskingConfig()
    tim_weight: float = 1.0
    """Share of the matching loss in stage 1; at 0 the towers only learn to paint (the authors' wo_tim)."""
    tamim_weight: float = 0.2
    """Share of the masked-picture loss in stage 1 (L = tim_weight * TIM + tamim_weight * TAMIM)."""
    label_smoothing: float = 0.0
    """Smoothing of the reply's targets in stage 2; the authors used 0.1."""
    preservation_weight: float = 0.1
    """Share of the preservation loss in stage 2 of the `faithful` variant (L = LM + weight * preservation)."""
    min_score: float = -1.0
    """Least cosine of a dialogue's best picture at which retrieved pictures are looked at, -1 to 1: calibrated on
    held-out dialogues at the end of training, so that what no picture helps is answered from text. -1 always looks."""

    def __post_init__(self) -> None:
        if not -1.0 <= self.min_score <= 1.0:
            raise SettingInvalid(f"min_score: got {self.min_score}, limits -1 to 1")
        if self.decoder is None:
            return
        _check_divides("heads", self.fusion.heads, into="d_model", value=self.decoder.d_model)
        if isinstance(self.tower, FaithfulTowerConfig) and self.tower.text != self.decoder:
            raise SettingInvalid("decoder: differs from the tower's text; a faithful model reads with its own BART")

    @property
    def variant(self) -> str:
        """`clip` or `faithful`."""
        return FAITHFUL if isinstance(self.tower, FaithfulTowerConfig) else CLIP

    def to_json(self) -> str:
        """The configuration as indented JSON."""
        values = {"format": FORMAT_VERSION, "variant": self.variant, **dataclasses.asdict(self)}
        return json.dumps(values, indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ZrigfConfig:
        """The configuration that `to_json` wrote.

        Raises SettingInvalid if a key is unknown or missing, a value has
        another type, or the format is newer than this code.
        """
        values = parse_object(text)
        if (version := values.pop("format", None)) != FORMAT_VERSION:
            raise SettingInvalid(f"format of a model configuration: got {version!r}, expected {FORMAT_VERSION}")
        if (variant := values.pop("variant", CLIP)) not in VARIANTS:
            raise SettingInvalid(f"variant: got {variant!r}, expected {' or '.join(VARIANTS)}")
        decoder, tower = values.pop("decoder", None), values.pop("tower", {})
        return cls(
            tower=filled(TowerConfig, tower) if variant == CLIP else _fill_faithful(tower),
            decoder=None if decoder is None else filled(DecoderConfig, decoder),
            fusion=filled(FusionConfig, values.pop("fusion", {})),
            masking=filled(MaskingConfig, values.pop("masking", {})),
            **checked(cls, values),
        )


def tiny_config(*, vocab_size: int, pad_id: int, bos_id: int, eos_id: int) -> ZrigfConfig:
    """A model of well under two million parameters that learns Toytown on two cores, its tokenizer shared."""
    return ZrigfConfig(
        tower=TowerConfig(vocab_size=vocab_size),
        decoder=DecoderConfig(vocab_size=vocab_size, pad_id=pad_id, bos_id=bos_id, eos_id=eos_id),
    )


def published_config() -> ZrigfConfig:
    """The authors' model as their code sizes it: BART-large, ViT-B/16 at 224 px, every patch kept."""
    bart_large = DecoderConfig(
        vocab_size=50265,
        pad_id=1,
        bos_id=0,
        eos_id=2,
        d_model=1024,
        encoder_layers=12,
        decoder_layers=12,
        encoder_heads=16,
        decoder_heads=16,
        encoder_ffn=4096,
        decoder_ffn=4096,
        max_positions=1024,
        context_length=1024,
    )
    vit_b_16 = FaithfulTowerConfig(
        text=bart_large,
        image_size=224,
        patch_size=16,
        vision_width=768,
        vision_layers=12,
        vision_heads=12,
        vision_ffn=3072,
        context_length=128,
    )
    return ZrigfConfig(tower=vit_b_16, decoder=bart_large, fusion=FusionConfig(token_grid=14))


def cell_side(config: MaskingConfig, *, grid: int) -> int:
    """Side of a mask cell in patches on this patch grid: 2 for the 14x14 of ViT-B-16, which makes 7x7 cells of 32 px.

    Raises SettingInvalid if the configured side does not divide the grid.
    """
    if config.cell_patches:
        _check_divides("cell_patches", config.cell_patches, into="patch grid", value=grid)
        return config.cell_patches
    return max(side for side in range(1, grid + 1) if grid % side == 0 and (side == 1 or grid // side >= _MIN_CELLS))


def num_masked_cells(cells: int, *, ratio: float) -> int:
    """How many of `cells` are masked: the ratio, rounded up; 20 of 49 at 0.4."""
    return math.ceil(round(ratio * cells, 9))


def parse_object(text: str) -> dict[str, Any]:
    """The object of a configuration's JSON. Raises SettingInvalid if it is no JSON or no object."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise SettingInvalid(f"model configuration is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise SettingInvalid(f"model configuration: got {type(values).__name__}, expected an object")
    return values


def filled(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """The dataclass with these values. Raises SettingInvalid if one is missing, unknown, or of another type."""
    required = {f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING}
    if missing := sorted(required - values.keys()):
        raise SettingInvalid(f"{kind.__name__}: {', '.join(missing)} missing")
    return kind(**checked(kind, values))


def _fill_faithful(values: Mapping[str, Any]) -> FaithfulTowerConfig:
    text = filled(DecoderConfig, values.get("text", {}))
    tower: FaithfulTowerConfig = filled(FaithfulTowerConfig, {**values, "text": text})
    return tower


def checked(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, each a field of the dataclass and of its type. Raises SettingInvalid for one that is not."""
    types = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    for name, value in values.items():
        if name not in types:
            raise SettingInvalid(f"{kind.__name__}: unknown key {name!r}; known are {', '.join(sorted(types))}")
        if type(value).__name__ != types[name] and not (types[name] == "float" and type(value) is int):
            raise SettingInvalid(f"{kind.__name__}.{name}: got {value!r}, expected {types[name]}")
    return dict(values)


def _check_divides(name: str, part: int, *, into: str, value: int) -> None:
    if part < 1 or value < 1 or value % part:
        raise SettingInvalid(f"{name}: got {part}, must divide {into} {value}")


def _check_positive(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise SettingInvalid(f"{name}: got {getattr(config, name)}, must be at least 1")
