"""What each part costs: time, memory and parameters beside a text-only model of the same size, in the same run."""

# Axes: B dialogues (1), L context tokens, K pictures, P picture tokens, W token width, D embedding width, N pool.
from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import BartForConditionalGeneration, DynamicCache, EncoderDecoderCache

from sightline.data.dialogues import dialogue_text, query_text
from sightline.errors import SettingInvalid
from sightline.models.config import CLIP
from sightline.models.fusion import FusedMemory
from sightline.models.generator import bart_config
from trainer.experiments.answering import Exam, Sight, dialogue_model, open_exam
from trainer.experiments.plan import Cell, Outcome
from trainer.retrieval import nearest_pictures
from trainer.store import Floats

TEXT_ONLY, WHOLE = "text-only", "whole"
PARTS = (TEXT_ONLY, "text-tower", "search", "picture-tower", "fusion", "decoder", WHOLE)
"""`picture-tower` reads one picture, which serving does once, when it is indexed; the other parts are one reply's."""
_REPLY_TOKENS = 8
_REPEATS, _WARM_UPS = 15, 2


def measure_cost(cell: Cell, out: Path) -> Outcome:
    """Median milliseconds, peak bytes and parameters of `options['part']`, and their ratios to the text-only model's.

    One dialogue, three pictures, a reply of eight tokens whatever the model would
    say, one thread. Part and text-only model are timed turn by turn, so that
    other load strikes both. Memory is the parameters plus the peak of the
    tensors that the part makes. Raises SettingInvalid for a faithful model: its
    reader is tower and generator at once, and comes apart into no such parts.
    """
    torch.set_num_threads(1)
    name = str(cell.options["part"])
    with torch.inference_mode():
        parts = _Parts(open_exam(dialogue_model(cell), out))
        part_ms, plain_ms = _timed(parts.run(name), parts.run(TEXT_ONLY))
        ours, plain = (_weighed(parts.run(part), parts.weights(part)) for part in (name, TEXT_ONLY))
    metrics = {"latency_ms": part_ms, **ours, "latency_ratio": part_ms / plain_ms}
    ratios = {f"{measured.partition('_')[0]}_ratio": ours[measured] / plain[measured] for measured in ours}
    return Outcome(metrics=metrics | ratios)


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of tensors made inside the block that are alive at one time; those made before are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.peak, self._alive = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation and count the storages that are new."""
        taken = {_address(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and _address(value) not in taken | self._known:
                self._count(value)
        return result

    def _count(self, value: Tensor) -> None:
        storage, address = value.untyped_storage(), _address(value)
        self._known.add(address)
        self._alive += storage.nbytes()
        self.peak = max(self.peak, self._alive)
        weakref.finalize(storage, self._forget, address, storage.nbytes())

    def _forget(self, address: int, num_bytes: int) -> None:
        self._known.discard(address)
        self._alive -= num_bytes


def _address(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _timed(ours: Callable[[], Any], plain: Callable[[], Any]) -> tuple[float, float]:
    """Median milliseconds of both, taken in turn."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(_WARM_UPS + _REPEATS):
        for times, run in zip(taken, (ours, plain), strict=True):
            began = time.perf_counter()
            run()
            times.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken[0][_WARM_UPS:]), statistics.median(taken[1][_WARM_UPS:])


def _weighed(run: Callable[[], Any], weights: Sequence[nn.Parameter]) -> dict[str, float]:
    with PeakBytes() as counter:
        run()
    num_bytes = sum(weight.numel() * weight.element_size() for weight in weights)
    return {
        "parameters": float(sum(weight.numel() for weight in weights)),
        "memory_bytes": float(num_bytes + counter.peak),
    }


class _Parts:
    """The parts of one reply, each ready to run alone on what the parts before it gave."""

    def __init__(self, exam: Exam) -> None:
        assert exam.built.model.generator is not None, "experiments train models with a generator"
        if (variant := exam.built.model.config.variant) != CLIP:
            raise SettingInvalid(f"model.variant: got {variant!r}; cost is taken of the parts of a {CLIP!r} model")
        self._model, self._generator = exam.built.model, exam.built.model.generator
        self._pool, self._k = exam.examiner(Sight()).pool, exam.model.config.evaluation.num_images
        self._pixels_BCHW = torch.from_numpy(np.array(exam.pool_NCHW[:1]))
        turns, tokenizer = exam.questions[0].context, exam.built.dialogue_tokenizer
        tower_ids_BL = torch.from_numpy(exam.built.tower_tokenizer.tokenize([query_text(turns)]).ids)
        self._tower_ids_BL = self._model.tower.longest_text(tower_ids_BL)
        length = self._generator.config.context_length
        ids, mask = tokenizer.context_ids([dialogue_text(turns)], max_length=length)
        self._ids_BL, self._mask_BL = torch.from_numpy(ids), torch.from_numpy(mask).bool()
        self._plain = BartForConditionalGeneration(bart_config(self._generator.config)).eval()
        self._query_BD = self._encode_query()
        self._found = self._search()
        self._text_BLM = self._generator.text_encoder(
            input_ids=self._ids_BL, attention_mask=self._mask_BL
        ).last_hidden_state
        self._memory = self._fuse()

    def run(self, name: str) -> Callable[[], Any]:
        """What runs the part of that name once."""
        return {
            TEXT_ONLY: self._reply_plainly,
            "text-tower": self._encode_query,
            "search": self._search,
            "picture-tower": lambda: self._model.fusion_tokens(self._pixels_BCHW),
            "fusion": self._fuse,
            "decoder": lambda: self._decode(self._memory),
            WHOLE: self._reply,
        }[name]

    def weights(self, name: str) -> list[nn.Parameter]:
        """The weights that the part of that name reads."""
        visual = list(self._model.tower.model.visual.parameters())
        of_visual = {id(weight) for weight in visual}
        return {
            TEXT_ONLY: list(self._plain.parameters()),
            "text-tower": [weight for weight in self._model.tower.parameters() if id(weight) not in of_visual],
            "search": [],
            "picture-tower": visual,
            "fusion": list(self._generator.fusion.parameters()),
            "decoder": list(self._generator.bart.model.decoder.parameters()),
            WHOLE: [*self._generator.parameters(), *self._model.tower.parameters()],
        }[name]

    def _encode_query(self) -> Floats:
        return self._model.tower.encode_text(self._tower_ids_BL).float().numpy()  # type: ignore[no-any-return]

    def _search(self) -> dict[str, Tensor]:
        rows_BK, cosines_BK = nearest_pictures(self._query_BD, pictures_ND=self._pool.vectors_ND, k=self._k)
        return {
            "tokens_BKPW": torch.from_numpy(self._pool.tokens_NPW[rows_BK]).float(),
            "similarity_BK": torch.from_numpy(cosines_BK),
            "image_mask_BK": torch.ones(rows_BK.shape, dtype=torch.bool),
        }

    def _fuse(self) -> FusedMemory:
        return self._generator.fusion(  # type: ignore[no-any-return]
            self._text_BLM, text_mask_BL=self._mask_BL, **self._found
        )

    def _decode(self, memory: FusedMemory) -> None:
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        for ids_BT in self._steps():
            self._generator.decode(memory, ids_BT, cache=cache)

    def _reply(self) -> None:
        self._encode_query()
        self._decode(self._generator.remember(self._ids_BL, context_mask_BL=self._mask_BL, **self._search()))

    def _reply_plainly(self) -> None:
        encoder = self._plain.model.encoder
        states = encoder(input_ids=self._ids_BL, attention_mask=self._mask_BL).last_hidden_state
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        for ids_BT in self._steps():
            decoded = self._plain.model.decoder(
                input_ids=ids_BT,
                encoder_hidden_states=states,
                encoder_attention_mask=self._mask_BL,
                past_key_values=cache,
                use_cache=True,
            )
            self._plain.lm_head(decoded.last_hidden_state)

    def _steps(self) -> list[Tensor]:
        """A reply of a fixed length, one id a step: what the model would say does not change what it costs."""
        return [torch.full((1, 1), self._generator.config.eos_id) for _ in range(_REPLY_TOKENS)]
