"""A small BART from nothing but a corpus' texts, as a checkpoint folder: for where no pretrained one can be had."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from tokenizers import AddedToken, Tokenizer, processors
from transformers import BartForConditionalGeneration, PreTrainedTokenizerFast

from sightline.data.dialogues import dialogue_text
from sightline.errors import SettingInvalid
from sightline.models.generator import bart_config
from sightline.models.tokenizer import BOS, BOS_ID, EOS, PAD, PAD_ID, DialogueTokenizer, train_tokenizer
from trainer.architecture import sized_decoder
from trainer.config import FitConfig, ModelSettings
from trainer.data import Corpus, load_corpus
from trainer.journal import Journal
from trainer.pretrain_config import DenoisingSettings, PretrainConfig
from trainer.progress import watching
from trainer.reporting import LocalReporter
from trainer.stages.denoising import DenoisingBatches, DenoisingObjective
from trainer.stages.names import Names, name_tokens
from trainer.step import Pace, Stage, StageRun, run_stage

MASK = "<mask>"


def pretraining_of(config: FitConfig) -> PretrainConfig:
    """The pretraining of the BART that a recipe names as `model.decoder`, on the texts that the recipe trains on."""
    return PretrainConfig(
        seed=config.seed,
        data=config.data,
        model=config.model,
        denoising=DenoisingSettings(swap_share=config.stage2.swap_share),
        speed=config.speed,
        run=config.run,
    )


def pretrain(config: PretrainConfig, *, console: Console) -> Path:
    """The folder `model.decoder`, holding a BART and its tokenizer as transformers saves them.

    Runs in this process. The folder is whole or absent; raises SettingInvalid
    if it is there already, or no folder is named.
    """
    folder = _free_folder(config.model)
    torch.set_num_threads(config.run.threads_per_worker or torch.get_num_threads())
    corpus = load_corpus(config.data)
    tokenizer = masking_tokenizer(corpus.texts(), vocab_size=config.model.vocab_size)
    torch.manual_seed(config.seed)
    bart = BartForConditionalGeneration(bart_config(sized_decoder(config.model, dialogue=_dialogue(tokenizer))))
    _denoise(bart, tokenizer=tokenizer, corpus=corpus, config=config, console=console)
    _save(bart, tokenizer=tokenizer, folder=folder)
    console.print(f"wrote {folder}", soft_wrap=True)
    return folder


def documents(corpus: Corpus) -> list[str]:
    """The texts that are written back: captions, contexts and responses, each apart.

    A question and its answer are never one text: the decoder would learn a
    subject's facts by its name, which stage 2 takes pains that nobody does.
    """
    contexts = [dialogue_text(record.context) for record in corpus.dialogues_train if record.context]
    responses = [record.response for record in corpus.dialogues_train]
    return [record.caption for record in corpus.captions_train] + contexts + responses


def masking_tokenizer(texts: list[str], *, vocab_size: int) -> Tokenizer:
    """The corpus' tokenizer with a mask token, putting `<s>` and `</s>` around a text as BART's does."""
    tokenizer = train_tokenizer(texts, vocab_size=vocab_size - 1)
    tokenizer.add_special_tokens([AddedToken(MASK, special=True, normalized=False)])
    ends = [(BOS, BOS_ID), (EOS, _special_id(tokenizer, EOS))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A {EOS}", special_tokens=ends)
    return tokenizer


def _dialogue(tokenizer: Tokenizer) -> DialogueTokenizer:
    # A copy: a dialogue tokenizer reads what looks like a special token as plain text.
    copy = Tokenizer.from_str(tokenizer.to_str())
    return DialogueTokenizer(copy, bos_id=BOS_ID, eos_id=_special_id(copy, EOS), pad_id=PAD_ID)


def _special_id(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    assert found is not None, "the tokenizer was made with it"
    return int(found)


def _free_folder(sizes: ModelSettings) -> Path:
    if not sizes.decoder:
        raise SettingInvalid("model.decoder: got '', expected the folder to write a BART to")
    if Path(sizes.decoder).exists():
        raise SettingInvalid(f"model.decoder: {sizes.decoder} is there already; remove it, or name another folder")
    return Path(sizes.decoder)


def _denoise(
    bart: BartForConditionalGeneration,
    *,
    tokenizer: Tokenizer,
    corpus: Corpus,
    config: PretrainConfig,
    console: Console,
) -> None:
    settings, device, dialogue = config.denoising, torch.device(config.run.device), _dialogue(tokenizer)
    batches = DenoisingBatches(
        dialogue,
        texts=documents(corpus),
        names=Names(name_tokens(dialogue, dialogues=corpus.dialogues_train, captions=corpus.captions_train)),
        mask_id=_special_id(tokenizer, MASK),
        max_length=config.model.dialogue_length,
        settings=settings,
        seed=config.seed,
    )
    bart.to(device)
    with tempfile.TemporaryDirectory(prefix="sightline-pretrain-") as scratch:
        run = StageRun(
            stage=Stage(batches=batches, objective=DenoisingObjective(bart)),
            model=bart,
            settings=settings,
            speed=config.speed,
            device=device,
            pace=Pace(log_every=config.run.log_every, checkpoint_every=settings.steps),
            reporter=LocalReporter(Path(scratch), keep=1),
            journal=Journal(Path(scratch)),
            seed=config.seed,
            training={},
        )
        with watching(Path(scratch), steps={batches.name: settings.steps}, console=console):
            run_stage(run, start=0, resume_from=None)


def _save(bart: BartForConditionalGeneration, *, tokenizer: Tokenizer, folder: Path) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    bart.cpu().save_pretrained(partial)
    named = {"bos_token": BOS, "cls_token": BOS, "eos_token": EOS, "sep_token": EOS, "pad_token": PAD}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token=MASK, **named).save_pretrained(partial)
    partial.rename(folder)
