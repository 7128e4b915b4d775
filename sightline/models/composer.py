"""The composer: a reference picture and an edit become the vector of the picture that is meant.

MoTaDual-style (arXiv 2410.23736, of which the abstract and the introduction
were at hand, nothing more): the design is ours and no figure of theirs is
reproduced. vector -> adapter, or prompted picture tower -> phi -> pseudo-word
in "a photo of $ that {edit}" -> text tower with prompts, or a trained copy of
it -> unit vector. Both towers stay as they are and the gallery never meets a
prompt: with or without stage 2 the same index answers.
"""

# Axes: B items, L tokens, D embedding width, W token width, P prompts, C channels; after C, H and W are pixels.
from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from sightline.errors import CapabilityMissing, SettingInvalid
from sightline.models.composer_config import ComposerConfig
from sightline.models.inversion import FeatureNoise, TextualInversion
from sightline.models.placeholder import composed_ids, placeholder_tokenizer
from sightline.models.prompted import PromptedPicture, PromptedText, causal_reader, prompted_picture
from sightline.models.prompts import FeatureAdapter, PromptLearner, Prompts, prompt_depth
from sightline.models.tokenizer import TowerTokenizer
from sightline.models.tower import Tower
from sightline.models.towers import DualEncoder

PARTS = ("phi", "adapter", "prompts", "text_tower")
"""What can be trained, each by its name."""

_FIRST_WORDS = "a photo of a"
_NO_PROMPTS = Prompts(text=None, picture=None)


class Composer(nn.Module):
    """phi and what stage 2 adds, on towers that it reads but does not own.

    `parameters`, `state_dict` and `to` are those of phi, adapter, prompts and the
    queries' own text tower, where there is one; all but that tower stay in
    float32 whatever the towers are served in. Safe from many threads in
    evaluation.
    """

    def __init__(self, config: ComposerConfig, *, tower: Tower, placeholder_id: int, embedding_space_id: str) -> None:
        """Build on `tower`, whose space is named. Raises SettingInvalid, with the reason, for towers that cannot."""
        super().__init__()
        self.config, self.embedding_space_id = config, embedding_space_id
        lender, reader = causal_reader(tower)
        # A tuple keeps the towers out of parameters(): they are the release's, and stay as they are.
        self._lender = (lender,)
        own = reader.copied() if config.has_text_tower else None
        self.text_tower = None if own is None else own.tower
        self._text = PromptedText(own or reader, placeholder_id=placeholder_id)
        self._picture = prompted_picture(lender) if config.has_picture_prompts else None
        dimension = lender.dimension
        self.noise = FeatureNoise(dimension, scale=config.inversion.noise_scale)
        self.phi = TextualInversion(config.inversion, dimension=dimension, width=self._text.width)
        self.adapter = (
            FeatureAdapter(dimension, width=config.adapter_width) if config.picture_side == "feature" else None
        )
        self.prompts = _prompt_learner(config, text=self._text, picture=self._picture)
        self._trained: tuple[str, ...] = PARTS

    @property
    def tower(self) -> DualEncoder:
        """The towers that the composer stands on."""
        return self._lender[0]

    @property
    def width(self) -> int:
        """Width of a pseudo-word."""
        return self._text.width

    @property
    def needs_pixels(self) -> bool:
        """Whether a reference has to be given as pixels, because prompts change how it is seen."""
        return self._picture is not None

    def forward(self, reference: Tensor, ids_BL: Tensor) -> Tensor:
        """Unit vectors [B, D] in float32 of references with their edits (`composed_ids`).

        A reference is a unit vector [B, D] as the index keeps it, or pixels
        [B, C, H, W] as `Tower.encode_image` takes them.
        """
        ids_BL = self.tower.longest_text(ids_BL)
        return self.read(ids_BL, self.pseudo_words(reference, ids_BL))

    def pseudo_words(self, reference: Tensor, ids_BL: Tensor) -> Tensor:
        """Pseudo-words [B, W] of references; the ids count only where experts choose the picture's prompts by them.

        Raises CapabilityMissing for vectors where the reference is needed as pixels.
        """
        if reference.ndim == 2:
            vectors_BD = self._need_no_pixels(reference)
        elif self._picture is not None:
            vectors_BD = self._picture.encode(reference, prompts=self._prompts_for(ids_BL).picture)
        else:
            with torch.no_grad():
                vectors_BD, _ = self.tower.encode_image(reference)
        return self.phi(vectors_BD if self.adapter is None else self.adapter(vectors_BD))

    def read(self, ids_BL: Tensor, pseudo_BW: Tensor) -> Tensor:
        """Unit vectors [B, D] in float32 of sentences around their pseudo-words, with this composer's text prompts.

        Every placeholder of a row gets the row's one pseudo-word. Gradients flow
        through the text tower into pseudo-words and prompts.
        """
        return self._text.encode(ids_BL, pseudo_BW=pseudo_BW, prompts=self._prompts_for(ids_BL).text)

    def read_plain(self, ids_BL: Tensor) -> Tensor:
        """Unit vectors [B, D] of texts without pseudo-word, as `read` reads queries; no index holds such."""
        return self._text.encode_plain(ids_BL, prompts=self._prompts_for(ids_BL).text)

    def train_only(self, *parts: str) -> None:
        """From now on only these of `PARTS` learn: the others and the towers have no gradients and stay in evaluation.

        Raises SettingInvalid for a part that this composer does not have.
        """
        for part in parts:
            if part not in PARTS or getattr(self, part) is None:
                had = ", ".join(name for name in PARTS if getattr(self, name) is not None)
                raise SettingInvalid(f"part to train: got {part!r}, this composer has {had}")
        self._trained = parts
        self.tower.requires_grad_(False)
        for name in PARTS:
            if (module := getattr(self, name)) is not None:
                module.requires_grad_(name in parts)
        self.train(self.training)

    def train(self, mode: bool = True) -> Composer:
        """Switch training on or off for what learns; all else stays in evaluation."""
        super().train(mode)
        self.tower.eval()
        for name in PARTS:
            if (module := getattr(self, name)) is not None and name not in self._trained:
                module.eval()
        return self

    def start_from_words(self, ids_L: Tensor) -> None:
        """Let the first block's text prompts begin as the embeddings of a text's tokens, start and end left out."""
        if self.prompts is not None:
            end = int(self._text.reader.end_of_text(ids_L[None]))
            self.prompts.start_from(self._text.reader.embed(ids_L[1:end]))

    def _prompts_for(self, ids_BL: Tensor) -> Prompts:
        if self.prompts is None:
            return _NO_PROMPTS
        return self.prompts(self._text.mean_edit(ids_BL))

    def _need_no_pixels(self, vectors_BD: Tensor) -> Tensor:
        if self.needs_pixels:
            raise CapabilityMissing(
                "this composer sees a reference with prompts; it needs the picture", detail="pixels"
            )
        return vectors_BD


def build_composer(
    config: ComposerConfig, *, tower: Tower, tokenizer: TowerTokenizer, embedding_space_id: str
) -> Composer:
    """A fresh composer for these towers.

    Raises SettingInvalid, with the reason, where they or their tokenizer have no
    room for a pseudo-word.
    """
    causal_reader(tower)
    reader = placeholder_tokenizer(tokenizer)
    plain = composed_ids([""], tokenizer=reader, template=config.template)
    if plain.is_truncated[0]:
        raise SettingInvalid(f"template: has {plain.num_tokens[0]} tokens without edit, limit {reader.context_length}")
    composer = Composer(
        config, tower=tower, placeholder_id=reader.placeholder_id, embedding_space_id=embedding_space_id
    )
    if config.prompts.start == "words":
        composer.start_from_words(torch.from_numpy(reader.tokenize([_FIRST_WORDS]).ids[0]))
    return composer


def grown(composer: Composer, *, config: ComposerConfig, tokenizer: TowerTokenizer) -> Composer:
    """A composer of this configuration that starts with the phi, and what is measured, of another: stage 2 of stage 1.

    Dropout in phi may differ. Raises SettingInvalid if the two want different networks as phi.
    """
    if replace(config.inversion, dropout=composer.config.inversion.dropout) != composer.config.inversion:
        raise SettingInvalid(f"inversion: got {config.inversion}, stage 1 trained {composer.config.inversion}")
    tower, space_id = composer.tower, composer.embedding_space_id
    stage_two = build_composer(config, tower=tower, tokenizer=tokenizer, embedding_space_id=space_id)
    stage_two.phi.load_state_dict(composer.phi.state_dict())
    stage_two.noise.load_state_dict(composer.noise.state_dict())
    return stage_two


def _prompt_learner(
    config: ComposerConfig, *, text: PromptedText, picture: PromptedPicture | None
) -> PromptLearner | None:
    sides = [side for side in (text if config.has_text_prompts else None, picture) if side is not None]
    if not sides:
        return None
    return PromptLearner(
        config.prompts,
        depth=prompt_depth(config.prompts.depth, num_blocks=min(side.num_blocks for side in sides)),
        text_width=text.width if config.has_text_prompts else 0,
        picture_width=0 if picture is None else picture.width,
    )
