"""Towers by tag, by hub id, from a folder and from a file: every tensor arrives, or the refusal says why."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.factory import load_state_dict
from safetensors.torch import save_file
from torch import nn
from transformers import RobertaConfig

from sightline.errors import SettingInvalid
from sightline.models.config import ZrigfConfig
from sightline.models.model import build_model
from sightline.models.pretrained import HF_TEXT_FOLDER, split_tower_name
from sightline.models.release import load_encoder, load_model, save_release
from sightline.models.towers import DualEncoder, build_tower, grey_patches, tower_config_of_tag
from sightline.models.transforms import Preprocess
from tests.unit.models.conftest import SmallParts

TINY: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 28, "layers": 2, "width": 16, "head_width": 8, "patch_size": 4},
    "text_cfg": {"context_length": 12, "vocab_size": 400, "width": 16, "heads": 2, "layers": 1},
}
COCA = {
    **TINY,
    "vision_cfg": {**TINY["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "text_cfg": {**TINY["text_cfg"], "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {**TINY["text_cfg"], "attn_pooler_heads": 2},
    "custom_text": True,
}
PREPROCESS = {"size": 28, "mean": [0.5] * 3, "std": [0.25] * 3}


def write_config(folder: Path, values: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": values, "preprocess_cfg": PREPROCESS}))
    return folder


def open_clips_own(folder: Path) -> nn.Module:
    return open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)


@pytest.fixture
def source(tmp_path: Path) -> tuple[Path, nn.Module]:
    """A folder with a description alone, and the model it describes."""
    folder = write_config(tmp_path / "tiny", TINY)
    return folder, open_clips_own(folder)


@pytest.fixture
def tag(source: tuple[Path, nn.Module]) -> str:
    """A tag that open_clip knows by name, as it knows its built-in ones."""
    path = source[0] / "sightline-tiny.json"
    path.write_text(json.dumps(TINY))
    open_clip.add_model_config(path)
    return "sightline-tiny"


def assert_same(tower: DualEncoder, model: nn.Module) -> None:
    expected = {name: value for name, value in model.state_dict().items() if not name.startswith("text_decoder.")}
    found = tower.model.state_dict()
    assert found.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert different == []


def write_safetensors(path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file({name: value.contiguous() for name, value in state.items()}, path)


def write_training_checkpoint(path: Path, state: dict[str, torch.Tensor]) -> None:
    """As open_clip's own training loop saves under DistributedDataParallel."""
    wrapped = {f"module.{name}": value for name, value in state.items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": wrapped, "optimizer": {"state": {}}}, path)


FILES: list[tuple[str, Callable[[Path, dict[str, torch.Tensor]], None]]] = [
    ("weights.safetensors", write_safetensors),
    ("weights.pt", lambda path, state: torch.save(state, path)),
    ("weights.bin", lambda path, state: torch.save(state, path)),
    ("epoch_3.pt", write_training_checkpoint),
]


@pytest.mark.parametrize(("name", "write"), FILES, ids=[name for name, _ in FILES])
def test_every_tensor_of_a_weights_file_arrives(
    source: tuple[Path, nn.Module], tag: str, name: str, write: Callable[..., None]
) -> None:
    folder, model = source
    write(folder / name, model.state_dict())
    architecture, weights = split_tower_name(f"{tag}:{folder / name}")
    assert_same(build_tower(tower_config_of_tag(architecture), weights=weights), model)


@pytest.mark.parametrize(
    "name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth"]
)
def test_every_tensor_of_a_local_folder_arrives(source: tuple[Path, nn.Module], name: str) -> None:
    folder, model = source
    write = write_safetensors if name.endswith("safetensors") else (lambda path, state: torch.save(state, path))
    write(folder / name, model.state_dict())
    architecture, weights = split_tower_name(f"local-dir:{folder}")
    tower = build_tower(tower_config_of_tag(architecture), weights=weights)
    assert_same(tower, model)
    assert tower.preprocess.std == (0.25, 0.25, 0.25)


class Command:
    """What a pickle may hold: a call that happens while it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("name", ["weights.pt", "weights.bin"])
def test_a_file_that_would_run_code_is_refused_and_does_not_run(
    source: tuple[Path, nn.Module], tag: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model = source
    monkeypatch.chdir(folder)
    torch.save({**model.state_dict(), "visual.proj": Command()}, folder / name)
    with pytest.raises(SettingInvalid, match="runs code"):
        build_tower(tower_config_of_tag(tag), weights=str(folder / name))
    assert not (folder / "ran").exists()


def test_a_folder_that_would_run_code_is_refused(
    source: tuple[Path, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model = source
    monkeypatch.chdir(folder)
    torch.save({**model.state_dict(), "visual.proj": Command()}, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(SettingInvalid, match="runs code"):
        build_tower(tower_config_of_tag(f"local-dir:{folder}"), weights="own")
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 torn"])
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_damaged_file_is_refused(source: tuple[Path, nn.Module], tag: str, name: str, content: bytes) -> None:
    path = source[0] / name
    path.write_bytes(content)
    with pytest.raises(SettingInvalid, match=name):
        build_tower(tower_config_of_tag(tag), weights=str(path))


def test_weights_of_another_architecture_are_refused(source: tuple[Path, nn.Module], tag: str) -> None:
    folder, model = source
    state = {name: value for name, value in model.state_dict().items() if name != "ln_final.weight"}
    save_file(state, folder / "short.safetensors")
    with pytest.raises(SettingInvalid, match=r"ln_final\.weight"):
        build_tower(tower_config_of_tag(tag), weights=str(folder / "short.safetensors"))


def test_a_folder_without_weights_is_never_random_in_silence(source: tuple[Path, nn.Module]) -> None:
    with pytest.raises(SettingInvalid, match="could not be loaded"):
        build_tower(tower_config_of_tag(f"local-dir:{source[0]}"), weights="own")


def test_an_unknown_pretrained_tag_names_the_known_ones() -> None:
    with pytest.raises(SettingInvalid, match="laion2b_s34b_b79k"):
        build_tower(tower_config_of_tag("ViT-B-32"), weights="laion9b")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ViT-B-32", ("ViT-B-32", "")),
        ("ViT-B-32:openai", ("ViT-B-32", "openai")),
        ("ViT-B-32:/a/b.pt", ("ViT-B-32", "/a/b.pt")),
        ("hf-hub:org/repo", ("hf-hub:org/repo", "own")),
        ("local-dir:/a:b", ("local-dir:/a:b", "own")),
    ],
)
def test_a_towers_name_says_architecture_and_weights(name: str, expected: tuple[str, str]) -> None:
    assert split_tower_name(name) == expected


def test_a_hub_id_loads_every_tensor_from_the_hubs_cache(
    source: tuple[Path, nn.Module], hub: Callable[[str, Path], None]
) -> None:
    folder, model = source
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    hub("someone/tiny-clip", folder)
    architecture, weights = split_tower_name("hf-hub:someone/tiny-clip")
    assert_same(build_tower(tower_config_of_tag(architecture), weights=weights), model)


def test_a_hub_id_without_weights_is_never_random_in_silence(
    source: tuple[Path, nn.Module], hub: Callable[[str, Path], None]
) -> None:
    hub("someone/tiny-clip", source[0])
    with pytest.raises(SettingInvalid, match="could not be loaded"):
        build_tower(tower_config_of_tag("hf-hub:someone/tiny-clip"), weights="own")


def test_a_hub_id_that_cannot_be_reached_is_refused(hub: Callable[[str, Path], None]) -> None:
    with pytest.raises(SettingInvalid, match="hf-hub:nobody/nothing"):
        tower_config_of_tag("hf-hub:nobody/nothing")


@pytest.mark.slow
def test_a_pretrained_tag_loads_every_tensor_from_the_hubs_cache(
    tmp_path: Path, hub: Callable[[str, Path], None]
) -> None:
    """Up to the download: the file stands where the hub's client would have put it."""
    model = open_clip.create_model("RN50", load_weights=False)
    (tmp_path / "rn50").mkdir()
    save_file(model.state_dict(), tmp_path / "rn50" / "open_clip_model.safetensors")
    hub(str(open_clip.get_pretrained_cfg("RN50", "yfcc15m")["hf_hub"]).strip("/"), tmp_path / "rn50")
    tower = build_tower(tower_config_of_tag("RN50"), weights="yfcc15m")
    assert_same(tower, model)


def with_hf_text(folder: Path) -> dict[str, Any]:
    config = RobertaConfig(
        vocab_size=400, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    config.save_pretrained(folder / "named")
    text = {"hf_model_name": str(folder / "named"), "hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler"}
    return {**TINY, "text_cfg": {**text, "context_length": 12}, "custom_text": True}


@pytest.mark.parametrize("kind", ["plain", "coca", "transformers text"])
def test_a_release_of_a_named_tower_loads_without_what_it_was_made_from(
    small: SmallParts, tmp_path: Path, kind: str
) -> None:
    values = {"plain": TINY, "coca": COCA}.get(kind) or with_hf_text(tmp_path)
    folder = write_config(tmp_path / "source", values)
    config = ZrigfConfig(tower=tower_config_of_tag(f"local-dir:{folder}"))
    model = build_model(config)
    save_release(tmp_path / "release", model=model, tower_tokenizer=small.tower_tokenizer)
    for path in (folder, tmp_path / "named"):
        if path.exists():
            path.rename(path.with_name(f"{path.name}-gone"))
    loaded = load_model(tmp_path / "release").model
    assert_same(loaded.tower, model.tower.model)
    load_encoder(tmp_path / "release").check_golden()
    assert (tmp_path / "release" / "tower" / HF_TEXT_FOLDER).is_dir() is (kind == "transformers text")


def test_an_attention_poolers_vectors_are_open_clips_and_its_tokens_are_patches(tmp_path: Path) -> None:
    folder = write_config(tmp_path, COCA)
    tower = build_tower(tower_config_of_tag(f"local-dir:{folder}")).eval()
    pixels = torch.randn(2, 3, 28, 28)
    vectors, tokens = tower.encode_image(pixels)
    torch.testing.assert_close(vectors, tower.model.encode_image(pixels, normalize=True))
    assert tokens.shape == (2, 49, 16)
    assert not any("text_decoder" in name for name, _ in tower.named_parameters())


def test_pixels_beyond_the_last_patch_are_never_hidden() -> None:
    greyed = grey_patches(torch.ones(1, 3, 30, 30), torch.ones(1, 4, dtype=torch.bool))
    assert greyed[..., :30, :30].sum() == 0
    greyed = grey_patches(torch.ones(1, 3, 31, 31), torch.ones(1, 4, dtype=torch.bool))
    assert greyed.sum() == 3 * (31 * 31 - 30 * 30)


NEED_A_HUB = {
    *("coca_roberta-ViT-B-32", "mt5-base-ViT-B-32", "mt5-xl-ViT-H-14", "nllb-clip-base", "nllb-clip-base-siglip"),
    *("nllb-clip-large", "nllb-clip-large-siglip", "roberta-ViT-B-32", "xlm-roberta-base-ViT-B-32"),
    "xlm-roberta-large-ViT-H-14",
}
"""Architectures whose text tower is described on the hub alone."""


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(8))
def test_every_architecture_of_open_clip_gives_vectors_of_one_space_and_square_tokens(chunk: int) -> None:
    names = [name for name in open_clip.list_models() if name not in NEED_A_HUB and name != "sightline-tiny"]
    assert len(names) >= 134
    for name in names[chunk::8]:
        with torch.device("meta"):  # shapes without weights: the largest has 18 billion
            model = open_clip.create_model(name, device="meta", load_weights=False)
            preprocess = Preprocess.from_open_clip(dict(model.visual.preprocess_cfg))
            config = tower_config_of_tag(name)
            tower = DualEncoder(model, preprocess=preprocess, context_length=config.context_length).eval()
            texts = tower.encode_text(torch.zeros(1, config.context_length, dtype=torch.long))
        assert texts.shape == (1, tower.dimension), name
        assert tower.grid >= 1, name


def test_open_clips_reader_of_files_is_told_to_run_nothing() -> None:
    """Our promise rests on open_clip's default; this fails if it ever changes."""
    assert load_state_dict.__defaults__ == ("cpu", True)
