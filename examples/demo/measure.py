"""Scores of the served bot on held-out questions, measured through gRPC."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.progress import Progress

from examples.demo.counting import Tally
from sightline.client import AsyncClient, FoundImages, Reply, ReplyOptions, Turn
from sightline.data.dialogues import query_text
from sightline.data.questions import QuestionRecord
from sightline.metrics import grade_answer

CALLERS = 8
NUM_PICTURES = 3
MAX_ANSWER_TOKENS = 16

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the served bot said to every question, by where its pictures came from."""

    retrieved: list[Reply]
    none: list[Reply]
    random: list[Reply]
    first_hits: list[str]
    """Id of the first picture that a search with the question finds, "" if it finds none."""


def turns_of(question: QuestionRecord) -> list[Turn]:
    """The question's context as turns, the last one by the user."""
    count = len(question.context)
    return [
        Turn(speaker="user" if (count - place) % 2 else "bot", text=text) for place, text in enumerate(question.context)
    ]


async def ask_all(
    client: AsyncClient, questions: Sequence[QuestionRecord], *, pool_ids: Sequence[str], seed: int, tally: Tally
) -> Answers:
    """Every question with retrieved pictures, with none, and with random ones that do not show the subject."""
    dice = random.Random(seed)
    drawn = {question.id: _irrelevant(question, pool_ids=pool_ids, dice=dice) for question in questions}

    def reply(question: QuestionRecord, options: ReplyOptions) -> Awaitable[Reply]:
        return client.reply(turns_of(question), **(options | {"max_new_tokens": MAX_ANSWER_TOKENS}))

    def search(question: QuestionRecord) -> Awaitable[FoundImages]:
        return client.search_images(query_text(question.context), k=1)

    with Progress() as progress:
        each = _Rounds(questions=questions, progress=progress, tally=tally)
        found = await each.run("search", search)
        return Answers(
            first_hits=[hits.images[0].image_id if hits.images else "" for hits in found],
            retrieved=await each.run("retrieved pictures", lambda q: reply(q, {"k": NUM_PICTURES})),
            none=await each.run("no pictures", lambda q: reply(q, {"grounding": "none"})),
            random=await each.run("random pictures", lambda q: reply(q, {"image_ids": drawn[q.id]})),
        )


def scores(answers: Answers, questions: Sequence[QuestionRecord]) -> dict[str, float]:
    """Shares of questions answered right, by source of pictures, and recall at 1 of the search."""

    def accuracy(replies: Sequence[Reply]) -> float:
        return sum(grade_answer(reply.text, q) for reply, q in zip(replies, questions, strict=True)) / len(questions)

    hits = sum(first in q.relevant_image_ids for first, q in zip(answers.first_hits, questions, strict=True))
    return {
        "grounded_accuracy": accuracy(answers.retrieved),
        "text_only_accuracy": accuracy(answers.none),
        "random_picture_accuracy": accuracy(answers.random),
        "retrieval_recall_at_1": hits / len(questions),
    }


@dataclass(frozen=True, kw_only=True)
class _Rounds:
    """Asks all questions, a few callers at a time, with a progress bar a round."""

    questions: Sequence[QuestionRecord]
    progress: Progress
    tally: Tally

    async def run(self, title: str, call: Callable[[QuestionRecord], Awaitable[ResultT]]) -> list[ResultT]:
        bar = self.progress.add_task(title, total=len(self.questions))
        slots = asyncio.Semaphore(CALLERS)

        async def one(question: QuestionRecord) -> ResultT:
            async with slots:
                result = await self.tally.count(call(question))
            self.progress.advance(bar)
            return result

        return list(await asyncio.gather(*(one(question) for question in self.questions)))


def _irrelevant(question: QuestionRecord, *, pool_ids: Sequence[str], dice: random.Random) -> list[str]:
    relevant = set(question.relevant_image_ids)
    return dice.sample([image_id for image_id in pool_ids if image_id not in relevant], k=NUM_PICTURES)
