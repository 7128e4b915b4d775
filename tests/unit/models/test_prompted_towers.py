"""The prompted passes against open_clip's own, and against slow loops."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.errors import SettingInvalid
from sightline.models.composer import Composer, build_composer
from sightline.models.composer_config import ComposerConfig, PromptConfig
from sightline.models.prompted import PromptedPicture, PromptedText, causal_reader, prompted_picture
from sightline.models.prompts import FeatureAdapter, PromptLearner, prompt_depth
from sightline.models.towers import build_tower, tower_config_of_tag
from tests.unit.models.composing import DEEP, STAGE_ONE, STAGE_TWO, Room
from tests.unit.models.conftest import FaithfulParts
from tests.unit.models.test_towers import LOCAL, built, local_folder

DEPTH, COUNT = 2, 3


def text_of(room: Room) -> PromptedText:
    return PromptedText(causal_reader(room.tower)[1], placeholder_id=room.tokenizer.placeholder_id)


def picture_of(room: Room) -> PromptedPicture:
    return prompted_picture(room.tower)


def words_of(room: Room, ids_BL: Tensor) -> Tensor:
    """The pseudo-word that is no pseudo-word: the placeholder's own embedding."""
    weight = text_of(room).reader.tower.token_embedding.weight
    return weight[room.tokenizer.placeholder_id].expand(len(ids_BL), -1)


@torch.no_grad()
def test_without_prompts_the_text_pass_is_exactly_the_plain_one(room: Room) -> None:
    ids, text = room.ids(), text_of(room)
    plain = room.tower.encode_text(ids)
    none = torch.zeros(DEPTH, 0, text.width)
    for prompts in (None, none):
        assert torch.equal(text.encode(ids, pseudo_BW=words_of(room, ids), prompts=prompts), plain)
    torch.testing.assert_close(plain, room.tower.model.encode_text(ids, normalize=True), atol=1e-5, rtol=0)


@torch.no_grad()
def test_without_prompts_the_picture_pass_is_exactly_the_plain_one(room: Room) -> None:
    picture = picture_of(room)
    for prompts in (None, torch.zeros(DEPTH, 0, picture.width)):
        assert torch.equal(picture.encode(room.pixels, prompts=prompts), room.vectors())


@torch.no_grad()
def test_deep_text_prompts_equal_a_slow_loop(room: Room) -> None:
    """Sentence by sentence, slot by slot, through open_clip's own blocks with an explicit mask."""
    ids, text = room.ids(), text_of(room)
    tower, end = text.reader.tower, text.reader.end_of_text(ids)
    pseudo, prompts = torch.randn(len(ids), text.width), torch.randn(len(ids), DEPTH, COUNT, text.width)
    expected = []
    for b in range(len(ids)):
        tokens = [pseudo[b] if i == text.placeholder_id else tower.token_embedding.weight[i] for i in ids[b].tolist()]
        x = torch.stack([token + tower.positional_embedding[at] for at, token in enumerate(tokens)])
        x = torch.cat([x[:1], torch.zeros(COUNT, text.width), x[1:]])
        mask = torch.full((len(x), len(x)), float("-inf")).triu(1)
        for number, block in enumerate(tower.transformer.resblocks):
            for slot in range(COUNT):
                if number < DEPTH:
                    x[1 + slot] = prompts[b, number, slot]
            x = block(x[None], attn_mask=mask)[0]
        expected.append(F.normalize(tower.ln_final(x[int(end[b]) + COUNT]) @ tower.text_projection, dim=-1))
    found = text.encode(ids, pseudo_BW=pseudo, prompts=prompts)
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=0)


@torch.no_grad()
def test_deep_picture_prompts_equal_a_slow_loop(room: Room) -> None:
    picture, visual = picture_of(room), room.tower.model.visual
    prompts = torch.randn(len(room.pixels), DEPTH, COUNT, picture.width)
    expected = []
    for b, pixels in enumerate(room.pixels):
        x = visual._embeds(room.tower.normalize(pixels[None], torch.float32))
        real = x.shape[1]
        for number, block in enumerate(visual.transformer.resblocks):
            x = block(torch.cat([x[:, :real], prompts[b, number][None] if number < DEPTH else x[:, real:]], dim=1))
        expected.append(F.normalize(visual.ln_post(x[0, 0]) @ visual.proj, dim=-1))
    found = picture.encode(room.pixels, prompts=prompts)
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=0)


def test_every_placeholder_of_a_sentence_gets_the_same_pseudo_word(room: Room) -> None:
    text = text_of(room)
    ids = torch.from_numpy(room.tokenizer.tokenize_around([["a", "on the", ""]]).ids)
    pseudo = torch.randn(1, text.width)
    embedded = text.embed_around(ids, pseudo_BW=pseudo)
    is_word = ids == text.placeholder_id
    assert torch.equal(embedded[is_word], pseudo.expand(2, -1))
    assert torch.equal(embedded[~is_word], text.reader.embed(ids)[~is_word])


def test_a_sentence_without_placeholder_is_refused(room: Room) -> None:
    text = text_of(room)
    ids = torch.cat([room.ids(), torch.from_numpy(room.tokenizer.tokenize(["a ball"]).ids)])
    with pytest.raises(SettingInvalid, match="sentence 3: has no placeholder"):
        text.encode(ids, pseudo_BW=torch.zeros(4, text.width))


@torch.no_grad()
def test_the_gate_reads_the_mean_embedding_of_the_edit_alone(room: Room) -> None:
    text, ids = text_of(room), room.ids(["is red", ""])
    first = ids[0].tolist()
    start, end = first.index(text.placeholder_id) + 1, int(text.reader.end_of_text(ids)[0])
    expected = sum(text.reader.tower.token_embedding.weight[i] for i in first[start:end]) / (end - start)
    mean = text.mean_edit(ids)
    torch.testing.assert_close(mean[0], expected)
    assert mean[1].eq(0).all()


@torch.no_grad()
def test_prompts_of_experts_equal_a_loop_over_samples(room: Room) -> None:
    text, ids = text_of(room), room.ids()
    config = PromptConfig(num_prompts=COUNT, num_experts=4, coupling="linear")
    learner = PromptLearner(config, depth=DEPTH, text_width=text.width, picture_width=5)
    assert learner.text is not None
    assert learner.gate is not None
    learner.text.data.normal_()
    found = learner(text.mean_edit(ids))
    for b, mean in enumerate(text.mean_edit(ids)):
        share = learner.gate(mean).softmax(dim=-1)
        mixed = sum(share[k] * learner.text[k] for k in range(4))
        torch.testing.assert_close(found.text[b], mixed)
        for j, linear in enumerate(learner.coupling):
            torch.testing.assert_close(found.picture[b, j], linear(mixed[j]))
        pseudo = torch.ones(1, text.width)
        alone = text.encode(ids[b : b + 1], pseudo_BW=pseudo, prompts=mixed)
        together = text.encode(ids, pseudo_BW=pseudo.expand(len(ids), -1), prompts=found.text)
        torch.testing.assert_close(together[b : b + 1], alone, atol=1e-6, rtol=0)


def test_a_fresh_adapter_changes_nothing() -> None:
    vectors = F.normalize(torch.randn(5, 8), dim=-1)
    adapter = FeatureAdapter(8)
    assert torch.equal(adapter(vectors), vectors)
    assert sum(parameter.numel() for parameter in adapter.parameters()) == 8 * 2 + 2 + 2 * 8 + 8


def test_prompts_reach_three_quarters_of_the_blocks_unless_told() -> None:
    assert [prompt_depth(0, num_blocks=blocks) for blocks in (1, 2, 12, 24)] == [1, 2, 9, 18]
    with pytest.raises(SettingInvalid, match="got 4, the towers have 3 blocks"):
        prompt_depth(4, num_blocks=3)


def test_the_first_prompts_start_as_the_towers_own_words(room: Room) -> None:
    composer = room.composer(STAGE_TWO)
    ids = room.tokenizer.tokenize(["a photo of a"]).ids[0, 1:5].tolist()
    assert composer.prompts is not None
    assert composer.prompts.text is not None
    expected = causal_reader(room.tower)[1].tower.token_embedding.weight[ids]
    assert torch.equal(composer.prompts.text[0, 0], expected)


def test_the_faithful_variants_tower_is_refused_with_the_reason(faithful: FaithfulParts) -> None:
    with pytest.raises(SettingInvalid, match="faithful variant reads with BART"):
        build_composer(STAGE_ONE, tower=faithful.tower, tokenizer=faithful.tower_tokenizer, embedding_space_id="space")


@pytest.mark.parametrize("changes", [{"pool_type": "last"}, {"no_causal_mask": True}, {"embed_cls": True}])
def test_a_text_tower_that_is_read_elsewhere_is_refused(
    rooms: dict[str, Room], tmp_path: Path, changes: dict[str, object]
) -> None:
    tag = local_folder(tmp_path, text_cfg={**LOCAL["text_cfg"], **changes}, custom_text=True)  # type: ignore[dict-item]
    tower = build_tower(tower_config_of_tag(tag))
    with pytest.raises(SettingInvalid, match="got a TextTransformer"):
        build_composer(STAGE_ONE, tower=tower, tokenizer=rooms["clip"].tokenizer, embedding_space_id="space")


def test_a_resnet_takes_the_adapter_but_no_deep_prompts(tmp_path: Path) -> None:
    tower = built({"layers": [1, 1, 1, 1], "width": 16, "image_size": 64}, tmp_path)
    ids = torch.tensor([[1, 3, 5, 7, 39, 0, 0, 0, 0], [1, 3, 5, 39, 0, 0, 0, 0, 0]])
    with pytest.raises(SettingInvalid, match="got picture tower ModifiedResNet"):
        Composer(DEEP, tower=tower, placeholder_id=5, embedding_space_id="space")
    config = ComposerConfig(picture_side="feature")
    composer = Composer(config, tower=tower, placeholder_id=5, embedding_space_id="space").eval()
    assert composer(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), ids).shape == (2, tower.dimension)
