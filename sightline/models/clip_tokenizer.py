"""The tokenizers of open_clip's own architectures, kept inside the release that uses them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer, default_bpe
from tokenizers.models import BPE

from sightline.data.keywords import PLACEHOLDER
from sightline.errors import ReleaseInvalid, SettingInvalid
from sightline.models.faithful.tokenizer import BART_FILE, BartTowerTokenizer
from sightline.models.pretrained import model_config_of
from sightline.models.tokenizer import (
    TOWER_FILE,
    CorpusTowerTokenizer,
    TokenizedTexts,
    TowerTokenizer,
    joined,
    pad_rows,
    read_tokenizer,
)

BPE_FILE = "tower_bpe.txt.gz"
CLIP_PLACEHOLDER_ID = 259
"""Id of "$" in CLIP's byte-pair encoding; LinCIR and SEARLE put their pseudo-words there."""
_CONTROLS = ("<start_of_text>", "<end_of_text>")
HF_FOLDER = "tower_hf"
HF_SETTINGS = "tower_hf.json"


class ClipTowerTokenizer:
    """CLIP's byte-pair tokenizer, as all tags without a tokenizer of their own use it.

    open_clip cleans texts and parts them into words. Its own merging takes time that
    grows with the square of a word's length, and remembers every word for ever:
    that is left to `tokenizers`, which does neither and gives the same ids.
    """

    def __init__(self, *, context_length: int, bpe: Path | None = None) -> None:
        self.context_length = context_length
        self._bpe = Path(default_bpe()) if bpe is None else bpe
        self._tokenizer = SimpleTokenizer(bpe_path=str(self._bpe), context_length=context_length)
        merges = list(self._tokenizer.bpe_ranks)
        self._merging = BPE(vocab=self._tokenizer.encoder, merges=merges, end_of_word_suffix="</w>")

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """The texts as ids, each cut at its end to `context_length`, its end-of-text kept."""
        return self._padded([self._encode(text) for text in texts])

    @property
    def placeholder_id(self) -> int:
        """The id of "$": 259. Raises SettingInvalid for a byte-pair encoding that is not CLIP's."""
        if (found := self._encode(PLACEHOLDER)) != [CLIP_PLACEHOLDER_ID]:
            raise SettingInvalid(f"tokenizer: {PLACEHOLDER!r} has ids {found}, expected {[CLIP_PLACEHOLDER_ID]}")
        return CLIP_PLACEHOLDER_ID

    def tokenize_around(self, rows: Sequence[Sequence[str]]) -> TokenizedTexts:
        """Ids of texts given in pieces, the placeholder once between each two, cut at the end."""
        own = self.placeholder_id
        return self._padded([joined([self._encode(piece) for piece in row], placeholder_id=own) for row in rows])

    def save(self, folder: Path) -> None:
        """Write `tower_bpe.txt.gz`."""
        shutil.copyfile(self._bpe, folder / BPE_FILE)

    def _encode(self, text: str) -> list[int]:
        words = self._tokenizer.pat.findall(self._tokenizer.clean_fn(text))
        # Start and end have the highest ids: a user's "<end_of_text>" must not become one and end the text early.
        return [token for word in words if word not in _CONTROLS for token in self._word_ids(word)]

    def _word_ids(self, word: str) -> list[int]:
        letters = "".join(self._tokenizer.byte_encoder[byte] for byte in word.encode())
        return [token.id for token in self._merging.tokenize(letters)]

    def _padded(self, rows: list[list[int]]) -> TokenizedTexts:
        start, end = self._tokenizer.sot_token_id, self._tokenizer.eot_token_id
        return pad_rows([[start, *row, end] for row in rows], context_length=self.context_length, eos_id=end)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HfTowerSettings:
    """How open_clip reads a transformers tokenizer for a tower."""

    context_length: int
    clean: str = "whitespace"
    strip_sep_token: bool = False
    tokenizer_mode: str = ""


class HfTowerTokenizer:
    """A transformers tokenizer as open_clip reads it for towers that name one."""

    def __init__(self, source: str, *, settings: HfTowerSettings, options: dict[str, Any] | None = None) -> None:
        self.context_length = settings.context_length
        self._settings = settings
        self._tokenizer = HFTokenizer(source, **dataclasses.asdict(settings), **(options or {}))

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """The texts as ids, each cut at its end to `context_length`."""
        ids = self._tokenizer(list(texts)).numpy().astype(np.int64)
        cleaned = [self._tokenizer.clean_fn(text) for text in texts]
        lengths = [len(self._tokenizer.tokenizer(text, truncation=False).input_ids) for text in cleaned]
        cut = [length > self.context_length for length in lengths]
        return TokenizedTexts(ids=ids, num_tokens=lengths, is_truncated=cut)

    def save(self, folder: Path) -> None:
        """Write the tokenizer's own files and how to read them."""
        self._tokenizer.save_pretrained(str(folder / HF_FOLDER))
        (folder / HF_SETTINGS).write_text(json.dumps(dataclasses.asdict(self._settings), sort_keys=True))


def tower_tokenizer_of_tag(tag: str, *, context_length: int) -> TowerTokenizer:
    """The tokenizer that open_clip gives an architecture; one with a tokenizer of its own may be downloaded by it."""
    text = model_config_of(tag)["text_cfg"]
    if not text.get("hf_tokenizer_name"):
        return ClipTowerTokenizer(context_length=context_length)
    options = dict(text.get("tokenizer_kwargs") or {})
    settings = HfTowerSettings(
        context_length=context_length,
        clean=options.pop("clean", "whitespace"),
        strip_sep_token=options.pop("strip_sep_token", False),
        tokenizer_mode=text.get("tokenizer_mode") or "",
    )
    # As open_clip does: a local folder holds its tokenizer too, whatever name it once had.
    source = tag.removeprefix("local-dir:") if tag.startswith("local-dir:") else text["hf_tokenizer_name"]
    return HfTowerTokenizer(source, settings=settings, options=options)


def read_tower_tokenizer(folder: Path, *, context_length: int) -> TowerTokenizer:
    """The tower's tokenizer of a release. Raises ReleaseInvalid if the folder holds none."""
    if (folder / TOWER_FILE).is_file():
        return CorpusTowerTokenizer(read_tokenizer(folder / TOWER_FILE), context_length=context_length)
    if (folder / BPE_FILE).is_file():
        return ClipTowerTokenizer(context_length=context_length, bpe=folder / BPE_FILE)
    if (folder / HF_SETTINGS).is_file():
        settings = HfTowerSettings(**json.loads((folder / HF_SETTINGS).read_text()))
        return HfTowerTokenizer(str(folder / HF_FOLDER), settings=settings)
    if (folder / BART_FILE).is_file():
        return BartTowerTokenizer.read(folder, context_length=context_length)
    raise ReleaseInvalid(f"{folder.name}: holds no tokenizer of the text tower")
