"""BART's tokenizer as the faithful tower reads texts with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sightline.errors import ReleaseInvalid
from sightline.models.tokenizer import DialogueTokenizer, TokenizedTexts, read_tokenizer

BART_FILE, BART_IDS_FILE = "tower_bart.json", "tower_bart_ids.json"


class BartTowerTokenizer:
    """A dialogue tokenizer that gives the tower's fixed length. The newest turn is kept. Safe from many threads."""

    def __init__(self, tokenizer: DialogueTokenizer, *, context_length: int) -> None:
        self.context_length = context_length
        self._tokenizer = tokenizer

    @classmethod
    def read(cls, folder: Path, *, context_length: int) -> BartTowerTokenizer:
        """The tokenizer that `save` wrote. Raises ReleaseInvalid if a file is absent or damaged."""
        try:
            ids = {name: int(value) for name, value in json.loads((folder / BART_IDS_FILE).read_text()).items()}
            tokenizer = DialogueTokenizer(read_tokenizer(folder / BART_FILE), **ids)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ReleaseInvalid(f"{BART_IDS_FILE}: cannot be read: {error}") from error
        return cls(tokenizer, context_length=context_length)

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """The texts as ids, padded with the pad id; a text that is too long loses its start."""
        return self._tokenizer.tower_ids(texts, context_length=self.context_length)

    def save(self, folder: Path) -> None:
        """Write `tower_bart.json` and the ids of its special tokens."""
        self._tokenizer.save(folder, name=BART_FILE)
        ids = {name: getattr(self._tokenizer, name) for name in ("bos_id", "eos_id", "pad_id")}
        (folder / BART_IDS_FILE).write_text(json.dumps(ids, sort_keys=True))
