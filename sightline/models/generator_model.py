"""The served face of the generator: turns and picture tokens in, text out, safe from many threads."""

# Axes: L context tokens, T reply tokens, K pictures, P picture tokens, W token width, V vocabulary.
from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sightline.data.dialogues import dialogue_text
from sightline.errors import TensorMalformed
from sightline.models.decoding import CachedSteps, beam_search, greedy, limits_for
from sightline.models.fusion import FusedMemory
from sightline.models.generator import ZrigfGenerator
from sightline.models.golden import Golden
from sightline.models.repetition import FREE, RepetitionRules
from sightline.models.tokenizer import DialogueTokenizer

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class ImageEvidence:
    """One picture to look at."""

    tokens: Array
    """Fusion tokens [P, W]."""
    score: float = 0.0
    """Cosine of picture and dialogue; decides the picture's share among several."""


@dataclass(frozen=True, kw_only=True)
class PreparedContext:
    """A dialogue and its pictures, read once; any number of replies can be decoded from it."""

    memory: FusedMemory
    context_tokens: int
    """Tokens of the dialogue that were read, start and end included."""
    dropped_turns: int
    """Oldest turns that were not read at all."""
    image_weights: list[float]
    """Share of each picture, in the order given; they add up to 1."""


@dataclass(frozen=True, kw_only=True)
class GenerationResult:
    """A reply."""

    text: str
    finish_reason: str
    """stop, length, or cancelled if `should_stop` said so."""
    num_tokens: int
    """Tokens decoded, the end of text included."""


class GeneratorModel:
    """A release's generator, ready to answer. Every method may be called concurrently."""

    def __init__(
        self,
        generator: ZrigfGenerator,
        *,
        tokenizer: DialogueTokenizer,
        embedding_space_id: str,
        golden: Golden,
        device: str,
        dtype: torch.dtype,
        min_score: float = -1.0,
        rules: RepetitionRules = FREE,
    ) -> None:
        self.min_score = min_score
        self.embedding_space_id = embedding_space_id
        self.context_length: int = generator.config.context_length
        self.num_image_tokens: int = generator.num_image_tokens
        self.image_token_width: int = generator.token_width
        self.reads_pixels: bool = generator.reads_pixels
        """Whether a picture's tokens are patches of its pixels, 0 to 255, rather than a tower's states."""
        self.compute_dtype = str(dtype).removeprefix("torch.")
        self.device = device
        self._generator, self._tokenizer, self._golden, self._dtype = generator, tokenizer, golden, dtype
        self._rules = rules

    @torch.inference_mode()
    def prepare(self, turns: Sequence[str], images: Sequence[ImageEvidence] = ()) -> PreparedContext:
        """The memory of a dialogue (oldest turn first) and its pictures, of which there may be none.

        A dialogue that is longer than the context loses its start, as in
        training. Raises TensorMalformed for tokens of another shape than
        [num_image_tokens, image_token_width].
        """
        ids, mask = self._tokenizer.context_ids([dialogue_text(turns)], max_length=self.context_length)
        tokens_KPW, similarity_K = self._stack(images)
        memory = self._remember(
            ids, mask, tokens_KPW[None], similarity_K[None], np.full((1, len(tokens_KPW)), bool(images))
        )
        weights = memory.image_weights[0].tolist() if images else []
        return PreparedContext(
            memory=memory, context_tokens=ids.shape[1], dropped_turns=self._num_unread(turns), image_weights=weights
        )

    def stream(
        self, prepared: PreparedContext, *, max_new_tokens: int, should_stop: Callable[[], bool]
    ) -> Generator[str, None, GenerationResult]:
        """One piece of text per step, possibly empty; the generator's return value is the whole result.

        Greedy. `should_stop` is asked before every step. The pieces joined are
        the result's text.
        """
        ids: list[int] = []
        sent = ""
        decoding = self._greedy(prepared, max_new_tokens=max_new_tokens, should_stop=should_stop)
        while True:
            with torch.inference_mode():
                try:
                    ids.append(next(decoding))
                except StopIteration as end:
                    reason = str(end.value)
                    break
            piece = _whole_characters(self._tokenizer.decode(ids))[len(sent) :]
            sent += piece
            yield piece
        text = self._tokenizer.decode(ids)
        if text != sent:
            yield text[len(sent) :]
        return GenerationResult(text=text, finish_reason=reason, num_tokens=len(ids) + (reason == "stop"))

    def generate(
        self,
        prepared: PreparedContext,
        *,
        max_new_tokens: int,
        num_beams: int = 1,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> GenerationResult:
        """The whole reply: greedy for one beam, else the best of a beam search."""
        if num_beams == 1:
            return _result_of(self.stream(prepared, max_new_tokens=max_new_tokens, should_stop=should_stop))
        with torch.inference_mode():
            decoded = beam_search(
                CachedSteps(self._generator, prepared.memory.repeat(num_beams)),
                limits=limits_for(self._generator, max_new_tokens=max_new_tokens, rules=self._rules),
                num_beams=num_beams,
                should_stop=should_stop,
                device=self.device,
            )
        text = self._tokenizer.decode(decoded.ids)
        return GenerationResult(text=text, finish_reason=decoded.finish_reason, num_tokens=decoded.num_tokens)

    @torch.inference_mode()
    def logits(self, inputs: dict[str, Array]) -> Array:
        """Teacher-forced logits [B, T, V] in float32 of golden inputs."""
        memory = self._remember(
            inputs["context_ids"], inputs["context_mask"], inputs["tokens"], inputs["similarity"], inputs["image_mask"]
        )
        labels = torch.from_numpy(inputs["labels"]).to(self.device)
        return self._generator.logits(memory, labels).float().cpu().numpy()

    def check_golden(self) -> None:
        """Recompute what the release promises. Raises ReleaseInvalid naming what came out differently."""
        self._golden.check_generator(self)

    def _remember(
        self, ids_BL: Array, mask_BL: Array, tokens_BKPW: Array, similarity_BK: Array, image_mask_BK: Array
    ) -> FusedMemory:
        arrays = (ids_BL, mask_BL, tokens_BKPW.astype(np.float32), similarity_BK, image_mask_BK)
        ids, mask, tokens, similarity, image_mask = (torch.from_numpy(array).to(self.device) for array in arrays)
        return self._generator.remember(
            ids, context_mask_BL=mask, tokens_BKPW=tokens, similarity_BK=similarity, image_mask_BK=image_mask
        )

    def _greedy(
        self, prepared: PreparedContext, *, max_new_tokens: int, should_stop: Callable[[], bool]
    ) -> Generator[int, None, str]:
        steps = CachedSteps(self._generator, prepared.memory)
        limits = limits_for(self._generator, max_new_tokens=max_new_tokens, rules=self._rules)
        return greedy(steps, limits=limits, should_stop=should_stop, device=self.device)

    def _num_unread(self, turns: Sequence[str]) -> int:
        """How many of the oldest turns have no token among the newest, which are read."""
        room = self.context_length - 2
        for num_read, turn in enumerate(reversed(turns)):
            if room <= 0:
                return len(turns) - num_read
            room -= len(self._tokenizer.encode(" " + dialogue_text([turn])))
        return 0

    def _stack(self, images: Sequence[ImageEvidence]) -> tuple[Array, Array]:
        expected = (self.num_image_tokens, self.image_token_width)
        for image in images:
            if image.tokens.shape != expected:
                message = f"picture tokens: got shape {image.tokens.shape}, expected {expected}"
                raise TensorMalformed(message, detail=f"shape {image.tokens.shape}")
        if not images:
            return np.zeros((1, *expected), dtype=np.float32), np.zeros(1, dtype=np.float32)
        tokens_KPW = np.stack([np.asarray(image.tokens, dtype=np.float32) for image in images])
        return tokens_KPW, np.array([image.score for image in images], dtype=np.float32)


def _whole_characters(text: str) -> str:
    """The text without a character that is still being spelled out byte by byte."""
    return text.rstrip("\ufffd")


def _result_of(stream: Generator[str, None, GenerationResult]) -> GenerationResult:
    while True:
        try:
            next(stream)
        except StopIteration as end:
            result: GenerationResult = end.value
            return result
