"""Towers with their tokenizers, and composers on them, small enough to build in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from open_clip import CustomTextCLIP
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from torch import Tensor, nn

from sightline.models.clip_tokenizer import ClipTowerTokenizer
from sightline.models.composer import Composer, build_composer
from sightline.models.composer_config import ComposerConfig, PromptConfig
from sightline.models.config import TowerConfig
from sightline.models.placeholder import PlaceholderTokenizer, composed_ids
from sightline.models.tokenizer import CorpusTowerTokenizer, train_tokenizer
from sightline.models.towers import DualEncoder, build_tower
from sightline.models.transforms import Preprocess

EDITS = ["at night", "is blue instead of red .", ""]
CONTEXT_LENGTH = 20


@dataclass(frozen=True)
class Room:
    """A tower, what reads for it, and three pictures."""

    tower: DualEncoder
    tokenizer: PlaceholderTokenizer
    pixels: Tensor

    def composer(self, config: ComposerConfig, *, space: str = "space") -> Composer:
        return build_composer(config, tower=self.tower, tokenizer=self.tokenizer, embedding_space_id=space).eval()

    def ids(self, edits: list[str] = EDITS) -> Tensor:
        found = composed_ids(edits, tokenizer=self.tokenizer, template=ComposerConfig().template)
        return torch.from_numpy(found.ids)

    def vectors(self) -> Tensor:
        with torch.no_grad():
            return self.tower.encode_image(self.pixels)[0]


def clip_room() -> Room:
    """open_clip's CLIP with CLIP's own vocabulary and tokenizer, as ViT-B-32 has them, but narrow."""
    tower = build_tower(tower_config(vocab_size=49408))
    return room_of(tower, ClipTowerTokenizer(context_length=CONTEXT_LENGTH))


def custom_text_room() -> Room:
    """The same with a text tower of its own module, another pooling, and attention blocks of another kind."""
    text = CLIPTextCfg(
        context_length=CONTEXT_LENGTH, vocab_size=49408, width=12, heads=2, layers=3, pool_type="eos", eos_id=49407
    )
    text.block_type = "custom"
    vision = CLIPVisionCfg(layers=3, width=16, head_width=8, patch_size=7, image_size=28)
    model = CustomTextCLIP(8, vision, text)
    tower = DualEncoder(model, preprocess=Preprocess(image_size=28), context_length=CONTEXT_LENGTH)
    return room_of(tower, ClipTowerTokenizer(context_length=CONTEXT_LENGTH))


def corpus_room() -> Room:
    """The house's own tower and tokenizer."""
    texts = ["a photo of a red ball that is at night", "the same but blue instead of red", "two cats on the beach"]
    tokenizer = CorpusTowerTokenizer(train_tokenizer(texts, vocab_size=320), context_length=CONTEXT_LENGTH)
    return room_of(build_tower(tower_config(vocab_size=tokenizer.vocab_size)), tokenizer)


def tower_config(*, vocab_size: int) -> TowerConfig:
    return TowerConfig(
        vocab_size=vocab_size,
        embed_dim=8,
        image_size=28,
        patch_size=7,
        vision_width=16,
        vision_layers=3,
        vision_head_width=8,
        text_width=12,
        text_layers=3,
        text_heads=2,
        context_length=CONTEXT_LENGTH,
    )


def room_of(tower: DualEncoder, tokenizer: PlaceholderTokenizer) -> Room:
    # Fresh embeddings of 0.02 would leave every sentence the same: tests need vectors that differ.
    for module in tower.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
    pixels = torch.randint(0, 256, (3, 3, tower.preprocess.image_size, tower.preprocess.image_size), dtype=torch.uint8)
    return Room(tower=tower.eval(), tokenizer=tokenizer, pixels=pixels)


ROOMS = {"corpus": corpus_room, "clip": clip_room, "custom-text": custom_text_room}
STAGE_ONE = ComposerConfig()
STAGE_TWO = ComposerConfig(text_side="prompts", picture_side="feature", prompts=PromptConfig(depth=2))
DEEP = ComposerConfig(text_side="prompts", picture_side="deep")
COUPLED_EXPERTS = ComposerConfig(
    text_side="prompts", picture_side="deep", prompts=PromptConfig(coupling="linear", num_experts=3)
)
OWN_TOWER = ComposerConfig(text_side="tower")
CONFIGS = {
    "stage-one": STAGE_ONE,
    "stage-two": STAGE_TWO,
    "deep": DEEP,
    "coupled-experts": COUPLED_EXPERTS,
    "own-tower": OWN_TOWER,
}
