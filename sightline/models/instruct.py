"""Instruct models in a folder, read by transformers: batched, padded on the left. No hub, no code of theirs."""

# Axes: B conversations, L tokens.
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sightline.errors import UsageError
from sightline.language.asking import Completion, Conversation, Cost, Problem
from sightline.models.transformers_folder import LOCAL_ONLY, folder_name, reading


class InstructModel:
    """A `LanguageModel` over a causal language model. For one caller at a time: it fills the device by itself."""

    def __init__(self, folder: Path, *, temperature: float = 0.0, batch_items: int = 8, device: str = "cpu") -> None:
        """Raises UsageError for a folder that holds no such model."""
        self._tokenizer, self._model = _loaded(folder, device=device)
        self.name = folder_name(folder)
        self._temperature, self._batch_items = temperature, batch_items

    def complete(self, conversations: Sequence[Conversation]) -> list[Completion]:
        """One completion a conversation. A prompt that leaves no room for an answer is a problem of that one."""
        starts = range(0, len(conversations), self._batch_items)
        return [one for start in starts for one in self._batch(conversations[start : start + self._batch_items])]

    def close(self) -> None:
        """Nothing to end: batches are short."""

    def _batch(self, conversations: Sequence[Conversation]) -> list[Completion]:
        prompts = [self._prompt(one) for one in conversations]
        fits = [self._fits(prompt, one) for prompt, one in zip(prompts, conversations, strict=True)]
        fitting = [number for number, is_short in enumerate(fits) if is_short]
        too_long = Problem(reason="prompt_too_long", detail="the model's context is too short")
        found = [Completion(problem=too_long)] * len(conversations)
        if fitting:
            written = self._generate([conversations[n] for n in fitting], [prompts[n] for n in fitting])
            for number, completion in zip(fitting, written, strict=True):
                found[number] = completion
        return found

    @torch.inference_mode()
    def _generate(self, conversations: Sequence[Conversation], prompts: Sequence[str]) -> list[Completion]:
        device = next(self._model.parameters()).device
        batch = self._tokenizer(list(prompts), return_tensors="pt", padding=True, add_special_tokens=False).to(device)
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(conversations[0].seed)
            ids_BL = self._model.generate(
                **batch,
                do_sample=self._temperature > 0,
                temperature=self._temperature or None,
                max_new_tokens=max(one.max_tokens for one in conversations),
                pad_token_id=self._tokenizer.pad_token_id,
            )
        num_prompt = batch["input_ids"].shape[1]
        lengths = batch["attention_mask"].sum(dim=1).tolist()
        return [self._completion(ids_BL[row, num_prompt:], num_prompt=lengths[row]) for row in range(len(prompts))]

    def _completion(self, ids_L: torch.Tensor, *, num_prompt: int) -> Completion:
        written = ids_L[ids_L != self._tokenizer.pad_token_id]
        text = self._tokenizer.decode(written, skip_special_tokens=True)
        return Completion(text=text, cost=Cost(1, num_prompt, len(written)))

    def _prompt(self, conversation: Conversation) -> str:
        messages = list(conversation.messages)
        if self._tokenizer.chat_template:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        turns = [f"{message['role'].capitalize()}: {message['content']}" for message in messages]
        return "\n\n".join([*turns, "Assistant: "])

    def _fits(self, prompt: str, conversation: Conversation) -> bool:
        limit = getattr(self._model.config, "max_position_embeddings", None)
        num_tokens = len(self._tokenizer(prompt, add_special_tokens=False)["input_ids"])
        return limit is None or num_tokens + conversation.max_tokens <= limit


def _loaded(folder: Path, *, device: str) -> tuple[Any, Any]:
    """(tokenizer, model) of a folder."""
    with reading(folder, what="a causal language model"):
        tokenizer = AutoTokenizer.from_pretrained(str(folder), padding_side="left", **LOCAL_ONLY)
        model = AutoModelForCausalLM.from_pretrained(str(folder), use_safetensors=True, dtype="auto", **LOCAL_ONLY)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise UsageError(f"{folder}: its tokenizer has neither a padding nor an end token", path=folder)
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, model.to(device).eval()
