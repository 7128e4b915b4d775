"""The published code's defects (B, C, D, G, I, J, K, M, N, O) beside ours, the defective form shown to fail.

The letters are those of docs/zrigf.md; the others are in tests/unit/trainer/test_defects_of_the_published_run.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BartForConditionalGeneration, ViTModel

from sightline.errors import SettingInvalid
from sightline.models.bart import read_bart
from sightline.models.config import FusionConfig, ZrigfConfig
from sightline.models.decoding import CachedSteps, greedy, limits_for
from sightline.models.faithful.generator import FaithfulGenerator
from sightline.models.faithful.patches import cut_patches
from sightline.models.faithful.preservation import START_BIAS, PreservationLoss, targets
from sightline.models.faithful.stage import FaithfulContrastiveStage
from sightline.models.faithful.tower import load_vit
from sightline.models.fusion import CrossBlock
from sightline.models.generator import bart_config
from sightline.models.model import build_model
from sightline.models.tim import matching_loss
from sightline.models.tower import MAX_LOGIT_SCALE, capped_scale
from tests.unit.models.conftest import FaithfulParts, build_faithful

CONTEXTS = 32


def inputs(*, b: int = 3, k: int = 3, length: int = 6) -> dict[str, Tensor]:
    pixels = torch.randint(0, 256, (b * k, 3, 28, 28), dtype=torch.uint8)
    return {
        "context_ids_BL": torch.randint(2, 200, (b, length)),
        "context_mask_BL": torch.ones(b, length, dtype=torch.bool),
        "tokens_BKPW": cut_patches(pixels, side=4).unflatten(0, (b, k)).float(),
        "similarity_BK": torch.rand(b, k),
        "image_mask_BK": torch.ones(b, k, dtype=torch.bool),
    }


def padded(case: dict[str, Tensor], *, by: int) -> dict[str, Tensor]:
    return {
        **case,
        "context_ids_BL": F.pad(case["context_ids_BL"], (0, by), value=0),
        "context_mask_BL": F.pad(case["context_mask_BL"], (0, by), value=False),
    }


def stir(generator: FaithfulGenerator) -> None:
    """Let pictures and both gates count, as after training."""
    nn.init.constant_(generator.fusion.text_gate, 0.7)
    for layer in generator.bart.model.decoder.layers:
        nn.init.normal_(layer.mix.weight, std=0.3)


def correct_targets(contexts: int, k: int) -> Tensor:
    """[C, I, K] by the definition: 1 where picture slot K of context I belongs to context C."""
    found = torch.zeros(contexts, contexts, k)
    for context in range(contexts):
        found[context, context, :] = 1.0
    return found


def published_targets(contexts: int, k: int) -> Tensor:
    """[C, I, K] as the published code pairs them: logits flattened by slot first, targets by context first."""
    by_context_first = torch.eye(contexts).repeat_interleave(k, dim=1)  # columns (i, k)
    return by_context_first.view(contexts, k, contexts).transpose(1, 2)  # read as columns (k, i)


@pytest.mark.parametrize(("k", "hit_by_the_published"), [(1, 1.0), (3, 0.042), (5, 0.05)])
def test_b_preservation_targets_are_the_identity_over_contexts(k: int, hit_by_the_published: float) -> None:
    ours = targets(torch.zeros(CONTEXTS, 4), num_contexts=CONTEXTS).unsqueeze(-1).expand(-1, -1, k)
    assert torch.equal(ours, correct_targets(CONTEXTS, k))
    permuted = published_targets(CONTEXTS, k)
    assert permuted.sum() == ours.sum()
    hits = float((permuted * ours).sum() / ours.sum())
    assert hits == pytest.approx(hit_by_the_published, abs=0.001)


def test_b_training_pulls_a_context_towards_its_own_pictures_only() -> None:
    text, image = torch.eye(6, 16), torch.randn(6, 3, 16, requires_grad=True)
    ids = torch.arange(18).view(6, 3)
    loss = PreservationLoss()
    shown = torch.ones(6, 3, dtype=torch.bool)
    loss(text, image, image_ids_BK=ids, image_mask_BK=shown, logit_scale=torch.tensor(14.0)).backward()
    assert image.grad is not None
    towards = -torch.einsum("bkd,bd->bk", image.grad, text)
    assert (towards > 0).all()


@pytest.mark.parametrize("padding", [1, 20])
def test_c_padding_and_batch_mates_change_no_answer(faithful: FaithfulParts, padding: int) -> None:
    generator, case, labels = faithful.generator, inputs(), torch.randint(2, 200, (3, 5))
    stir(generator)
    base = generator.logits(generator.remember(**case), labels)
    torch.testing.assert_close(generator.logits(generator.remember(**padded(case, by=padding)), labels), base)
    alone = generator.remember(**{name: value[1:2] for name, value in case.items()})
    torch.testing.assert_close(generator.logits(alone, labels[1:2]), base[1:2])


def test_c_without_the_key_mask_padding_moves_the_block() -> None:
    block = CrossBlock(16, heads=4, dropout=0.0).eval()
    query, text = torch.randn(2, 5, 16), torch.randn(2, 6, 16)
    mask = torch.ones(2, 6, dtype=torch.bool)
    longer, longer_mask = F.pad(text, (0, 0, 0, 20), value=0.5), F.pad(mask, (0, 20), value=False)
    base = block(query, text, mask)
    torch.testing.assert_close(block(query, longer, longer_mask), base)
    as_published = block(query, longer, torch.ones_like(longer_mask))
    assert (as_published - base).std() > 0.02 * base.std()


def plain_logits(bart: BartForConditionalGeneration, case: dict[str, Tensor], decoder_ids: Tensor) -> Tensor:
    return bart(
        input_ids=case["context_ids_BL"], attention_mask=case["context_mask_BL"], decoder_input_ids=decoder_ids
    ).logits


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.detach().flatten(), other.detach().flatten()]))[0, 1])


def test_d_a_fresh_generator_answers_as_its_bart_and_the_published_start_does_not(
    faithful_config: ZrigfConfig, tmp_path: Path
) -> None:
    assert faithful_config.decoder is not None
    bart = BartForConditionalGeneration(bart_config(faithful_config.decoder)).eval()
    bart.save_pretrained(tmp_path)
    case, labels = inputs(), torch.randint(2, 200, (3, 5))
    found = {}
    for start in ("bart", "random"):
        config = replace(faithful_config, fusion=FusionConfig(start=start))
        generator = build_model(config, bart=tmp_path).eval().generator
        assert generator is not None
        found[start] = generator.logits(generator.remember(**case), labels)
    expected = plain_logits(bart, case, generator.shift_right(labels))
    torch.testing.assert_close(found["bart"], expected, atol=1e-4, rtol=1e-4)
    assert correlation(found["random"], expected) < 0.7


def test_d_the_picture_path_of_a_fresh_generator_gets_a_gradient(faithful: FaithfulParts) -> None:
    faithful.generator(**inputs(), labels_BT=torch.randint(2, 200, (3, 5))).backward()
    for layer in faithful.generator.bart.model.decoder.layers:
        assert layer.mix.weight.grad[:, -16:].any()
    assert faithful.generator.fusion.text_gate.grad != 0


def test_g_a_reply_reads_its_pictures_once_and_each_token_once(faithful: FaithfulParts) -> None:
    generator, calls, lengths = faithful.generator, [], []
    stir(generator)
    generator.fusion.register_forward_hook(lambda *_: calls.append(1))
    generator.bart.model.decoder.layers[0].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    case = {name: value[:1] for name, value in inputs().items()}
    limits = replace(limits_for(generator, max_new_tokens=8), eos_id=-1)
    with torch.inference_mode():
        drawn = list(greedy(CachedSteps(generator, generator.remember(**case)), limits=limits, should_stop=bool))
    assert len(drawn) == 8
    assert sum(calls) == 1  # the published code: once a step, 8
    assert lengths == [2, *[1] * 7]  # the published code: 2, 3, 4, ... 9


def test_i_a_checkpoint_saved_from_either_class_gives_the_same_decoder(
    faithful_config: ZrigfConfig, tmp_path: Path
) -> None:
    assert faithful_config.decoder is not None
    bart = BartForConditionalGeneration(bart_config(faithful_config.decoder)).eval()
    bart.save_pretrained(tmp_path / "language-model")
    bart.model.save_pretrained(tmp_path / "plain")
    case, labels = inputs(), torch.randint(2, 200, (3, 5))
    for name in ("language-model", "plain"):
        generator = build_model(faithful_config, bart=tmp_path / name).eval().generator
        assert generator is not None
        expected = plain_logits(bart, case, generator.shift_right(labels))
        torch.testing.assert_close(generator.logits(generator.remember(**case), labels), expected, atol=1e-4, rtol=1e-4)


def test_i_a_decoder_or_pooler_that_is_not_there_is_refused_not_drawn(faithful: FaithfulParts, tmp_path: Path) -> None:
    assert faithful.config.decoder is not None
    BartForConditionalGeneration(bart_config(faithful.config.decoder)).save_pretrained(tmp_path / "bart")
    ViTModel(faithful.tower.vit.config, add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    path = tmp_path / "bart" / "model.safetensors"
    save_file({n: v for n, v in load_file(path).items() if ".decoder." not in n}, path, metadata={"format": "pt"})
    with pytest.raises(SettingInvalid, match="missing"):
        read_bart(tmp_path / "bart")
    with pytest.raises(SettingInvalid, match="pooler"):
        load_vit(faithful.tower, folder=tmp_path / "vit")


def test_j_captions_of_one_picture_and_shared_pictures_are_no_negatives() -> None:
    vectors = [nn.functional.normalize(torch.randn(4, 8), dim=-1) for _ in range(2)]
    scale, ids = torch.tensor(14.0), torch.tensor([0, 1, 1, 2])
    ours = matching_loss(*vectors, pair_ids_B=ids, logit_scale=scale)
    logits, own = scale * vectors[0] @ vectors[1].T, torch.arange(4)
    published = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    assert published > ours + 1e-3

    image = nn.functional.normalize(torch.randn(2, 1, 8), dim=-1).requires_grad_()
    shared, shown = torch.tensor([[7], [7]]), torch.ones(2, 1, dtype=torch.bool)
    text = nn.functional.normalize(image.detach()[:, 0] + 0.1, dim=-1)
    loss = PreservationLoss()(text, image, image_ids_BK=shared, image_mask_BK=shown, logit_scale=scale)
    loss.backward()
    assert image.grad is not None
    assert (torch.einsum("bkd,bd->bk", image.grad, text) < 0).all()  # only ever pulled


@pytest.mark.parametrize(("raw", "expected"), [(2.6592, 14.28), (9.0, MAX_LOGIT_SCALE)])
def test_k_the_temperature_is_capped_and_can_come_back(raw: float, expected: float) -> None:
    parameter = torch.tensor(raw, requires_grad=True)
    scale = capped_scale(parameter)
    assert float(scale.detach()) == pytest.approx(expected, abs=0.02)
    scale.backward()
    assert parameter.grad is not None
    assert parameter.grad > 0


def test_k_with_a_bias_the_many_negatives_do_not_drown_the_few_positives() -> None:
    text, image = (nn.functional.normalize(torch.randn(*shape, 64), dim=-1) for shape in ((32,), (32, 3)))
    case = {
        "image_ids_BK": torch.arange(96).view(32, 3),
        "image_mask_BK": torch.ones(32, 3, dtype=torch.bool),
        "logit_scale": torch.tensor(14.3),
    }
    loss = PreservationLoss()
    assert loss.bias.requires_grad
    assert float(loss.bias.detach()) == START_BIAS
    biased = loss(text, image, **case)
    nn.init.zeros_(loss.bias)
    assert loss(text, image, **case) > 2 * biased


def test_m_stage_two_moves_what_generates_and_not_what_retrieves(faithful: FaithfulParts) -> None:
    faithful.model.start_stage_two()
    pixels, ids = torch.randint(0, 256, (4, 3, 28, 28), dtype=torch.uint8), torch.randint(2, 200, (4, 6))
    before = (faithful.tower.encode_image(pixels)[0], faithful.tower.encode_text(ids))
    optimizer = torch.optim.SGD(faithful.generator.parameters(), lr=0.5)
    faithful.generator(**inputs(), labels_BT=torch.randint(2, 200, (3, 5))).backward()
    optimizer.step()
    after = (faithful.tower.encode_image(pixels)[0], faithful.tower.encode_text(ids))
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    # The published form has one model for both: its vectors left the index that they are looked up in.
    assert not torch.allclose(faithful.generator.reader.encode_image(pixels)[0], before[0], atol=1e-3)


def test_n_a_step_of_stage_one_reads_each_caption_once(faithful: FaithfulParts) -> None:
    calls: list[int] = []
    faithful.tower.text.register_forward_hook(lambda *_: calls.append(1))
    faithful.generator.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    stage = FaithfulContrastiveStage(faithful.model).train()
    stage(
        torch.randint(0, 256, (4, 3, 28, 28), dtype=torch.uint8),
        tower_ids_BL=torch.randint(2, 200, (4, 6)),
        pair_ids_B=torch.arange(4),
    )
    assert sum(calls) == 1  # the published code: 2


def test_n_only_pictures_that_are_shown_pass_the_vit(faithful: FaithfulParts) -> None:
    seen: list[int] = []
    faithful.generator.reader.vit.layernorm.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    case = inputs()
    case["image_mask_BK"][0, 1:] = False
    faithful.generator.remember(**case)
    assert seen == [7]


@pytest.mark.parametrize("width", [12, 20])
def test_o_the_mask_token_is_as_wide_as_the_vit(
    faithful_config: ZrigfConfig, corpus_tokenizer: Tokenizer, width: int
) -> None:
    tower = replace(faithful_config.tower, vision_width=width)
    parts = build_faithful(replace(faithful_config, tower=tower), corpus_tokenizer)
    assert parts.model.head is not None
    assert parts.model.head.mask_token_W is not None
    assert parts.model.head.mask_token_W.shape == (width,)  # the published code: 768, whatever the ViT


def test_o_a_context_that_is_too_long_keeps_its_newest_turn(faithful: FaithfulParts) -> None:
    turns = " ".join(["the blue bird sleeps at night"] * 9 + ["a red ball"])
    ids, _ = faithful.dialogue_tokenizer.context_ids([turns], max_length=12)
    cut_right = faithful.dialogue_tokenizer.encode(turns)[:10]
    assert faithful.dialogue_tokenizer.decode(ids[0].tolist()).endswith("a red ball")
    assert not faithful.dialogue_tokenizer.decode(cut_right).endswith("a red ball")


def test_o_perplexity_weighs_every_token_alike(faithful: FaithfulParts) -> None:
    losses = [np.array([1.0]), np.array([3.0, 3.0, 3.0])]
    by_token = np.exp(np.concatenate(losses).mean())
    by_batch = np.exp(np.mean([batch.mean() for batch in losses]))
    assert by_batch < by_token
    case, labels = inputs(b=2), torch.full((2, 6), -100)
    labels[0, :1], labels[1, :6] = 5, torch.randint(2, 200, (6,))
    together = faithful.generator.reply_loss(faithful.generator.remember(**case), labels)
    parts = [faithful.generator.remember(**{n: v[row : row + 1] for n, v in case.items()}) for row in (0, 1)]
    alone = [faithful.generator.reply_loss(memory, labels[row : row + 1]) for row, memory in enumerate(parts)]
    torch.testing.assert_close(together, (alone[0] + 6 * alone[1]) / 7)
