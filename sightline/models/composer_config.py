"""What a composer is, as frozen dataclasses that round-trip through JSON and refuse unknown keys."""

from __future__ import annotations

import dataclasses
import json

from sightline.data.keywords import PLACEHOLDER
from sightline.errors import SettingInvalid
from sightline.models.config import checked, filled, parse_object

FORMAT_VERSION = 1
TEXT_SIDES = ("none", "prompts", "tower")
PICTURE_SIDES = ("none", "feature", "deep")
COUPLINGS = ("none", "linear")
STARTS = ("words", "random")
ACTIVATIONS = ("gelu", "relu")
EDIT = "{edit}"


# Above the classes, because a default made below is checked when it is made.
def check_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise SettingInvalid unless the value is one of those allowed."""
    if value not in allowed:
        raise SettingInvalid(f"{name}: got {value!r}, expected {' or '.join(allowed)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InversionConfig:
    """Textual inversion, phi: a vector becomes a pseudo-word. Defaults are LinCIR's and, of the network, SEARLE's."""

    hidden_width: int = 0
    """Width of both hidden layers; zero is four times the vector's."""
    dropout: float = 0.5
    activation: str = "gelu"
    """`gelu` or `relu`."""
    noise_scale: float = 1.0
    """Noise on a caption's vector in stage 1, in units of the encoder's own spread; zero is none."""

    def __post_init__(self) -> None:
        check_one_of("activation", self.activation, ACTIVATIONS)
        if not 0.0 <= self.dropout < 1.0:
            raise SettingInvalid(f"dropout: got {self.dropout}, limits 0 to below 1")
        if self.hidden_width < 0 or self.noise_scale < 0.0:
            raise SettingInvalid(
                f"hidden_width {self.hidden_width}, noise_scale {self.noise_scale}: must not be negative"
            )


LINCIR = InversionConfig()
"""LinCIR (arXiv 2312.01998): trained on captions alone, to bring back what was masked."""
SEARLE = InversionConfig(noise_scale=0.0)
"""SEARLE (arXiv 2303.15247): the same network, distilled from pseudo-words of single pictures."""
PIC2WORD = InversionConfig(hidden_width=512, dropout=0.1, activation="relu", noise_scale=0.0)
"""Pic2Word (arXiv 2302.03084): trained to tell pictures apart by sentences; it drops before its ReLU: the same."""
INVERSIONS = {"lincir": LINCIR, "searle": SEARLE, "pic2word": PIC2WORD}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """Learned tokens in either tower; the gallery's branch never sees them."""

    num_prompts: int = 4
    """Learned tokens of each side that has any; zero leaves the tower as it is."""
    depth: int = 0
    """Blocks whose input prompts are learned, the first included. Zero: three quarters of the blocks, rounded up."""
    coupling: str = "none"
    """`linear`: a picture prompt is a linear map of the text prompt of its block (MaPLe). `none`: learned by itself."""
    num_experts: int = 1
    """Sets of text prompts, mixed by a gate that reads the edit; 1 has no gate."""
    start: str = "words"
    """Text prompts of the first block: `words`, from the tower's own embeddings of "a photo of a", or `random`."""

    def __post_init__(self) -> None:
        check_one_of("coupling", self.coupling, COUPLINGS)
        check_one_of("prompt start", self.start, STARTS)
        if self.num_prompts < 0 or self.depth < 0:
            raise SettingInvalid(f"num_prompts {self.num_prompts}, depth {self.depth}: limit 0")
        if self.num_experts < 1:
            raise SettingInvalid(f"num_experts: got {self.num_experts}, must be at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComposerConfig:
    """A picture and a sentence to one vector. As it stands it is stage 1: phi between two towers left as they are."""

    inversion: InversionConfig = LINCIR
    prompts: PromptConfig = PromptConfig()
    text_side: str = "none"
    """Against the task discrepancy. `prompts`: learned tokens in the text tower. `tower`: a text tower of the queries'
    own, a copy that is trained whole and kept with the composer (RTD). `none`: stage 1's."""
    picture_side: str = "none"
    """Against the modality discrepancy. `feature`: an adapter of phi's input, which needs no pixels. `deep`: learned
    tokens in the picture tower, which needs them. `none`: stage 1's."""
    adapter_width: int = 0
    """Width of the adapter's bottleneck; zero is a quarter of the vector's."""
    template: str = f"a photo of {PLACEHOLDER} that {EDIT}"
    """The sentence; an empty edit leaves what stands up to the placeholder."""

    def __post_init__(self) -> None:
        check_one_of("text_side", self.text_side, TEXT_SIDES)
        check_one_of("picture_side", self.picture_side, PICTURE_SIDES)
        if self.adapter_width < 0:
            raise SettingInvalid(f"adapter_width: got {self.adapter_width}, must not be negative")
        if self.prompts.coupling == "linear" and not (self.has_text_prompts and self.has_picture_prompts):
            raise SettingInvalid("coupling linear: needs text_side prompts and picture_side deep")
        if self.prompts.num_experts > 1 and not self.has_text_prompts:
            raise SettingInvalid(f"num_experts: got {self.prompts.num_experts}, but text_side has no prompts to mix")
        before, placeholder, after = self.template.partition(PLACEHOLDER)
        if not placeholder or PLACEHOLDER in after or EDIT in before or after.count(EDIT) != 1:
            raise SettingInvalid(
                f"template: got {self.template!r}, expected one {PLACEHOLDER} and behind it one {EDIT}"
            )

    @property
    def has_text_prompts(self) -> bool:
        """Whether the text tower is given learned tokens."""
        return self.text_side == "prompts"

    @property
    def has_text_tower(self) -> bool:
        """Whether queries have a text tower of their own."""
        return self.text_side == "tower"

    @property
    def has_picture_prompts(self) -> bool:
        """Whether the picture tower is given learned tokens; then a stored vector is no reference."""
        return self.picture_side == "deep"

    def to_json(self) -> str:
        """The configuration as indented JSON."""
        return json.dumps({"format": FORMAT_VERSION, **dataclasses.asdict(self)}, indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ComposerConfig:
        """The configuration that `to_json` wrote.

        Raises SettingInvalid if a key is unknown, a value has another type, or
        the format is newer than this code.
        """
        values = parse_object(text)
        if (version := values.pop("format", None)) != FORMAT_VERSION:
            raise SettingInvalid(f"format of a composer's configuration: got {version!r}, expected {FORMAT_VERSION}")
        return cls(
            inversion=filled(InversionConfig, values.pop("inversion", {})),
            prompts=filled(PromptConfig, values.pop("prompts", {})),
            **checked(cls, values),
        )
