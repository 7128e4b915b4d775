"""Releases on disk: what a trained model is saved as, and how trainer and services load it again.

A release's model part is `config.json`, `preprocess.json`, `tokenizer/`,
`model.safetensors` and `golden.safetensors`; a tower of an open_clip tag adds
`tower/open_clip_config.json`, and a composer its own two files. The registry adds the manifest.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from sightline.data.dialogues import dialogue_text
from sightline.errors import CapabilityMissing, ReleaseInvalid, SettingInvalid
from sightline.models.clip_tokenizer import read_tower_tokenizer
from sightline.models.composer import Composer
from sightline.models.composer_release import load_composer, save_composer
from sightline.models.config import FaithfulTowerConfig, TowerConfig, ZrigfConfig
from sightline.models.encoder_model import EncoderModel
from sightline.models.faithful.generator import FaithfulGenerator
from sightline.models.generator_model import GeneratorModel
from sightline.models.golden import EDITS, REPLY, TEXTS, TURNS, Golden, golden_picture, golden_tokens
from sightline.models.model import ZrigfModel, build_any_tower, build_generator, build_model
from sightline.models.precision import choose_dtype, ready_to_serve
from sightline.models.repetition import FREE, RepetitionRules
from sightline.models.tokenizer import DECODER_FILE, DialogueTokenizer, TowerTokenizer, read_tokenizer
from sightline.models.tower import Tower
from sightline.models.transforms import Preprocess
from sightline.models.weights import load_part, open_weights, space_digest, unique_state, write_weights

CONFIG_FILE, PREPROCESS_FILE = "config.json", "preprocess.json"
TOKENIZER_FOLDER, TOWER_FOLDER, OPEN_CLIP_FILE = "tokenizer", "tower", "open_clip_config.json"
_SPACE_KEY = "embedding_space_id"


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A whole model with its tokenizers, to train further or to evaluate."""

    model: ZrigfModel
    tower_tokenizer: TowerTokenizer
    dialogue_tokenizer: DialogueTokenizer | None
    embedding_space_id: str
    composer: Composer | None = None


def save_release(
    folder: Path,
    *,
    model: ZrigfModel,
    tower_tokenizer: TowerTokenizer,
    dialogue_tokenizer: DialogueTokenizer | None = None,
    composer: Composer | None = None,
) -> dict[str, Any]:
    """The manifest's architecture section, after writing the model's part of a release into `folder`.

    Golden outputs are computed in float32 where the model lies; its mode is
    restored. A model with a generator needs its dialogue tokenizer. A composer
    changes nothing about the embedding space; one that was trained in another
    raises EmbeddingSpaceMismatch.
    """
    if (model.generator is None) != (dialogue_tokenizer is None):
        raise SettingInvalid("a model with a generator is saved with its dialogue tokenizer, one without is not")
    (folder / TOKENIZER_FOLDER).mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(_saved_config(model.config).to_json(), encoding="utf-8")
    (folder / PREPROCESS_FILE).write_text(model.tower.preprocess.to_json(), encoding="utf-8")
    tower_tokenizer.save(folder / TOKENIZER_FOLDER)
    if dialogue_tokenizer is not None:
        dialogue_tokenizer.save(folder / TOKENIZER_FOLDER)
    if model.tower.open_clip_config is not None:
        (folder / TOWER_FOLDER).mkdir(exist_ok=True)
        text = json.dumps(model.tower.open_clip_config, indent=2, sort_keys=True)
        (folder / TOWER_FOLDER / OPEN_CLIP_FILE).write_text(text, encoding="utf-8")
        model.tower.save_text_config(folder / TOWER_FOLDER)
    space_id = _space_id(folder, tower=model.tower, config=model.config)
    write_weights(folder, state=unique_state(model), metadata={_SPACE_KEY: space_id})
    if composer is not None:
        save_composer(folder, composer=composer, embedding_space_id=space_id)
    _golden(model, tower_tokenizer, dialogue_tokenizer, composer).save(folder)
    size = 0 if composer is None else sum(parameter.numel() for parameter in composer.parameters())
    has = {"has_composer": composer is not None, "composer_parameters": size}
    return {**_architecture(model, space_id=space_id), **has}


def embedding_space_of(model: ZrigfModel, *, tower_tokenizer: TowerTokenizer) -> str:
    """The id of the space that a release of these towers would have: what a composer for them is pinned to."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / TOKENIZER_FOLDER).mkdir()
        tower_tokenizer.save(Path(name) / TOKENIZER_FOLDER)
        return _space_id(Path(name), tower=model.tower, config=model.config)


def load_model(folder: Path) -> LoadedModel:
    """Everything in a release, on the CPU in float32. Raises ReleaseInvalid if it is damaged or foreign."""
    config = _read_config(folder)
    with open_weights(folder) as file:
        model = build_model(config, tower_source=_tower_source(folder, config))
        model.tower.set_preprocess(_read_preprocess(folder))
        if isinstance(model.generator, FaithfulGenerator):
            model.generator.reader.set_preprocess(model.tower.preprocess)
        load_part(model, file=file, prefix="")
        space_id = _stored_space_id(file)
    tower_tokenizer = _tower_tokenizer(folder, config.tower)
    return LoadedModel(
        model=model,
        tower_tokenizer=tower_tokenizer,
        dialogue_tokenizer=None if config.decoder is None else _dialogue_tokenizer(folder, config),
        embedding_space_id=space_id,
        composer=load_composer(folder, tower=model.tower, tokenizer=tower_tokenizer, embedding_space_id=space_id),
    )


def encoder_of(loaded: LoadedModel, *, composer: Composer | None = None) -> EncoderModel:
    """The towers of a loaded release, with this composer or its own, to be measured where they lie; in float32."""
    chosen = composer or loaded.composer
    return EncoderModel(
        loaded.model,
        tokenizer=loaded.tower_tokenizer,
        embedding_space_id=loaded.embedding_space_id,
        golden=Golden(arrays={}, texts=[]),
        device=str(next(loaded.model.parameters()).device),
        dtype=torch.float32,
        composer=None if chosen is None else chosen.eval(),
    )


def load_encoder(folder: Path, *, device: str = "cpu", dtype: str = "auto") -> EncoderModel:
    """The towers of a release, ready to serve; nothing of the generator is read.

    Raises ReleaseInvalid if the release is damaged, foreign, or its weights are
    not those of the embedding space that it names.
    """
    config = _read_config(folder)
    tower = build_any_tower(config, source=_tower_source(folder, config))
    tower.set_preprocess(_read_preprocess(folder))
    with open_weights(folder) as file:
        load_part(tower, file=file, prefix="tower.")
        space_id = _stored_space_id(file)
    if (found := _space_id(folder, tower=tower, config=config)) != space_id:
        raise ReleaseInvalid(f"embedding space: the release says {space_id}, its towers give {found}")
    tokenizer = _tower_tokenizer(folder, config.tower)
    composer = load_composer(folder, tower=tower, tokenizer=tokenizer, embedding_space_id=space_id)
    chosen = choose_dtype(dtype, device=device, width=tower.token_width)
    ready_to_serve(tower, device=device, dtype=chosen)
    if composer is not None:
        # A few small layers: their rounding would cost more than their time.
        ready_to_serve(composer, device=device, dtype=torch.float32)
        if composer.text_tower is not None:
            ready_to_serve(composer.text_tower, device=device, dtype=chosen)
    return EncoderModel(
        ZrigfModel(config, tower=tower, generator=None, head=None),
        tokenizer=tokenizer,
        embedding_space_id=space_id,
        golden=Golden.read(folder),
        device=device,
        dtype=chosen,
        composer=composer,
    )


def load_generator(
    folder: Path, *, device: str = "cpu", dtype: str = "auto", rules: RepetitionRules = FREE
) -> GeneratorModel:
    """The generator of a release, ready to serve under these rules; nothing of the towers is read.

    Raises CapabilityMissing if the release only encodes, ReleaseInvalid if it is
    damaged or foreign.
    """
    config = _read_config(folder)
    if config.decoder is None:
        raise CapabilityMissing("this release has towers only; it cannot generate", detail="decoder")
    with open_weights(folder) as file:
        generator = build_generator(config, token_width=_token_width(file))
        if isinstance(generator, FaithfulGenerator):
            generator.reader.set_preprocess(_read_preprocess(folder))
        load_part(generator, file=file, prefix="generator.")
        space_id = _stored_space_id(file)
    chosen = choose_dtype(dtype, device=device, width=config.decoder.d_model)
    ready_to_serve(generator, device=device, dtype=chosen)
    return GeneratorModel(
        generator,
        tokenizer=_dialogue_tokenizer(folder, config),
        embedding_space_id=space_id,
        golden=Golden.read(folder),
        device=device,
        dtype=chosen,
        min_score=config.min_score,
        rules=rules,
    )


def _architecture(model: ZrigfModel, *, space_id: str) -> dict[str, Any]:
    generator = model.generator
    return {
        "variant": model.config.variant,
        "tower": _tag(_saved_config(model.config)) or "custom",
        _SPACE_KEY: space_id,
        "dimension": model.tower.dimension,
        "context_length": model.tower.context_length,
        "image_size": model.tower.preprocess.image_size,
        "num_image_tokens": model.num_image_tokens,
        "image_token_width": model.image_token_width,
        "has_generator": generator is not None,
        "min_score": model.config.min_score,
        "dialogue_context_length": 0 if generator is None else generator.config.context_length,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def _space_id(folder: Path, *, tower: Tower, config: ZrigfConfig) -> str:
    settings = {
        "preprocess": tower.preprocess.to_json(),
        "context_length": str(tower.context_length),
        "normalisation": "l2",
        "tokens": tower.describe_tokens(grid=config.fusion.token_grid),
    }
    files = [path for path in (folder / TOKENIZER_FOLDER).rglob("tower*") if path.is_file()]
    files += [path for path in (folder / TOKENIZER_FOLDER / "tower_hf").glob("*") if path.is_file()]
    return space_digest(tower_state=unique_state(tower), settings=settings, tokenizer_files=files)


def _golden(
    model: ZrigfModel,
    tower_tokenizer: TowerTokenizer,
    dialogue_tokenizer: DialogueTokenizer | None,
    composer: Composer | None,
) -> Golden:
    device = str(next(model.parameters()).device)
    nothing = Golden(arrays={}, texts=[])
    with _evaluating(model, *([] if composer is None else [composer])):
        encoder = EncoderModel(
            model,
            tokenizer=tower_tokenizer,
            embedding_space_id="",
            golden=nothing,
            device=device,
            dtype=torch.float32,
            composer=composer,
        )
        arrays = _encoder_golden(encoder)
        if model.generator is not None and dialogue_tokenizer is not None:
            generator = GeneratorModel(
                model.generator,
                tokenizer=dialogue_tokenizer,
                embedding_space_id="",
                golden=nothing,
                device=device,
                dtype=torch.float32,
            )
            arrays |= _generator_golden(generator, tokenizer=dialogue_tokenizer)
    return Golden(arrays=arrays, texts=list(TEXTS), edits=() if composer is None else EDITS)


def _encoder_golden(encoder: EncoderModel) -> dict[str, Any]:
    picture = golden_picture()
    pixels = encoder.preprocess(Image.fromarray(picture))[None]
    ids = encoder.tokenize(list(TEXTS)).ids
    vectors, tokens = encoder.encode_images(pixels)
    composed = _composed_golden(encoder, pixels=pixels) if encoder.can_compose else {}
    return composed | {
        "text_ids": ids,
        "text_vectors": encoder.encode_ids(ids),
        "picture": picture,
        "pixels": pixels,
        "image_vectors": vectors,
        "image_tokens": tokens.astype(np.float32),
    }


def _composed_golden(encoder: EncoderModel, *, pixels: np.ndarray[Any, Any]) -> dict[str, Any]:
    ids = encoder.tokenize_edits(EDITS).ids
    vectors = encoder.encode_composed_ids(np.repeat(pixels, len(EDITS), axis=0), ids)
    return {"composed_ids": ids, "composed_vectors": vectors}


def _generator_golden(generator: GeneratorModel, *, tokenizer: DialogueTokenizer) -> dict[str, Any]:
    texts = [dialogue_text(TURNS), dialogue_text(TURNS[:1])]
    ids, mask = tokenizer.context_ids(texts, max_length=generator.context_length)
    shape = (2, 2, generator.num_image_tokens, generator.image_token_width)
    inputs: dict[str, Any] = {
        "context_ids": ids,
        "context_mask": mask,
        "tokens": golden_tokens(shape, is_pixels=generator.reads_pixels),
        "similarity": np.array([[0.3, 0.25], [0.2, 0.0]], dtype=np.float32),
        "image_mask": np.array([[1, 1], [1, 0]], dtype=np.int64),
        "labels": tokenizer.label_ids([REPLY, TURNS[0]], max_length=16),
    }
    logits = generator.logits(inputs)
    return {f"generator.{name}": array for name, array in {**inputs, "logits": logits}.items()}


@contextmanager
def _evaluating(*models: nn.Module) -> Iterator[None]:
    modes = {module: module.training for model in models for module in model.modules()}
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _read_config(folder: Path) -> ZrigfConfig:
    try:
        return ZrigfConfig.from_json((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, SettingInvalid) as error:
        raise ReleaseInvalid(f"{CONFIG_FILE}: {error}") from error


def _tower_source(folder: Path, config: ZrigfConfig) -> str:
    """The description inside the release, whatever the installed open_clip calls the tag."""
    return f"local-dir:{folder / TOWER_FOLDER}" if _tag(config) else ""


def _tag(config: ZrigfConfig) -> str:
    return "" if isinstance(config.tower, FaithfulTowerConfig) else config.tower.tag


def _saved_config(config: ZrigfConfig) -> ZrigfConfig:
    """The configuration without the path of a `local-dir:` architecture, which means nothing elsewhere."""
    tag = _tag(config)
    if not tag.startswith("local-dir:"):
        return config
    assert isinstance(config.tower, TowerConfig), "only a tower of open_clip has a tag"
    return replace(config, tower=replace(config.tower, tag=f"local-dir:{Path(tag.removeprefix('local-dir:')).name}"))


def _read_preprocess(folder: Path) -> Preprocess:
    try:
        return Preprocess.from_json((folder / PREPROCESS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, SettingInvalid) as error:
        raise ReleaseInvalid(f"{PREPROCESS_FILE}: {error}") from error


def _tower_tokenizer(folder: Path, tower: TowerConfig | FaithfulTowerConfig) -> TowerTokenizer:
    return read_tower_tokenizer(folder / TOKENIZER_FOLDER, context_length=tower.context_length)


def _dialogue_tokenizer(folder: Path, config: ZrigfConfig) -> DialogueTokenizer:
    assert config.decoder is not None, "only a model with a decoder reads dialogues"
    ids = config.decoder
    tokenizer = read_tokenizer(folder / TOKENIZER_FOLDER / DECODER_FILE)
    return DialogueTokenizer(tokenizer, bos_id=ids.bos_id, eos_id=ids.eos_id, pad_id=ids.pad_id)


def _stored_space_id(file: Any) -> str:
    space_id = (file.metadata() or {}).get(_SPACE_KEY, "")
    if not space_id:
        raise ReleaseInvalid("weights: the file names no embedding space; it is no release of this project")
    return str(space_id)


def _token_width(file: Any) -> int:
    name = "generator.fusion.v2t.weight"
    if name not in file.keys():  # noqa: SIM118
        raise ReleaseInvalid(f"weights: {name} is missing")
    return int(file.get_slice(name).get_shape()[1])
