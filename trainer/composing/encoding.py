"""Captions, pictures and edits as the frozen towers see them: computed once, before the first step."""

# Axes: N records, L tokens, D embedding width.
from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sightline.data.captions import CaptionRecord
from sightline.data.edits import EditRecord
from sightline.data.keywords import KeywordMasker
from sightline.data.pools import PoolImage
from sightline.models.composer import Composer
from sightline.models.placeholder import PlaceholderTokenizer, composed_ids, masked_ids, placeholder_tokenizer
from sightline.models.release import LoadedModel
from trainer.composing.config import AlignmentSettings
from trainer.data import unique_pictures
from trainer.pictures import load_pictures
from trainer.retrieval import encode_texts
from trainer.stages.alignment import EncodedEdits
from trainer.store import encode_pool


def text_vectors(loaded: LoadedModel, texts: Sequence[str]) -> Tensor:
    """Unit vectors [N, D] in float32 of texts, each distinct one encoded once."""
    distinct = list(dict.fromkeys(texts))
    row_of = {text: row for row, text in enumerate(distinct)}
    return torch.from_numpy(encode_texts(loaded, distinct))[[row_of[text] for text in texts]]


def caption_rows(
    loaded: LoadedModel, captions: Sequence[CaptionRecord], *, masker: KeywordMasker, template: str
) -> dict[str, Tensor]:
    """What self-masking projection reads: vectors of the captions, and their masked ids."""
    tokenizer = _reader(loaded)
    texts = [record.caption for record in captions]
    masked = masked_ids([masker.mask(text) for text in texts], tokenizer=tokenizer, template=template)
    return {"caption_BD": text_vectors(loaded, texts), "masked_ids_BL": torch.from_numpy(masked.ids)}


def picture_vectors(loaded: LoadedModel, images: Sequence[PoolImage], *, cache: Path) -> Tensor:
    """Unit vectors [N, D] of pictures, one each, from the store of the frozen tower."""
    pictures = encode_pool(loaded.model, images, cache=cache, skip_bad=False)
    return torch.from_numpy(np.asarray(pictures.vectors_ND[pictures.row_of_image], dtype=np.float32))


def plain_ids(loaded: LoadedModel, *, template: str) -> Tensor:
    """Ids [L] of the sentence without an edit."""
    return torch.from_numpy(composed_ids([""], tokenizer=_reader(loaded), template=template).ids[0])


def encoded_edits(
    loaded: LoadedModel,
    edits: Sequence[EditRecord],
    *,
    captions: Sequence[CaptionRecord],
    composer: Composer,
    settings: AlignmentSettings,
    cache: Path,
) -> EncodedEdits:
    """The edits over the pictures of `captions`, which they name by id, with all that stage 2 reads of them."""
    config, tokenizer = composer.config, _reader(loaded)
    sources, targets = ([getattr(edit, name) for edit in edits] for name in ("reference_caption", "target_caption"))
    ids = composed_ids([edit.modification for edit in edits], tokenizer=tokenizer, template=config.template).ids
    target_text_N, source_text_N = _numbered(targets, sources)
    images, row_N = _references(edits, captions=captions)
    source_ND = text_vectors(loaded, sources)
    is_told = settings.reference == "caption"
    asked_with = source_text_N.tolist() if is_told else row_N.tolist()
    target_query_N, source_query_N = _numbered(
        [(with_what, edit.modification) for with_what, edit in zip(asked_with, edits, strict=True)],
        [(with_what, "") for with_what in asked_with],
    )
    needs_pixels = composer.needs_pixels and not is_told
    return EncodedEdits(
        reference_ND=source_ND if is_told else picture_vectors(loaded, images, cache=cache)[row_N],
        edit_ids_NL=torch.from_numpy(ids),
        plain_ids_L=plain_ids(loaded, template=config.template),
        target_ND=text_vectors(loaded, targets),
        source_ND=source_ND,
        picture_N=torch.from_numpy(row_N),
        target_text_N=target_text_N,
        source_text_N=source_text_N,
        target_query_N=target_query_N,
        source_query_N=source_query_N,
        target_ids_NL=None if settings.is_anchored else torch.from_numpy(tokenizer.tokenize(targets).ids),
        source_ids_NL=None if settings.is_anchored else torch.from_numpy(tokenizer.tokenize(sources).ids),
        pixels=load_pictures(images, preprocess=loaded.model.tower.preprocess, cache=cache) if needs_pixels else None,
    )


def _numbered(*groups: Sequence[Hashable]) -> list[Tensor]:
    """A number for each item of each group, equal where the items are, whichever group they are of."""
    number_of = {item: number for number, item in enumerate(dict.fromkeys(chain(*groups)))}
    return [torch.tensor([number_of[item] for item in group]) for group in groups]


def _references(
    edits: Sequence[EditRecord], *, captions: Sequence[CaptionRecord]
) -> tuple[list[PoolImage], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """(the pictures that edits name, each once; the row of each edit's)."""
    known = {image.image_id: image for image in unique_pictures(captions)}
    row_of = {image_id: row for row, image_id in enumerate(dict.fromkeys(edit.image_id for edit in edits))}
    rows = np.array([row_of[edit.image_id] for edit in edits], dtype=np.int64)
    return [known[image_id] for image_id in row_of], rows


def _reader(loaded: LoadedModel) -> PlaceholderTokenizer:
    return placeholder_tokenizer(loaded.tower_tokenizer)
