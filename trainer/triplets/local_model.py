"""Triplets from an instruct model in a folder, read by transformers: batched, padded on the left."""

# Axes: B asks, L tokens.
from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sightline.data.edits import EDIT_TYPES, EditGenerator
from sightline.errors import UsageError
from trainer.triplets.asking import Answer, Ask, Cost, Problem
from trainer.triplets.prompt import MAX_ANSWER_TOKENS, PROMPT_VERSION, messages_for, prompt_digest, read_answer


class LocalModelGenerator:
    """A `TripletGenerator` over a causal language model. One batch at a time: the model fills the device by itself."""

    def __init__(
        self, folder: Path, *, seed: int, batch_items: int = 8, temperature: float = 0.8, device: str = "cpu"
    ) -> None:
        self._tokenizer, self._model = _loaded(folder, device=device)
        self.name = EditGenerator(kind="llm", model=folder.resolve().name, prompt_version=PROMPT_VERSION, seed=seed)
        self.prompt_digest = prompt_digest()
        self.num_parallel, self.batch_items, self.max_asks = 1, batch_items, 2
        self._temperature = temperature

    def edit_types(self, caption: str) -> Sequence[str]:
        """Every type: a model finds something to change in any caption."""
        return EDIT_TYPES

    def propose(self, asks: Sequence[Ask]) -> list[Answer]:
        """One answer an ask. A prompt that leaves no room for an answer is a problem of that ask."""
        prompts = [self._prompt(ask) for ask in asks]
        fitting = [number for number, prompt in enumerate(prompts) if self._fits(prompt)]
        answers = [Answer(result=Problem(reason="prompt_too_long", detail="the model's context is too short"))] * len(
            asks
        )
        if fitting:
            chosen = [asks[number] for number in fitting]
            for number, answer in zip(fitting, self._generate(chosen, [prompts[n] for n in fitting]), strict=True):
                answers[number] = answer
        return answers

    def close(self) -> None:
        """Nothing to end: batches are short."""

    @torch.inference_mode()
    def _generate(self, asks: Sequence[Ask], prompts: Sequence[str]) -> list[Answer]:
        device = next(self._model.parameters()).device
        batch = self._tokenizer(list(prompts), return_tensors="pt", padding=True, add_special_tokens=False).to(device)
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(asks[0].seed + (asks[0].complaint is not None))
            ids_BL = self._model.generate(
                **batch,
                do_sample=self._temperature > 0,
                temperature=self._temperature or None,
                max_new_tokens=MAX_ANSWER_TOKENS,
                pad_token_id=self._tokenizer.pad_token_id,
            )
        num_prompt = batch["input_ids"].shape[1]
        lengths = batch["attention_mask"].sum(dim=1).tolist()
        return [self._answer(ids_BL[row, num_prompt:], num_prompt=lengths[row]) for row in range(len(asks))]

    def _answer(self, ids_L: torch.Tensor, *, num_prompt: int) -> Answer:
        written = ids_L[ids_L != self._tokenizer.pad_token_id]
        text = self._tokenizer.decode(written, skip_special_tokens=True)
        return Answer(result=read_answer(text), text=text, cost=Cost(1, num_prompt, len(written)))

    def _prompt(self, ask: Ask) -> str:
        messages = messages_for(ask)
        if self._tokenizer.chat_template:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        turns = [f"{message['role'].capitalize()}: {message['content']}" for message in messages]
        return "\n\n".join([*turns, "Assistant: "])

    def _fits(self, prompt: str) -> bool:
        limit = getattr(self._model.config, "max_position_embeddings", None)
        num_tokens = len(self._tokenizer(prompt, add_special_tokens=False)["input_ids"])
        return limit is None or num_tokens + MAX_ANSWER_TOKENS <= limit


def _loaded(folder: Path, *, device: str) -> tuple[Any, Any]:
    """(tokenizer, model) of a folder. Nothing is fetched, no code of the folder runs, weights are safetensors."""
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder}: is no folder of a transformers model: it has no config.json", path=folder)
    kept: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), padding_side="left", **kept)
        model = AutoModelForCausalLM.from_pretrained(str(folder), use_safetensors=True, dtype="auto", **kept)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise UsageError(f"{folder}: cannot be read as a causal language model: {error}", path=folder) from error
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise UsageError(f"{folder}: its tokenizer has neither a padding nor an end token", path=folder)
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, model.to(device).eval()
