"""The commands of docs/train-your-own.md, in their order, on coloured squares and models of one small layer."""

from __future__ import annotations

import io
import json
import shlex
import tarfile
from pathlib import Path

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast
from typer.testing import CliRunner

from sightline.cli import app
from sightline.models.tokenizer import train_tokenizer
from sightline.registry import Registry
from tests.architecture.test_house import ROOT, documented_commands
from trainer.__main__ import main

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

COLOURS = ("red", "green", "blue", "white", "black", "yellow")
NUM_PICTURES = 48
HERE = {
    "ViT-B-32:laion2b_s34b_b79k": "local-dir:towers/mine",
    "facebook/bart-base": "barts/mine",
    "{00000..01242}": "{00000..00001}",
}
"""What the guide names and a test cannot have -> what stands in for it here."""
MODEL_SIZES = (
    "--model.image-size 28 --model.patch-size 4 --model.vision-width 32 --model.vision-layers 1 --model.text-width 32"
    " --model.text-layers 1 --model.embed-dim 16 --model.vocab-size 400 --model.decoder-width 32"
    " --model.decoder-layers 1 --model.decoder-heads 2"
)
SIZES = f"{MODEL_SIZES} --run.num-workers 0 --evaluation.max-dialogues 8 --force-publish"
PRETRAINING = f"--denoising.steps 2 --denoising.batch-size 4 {MODEL_SIZES}"
STEPS = {"--stage1.steps": "2", "--stage1.batch-size": "4", "--stage2.steps": "2", "--stage2.batch-size": "4"}
NEEDS_SERVICES = ("index", "search", "chat")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file that the guide names, small."""
    root = tmp_path_factory.mktemp("guide")
    write_coco(root / "coco")
    write_tars(root / "cc12m")
    dialogues = [{"context": ["hello", f"what is box {n}"], "response": f"it is box {n}"} for n in range(NUM_PICTURES)]
    (root / "reddit.json").write_text(json.dumps(dialogues))
    (root / "coco" / "reddit.json").write_text(json.dumps(dialogues))
    turns = [[["Calm", f"a box {n}"], ["Sweet", f"yes, {n}"]] for n in range(NUM_PICTURES)]
    chats = [{"image_hash": str(n), "dialog": dialog} for n, dialog in enumerate(turns)]
    (root / "image_chat").mkdir()
    (root / "image_chat" / "valid.json").write_text(json.dumps(chats))
    write_pictures(root / "my-data" / "images")
    lines = [json.dumps({"id": str(n), **dialogue}) for n, dialogue in enumerate(dialogues[:8])]
    (root / "my-data" / "dialogues_test.jsonl").write_text("\n".join(lines) + "\n")
    write_tower(root / "towers" / "mine")
    write_bart(root / "barts" / "mine")
    return root


def write_pictures(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number in range(NUM_PICTURES):
        picture(number).save(folder / f"{number:012}.png")


def picture(number: int) -> Image.Image:
    return Image.new("RGB", (24, 20 + number), COLOURS[number % len(COLOURS)])


def caption(number: int) -> str:
    return f"a {COLOURS[number % len(COLOURS)]} box, number {number}"


def write_coco(root: Path) -> None:
    (root / "annotations").mkdir(parents=True)
    for part in ("train2017", "val2017"):
        write_pictures(root / part)
        images = [{"id": n, "file_name": f"{n:012}.png"} for n in range(NUM_PICTURES)]
        captions = [{"id": n, "image_id": n, "caption": caption(n)} for n in range(NUM_PICTURES)]
        text = json.dumps({"images": images, "annotations": captions})
        (root / "annotations" / f"captions_{part}.json").write_text(text)
    write_pictures(root / "open_images")


def write_tars(root: Path) -> None:
    root.mkdir()
    for shard in range(2):
        with tarfile.open(root / f"{shard:05}.tar", "w") as tar:
            for number in range(shard, NUM_PICTURES, 2):
                buffer = io.BytesIO()
                picture(number).save(buffer, format="PNG")
                for suffix, data in (("png", buffer.getvalue()), ("txt", caption(number).encode())):
                    member = tarfile.TarInfo(f"{number:09}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def write_tower(folder: Path) -> None:
    """A CLIP of one layer in open_clip's own format."""
    folder.mkdir(parents=True)
    vision = {"image_size": 28, "layers": 1, "width": 32, "head_width": 16, "patch_size": 4}
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    values = {
        "model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"size": 28, "mean": [0.5] * 3, "std": [0.5] * 3},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(values))
    torch.manual_seed(0)
    clip = CLIP(16, CLIPVisionCfg(**vision), CLIPTextCfg(**text))  # type: ignore[arg-type]
    save_file(clip.state_dict(), folder / "open_clip_model.safetensors")


def write_bart(folder: Path) -> None:
    """A BART of one layer with its tokenizer, as transformers saves both."""
    tokenizer: Tokenizer = train_tokenizer(
        [caption(n) for n in range(NUM_PICTURES)] + ["it is what hello"], vocab_size=400
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.save_pretrained(folder)
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "d_model": 32, "max_position_embeddings": 128}
    ids = {"pad_token_id": fast.pad_token_id, "bos_token_id": fast.bos_token_id, "eos_token_id": fast.eos_token_id}
    start = {"decoder_start_token_id": fast.eos_token_id, "forced_eos_token_id": fast.eos_token_id}
    config = BartConfig(vocab_size=len(fast), **sizes, **heads, **ids, **start)
    torch.manual_seed(0)
    BartForConditionalGeneration(config).save_pretrained(folder)


def small(command: str) -> list[str]:
    """The trainer's words of a command, with what stands in here, few steps and small sizes."""
    for there, here in HERE.items():
        command = command.replace(there, here)
    words = shlex.split(command)[3:]
    if words[0] == "pretrain":
        return [*words, *shlex.split(PRETRAINING)]
    if words[0] != "fit":
        return words
    for name, value in STEPS.items():
        if name not in words:
            words += [name, value]
        elif words[words.index(name) + 1] != "0":
            words[words.index(name) + 1] = value
    return [*words, *shlex.split(SIZES)]


def test_the_guides_commands_lead_from_files_to_releases_that_were_moved_and_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    done = []
    for command in documented_commands(ROOT / "docs" / "train-your-own.md"):
        if command.startswith("python -m trainer"):
            assert main(small(command)) == 0, command
        elif command.startswith("sightline") and command.split()[1] not in NEEDS_SERVICES:
            result = CliRunner().invoke(app, shlex.split(command)[1:])
            assert result.exit_code == 0, f"{command}: {result.output}"
        else:
            continue
        done.append(command)
    assert len(done) >= 15
    state = Registry("var/registry").channel("stable")
    assert state is not None
    assert state.generation >= 4, "published twice, promoted, rolled back"
    predictions = (folder / "var" / "report" / "predictions.jsonl").read_text().splitlines()
    assert len(predictions) == 8
