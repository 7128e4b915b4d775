"""Texts to token ids: the corpus-trained byte-level BPE, open_clip's own tokenizers, and BART's.

All of them ship inside the release; nothing is looked up elsewhere at load.
"""

# Axes: N texts, L tokens.
from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from sightline.data.keywords import PLACEHOLDER
from sightline.errors import ReleaseInvalid, SettingInvalid

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
PAD_ID, BOS_ID = 0, 1
TOWER_FILE = "tower.json"
DECODER_FILE = "decoder.json"
_TOKENIZER_MODELS = ("BPE", "WordPiece", "Unigram")
"""What the BART family's tokenizers are made of; Chinese BART reads word pieces."""

Ids = np.ndarray[Any, np.dtype[np.int64]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizedTexts:
    """Texts as the tower reads them."""

    ids: Ids
    """[N, context_length] int64, zero-padded."""
    num_tokens: list[int]
    """Length of each text before cutting, start and end included."""
    is_truncated: list[bool]
    """Whether a text was longer than the context and lost its end."""


class TowerTokenizer(Protocol):
    """What a text tower needs of a tokenizer."""

    context_length: int

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """The texts as ids, each cut to `context_length`, its end-of-text kept.

        CLIP's are cut at their end; BART's, which read dialogues, at their start.
        """

    def save(self, folder: Path) -> None:
        """Write everything needed to load the tokenizer again into `folder`."""


def train_tokenizer(texts: Iterable[str], *, vocab_size: int = 2048) -> Tokenizer:
    """A lower-casing byte-level BPE with at most `vocab_size` entries, equal for equal texts.

    Any UTF-8 text can be encoded. Ids: pad 0, start 1, end of text the highest,
    because open_clip's tower pools at the highest id of a text.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        special_tokens=[PAD, BOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    tokenizer.add_special_tokens([EOS])
    return tokenizer


class CorpusTowerTokenizer:
    """The corpus-trained tokenizer as the tiny text tower reads it. Safe from many threads."""

    def __init__(self, tokenizer: Tokenizer, *, context_length: int) -> None:
        self.context_length = context_length
        self.vocab_size: int = tokenizer.get_vocab_size()
        self._tokenizer = _literal(tokenizer)
        self._eos_id = self.vocab_size - 1
        if (found := tokenizer.token_to_id(EOS)) != self._eos_id:
            raise SettingInvalid(f"tokenizer: end of text has id {found}, must be the highest, {self._eos_id}")

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """The texts as ids, each cut at its end to `context_length`, its end-of-text kept."""
        return self._padded(self._encode(texts))

    @property
    def placeholder_id(self) -> int:
        """The id of the byte "$" alone, which every alphabet of ours holds."""
        found: int | None = self._tokenizer.token_to_id(PLACEHOLDER)
        if found is None:
            raise SettingInvalid(f"tokenizer: has no token {PLACEHOLDER!r} to stand for a pseudo-word")
        return found

    def tokenize_around(self, rows: Sequence[Sequence[str]]) -> TokenizedTexts:
        """Ids of texts given in pieces, the placeholder once between each two, cut at the end."""
        encoded = iter(self._encode([piece.strip() for row in rows for piece in row]))
        return self._padded([joined([next(encoded) for _ in row], placeholder_id=self.placeholder_id) for row in rows])

    def save(self, folder: Path) -> None:
        """Write `tower.json`."""
        self._tokenizer.save(str(folder / TOWER_FILE))

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [list(encoding.ids) for encoding in encodings]

    def _padded(self, rows: list[list[int]]) -> TokenizedTexts:
        ended = [[BOS_ID, *row, self._eos_id] for row in rows]
        return pad_rows(ended, context_length=self.context_length, eos_id=self._eos_id)


class DialogueTokenizer:
    """Dialogues and replies as BART reads and writes them. Safe from many threads."""

    def __init__(self, tokenizer: Tokenizer, *, bos_id: int, eos_id: int, pad_id: int) -> None:
        self.bos_id, self.eos_id, self.pad_id = bos_id, eos_id, pad_id
        self.vocab_size: int = tokenizer.get_vocab_size()
        self._tokenizer = _literal(tokenizer)

    @classmethod
    def of_corpus(cls, tokenizer: Tokenizer) -> DialogueTokenizer:
        """The corpus-trained tokenizer as the tiny decoder reads it."""
        return cls(tokenizer, bos_id=BOS_ID, eos_id=tokenizer.get_vocab_size() - 1, pad_id=PAD_ID)

    @classmethod
    def of_bart(cls, folder: Path) -> DialogueTokenizer:
        """The tokenizer of a BART checkpoint folder. Raises SettingInvalid if it has none."""
        from transformers import AutoTokenizer

        try:
            loaded = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        except (OSError, ValueError) as error:
            raise SettingInvalid(f"{folder}: no tokenizer of a BART checkpoint: {error}") from error
        # A tokenizer of BERT's kind marks both ends with [CLS] and [SEP].
        bos_id = loaded.cls_token_id if loaded.bos_token_id is None else loaded.bos_token_id
        eos_id = loaded.sep_token_id if loaded.eos_token_id is None else loaded.eos_token_id
        return cls(loaded.backend_tokenizer, bos_id=bos_id, eos_id=eos_id, pad_id=loaded.pad_token_id)

    def encode(self, text: str) -> list[int]:
        """The text's ids without start and end."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` without special tokens and leading space."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)).lstrip()

    def context_ids(self, texts: Sequence[str], *, max_length: int) -> tuple[Ids, Ids]:
        """(ids [N, L], mask [N, L]) of dialogue texts, padded to the longest.

        A text over `max_length` tokens loses its start: the newest turn stays.
        """
        rows = [self._newest(self.encode(text), max_length=max_length) for text in texts]
        return self._padded(rows, value=self.pad_id), self._padded([[1] * len(row) for row in rows], value=0)

    def tower_ids(self, texts: Sequence[str], *, context_length: int) -> TokenizedTexts:
        """The texts as a faithful tower reads them: padded with the pad id to `context_length`, cut at their start."""
        encoded = [self.encode(text) for text in texts]
        ids = np.full((len(texts), context_length), self.pad_id, dtype=np.int64)
        for row, tokens in enumerate(encoded):
            kept = self._newest(tokens, max_length=context_length)
            ids[row, : len(kept)] = kept
        lengths = [len(tokens) + 2 for tokens in encoded]
        return TokenizedTexts(ids=ids, num_tokens=lengths, is_truncated=[n > context_length for n in lengths])

    def label_ids(self, texts: Sequence[str], *, max_length: int) -> Ids:
        """Labels [N, L] of replies, start and end included, padded with -100, cut at the end to `max_length`."""
        rows = [[self.bos_id, *self.encode(text)[: max_length - 2], self.eos_id] for text in texts]
        return self._padded(rows, value=-100)

    def save(self, folder: Path, *, name: str = DECODER_FILE) -> None:
        """Write the tokenizer as `name`."""
        self._tokenizer.save(str(folder / name))

    def _newest(self, tokens: list[int], *, max_length: int) -> list[int]:
        return [self.bos_id, *tokens[-(max_length - 2) :], self.eos_id]

    @staticmethod
    def _padded(rows: list[list[int]], *, value: int) -> Ids:
        ids = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = tokens
        return ids


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json file. Raises ReleaseInvalid if it is absent or no tokenizer."""
    try:
        text = path.read_text(encoding="utf-8")
        model = json.loads(text).get("model", {}).get("type")
    except (OSError, ValueError, AttributeError) as error:
        raise ReleaseInvalid(f"{path.name}: no tokenizer: {error}") from error
    if model not in _TOKENIZER_MODELS:
        expected = ", ".join(_TOKENIZER_MODELS)
        raise ReleaseInvalid(f"{path.name}: got a tokenizer model {model!r}, expected one of {expected}")
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise ReleaseInvalid(f"{path.name}: no tokenizer: {error}") from error


def _literal(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer, reading "</s>" in a user's text as five characters rather than as the end of it."""
    tokenizer.encode_special_tokens = True
    return tokenizer


def joined(pieces: Sequence[Sequence[int]], *, placeholder_id: int) -> list[int]:
    """The pieces' ids with the placeholder between each two; one inside a piece, however it was written, is dropped."""
    ids: list[int] = []
    for number, piece in enumerate(pieces):
        ids += [placeholder_id] if number else []
        ids += [token for token in piece if token != placeholder_id]
    return ids


def pad_rows(rows: list[list[int]], *, context_length: int, eos_id: int) -> TokenizedTexts:
    """Rows of ids, each with start and end, zero-padded or cut to `context_length`; a cut row still ends in eos_id."""
    ids = np.zeros((len(rows), context_length), dtype=np.int64)
    for row, tokens in enumerate(rows):
        kept = tokens if len(tokens) <= context_length else [*tokens[: context_length - 1], eos_id]
        ids[row, : len(kept)] = kept
    lengths = [len(tokens) for tokens in rows]
    return TokenizedTexts(ids=ids, num_tokens=lengths, is_truncated=[length > context_length for length in lengths])
