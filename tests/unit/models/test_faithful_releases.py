"""Releases of the faithful variant: two out of one model, one embedding space, and the faces of the services."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sightline.data.dialogues import query_text
from sightline.errors import CapabilityMissing, ReleaseInvalid
from sightline.models.config import ZrigfConfig
from sightline.models.faithful.generator import FaithfulGenerator
from sightline.models.faithful.patches import cut_patches
from sightline.models.faithful.tokenizer import BART_IDS_FILE
from sightline.models.generator_model import ImageEvidence
from sightline.models.release import load_encoder, load_generator, load_model, save_release
from tests.unit.models.conftest import CONTEXT_LENGTH, FaithfulParts

TURNS = ["hello there", "what colour is the ball ?"]


@pytest.fixture
def trained(faithful: FaithfulParts) -> FaithfulParts:
    """Stage 2 moved every weight of the generator, and no weight of the tower."""
    for parameter in faithful.generator.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return faithful


def save(parts: FaithfulParts, folder: Path) -> dict[str, Any]:
    return save_release(
        folder,
        model=parts.model,
        tower_tokenizer=parts.tower_tokenizer,
        dialogue_tokenizer=parts.dialogue_tokenizer,
    )


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 36, 3), dtype=np.uint8))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_faces_pass_their_own_golden_check(trained: FaithfulParts, tmp_path: Path, dtype: str) -> None:
    architecture = save(trained, tmp_path)
    assert architecture["variant"] == "faithful"
    assert (architecture["num_image_tokens"], architecture["image_token_width"]) == (49, 3 * 4 * 4)
    load_encoder(tmp_path, dtype=dtype).check_golden()
    load_generator(tmp_path, dtype=dtype).check_golden()


def test_retrieval_and_generation_releases_are_of_one_space(trained: FaithfulParts, tmp_path: Path) -> None:
    whole = save(trained, tmp_path / "generation")
    part = save_release(
        tmp_path / "retrieval", model=trained.model.retrieval_part(), tower_tokenizer=trained.tower_tokenizer
    )
    assert part["embedding_space_id"] == whole["embedding_space_id"]
    assert not part["has_generator"]
    with pytest.raises(CapabilityMissing):
        load_generator(tmp_path / "retrieval")
    encoders = [load_encoder(tmp_path / name, dtype="float32") for name in ("retrieval", "generation")]
    vectors = [encoder.encode_texts(TURNS) for encoder in encoders]
    assert np.array_equal(vectors[0], vectors[1])


def test_a_calibrated_floor_makes_no_other_retrieval_release(trained: FaithfulParts) -> None:
    before = trained.model.retrieval_part().config
    trained.model.config = replace(trained.model.config, min_score=0.5)
    assert trained.model.retrieval_part().config == before


def test_stage_two_changes_no_embedding_space(faithful: FaithfulParts, tmp_path: Path) -> None:
    before = save(faithful, tmp_path / "before")["embedding_space_id"]
    for parameter in faithful.generator.parameters():
        parameter.data.add_(0.1)
    assert save(faithful, tmp_path / "after")["embedding_space_id"] == before


@pytest.mark.parametrize(
    "name", ["vit.pooler.dense.weight", "text_pooler.bias", "v2t.weight", "text.embed_tokens.weight"]
)
def test_the_space_depends_on_every_part_of_the_tower(faithful: FaithfulParts, tmp_path: Path, name: str) -> None:
    before = save(faithful, tmp_path / "before")["embedding_space_id"]
    dict(faithful.tower.named_parameters())[name].data.view(-1)[0] += 1e-3
    assert save(faithful, tmp_path / "after")["embedding_space_id"] != before


def test_a_served_picture_reaches_the_generator_as_the_trainer_showed_it(
    trained: FaithfulParts, tmp_path: Path
) -> None:
    save(trained, tmp_path)
    encoder, generator = load_encoder(tmp_path, dtype="float32"), load_generator(tmp_path, dtype="float32")
    pixels = encoder.preprocess(picture())[None]
    tokens = encoder.encode_images(pixels)[1][0]
    prepared = generator.prepare(TURNS, [ImageEvidence(tokens=tokens, score=0.4)])
    ids, mask = trained.dialogue_tokenizer.context_ids([query_text(TURNS)], max_length=20)
    expected = trained.generator.remember(
        torch.from_numpy(ids),
        context_mask_BL=torch.from_numpy(mask),
        tokens_BKPW=cut_patches(torch.from_numpy(pixels), side=4)[None].float(),
        similarity_BK=torch.zeros(1, 1),
        image_mask_BK=torch.ones(1, 1),
    )
    torch.testing.assert_close(prepared.memory.packed, expected.packed)
    assert generator.generate(prepared, max_new_tokens=4).text == generator.generate(prepared, max_new_tokens=4).text


def test_a_dialogue_without_a_picture_is_answered(trained: FaithfulParts, tmp_path: Path) -> None:
    save(trained, tmp_path)
    generator = load_generator(tmp_path)
    prepared = generator.prepare(TURNS)
    assert prepared.image_weights == []
    assert not prepared.memory.mask[:, : prepared.memory.num_vision].any()
    assert generator.generate(prepared, max_new_tokens=3, num_beams=2).num_tokens <= 3


def test_a_loaded_model_is_the_saved_one(trained: FaithfulParts, tmp_path: Path) -> None:
    save(trained, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.model.config == trained.config
    assert isinstance(loaded.model.generator, FaithfulGenerator)
    assert loaded.model.generator.fusion.v2t is loaded.model.generator.reader.v2t
    state = trained.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.model.state_dict().items())


def test_the_tower_reads_pictures_as_its_release_says(faithful: FaithfulParts, tmp_path: Path) -> None:
    other = replace(faithful.tower.preprocess, mean=(0.1, 0.2, 0.3))
    faithful.tower.set_preprocess(other)
    faithful.generator.reader.set_preprocess(other)
    save(faithful, tmp_path)
    load_encoder(tmp_path).check_golden()
    load_generator(tmp_path).check_golden()


def test_a_long_text_keeps_its_newest_words(faithful: FaithfulParts) -> None:
    long = "what colour is it ? " * 9 + "a red ball"
    found = faithful.tower_tokenizer.tokenize([long, "x"])
    assert found.ids.shape == (2, CONTEXT_LENGTH)
    assert found.is_truncated == [True, False]
    kept = faithful.dialogue_tokenizer.decode(found.ids[0].tolist())
    assert kept.endswith("a red ball")
    assert (found.ids[1] == faithful.dialogue_tokenizer.pad_id).sum() > 0


def test_padding_a_text_changes_no_vector(faithful: FaithfulParts) -> None:
    ids = torch.from_numpy(faithful.tower_tokenizer.tokenize(["a red ball", "x"]).ids)
    torch.testing.assert_close(
        faithful.tower.encode_text(ids), faithful.tower.encode_text(faithful.tower.longest_text(ids))
    )


def test_a_damaged_tokenizer_is_refused(trained: FaithfulParts, tmp_path: Path) -> None:
    save(trained, tmp_path)
    (tmp_path / "tokenizer" / BART_IDS_FILE).write_text("{")
    with pytest.raises(ReleaseInvalid):
        load_encoder(tmp_path)


def test_padding_is_told_by_the_tokenizers_own_id(faithful_config: ZrigfConfig, faithful: FaithfulParts) -> None:
    assert faithful.tower.pad_id == faithful.dialogue_tokenizer.pad_id
    nn.init.zeros_(faithful.tower.text_pooler.weight)
    assert faithful.tower.encode_text(torch.tensor([[1, 5, 6, 0, 0]])).shape == (1, 16)
