"""Any BART checkpoint: saved from either class, in either format, it gives every tensor or a refusal, never chance."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BartForConditionalGeneration,
    BertConfig,
    BertTokenizerFast,
    MarianConfig,
    MBartConfig,
    PegasusConfig,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from sightline.errors import SettingInvalid
from sightline.models.bart import read_bart
from sightline.models.config import ZrigfConfig
from sightline.models.generator import bart_config
from sightline.models.model import build_model
from sightline.models.pretrained import bart_folder
from sightline.models.release import load_generator, save_release
from sightline.models.tokenizer import DialogueTokenizer, read_tokenizer
from tests.unit.models.conftest import SmallParts


@pytest.fixture
def bart(small_config: ZrigfConfig) -> BartForConditionalGeneration:
    assert small_config.decoder is not None
    return BartForConditionalGeneration(bart_config(replace(small_config.decoder, decoder_layers=1))).eval()


def as_language_model(bart: BartForConditionalGeneration, folder: Path) -> None:
    bart.save_pretrained(folder)


def as_plain_model(bart: BartForConditionalGeneration, folder: Path) -> None:
    bart.model.save_pretrained(folder)


def as_language_model_bin(bart: BartForConditionalGeneration, folder: Path) -> None:
    folder.mkdir()
    bart.config.save_pretrained(folder)
    torch.save(bart.state_dict(), folder / "pytorch_model.bin")


def as_plain_model_bin(bart: BartForConditionalGeneration, folder: Path) -> None:
    folder.mkdir()
    bart.config.save_pretrained(folder)
    torch.save(bart.model.state_dict(), folder / "pytorch_model.bin")


def as_shards(bart: BartForConditionalGeneration, folder: Path) -> None:
    bart.save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1


SAVED = [as_language_model, as_plain_model, as_language_model_bin, as_plain_model_bin, as_shards]


@pytest.mark.parametrize("save", SAVED)
def test_every_tensor_of_a_checkpoint_arrives(
    bart: BartForConditionalGeneration, tmp_path: Path, save: Callable[[BartForConditionalGeneration, Path], None]
) -> None:
    save(bart, tmp_path / "saved")
    config, found = read_bart(tmp_path / "saved")
    assert config.d_model == bart.config.d_model
    expected = bart.state_dict()
    assert found.state_dict().keys() == expected.keys()
    assert [name for name, value in found.state_dict().items() if not torch.equal(value, expected[name])] == []


@pytest.mark.parametrize("save", SAVED)
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_no_checkpoint_without_one_side_is_ever_read(
    bart: BartForConditionalGeneration,
    tmp_path: Path,
    save: Callable[[BartForConditionalGeneration, Path], None],
    side: str,
) -> None:
    setattr(bart.model, side, torch.nn.Identity())
    with pytest.raises(SettingInvalid, match="missing"):
        read_bart(_saved(bart, folder=tmp_path / "saved", save=save if save is not as_shards else as_plain_model))


def _saved(
    bart: BartForConditionalGeneration,
    *,
    folder: Path,
    save: Callable[[BartForConditionalGeneration, Path], None],
) -> Path:
    save(bart, folder)
    return folder


def test_an_output_layer_of_its_own_is_refused_not_left_random(
    bart: BartForConditionalGeneration, tmp_path: Path
) -> None:
    """The plain class saves no output layer; where it is not tied, nothing could fill it."""
    bart.config.tie_word_embeddings = False
    bart.model.save_pretrained(tmp_path)
    with pytest.raises(SettingInvalid, match="not tied"):
        read_bart(tmp_path)


class Command:
    """What a pickle may hold: a call that happens while it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run(
    bart: BartForConditionalGeneration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bart.config.save_pretrained(tmp_path)
    torch.save({**bart.state_dict(), "final_logits_bias": Command()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(SettingInvalid, match="runs code"):
        read_bart(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2), "normalises before"),
        (MBartConfig(vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1), "normalises before"),
        (PegasusConfig(vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1), "normalises before"),
        (MarianConfig(vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1), "fixed sinusoids"),
        (BertConfig(vocab_size=40, hidden_size=16), "only the BART family"),
    ],
)
def test_a_family_that_cannot_carry_information_transfer_is_refused_with_the_reason(
    config: Any, reason: str, tmp_path: Path
) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(SettingInvalid, match=f"{config.model_type}.*{reason}"):
        read_bart(tmp_path)


def test_a_t5_layer_is_indeed_no_bart_layer() -> None:
    """The reason of the refusal, seen in the code: none of the weights that IT takes over stands in a T5 block."""
    config = T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    block = T5ForConditionalGeneration(config).decoder.block[0]
    names = {name for name, _ in block.named_parameters()}
    assert any("relative_attention_bias" in name for name in names)
    assert not any(name.endswith("bias") for name in names)
    taken = {"self_attn.q_proj.bias", "self_attn_layer_norm.bias", "encoder_attn_layer_norm.weight", "fc1.bias"}
    assert not taken & names


def test_a_hub_id_gives_the_folder_in_the_hubs_cache(
    bart: BartForConditionalGeneration, tmp_path: Path, hub: Callable[[str, Path], None]
) -> None:
    as_language_model(bart, tmp_path / "saved")
    hub("facebook/bart-tiny", tmp_path / "saved")
    _, found = read_bart(bart_folder("facebook/bart-tiny"))
    assert torch.equal(found.model.shared.weight, bart.model.shared.weight)


def test_a_local_folder_is_taken_before_any_hub(tmp_path: Path, hub: Callable[[str, Path], None]) -> None:
    assert bart_folder(str(tmp_path)) == tmp_path


def test_a_name_that_is_neither_folder_nor_reachable_is_refused(hub: Callable[[str, Path], None]) -> None:
    with pytest.raises(SettingInvalid, match="facebook/bart-giant"):
        bart_folder("facebook/bart-giant")


def test_word_pieces_are_read_as_chinese_bart_does(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "ball", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=dict(zip(words, range(9), strict=True))).save_pretrained(tmp_path)
    tokenizer = DialogueTokenizer.of_bart(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (2, 3, 0)
    tokenizer.save(tmp_path)
    again = DialogueTokenizer(read_tokenizer(tmp_path / "decoder.json"), bos_id=2, eos_id=3, pad_id=0)
    assert again.encode("a red balls") == [5, 6, 7, 8]
    assert again.decode([5, 6, 7, 8]) == "a red balls"


def test_a_missing_decoder_is_refused_not_left_random(bart: BartForConditionalGeneration, tmp_path: Path) -> None:
    bart.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(path).items() if ".decoder." not in name}
    save_file(kept, path, metadata={"format": "pt"})
    with pytest.raises(SettingInvalid, match="missing"):
        read_bart(tmp_path)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid, match="no BART checkpoint"):
        read_bart(tmp_path)


def test_a_checkpoint_becomes_a_release_with_its_own_tokenizer(
    small: SmallParts, bart: BartForConditionalGeneration, tmp_path: Path
) -> None:
    source = tmp_path / "bart"
    bart.save_pretrained(source)
    corpus = small.dialogue_tokenizer._tokenizer
    PreTrainedTokenizerFast(
        tokenizer_object=corpus, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(source)
    decoder, _ = read_bart(source, context_length=24)
    tokenizer = DialogueTokenizer.of_bart(source)
    model = build_model(replace(small.config, decoder=decoder), bart=source)
    assert model.generator is not None
    assert torch.equal(model.generator.bart.model.shared.weight, bart.model.shared.weight)
    save_release(tmp_path / "release", model=model, tower_tokenizer=small.tower_tokenizer, dialogue_tokenizer=tokenizer)
    loaded = load_generator(tmp_path / "release")
    loaded.check_golden()
    assert loaded.context_length == 24
    assert tokenizer.encode("a red ball") == small.dialogue_tokenizer.encode("a red ball")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid, match="tokenizer"):
        DialogueTokenizer.of_bart(tmp_path)
