"""A BART from a corpus' texts: what is damaged, what may be seen, what is written, and who starts from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoTokenizer, BartForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from sightline.errors import SettingInvalid
from sightline.models.bart import read_bart
from sightline.models.faithful.tower import FaithfulTower
from sightline.models.generator import bart_config
from sightline.models.pretrained import bart_folder
from sightline.models.tokenizer import DialogueTokenizer
from trainer.__main__ import main
from trainer.architecture import build, sized_decoder
from trainer.config import FitConfig
from trainer.data import load_corpus
from trainer.pretrain import documents, masking_tokenizer, pretrain, pretraining_of
from trainer.pretrain_config import DenoisingSettings
from trainer.recipes import recipe
from trainer.stages.denoising import DenoisingBatches, DenoisingObjective, infilled
from trainer.stages.names import Names

MASK_ID = 999
QUIET = Console(quiet=True)


@pytest.fixture
def config(tiny_fit: FitConfig, tmp_path: Path) -> FitConfig:
    return replace(tiny_fit, model=replace(tiny_fit.model, variant="faithful", decoder=str(tmp_path / "bart")))


@pytest.fixture
def write_bart(config: FitConfig) -> Callable[..., Path]:
    """Two steps of pretraining, into the folder that `config` names or another."""

    def written(**changes: str) -> Path:
        settings = pretraining_of(replace(config, model=replace(config.model, **changes)))
        return pretrain(replace(settings, denoising=DenoisingSettings(steps=2, batch_size=4)), console=QUIET)

    return written


def _batches(config: FitConfig, *, settings: DenoisingSettings) -> DenoisingBatches:
    corpus = load_corpus(config.data)
    tokenizer = masking_tokenizer(corpus.texts(), vocab_size=config.model.vocab_size)
    dialogue = DialogueTokenizer(tokenizer, bos_id=1, eos_id=tokenizer.token_to_id("</s>"), pad_id=0)
    return DenoisingBatches(
        dialogue,
        texts=documents(corpus),
        mask_id=MASK_ID,
        max_length=16,
        settings=settings,
        seed=0,
        names=Names(np.arange(dialogue.vocab_size) == dialogue.encode(" red")[0]),
    )


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_spans_hide_about_the_share_that_was_asked_for(share: float) -> None:
    rng, ids = np.random.default_rng(0), list(range(20_000))
    damaged = infilled(ids, share=share, mask_id=-1, rng=rng)
    kept = [token for token in damaged if token >= 0]
    assert kept == sorted(kept)  # What stays, stays in order.
    assert 1 - len(kept) / len(ids) == pytest.approx(share, abs=0.03)
    assert damaged.count(-1) < len(ids) - len(kept)  # One mask stands for a span, whatever its length.


def test_no_share_damages_nothing() -> None:
    assert infilled([5, 6, 7], share=0.0, mask_id=MASK_ID, rng=np.random.default_rng(0)) == [5, 6, 7]


def test_no_text_joins_a_question_and_its_answer(config: FitConfig) -> None:
    corpus = load_corpus(config.data)
    texts = documents(corpus)
    for record in corpus.dialogues_train:
        assert not any("what is" in text and record.response in text for text in texts)
    assert len(texts) == len(corpus.captions_train) + 2 * len(corpus.dialogues_train)


def test_a_share_of_the_texts_is_written_back_from_the_first_state_alone(config: FitConfig) -> None:
    half = _batches(config, settings=DenoisingSettings(batch_size=200, sentence_share=0.5)).batch(0)
    num_seen = half["seen_BL"].sum(dim=1)
    alone = num_seen == 1
    assert 0.3 < alone.float().mean() < 0.7
    assert (half["seen_BL"][:, 0] == 1).all()
    assert torch.equal(num_seen[~alone], half["damaged_mask_BL"].sum(dim=1)[~alone])


def test_what_is_not_seen_changes_nothing(config: FitConfig) -> None:
    batches = _batches(config, settings=DenoisingSettings(batch_size=6, mask_share=0.0, sentence_share=1.0))
    batch = batches.batch(0)
    torch.manual_seed(0)
    dialogue = DialogueTokenizer(masking_tokenizer(["a"], vocab_size=300), bos_id=1, eos_id=2, pad_id=0)
    sizes = replace(sized_decoder(config.model, dialogue=dialogue), vocab_size=1000)
    objective = DenoisingObjective(BartForConditionalGeneration(bart_config(sizes))).eval()
    states: list[torch.Tensor] = []

    def remember(module: torch.nn.Module, inputs: object, output: BaseModelOutput) -> None:
        assert output.last_hidden_state is not None
        output.last_hidden_state.retain_grad()
        states.append(output.last_hidden_state)

    objective.bart.model.encoder.register_forward_hook(remember)
    objective(batch)["loss"].backward()
    gradient = states[0].grad
    assert gradient is not None
    assert gradient[:, 0].abs().sum() > 0
    assert gradient[:, 1:].abs().sum() == 0


def test_a_step_is_a_function_of_seed_and_step(config: FitConfig) -> None:
    settings = DenoisingSettings(batch_size=4)
    first, again = (_batches(config, settings=settings).batch(3) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.slow
def test_the_folder_is_a_checkpoint_that_transformers_reads_whole(write_bart: Callable[..., Path]) -> None:
    folder = write_bart()
    _, info = BartForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("this is a red box <mask>")["input_ids"]
    assert [ids[0], ids[-2], ids[-1]] == [tokenizer.bos_token_id, tokenizer.mask_token_id, tokenizer.eos_token_id]
    dialogue = DialogueTokenizer.of_bart(folder)
    assert dialogue.decode(dialogue.encode("this is a red box")) == "this is a red box"
    assert read_bart(folder)[0].vocab_size == dialogue.vocab_size


@pytest.mark.slow
def test_one_seed_writes_one_bart(write_bart: Callable[..., Path], tmp_path: Path) -> None:
    first, again = write_bart(), write_bart(decoder=str(tmp_path / "again"))
    weights = [load_file(folder / "model.safetensors") for folder in (first, again)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
def test_both_halves_of_a_faithful_model_start_from_the_folder(
    write_bart: Callable[..., Path], config: FitConfig
) -> None:
    expected = read_bart(write_bart())[1].model.encoder.state_dict()
    built = build(config, texts=load_corpus(config.data).texts())
    assert isinstance(built.model.tower, FaithfulTower)
    assert built.model.generator is not None
    for encoder in (built.model.tower.text, built.model.generator.text_encoder):
        assert all(torch.equal(encoder.state_dict()[name], value) for name, value in expected.items())


def test_a_folder_that_is_there_is_left_alone(write_bart: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "bart").mkdir()
    with pytest.raises(SettingInvalid, match="is there already; remove it, or name another folder"):
        write_bart()


def test_a_recipe_that_names_no_folder_is_refused(write_bart: Callable[..., Path]) -> None:
    with pytest.raises(SettingInvalid, match=r"model.decoder: got '', expected the folder to write a BART to"):
        write_bart(decoder="")


def test_the_command_refuses_a_recipe_without_a_decoder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "toytown-tiny"]) == 2
    assert "expected the folder to write a BART to" in capsys.readouterr().err


def test_a_recipe_hands_its_share_of_exchanged_names_on() -> None:
    assert pretraining_of(recipe("toytown-faithful")).denoising.swap_share == 0.95
    assert pretraining_of(recipe("folder")).denoising.swap_share == 0.0


def test_the_faithful_recipe_names_the_folder_that_its_pretraining_writes() -> None:
    faithful = recipe("toytown-faithful")
    assert pretraining_of(faithful).model.decoder == faithful.model.decoder != ""


def test_that_recipe_is_refused_before_its_pretraining_and_the_hub_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingInvalid, match=r"no folder here .* Repo id must be in the form"):
        bart_folder(recipe("toytown-faithful").model.decoder)
