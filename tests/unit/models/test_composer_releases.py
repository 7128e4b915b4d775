"""A composer inside a release: what is saved is what is served; it is pinned to its space and never changes it."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sightline.errors import (
    CapabilityMissing,
    DimensionMismatch,
    EmbeddingSpaceMismatch,
    FieldOutOfRange,
    ReleaseInvalid,
)
from sightline.models.composer import Composer
from sightline.models.composer_config import ComposerConfig
from sightline.models.config import FusionConfig, ZrigfConfig
from sightline.models.model import ZrigfModel
from sightline.models.release import embedding_space_of, load_encoder, load_model, save_release
from sightline.models.weights import unique_state
from tests.unit.models.composing import COUPLED_EXPERTS, DEEP, OWN_TOWER, STAGE_TWO, Room, corpus_room, tower_config

EDITS = ["is blue", "at night"]


@pytest.fixture
def room() -> Room:
    return corpus_room()


@pytest.fixture
def pixels(room: Room) -> np.ndarray:
    return room.pixels[: len(EDITS)].numpy()


def model_of(room: Room) -> ZrigfModel:
    tower = tower_config(vocab_size=room.tokenizer.vocab_size)
    config = ZrigfConfig(tower=tower, fusion=FusionConfig(token_grid=4))
    return ZrigfModel(config, tower=room.tower, generator=None, head=None)


def composer_for(room: Room, config: ComposerConfig = STAGE_TWO, *, space: str = "") -> Composer:
    composer = room.composer(config, space=space or embedding_space_of(model_of(room), tower_tokenizer=room.tokenizer))
    for parameter in composer.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return composer


def save(room: Room, folder: Path, composer: Composer | None) -> dict[str, object]:
    return save_release(folder, model=model_of(room), tower_tokenizer=room.tokenizer, composer=composer)


def test_a_composer_changes_no_space_no_vector_and_no_file_of_the_towers(
    room: Room, pixels: np.ndarray, tmp_path: Path
) -> None:
    without = save(room, tmp_path / "without", None)
    composed = save(room, tmp_path / "with", composer_for(room))
    assert composed.pop("has_composer") is True
    assert without.pop("has_composer") is False
    assert without.pop("composer_parameters") == 0
    assert composed.pop("composer_parameters") == sum(p.numel() for p in composer_for(room).parameters())
    assert composed == without
    names = [path.relative_to(tmp_path / "without") for path in (tmp_path / "without").rglob("*") if path.is_file()]
    same = [n for n in names if (tmp_path / "with" / n).read_bytes() == (tmp_path / "without" / n).read_bytes()]
    assert {str(name) for name in names} - {str(name) for name in same} == {"golden.safetensors"}
    vectors = [load_encoder(tmp_path / name).encode_images(pixels)[0] for name in ("with", "without")]
    assert np.array_equal(*vectors)


@pytest.mark.parametrize("config", [STAGE_TWO, COUPLED_EXPERTS, OWN_TOWER], ids=["feature", "coupled", "own-tower"])
def test_a_release_gives_the_composer_back_and_serves_what_it_computes(
    room: Room, pixels: np.ndarray, config: ComposerConfig, tmp_path: Path
) -> None:
    composer = composer_for(room, config).eval()
    save(room, tmp_path, composer)
    loaded = load_model(tmp_path).composer
    assert loaded is not None
    assert loaded.config == config
    saved = unique_state(composer)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in unique_state(loaded).items())
    encoder = load_encoder(tmp_path)
    encoder.check_golden()
    ids = torch.from_numpy(encoder.tokenize_edits(EDITS).ids)
    with torch.no_grad():
        expected = composer(torch.from_numpy(pixels), ids).numpy()
    np.testing.assert_allclose(encoder.encode_composed(pixels, EDITS), expected, atol=1e-6)


@pytest.mark.parametrize("config", [STAGE_TWO, DEEP, OWN_TOWER], ids=["feature", "deep", "own-tower"])
def test_a_composer_passes_its_golden_check_in_bfloat16(room: Room, config: ComposerConfig, tmp_path: Path) -> None:
    save(room, tmp_path, composer_for(room, config))
    load_encoder(tmp_path, dtype="bfloat16").check_golden()


def test_a_stored_vector_of_any_length_composes_as_its_picture_does(
    room: Room, pixels: np.ndarray, tmp_path: Path
) -> None:
    save(room, tmp_path, composer_for(room))
    encoder = load_encoder(tmp_path)
    assert encoder.can_compose
    assert encoder.composes_vectors
    vectors, _ = encoder.encode_images(pixels)
    expected = encoder.encode_composed(pixels, EDITS)
    np.testing.assert_allclose(encoder.encode_composed(3 * vectors, EDITS), expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1.0, atol=1e-6)


def test_many_threads_compose_what_one_does(room: Room, pixels: np.ndarray, tmp_path: Path) -> None:
    save(room, tmp_path, composer_for(room, COUPLED_EXPERTS))
    encoder = load_encoder(tmp_path)
    edits = [[f"is {n} times blue", "at night"] for n in range(12)]
    alone = [encoder.encode_composed(pixels, pair) for pair in edits]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda pair: encoder.encode_composed(pixels, pair), edits))
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(alone, together, strict=True))


def test_a_release_without_composer_says_so(room: Room, pixels: np.ndarray, tmp_path: Path) -> None:
    save(room, tmp_path, None)
    encoder = load_encoder(tmp_path)
    encoder.check_golden()
    assert load_model(tmp_path).composer is None
    assert not encoder.can_compose
    assert not encoder.composes_vectors
    with pytest.raises(CapabilityMissing, match="no composer"):
        encoder.encode_composed(pixels, EDITS)


def test_a_composer_that_needs_pixels_refuses_vectors(room: Room, tmp_path: Path) -> None:
    save(room, tmp_path, composer_for(room, DEEP))
    encoder = load_encoder(tmp_path)
    assert encoder.can_compose
    assert not encoder.composes_vectors
    with pytest.raises(CapabilityMissing, match="it needs the picture"):
        encoder.encode_composed(np.ones((2, encoder.dimension), dtype=np.float32), EDITS)


def test_references_that_do_not_fit_are_refused(room: Room, pixels: np.ndarray, tmp_path: Path) -> None:
    save(room, tmp_path, composer_for(room))
    encoder = load_encoder(tmp_path)
    with pytest.raises(FieldOutOfRange, match="got 2, need one for each of 1 edits"):
        encoder.encode_composed(pixels, EDITS[:1])
    with pytest.raises(DimensionMismatch, match="got 9 dimensions, this space has 8"):
        encoder.encode_composed(np.ones((2, 9), dtype=np.float32), EDITS)


def test_a_composer_of_another_space_is_not_saved(room: Room, tmp_path: Path) -> None:
    with pytest.raises(EmbeddingSpaceMismatch, match="was trained in space 0123456789abcdef"):
        save(room, tmp_path, composer_for(room, space="0123456789abcdef"))


def test_a_composer_of_another_space_is_not_loaded(room: Room, tmp_path: Path) -> None:
    save(room, tmp_path / "a", composer_for(room))
    room.tower.model.token_embedding.weight.data.add_(0.1)
    save(room, tmp_path / "b", composer_for(room))
    shutil.copyfile(tmp_path / "a" / "composer.safetensors", tmp_path / "b" / "composer.safetensors")
    for load in (load_encoder, load_model):
        with pytest.raises(EmbeddingSpaceMismatch, match="was trained in space"):
            load(tmp_path / "b")


@pytest.mark.parametrize("missing", ["composer.json", "composer.safetensors"])
def test_half_a_composer_is_refused(room: Room, missing: str, tmp_path: Path) -> None:
    save(room, tmp_path, composer_for(room))
    (tmp_path / missing).unlink()
    with pytest.raises(ReleaseInvalid, match="composer"):
        load_encoder(tmp_path).check_golden()


def test_changed_weights_of_a_composer_fail_the_golden_check(room: Room, tmp_path: Path) -> None:
    save(room, tmp_path, composer_for(room))
    path = tmp_path / "composer.safetensors"
    tensors = load_file(path)
    tensors["composer.phi.layers.0.weight"] += 1.0
    space = load_model(tmp_path).embedding_space_id
    save_file(tensors, path, metadata={"embedding_space_id": space})
    with pytest.raises(ReleaseInvalid, match="golden composed_vectors"):
        load_encoder(tmp_path).check_golden()
