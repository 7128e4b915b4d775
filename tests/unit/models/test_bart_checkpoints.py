"""Any BART checkpoint folder: saved from either class, it gives the same decoder or a refusal, never a random one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BartForConditionalGeneration, PreTrainedTokenizerFast

from sightline.errors import SettingInvalid
from sightline.models.config import ZrigfConfig
from sightline.models.generator import bart_config, read_bart
from sightline.models.model import build_model
from sightline.models.release import load_generator, save_release
from sightline.models.tokenizer import DialogueTokenizer
from tests.unit.models.conftest import SmallParts


@pytest.fixture
def bart(small_config: ZrigfConfig) -> BartForConditionalGeneration:
    assert small_config.decoder is not None
    return BartForConditionalGeneration(bart_config(replace(small_config.decoder, decoder_layers=1))).eval()


def test_both_classes_give_the_same_decoder(bart: BartForConditionalGeneration, tmp_path: Path) -> None:
    bart.save_pretrained(tmp_path / "language-model")
    bart.model.save_pretrained(tmp_path / "plain")
    configs, models = zip(*(read_bart(tmp_path / name) for name in ("language-model", "plain")), strict=True)
    assert configs[0] == configs[1]
    for name, tensor in bart.state_dict().items():
        assert torch.equal(models[0].state_dict()[name], tensor), name
        assert torch.equal(models[1].state_dict()[name], tensor), name


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
