"""A composer inside a release: `composer.json` and `composer.safetensors`, pinned to the space it was trained in."""

from __future__ import annotations

from pathlib import Path

from sightline.errors import EmbeddingSpaceMismatch, ReleaseInvalid, SettingInvalid
from sightline.models.composer import Composer, build_composer
from sightline.models.composer_config import ComposerConfig
from sightline.models.tokenizer import TowerTokenizer
from sightline.models.tower import Tower
from sightline.models.weights import load_part, open_weights, unique_state, write_weights

COMPOSER_FILE, COMPOSER_WEIGHTS = "composer.json", "composer.safetensors"
_SPACE_KEY, _PREFIX = "embedding_space_id", "composer."


def save_composer(folder: Path, *, composer: Composer, embedding_space_id: str) -> None:
    """Write the composer beside towers of this space. Raises EmbeddingSpaceMismatch if it was trained in another."""
    _check_space(composer.embedding_space_id, expected=embedding_space_id)
    (folder / COMPOSER_FILE).write_text(composer.config.to_json(), encoding="utf-8")
    state = {_PREFIX + name: tensor for name, tensor in unique_state(composer).items()}
    write_weights(folder, state=state, metadata={_SPACE_KEY: embedding_space_id}, name=COMPOSER_WEIGHTS)


def load_composer(folder: Path, *, tower: Tower, tokenizer: TowerTokenizer, embedding_space_id: str) -> Composer | None:
    """The composer of a release on its towers, in float32; None if it has none.

    Raises EmbeddingSpaceMismatch if it was trained in another space,
    ReleaseInvalid if it is damaged or foreign.
    """
    if not (folder / COMPOSER_FILE).is_file():
        return None
    with open_weights(folder, name=COMPOSER_WEIGHTS) as file:
        found = (file.metadata() or {}).get(_SPACE_KEY, "")
        _check_space(found, expected=embedding_space_id)
        composer = _build(folder, tower=tower, tokenizer=tokenizer, embedding_space_id=found)
        load_part(composer, file=file, prefix=_PREFIX)
    return composer


def _build(folder: Path, *, tower: Tower, tokenizer: TowerTokenizer, embedding_space_id: str) -> Composer:
    try:
        config = ComposerConfig.from_json((folder / COMPOSER_FILE).read_text(encoding="utf-8"))
        return build_composer(config, tower=tower, tokenizer=tokenizer, embedding_space_id=embedding_space_id)
    except (OSError, UnicodeDecodeError, SettingInvalid) as error:
        raise ReleaseInvalid(f"{COMPOSER_FILE}: {error}") from error


def _check_space(found: str, *, expected: str) -> None:
    if found != expected:
        message = f"composer: was trained in space {found or 'of no name'}, these towers make {expected}"
        raise EmbeddingSpaceMismatch(message, expected=expected, got=found)
