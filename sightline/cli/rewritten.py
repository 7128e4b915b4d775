"""`sightline search --rewrite`: a language model says what is looked for, and the plain text tower reads that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.markup import escape

from sightline.client import Client, Edit, FoundImages
from sightline.errors import UsageError
from sightline.language.asking import LanguageModel
from sightline.language.captioning import ModelCaptioner
from sightline.language.model_rewriter import ModelRewriter
from sightline.language.rewriting import (
    Captioner,
    CaptionSearch,
    EncodedPicture,
    RecordCaptioner,
    ReferencePicture,
    Rewrite,
)

CAPTION = "caption"
"""Metadata of a stored picture that says what it shows, as `sightline index` stores it."""


def sentence_of(
    edit: Edit, *, client: Client, model: LanguageModel, image: Path | None, image_id: str | None
) -> Rewrite:
    """What to search by. A stored picture's caption is taken where it has one, else the model looks at the picture.

    Raises UsageError for no reference, two, a path that is no file or a weight,
    ImageNotFound, and DependencyUnavailable where the model does not answer.
    """
    if edit.text_weight is not None:
        raise UsageError("--rewrite: makes one sentence of both; there is nothing that --text-weight weighs")
    if (image is None) == (image_id is None):
        raise UsageError("--rewrite: needs a picture to start from, --image or --image-id, one of them")
    shown = _stored(image_id, client=client, model=model) if image_id is not None else _file(image, model=model)
    picture, captioner = shown
    return CaptionSearch(captioner, ModelRewriter(model)).sentences([picture], [edit])[0]


def without_reference(found: FoundImages, *, image_id: str | None, k: int) -> FoundImages:
    """The best `k` hits that are not the stored picture asked with."""
    return replace(found, images=tuple(hit for hit in found.images if hit.image_id != image_id)[:k])


def told_line(told: Rewrite) -> str:
    """The sentence, and why it is not the model's if it is not."""
    line = f"looking for: {escape(told.text)}"
    return line if told.problem is None else f"{line} [dim](not the model's: {escape(told.problem.detail)})[/dim]"


def _file(image: Path | None, *, model: LanguageModel) -> tuple[ReferencePicture, Captioner]:
    if image is None or not image.is_file():
        raise UsageError(f"--image: got {str(image)!r}, expected the path of a picture")
    return EncodedPicture(image_id=image.name, data=image.read_bytes()), ModelCaptioner(model)


def _stored(image_id: str, *, client: Client, model: LanguageModel) -> tuple[ReferencePicture, Captioner]:
    stored = client.get_image(image_id, read=["picture"])
    picture = EncodedPicture(image_id=image_id, data=stored.picture or b"")
    if caption := stored.metadata.get(CAPTION):
        return picture, RecordCaptioner({image_id: caption}, name="metadata")
    return picture, ModelCaptioner(model)
