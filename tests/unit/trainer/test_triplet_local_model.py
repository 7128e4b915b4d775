"""Triplets from a model in a folder: a tiny random one, whose nonsense is refused and counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sightline.data.captions import CaptionRecord
from sightline.errors import UsageError
from trainer.triplets.ledger import Ledger
from trainer.triplets.model_generator import by_local_model
from trainer.triplets.planning import plan
from trainer.triplets.run import run

CHAT = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def save_model(folder: Path, *, context: int = 8192, chat_template: str | None = CHAT) -> Path:
    """A random language model of bytes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate([*letters, "<end>"])}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    fast.chat_template = chat_template
    fast.save_pretrained(str(folder))
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(vocab_size=257, max_position_embeddings=context, eos_token_id=256, bos_token_id=None, **sizes)
    LlamaForCausalLM(config).save_pretrained(str(folder))
    return folder


def records(count: int) -> list[CaptionRecord]:
    texts = ["a dog", "two red cars in a very wide street at night", "a cat on a mat"]
    return [CaptionRecord(image_id=str(n), path=Path("x.png"), caption=f"{texts[n % 3]} {n}") for n in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("chat_template", [CHAT, None])
def test_the_nonsense_of_a_random_model_is_refused_counted_and_fails_the_run(
    tmp_path: Path, chat_template: str | None
) -> None:
    folder = save_model(tmp_path / "model", chat_template=chat_template)
    generator = by_local_model(folder, seed=0, batch_items=2)
    asks = plan(records(3), generator)[0]
    ledger = Ledger(tmp_path / "edits.jsonl", name=generator.name, about={})
    with pytest.raises(UsageError, match="acceptance: got 0%"):
        run(asks, generator, ledger=ledger, count_tokens=len)
    ledger.close()
    assert ledger.reasons == {"not_json": 3}
    assert ledger.cost.requests == 6, "each was asked once more"
    assert ledger.cost.prompt_tokens > 6 * 1000
    assert 6 <= ledger.cost.completion_tokens <= 6 * 160


@pytest.mark.slow
def test_a_batch_padded_on_the_left_says_what_each_ask_gets_alone(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    generator = by_local_model(folder, seed=0, temperature=0.0)
    asks = plan(records(3), generator)[0]
    together = [answer.text for answer in generator.propose(asks)]
    assert together == [generator.propose([ask])[0].text for ask in asks]


def test_a_context_that_leaves_no_room_for_an_answer_is_a_reason(tmp_path: Path) -> None:
    generator = by_local_model(save_model(tmp_path / "model", context=256), seed=0)
    answer = generator.propose(plan(records(1), generator)[0])[0]
    assert getattr(answer.result, "reason", "") == "prompt_too_long"


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no config\.json"):
        by_local_model(tmp_path, seed=0)
