"""An encoder without a model: it knows a picture by its mean colour and a text by the colour that it names.

It answers EncoderService as the real one does: statuses, limits, spaces. Every
embedding space turns the same features by a rotation of its own, so vectors of
two spaces have nothing in common, and a mix-up shows in the scores.

Axes: F features (the embedding width), P tokens of a picture, W token width.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor

from sightline.composition import Edit, leaning, slerp, without
from sightline.data.pictures import decode_picture
from sightline.errors import CapabilityMissing, NotReady, SightlineError
from sightline.limits import MAX_COMPOSED_PER_CALL, MAX_PICTURES_PER_CALL, MAX_TEXTS_PER_CALL
from sightline.rpc.context import CallContext
from sightline.rpc.edits import edit_from_proto
from sightline.rpc.status import error_from_item, item_status
from sightline.rpc.tensors import tensor_from_proto, tensor_to_proto
from sightline.rpc.timings import StageClock
from sightline.rpc.validate import check_count, check_present, check_space, check_text
from sightline.rpc.vectors import check_dimension, unit_vector
from sightline.v1 import common_pb2, encoder_pb2

DIMENSION = 32
NUM_TOKENS = 4
TOKEN_WIDTH = 8
CONTEXT_LENGTH = 16
FIRST_SPACE = "aaaaaaaaaaaaaaaa"
SECOND_SPACE = "bbbbbbbbbbbbbbbb"

_SHARPNESS = 0.02
"""Random Fourier features of this frequency: colours 50 of 255 steps apart are nearly orthogonal."""

Floats = npt.NDArray[np.float32]


@dataclass
class FakeEncoder:
    """An EncoderService servicer that holds `spaces`, the newest first. Change them while it serves."""

    spaces: Sequence[str] = (FIRST_SPACE,)
    generation: int = 1
    num_pictures_encoded: int = 0
    """Pictures that were decoded and encoded since it was made."""
    refuses: frozenset[str] = frozenset()
    """Digests of pictures that this encoder cannot read."""
    can_compose: bool = True
    """Whether its release holds a composer."""
    composes_vectors: bool = True
    """Whether a vector can be a reference."""

    async def start(self) -> None:
        """Nothing to make ready."""

    async def stop(self) -> None:
        """Nothing to let go of."""

    def is_ready(self) -> bool:
        """True while a space is held."""
        return bool(self.spaces)

    def publish(self, space_id: str, *, keep: int = 2) -> None:
        """Serve a newer space, and keep as many as `keep` in all."""
        self.spaces = (space_id, *self.spaces)[:keep]
        self.generation += 1

    async def EncodeTexts(
        self, request: encoder_pb2.EncodeTextsRequest, call: CallContext
    ) -> encoder_pb2.EncodeTextsResponse:
        """One vector per text: that of the last colour that it names, or of its words if it names none."""
        clock = StageClock()
        check_count(len(request.texts), field="texts", limit=MAX_TEXTS_PER_CALL)
        space_id = self._space(request.embedding_space_id)
        items = [_text_item(text, space_id=space_id) for text in request.texts]
        return encoder_pb2.EncodeTextsResponse(items=items, served=self._served(space_id, call=call, clock=clock))

    async def EncodeImages(
        self, request: encoder_pb2.EncodeImagesRequest, call: CallContext
    ) -> encoder_pb2.EncodeImagesResponse:
        """One vector per picture: that of its mean colour."""
        clock = StageClock()
        check_count(len(request.pictures), field="pictures", limit=MAX_PICTURES_PER_CALL)
        space_id = self._space(request.embedding_space_id)
        items = [
            self._image_item(picture.data, space_id=space_id, with_tokens=request.with_tokens)
            for picture in request.pictures
        ]
        return encoder_pb2.EncodeImagesResponse(items=items, served=self._served(space_id, call=call, clock=clock))

    async def EncodeComposed(
        self, request: encoder_pb2.EncodeComposedRequest, call: CallContext
    ) -> encoder_pb2.EncodeComposedResponse:
        """One vector per query: half way from the reference's to that of the last colour that the texts name."""
        clock = StageClock()
        check_count(len(request.queries), field="queries", limit=MAX_COMPOSED_PER_CALL)
        if any(query.HasField("vector") for query in request.queries):
            check_present(bool(request.embedding_space_id), field="embedding_space_id")
        space_id = self._space(request.embedding_space_id)
        for query in request.queries:
            self._check_composer(query)
        items = [self._composed_item(query, space_id=space_id) for query in request.queries]
        return encoder_pb2.EncodeComposedResponse(items=items, served=self._served(space_id, call=call, clock=clock))

    async def DescribeEncoder(
        self, request: encoder_pb2.DescribeEncoderRequest, call: CallContext
    ) -> encoder_pb2.DescribeEncoderResponse:
        """The newest space and the shapes."""
        return encoder_pb2.DescribeEncoderResponse(
            served=self._served(self._space(""), call=call, clock=StageClock()),
            dimension=DIMENSION,
            context_length=CONTEXT_LENGTH,
            image_size=8,
            num_tokens=NUM_TOKENS,
            token_width=TOKEN_WIDTH,
            compute_dtype="float32",
            reload=common_pb2.ReloadStatus(phase="idle", serving_generation=self.generation),
            can_compose=self.can_compose,
            composes_vectors=self.can_compose and self.composes_vectors,
        )

    def _space(self, wanted: str) -> str:
        if not self.spaces:
            raise NotReady("no release is loaded yet")
        if wanted in self.spaces:
            return wanted
        check_space(wanted, serving=self.spaces[0])
        return self.spaces[0]

    def _image_item(self, data: bytes, *, space_id: str, with_tokens: bool) -> encoder_pb2.EncodedImage:
        sha256 = hashlib.sha256(data).hexdigest()
        try:
            check_present(bool(data), field="pictures.data")
            picture = decode_picture(b"" if sha256 in self.refuses else data)
        except SightlineError as error:
            return encoder_pb2.EncodedImage(status=item_status(error), sha256=sha256)
        self.num_pictures_encoded += 1
        colour = np.asarray(picture, dtype=np.float64).mean(axis=(0, 1))
        return encoder_pb2.EncodedImage(
            status=item_status(None),
            vector=tensor_to_proto(colour_vector(colour, space_id=space_id)),
            tokens=tensor_to_proto(colour_tokens(colour, space_id=space_id)) if with_tokens else None,
            sha256=sha256,
            width=picture.width,
            height=picture.height,
        )

    def _check_composer(self, query: encoder_pb2.ComposedQuery) -> None:
        kind = query.WhichOneof("reference")
        if kind and not self.can_compose:
            raise CapabilityMissing("this encoder has no composer", detail="composer")
        if kind == "vector" and not self.composes_vectors:
            raise CapabilityMissing("this encoder has to see the reference", detail="pixels")

    def _composed_item(self, query: encoder_pb2.ComposedQuery, *, space_id: str) -> encoder_pb2.EncodedComposed:
        kind, sha256 = query.WhichOneof("reference"), ""
        try:
            edit = edit_from_proto(query.edit, field="queries.edit", has_reference=kind is not None)
            seen = None
            if kind == "picture":
                item = self._image_item(query.picture.data, space_id=space_id, with_tokens=False)
                sha256 = item.sha256
                seen = _vector_or_error(item)
            elif kind == "vector":
                seen = unit_vector(tensor_from_proto(query.vector, name="vector"), name="vector")
                check_dimension(seen, name="vector", dimension=DIMENSION)
        except SightlineError as error:
            return encoder_pb2.EncodedComposed(status=item_status(error), sha256=sha256)
        num_tokens = len(edit.sentence.split()) + 2
        return encoder_pb2.EncodedComposed(
            status=item_status(None),
            vector=tensor_to_proto(composed_vector(seen, edit=edit, space_id=space_id)),
            num_tokens=num_tokens,
            is_truncated=num_tokens > CONTEXT_LENGTH,
            sha256=sha256,
        )

    def _served(self, space_id: str, *, call: CallContext, clock: StageClock) -> common_pb2.Served:
        release = hashlib.sha256(space_id.encode()).hexdigest()
        return common_pb2.Served(
            release_id=f"sha256-{release}",
            generation=self.generation,
            embedding_space_id=space_id,
            request_id=call.request_id,
            timings=clock.timings(),
        )


def colour_vector(colour: Sequence[float] | npt.NDArray[Any], *, space_id: str) -> Floats:
    """The unit vector [F] of a colour (three values of 0 to 255) in a space."""
    waves = np.random.default_rng(7).normal(size=(DIMENSION, 3)) * _SHARPNESS
    phases = np.random.default_rng(8).uniform(0, 2 * np.pi, DIMENSION)
    features = np.cos(waves @ np.asarray(colour, dtype=np.float64) + phases)
    return _unit(_rotation(space_id) @ features)


def colour_tokens(colour: Sequence[float] | npt.NDArray[Any], *, space_id: str) -> npt.NDArray[np.float16]:
    """The fusion tokens [P, W] of a picture of that mean colour."""
    return colour_vector(colour, space_id=space_id).reshape(NUM_TOKENS, TOKEN_WIDTH).astype(np.float16)


def text_vector(text: str, *, space_id: str) -> Floats:
    """The unit vector [F] of a text in a space."""
    named = [word for word in text.lower().split() if word in ImageColor.colormap]
    if named:
        return colour_vector(ImageColor.getrgb(named[-1])[:3], space_id=space_id)
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return _unit(_rotation(space_id) @ np.random.default_rng(seed).normal(size=DIMENSION))


def composed_vector(reference: Floats | None, *, edit: Edit, space_id: str) -> Floats:
    """The unit vector [F] of what an edit makes of a reference's vector, or of its texts alone."""
    sentence = text_vector(edit.sentence, space_id=space_id) if edit.sentence else None
    if reference is None:
        assert sentence is not None, "a query without reference has a text"
        query = sentence
    else:
        composed = reference if sentence is None else slerp(reference, sentence, share=0.5)
        query = leaning(composed, edit=edit, picture_D=reference, sentence_D=sentence)
    return without(query, negatives_ND=[text_vector(text, space_id=space_id) for text in edit.negatives])


def colour_picture(colour: str | tuple[int, int, int], *, side: int = 8) -> bytes:
    """A PNG of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, format="PNG")
    return buffer.getvalue()


def _vector_or_error(item: encoder_pb2.EncodedImage) -> Floats:
    error = error_from_item(item.status)
    if error is not None:
        raise error
    return tensor_from_proto(item.vector, name="vector")


def _text_item(text: str, *, space_id: str) -> encoder_pb2.EncodedText:
    try:
        check_text(text, field="texts")
    except SightlineError as error:
        return encoder_pb2.EncodedText(status=item_status(error))
    num_tokens = len(text.split()) + 2
    return encoder_pb2.EncodedText(
        status=item_status(None),
        vector=tensor_to_proto(text_vector(text, space_id=space_id)),
        num_tokens=num_tokens,
        is_truncated=num_tokens > CONTEXT_LENGTH,
    )


@lru_cache(maxsize=16)
def _rotation(space_id: str) -> npt.NDArray[np.float64]:
    seed = int.from_bytes(hashlib.sha256(space_id.encode()).digest()[:8], "big")
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(DIMENSION, DIMENSION)))
    return np.asarray(rotation)


def _unit(vector: npt.NDArray[Any]) -> Floats:
    return (vector / np.linalg.norm(vector)).astype(np.float32)
