"""Instruct and image-to-text models in folders: tiny random ones, which write nonsense."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertLMHeadModel,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from sightline.composition import Edit
from sightline.errors import UsageError
from sightline.language.model_rewriter import ModelRewriter
from sightline.language.rewriting import RewriteAsk
from sightline.models.captioner import PictureCaptioner
from sightline.models.instruct import InstructModel
from tests.unit.trainer.test_triplet_local_model import save_model


@dataclass(frozen=True)
class Shown:
    """A picture in memory."""

    image_id: str
    colour: str = "red"

    def read(self, *, min_side: int) -> Image.Image:
        return Image.new("RGB", (min_side + 40, 40), self.colour)


@pytest.mark.slow
def test_a_random_instruct_model_writes_nonsense_which_is_refused(tmp_path: Path) -> None:
    model = InstructModel(save_model(tmp_path / "model"))
    assert model.name.startswith("model@")
    (found,) = ModelRewriter(model).rewrite([RewriteAsk(caption="a red car", edit=Edit(texts=["make it blue"]))])
    assert found.text == "a red car, make it blue"
    assert found.problem is not None
    assert found.problem.reason in {"not_json", "declined"}


def save_captioner(folder: Path) -> Path:
    """A random image-to-text model: a vision encoder, and a decoder of bytes."""
    save_model(folder)  # for its tokenizer
    (folder / "model.safetensors").unlink()
    (folder / "generation_config.json").unlink(missing_ok=True)
    torch.manual_seed(0)
    tiny = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    decoder = BertConfig(vocab_size=257, is_decoder=True, add_cross_attention=True, **tiny)
    encoder = ViTModel(ViTConfig(image_size=16, patch_size=8, **tiny), add_pooling_layer=False)
    model = VisionEncoderDecoderModel(encoder=encoder, decoder=BertLMHeadModel(decoder))
    for one in (model.config, model.generation_config):
        one.decoder_start_token_id = one.eos_token_id = one.pad_token_id = 256
    model.save_pretrained(str(folder))
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(str(folder))
    return folder


@pytest.mark.slow
def test_a_captioner_in_a_folder_says_the_same_of_the_same_picture_alone_and_in_a_batch(tmp_path: Path) -> None:
    captioner = PictureCaptioner(save_captioner(tmp_path / "captioner"), batch_items=2)
    pictures = [Shown("a", "red"), Shown("b", "blue"), Shown("c", "red")]
    together = captioner.captions(pictures)
    assert together == [captioner.captions([picture])[0] for picture in pictures]
    assert together[0] == together[2]
    assert all(text.isprintable() for text in together)
    with pytest.raises(UsageError, match=r"has no config\.json"):
        PictureCaptioner(tmp_path)
    with pytest.raises(UsageError, match="cannot be read as an image-to-text model"):
        PictureCaptioner(save_model(tmp_path / "no-captioner"))
