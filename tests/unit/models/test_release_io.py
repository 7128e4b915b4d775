"""Releases: what is saved is what is loaded, and nothing damaged, foreign or pickled gets in."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from sightline.errors import CapabilityMissing, ReleaseInvalid, SettingInvalid
from sightline.models.clip_tokenizer import ClipTowerTokenizer
from sightline.models.config import ZrigfConfig
from sightline.models.model import ZrigfModel, build_model
from sightline.models.release import load_encoder, load_generator, load_model, save_release
from sightline.models.towers import tower_config_of_tag
from sightline.models.weights import unique_state
from tests.unit.models.conftest import SmallParts

Change = Callable[[dict[str, torch.Tensor]], None]


@pytest.fixture
def release(small_release: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(small_release[0], tmp_path / "copy")
    return tmp_path / "copy"


def rewrite(path: Path, change: Change) -> None:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=metadata)


def save(parts: SmallParts, folder: Path) -> dict[str, Any]:
    return save_release(
        folder, model=parts.model, tower_tokenizer=parts.tower_tokenizer, dialogue_tokenizer=parts.dialogue_tokenizer
    )


def test_loading_gives_every_weight_back(small: SmallParts, tmp_path: Path) -> None:
    save(small, tmp_path)
    loaded = unique_state(load_model(tmp_path).model)
    saved = unique_state(small.model)
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in saved.items())


def test_saving_again_gives_the_same_space_and_files(
    small_release: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    loaded = load_model(small_release[0])
    architecture = save_release(
        tmp_path,
        model=loaded.model,
        tower_tokenizer=loaded.tower_tokenizer,
        dialogue_tokenizer=loaded.dialogue_tokenizer,
    )
    assert architecture == small_release[1]
    names = ["config.json", "preprocess.json", "model.safetensors", "tokenizer/tower.json", "tokenizer/decoder.json"]
    assert all((tmp_path / name).read_bytes() == (small_release[0] / name).read_bytes() for name in names)


def test_tied_weights_are_stored_once(small_release: tuple[Path, dict[str, Any]]) -> None:
    names = load_file(small_release[0] / "model.safetensors").keys()
    embeddings = [name for name in names if "embed_tokens" in name or "lm_head" in name or "shared" in name]
    assert embeddings == ["generator.bart.model.shared.weight"]


def test_loaded_embeddings_are_still_tied(release: Path) -> None:
    generator = load_model(release).model.generator
    assert generator is not None
    assert generator.bart.lm_head.weight is generator.bart.model.decoder.embed_tokens.weight


def test_saving_leaves_the_training_mode_alone(small: SmallParts, tmp_path: Path) -> None:
    small.model.train()
    save(small, tmp_path)
    assert small.model.training
    assert all(parameter.requires_grad for parameter in small.model.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "auto"])
def test_a_sound_release_passes_its_golden_check(release: Path, dtype: str) -> None:
    load_encoder(release, dtype=dtype).check_golden()
    load_generator(release, dtype=dtype).check_golden()


def test_the_space_does_not_depend_on_the_decoder(small: SmallParts, tmp_path: Path) -> None:
    first = save(small, tmp_path / "a")
    assert small.model.generator is not None
    small.model.generator.bart.model.shared.weight.data.add_(1.0)
    small.model.tower.model.logit_scale.data.add_(1.0)
    assert save(small, tmp_path / "b")["embedding_space_id"] == first["embedding_space_id"]


@pytest.mark.parametrize("part", ["visual.proj", "token_embedding.weight"])
def test_the_space_depends_on_both_towers(small: SmallParts, tmp_path: Path, part: str) -> None:
    first = save(small, tmp_path / "a")
    dict(small.model.tower.model.named_parameters())[part].data.view(-1)[0] += 1e-6
    assert save(small, tmp_path / "b")["embedding_space_id"] != first["embedding_space_id"]


def test_the_space_depends_on_the_tokenizer(small: SmallParts, corpus_tokenizer: Tokenizer, tmp_path: Path) -> None:
    first = save(small, tmp_path / "a")
    text = corpus_tokenizer.to_str().replace('"Lowercase"', '"NFC"')
    other = type(small.tower_tokenizer)(Tokenizer.from_str(text), context_length=12)
    second = save_release(
        tmp_path / "b", model=small.model, tower_tokenizer=other, dialogue_tokenizer=small.dialogue_tokenizer
    )
    assert second["embedding_space_id"] != first["embedding_space_id"]


def test_the_space_is_sixteen_hex_digits_and_served_by_both_faces(small_release: tuple[Path, dict[str, Any]]) -> None:
    folder, architecture = small_release
    space = architecture["embedding_space_id"]
    assert len(space) == 16
    assert int(space, 16) >= 0
    assert load_encoder(folder).embedding_space_id == load_generator(folder).embedding_space_id == space


def drop_one(tensors: dict[str, torch.Tensor]) -> None:
    tensors.pop("tower.model.ln_final.weight")
    tensors.pop("generator.fusion.text_gate")


def add_one(tensors: dict[str, torch.Tensor]) -> None:
    tensors["tower.surplus"] = torch.zeros(1)
    tensors["generator.surplus"] = torch.zeros(2)


def reshape_one(tensors: dict[str, torch.Tensor]) -> None:
    for name in ("tower.model.text_projection", "generator.fusion.v2t.weight"):
        tensors[name] = tensors[name][:-1].contiguous()


@pytest.mark.parametrize("change", [drop_one, add_one, reshape_one])
@pytest.mark.parametrize("load", [load_encoder, load_generator, load_model])
def test_missing_surplus_or_misshapen_weights_are_refused(release: Path, change: Change, load: Any) -> None:
    rewrite(release / "model.safetensors", change)
    with pytest.raises(ReleaseInvalid):
        load(release)


def test_a_changed_tower_weight_is_refused_at_load(release: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["tower.model.visual.proj"][0, 0] += 1e-3

    rewrite(release / "model.safetensors", change)
    with pytest.raises(ReleaseInvalid, match="embedding space"):
        load_encoder(release)


def test_a_changed_generator_fails_its_golden_check(release: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["generator.bart.model.encoder.layers.0.fc1.weight"].neg_()

    rewrite(release / "model.safetensors", change)
    with pytest.raises(ReleaseInvalid, match=r"generator\.logits"):
        load_generator(release).check_golden()


@pytest.mark.parametrize(
    "name", ["text_vectors", "image_vectors", "image_tokens", "text_ids", "pixels", "generator.logits"]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_tampered_golden_is_noticed(release: Path, name: str, dtype: str) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = tensors[name].flip(-1).contiguous()

    rewrite(release / "golden.safetensors", change)
    with pytest.raises(ReleaseInvalid, match=name):
        (load_generator if name.startswith("generator") else load_encoder)(release, dtype=dtype).check_golden()


def test_a_golden_without_an_output_is_refused(release: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["image_tokens"]

    rewrite(release / "golden.safetensors", change)
    with pytest.raises(ReleaseInvalid, match="image_tokens"):
        load_encoder(release).check_golden()


def test_a_golden_that_is_not_finite_is_refused(release: Path) -> None:
    encoder = load_encoder(release)
    encoder._model.tower.model.visual.ln_post.weight.data.fill_(float("nan"))
    with pytest.raises(ReleaseInvalid, match="finite"):
        encoder.check_golden()


@pytest.mark.parametrize("load", [load_encoder, load_generator, load_model])
def test_a_pickle_where_weights_should_be_is_refused_unread(release: Path, load: Any) -> None:
    (release / "model.safetensors").write_bytes(pickle.dumps({"weights": [1, 2]}))
    with pytest.raises(ReleaseInvalid, match="safetensors"):
        load(release)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "tower/weights.pt", "tokenizer/vocabulary.pkl"])
def test_a_pickle_beside_the_weights_is_refused(release: Path, name: str) -> None:
    (release / name).parent.mkdir(exist_ok=True)
    (release / name).write_bytes(b"\x80\x04.")
    with pytest.raises(ReleaseInvalid, match=Path(name).name):
        load_encoder(release)


@pytest.mark.parametrize(
    "name", ["config.json", "preprocess.json", "model.safetensors", "golden.safetensors", "tokenizer/tower.json"]
)
def test_a_half_written_release_is_refused(release: Path, name: str) -> None:
    whole = (release / name).read_bytes()
    (release / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ReleaseInvalid):
        load_encoder(release)
    (release / name).unlink()
    with pytest.raises(ReleaseInvalid):
        load_encoder(release)


def test_weights_of_another_project_are_refused(release: Path) -> None:
    path = release / "model.safetensors"
    save_file(load_file(path), path)
    with pytest.raises(ReleaseInvalid, match="names no embedding space"):
        load_encoder(release)


def test_preprocessing_of_another_release_is_refused(release: Path) -> None:
    path = release / "preprocess.json"
    path.write_text(path.read_text().replace("bicubic", "bilinear"))
    with pytest.raises(ReleaseInvalid, match="embedding space"):
        load_encoder(release)


def encoder_only(config: ZrigfConfig) -> ZrigfModel:
    return build_model(ZrigfConfig(tower=config.tower))


def test_a_release_without_a_generator_serves_towers_only(small: SmallParts, tmp_path: Path) -> None:
    architecture = save_release(tmp_path, model=encoder_only(small.config), tower_tokenizer=small.tower_tokenizer)
    assert not architecture["has_generator"]
    load_encoder(tmp_path).check_golden()
    assert load_model(tmp_path).model.generator is None
    with pytest.raises(CapabilityMissing):
        load_generator(tmp_path)


def test_a_generator_is_not_saved_without_its_tokenizer(small: SmallParts, tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid, match="tokenizer"):
        save_release(tmp_path, model=small.model, tower_tokenizer=small.tower_tokenizer)


def test_an_unknown_dtype_is_refused(release: Path) -> None:
    with pytest.raises(SettingInvalid, match="float16"):
        load_encoder(release, dtype="float16")


LOCAL = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 28, "layers": 1, "width": 16, "head_width": 8, "patch_size": 4},
    "text_cfg": {"context_length": 9, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    "quick_gelu": True,
}


def test_a_tower_of_an_open_clip_folder_travels_inside_the_release(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    preprocess = {"size": 28, "mean": [0.5, 0.4, 0.3], "std": [0.5] * 3, "interpolation": "bilinear"}
    (source / "open_clip_config.json").write_text(json.dumps({"model_cfg": LOCAL, "preprocess_cfg": preprocess}))
    model = build_model(ZrigfConfig(tower=tower_config_of_tag(f"local-dir:{source}")))
    release = tmp_path / "release"
    architecture = save_release(release, model=model, tower_tokenizer=ClipTowerTokenizer(context_length=9))
    shutil.rmtree(source)
    encoder = load_encoder(release)
    encoder.check_golden()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 28, 28), dtype=np.uint8)
    with torch.inference_mode():
        expected = model.eval().tower.encode_image(torch.from_numpy(pixels))[0]
    np.testing.assert_allclose(encoder.encode_images(pixels)[0], expected.numpy(), atol=1e-6)
    assert architecture["tower"] == "local-dir:source"
    assert str(tmp_path) not in (release / "config.json").read_text()
    again = save_release(
        tmp_path / "again", model=load_model(release).model, tower_tokenizer=ClipTowerTokenizer(context_length=9)
    )
    assert again == architecture
