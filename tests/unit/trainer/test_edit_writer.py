"""The example that teaches a language model of its own to write edits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from examples.edit_writer.__main__ import chosen_pictures, unwritten
from examples.edit_writer.teaching import CHAT_TEMPLATE, Lesson, pairs_of, teach
from sightline.data.captions import CaptionRecord, write_captions
from sightline.data.edits import EditGenerator, EditRecord, write_edits
from sightline.data.triplets import COMPOSED_FOLDER
from sightline.errors import UsageError
from trainer.triplets.asking import Answer, Ask, Complaint, Pair
from trainer.triplets.model_generator import by_local_model
from trainer.triplets.prompt import ASKED_FOR, messages_for

_BY = EditGenerator(kind="rule", model="hand", prompt_version="1", seed=0)
_NAMES = ("dog", "car", "boat", "house")


def edit(number: int, *, name: str) -> EditRecord:
    return EditRecord(
        id=str(number),
        image_id=name,
        reference_caption=f"a red {name}",
        modification=f"paint the {name} blue",
        target_caption=f"a blue {name}",
        edit_type="attribute",
        generator=_BY,
    )


def ask(record: EditRecord, *, complaint: Complaint | None = None) -> Ask:
    caption = CaptionRecord(image_id=record.image_id, path=Path(), caption=record.reference_caption)
    return Ask(record=caption, edit_type=record.edit_type, key=record.id, seed=0, complaint=complaint)


EDITS = [edit(number, name=name) for number, name in enumerate(_NAMES)]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sequence[float]]:
    """(folder of a model that learned four edits by heart, its losses)."""
    folder = tmp_path_factory.mktemp("taught") / "writer"
    losses: list[float] = []
    lesson = Lesson(steps=100, batch_size=4, width=64, layers=2, heads=2, vocabulary=400)
    teach(EDITS, folder, lesson=lesson, on_step=losses.append)
    return folder, losses


@pytest.mark.slow
def test_a_writer_that_learned_edits_by_heart_writes_them_through_the_generator(
    taught: tuple[Path, Sequence[float]],
) -> None:
    folder, losses = taught
    assert losses[-1] < 0.1 * losses[0]
    answers: list[Answer] = by_local_model(folder, seed=0, temperature=0.0).propose([ask(one) for one in EDITS])
    assert [one.result for one in answers] == [
        Pair(modification=one.modification, target_caption=one.target_caption) for one in EDITS
    ]


@pytest.mark.slow
def test_a_writer_reads_the_last_question_alone_even_after_a_complaint(taught: tuple[Path, Sequence[float]]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(taught[0]))
    assert tokenizer.chat_template == CHAT_TEMPLATE
    question = f'<scene>"a red dog"</scene>\nThe change: {ASKED_FOR["attribute"]}.'
    assert pairs_of(EDITS[:1], tokenizer=tokenizer)[0][0] == question
    again = messages_for(ask(EDITS[0], complaint=Complaint(answer="{}", message="it is empty")))
    assert tokenizer.apply_chat_template(again, tokenize=False, add_generation_prompt=True) == question


def test_what_is_left_to_write_about_are_pictures_with_edits_that_taught_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    write_edits(tmp_path / COMPOSED_FOLDER / "edits_train.jsonl", EDITS)
    captioned = [*_NAMES, "tree"]
    write_captions(
        tmp_path / "captions_train.jsonl",
        (CaptionRecord(image_id=name, path=tmp_path / "a.png", caption=f"a {name}") for name in captioned),
    )
    pictures = chosen_pictures(EDITS, count=2, seed=0)
    assert len(pictures) == 2
    left = [record.image_id for record in unwritten(tmp_path, split="train", taught=pictures)]
    assert left == [name for name in _NAMES if name not in pictures]


@pytest.mark.parametrize("count", [0, 4])
def test_as_many_pictures_as_there_are_cannot_teach(count: int) -> None:
    with pytest.raises(UsageError, match=f"taught: got {count} pictures, limits 1 and 3, as 4 have edits"):
        chosen_pictures(EDITS, count=count, seed=0)
