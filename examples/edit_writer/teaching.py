"""A small causal language model, taught from nothing to answer what `python -m trainer triplets` asks."""

# Axes: B edits, L tokens.
from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sightline.data.captions import CaptionRecord
from sightline.data.edits import EditRecord
from trainer.triplets.asking import Ask
from trainer.triplets.prompt import FIELDS, messages_for

END, PAD = "<end>", "<pad>"
CHAT_TEMPLATE = (
    "{% set last = namespace(question='') %}{% for message in messages %}"
    "{% if message.role == 'user' and '<scene>' in message.content %}"
    "{% set last.question = message.content %}{% endif %}{% endfor %}{{ last.question }}"
)
"""Instructions and examples are what this model was taught: it reads the last question alone."""
Pairs = Sequence[tuple[str, str]]
"""Questions, and the answers to them."""
_IGNORED = -100
_WARMUP_SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """How large the model is, and how long it learns."""

    steps: int = 6000
    batch_size: int = 32
    learning_rate: float = 2e-3
    """Peak; it rises over the first twentieth of the steps and falls to zero by half a cosine."""
    width: int = 128
    layers: int = 4
    heads: int = 4
    vocabulary: int = 1024
    """Tokens at most, bytes among them."""
    context: int = 512
    seed: int = 0


def pairs_of(edits: Sequence[EditRecord], *, tokenizer: PreTrainedTokenizerFast) -> Pairs:
    """What the model is shown for each edit and what it is to say, as the chat template renders it."""
    return [(_rendered(edit, tokenizer=tokenizer), _answer(edit)) for edit in edits]


def teach(edits: Sequence[EditRecord], folder: Path, *, lesson: Lesson, on_step: Callable[[float], None]) -> int:
    """The number of parameters of the model that learned from `edits`, saved to `folder` with its tokenizer.

    `on_step` is told the loss of every step: nats a token of the answers.
    """
    torch.manual_seed(lesson.seed)
    tokenizer = _tokenizer(edits, lesson=lesson)
    model = LlamaForCausalLM(_config(lesson, tokenizer=tokenizer))
    pairs = pairs_of(edits, tokenizer=tokenizer)
    optimiser = torch.optim.AdamW(model.parameters(), lr=lesson.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, steps=lesson.steps))
    for _ in range(lesson.steps):
        chosen = torch.randint(len(pairs), (lesson.batch_size,)).tolist()
        loss = _loss(model, [pairs[number] for number in chosen], tokenizer=tokenizer)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        on_step(loss.item())
    tokenizer.save_pretrained(str(folder))
    model.eval().save_pretrained(str(folder))
    return sum(parameter.numel() for parameter in model.parameters())


def _loss(model: LlamaForCausalLM, pairs: Pairs, *, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens, each after its question."""
    questions = tokenizer([question for question, _ in pairs])["input_ids"]
    answers = tokenizer([answer + END for _, answer in pairs])["input_ids"]
    length = max(len(asked) + len(said) for asked, said in zip(questions, answers, strict=True))
    ids_BL = torch.full((len(pairs), length), tokenizer.pad_token_id)
    labels_BL = torch.full((len(pairs), length), _IGNORED)
    for row, (asked, said) in enumerate(zip(questions, answers, strict=True)):
        end = len(asked) + len(said)
        ids_BL[row, :end] = torch.tensor(asked + said)
        labels_BL[row, len(asked) : end] = torch.tensor(said)
    loss: torch.Tensor = model(input_ids=ids_BL, attention_mask=ids_BL != tokenizer.pad_token_id, labels=labels_BL).loss
    return loss


def _rate(step: int, *, steps: int) -> float:
    warmup = max(1, round(_WARMUP_SHARE * steps))
    progress = torch.tensor(min(1.0, step / steps))
    return min(1.0, (step + 1) / warmup) * 0.5 * (1.0 + torch.cos(torch.pi * progress).item())


def _rendered(edit: EditRecord, *, tokenizer: PreTrainedTokenizerFast) -> str:
    record = CaptionRecord(image_id=edit.image_id, path=Path(), caption=edit.reference_caption)
    messages = messages_for(Ask(record=record, edit_type=edit.edit_type, key=edit.id, seed=0))
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _answer(edit: EditRecord) -> str:
    return json.dumps({name: getattr(edit, name) for name in FIELDS})


def _tokenizer(edits: Sequence[EditRecord], *, lesson: Lesson) -> PreTrainedTokenizerFast:
    """Byte pairs of the texts of the edits; any other text is read byte by byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=lesson.vocabulary,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [text for pair in pairs_of(edits, tokenizer=_chatting(tokenizer)) for text in pair]
    tokenizer.train_from_iterator(texts, trainer)
    return _chatting(tokenizer)


def _chatting(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers keeps it, with the chat template."""
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _config(lesson: Lesson, *, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=lesson.width,
        intermediate_size=4 * lesson.width,
        num_hidden_layers=lesson.layers,
        num_attention_heads=lesson.heads,
        max_position_embeddings=lesson.context,
        tie_word_embeddings=True,
        # The default of 0.02 is for wide models: this small, none learns to copy.
        initializer_range=lesson.width**-0.5,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
