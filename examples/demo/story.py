"""The demo, step by step: a first release, a served suite, a second release while it serves, the measurement."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.demo.counting import Tally
from examples.demo.measure import NUM_PICTURES, ask_all, scores, turns_of
from examples.demo.processes import free_port, run_step, serving, write_serve_config
from examples.demo.report import picture_data, write_report
from examples.demo.takeover import Takeover, callers, next_move
from examples.wait_ready import wait_until_ready
from sightline.client import AsyncClient, Reply, ReplyFinish, ReplyHeader, ReplyText
from sightline.data.pools import PoolImage, read_pool
from sightline.data.questions import QuestionRecord, read_questions
from sightline.metrics import grade_answer
from sightline.registry import Registry

CHANNEL = "stable"
READY_WITHIN_S = 180.0
NUM_CONVERSATIONS = 8
RECIPE = "toytown-tiny"
FIRST_RELEASE_OPTIONS = ("--run.num_workers", "2")
"""Two workers of one thread train faster on two cores than one worker of two threads (1.4 times the samples)."""
SECOND_RELEASE_STEPS = 150
"""Optimiser steps of the second release's generative stage; its towers are those of the first."""


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Where the demo works and with what seed."""

    out: Path
    """Folder of everything that the demo makes."""
    seed: int
    """Seed of both trainings and of the random pictures."""
    questions: int
    """Held-out questions to ask; 0 asks all."""
    fit_options: tuple[str, ...] = ()
    """Further options of both trainings."""


class Story:
    """One run of the demo. `tell` runs it whole."""

    def __init__(self, settings: DemoSettings, *, console: Console) -> None:
        self._settings = settings
        self._console = console
        self._out = settings.out.resolve()
        self._world = self._out / "toytown"
        self._registry = Registry(str(self._out / "registry"))
        self._tally = Tally()
        self._began = time.monotonic()

    async def tell(self) -> dict[str, Any]:
        """Run every step; the summary, which is also written beside the report."""
        self._out.mkdir(parents=True, exist_ok=True)
        self._say("1. train and publish the first release")
        await self._fit("first", *FIRST_RELEASE_OPTIONS)
        questions, pool = self._read_world()
        port = free_port()
        config = write_serve_config(self._out / "serve.yaml", port=port, variables=self._variables())
        self._say(f"2. serve it: three Ray Serve applications on 127.0.0.1:{port}")
        async with (
            serving(config, log=self._out / "serve.log"),
            AsyncClient(f"127.0.0.1:{port}") as client,
        ):
            await wait_until_ready(client, timeout_s=READY_WITHIN_S)
            self._say(f"3. index {len(pool)} pictures that training never saw")
            await run_step(["sightline", "index", str(self._world / "pool.jsonl"), "--address", f"127.0.0.1:{port}"])
            self._say("4. talk")
            await self._talk(client, questions[:: max(1, len(questions) // 3)][:3])
            self._say("5. train a second release while callers never pause")
            takeover, seen_after_s = await self._take_over(client, questions)
            self._say(f"6. ask {len(questions)} held-out questions")
            return await self._measure(client, questions, pool=pool, takeover=takeover, seen_after_s=seen_after_s)

    def _say(self, text: str) -> None:
        self._console.rule(f"[bold]{text}[/bold]  [dim]{time.monotonic() - self._began:.0f} s[/dim]", align="left")

    async def _fit(self, name: str, *options: str) -> None:
        await run_step(
            [
                *("trainer", "fit", RECIPE, "--seed", str(self._settings.seed), "--channel", CHANNEL),
                *("--registry", str(self._out / "registry"), "--data.root", str(self._world)),
                *("--run.root", str(self._out / "runs"), "--run.name", name, *self._settings.fit_options, *options),
            ],
            log=self._out / f"fit-{name}.log" if name != "first" else None,
        )

    def _read_world(self) -> tuple[list[QuestionRecord], list[PoolImage]]:
        questions = read_questions(self._world / "questions.jsonl")
        wanted = self._settings.questions or len(questions)
        step = max(1, len(questions) // wanted)
        return questions[::step][:wanted], read_pool(self._world / "pool.jsonl")

    def _variables(self) -> dict[str, dict[str, str]]:
        shared = {"SIGHTLINE_REGISTRY": str(self._out / "registry"), "SIGHTLINE_CHANNEL": CHANNEL}
        return {
            "encoder": shared | {"SIGHTLINE_ENCODER_CACHE_DIR": str(self._out / "cache" / "encoder")},
            "retriever": {"SIGHTLINE_RETRIEVER_PATH": str(self._out / "index")},
            "generator": shared | {"SIGHTLINE_GENERATOR_CACHE_DIR": str(self._out / "cache" / "generator")},
        }

    async def _talk(self, client: AsyncClient, questions: Sequence[QuestionRecord]) -> None:
        for question in questions:
            for turn in turns_of(question):
                self._console.print(f"  [dim]{turn.speaker:>4}:[/dim] {turn.text}")
            self._tally.requests += 1
            text, images = "", 0
            async for event in client.stream_reply(turns_of(question)):
                if isinstance(event, ReplyHeader):
                    images = len(event.images)
                elif isinstance(event, ReplyText):
                    text += event.text
                elif isinstance(event, ReplyFinish):
                    self._console.print(f"   [green]bot:[/green] {text}  [dim](looked at {images} pictures)[/dim]\n")

    async def _take_over(self, client: AsyncClient, questions: Sequence[QuestionRecord]) -> tuple[Takeover, float]:
        first = await asyncio.to_thread(self._registry.channel, CHANNEL)
        assert first is not None, "the first release is published"
        async with callers(client, questions) as takeover:
            moved = asyncio.create_task(next_move(self._registry, CHANNEL, after=first.generation))
            fit = asyncio.create_task(
                self._fit(
                    "second", "--init-from", CHANNEL, "--stage1.steps", "0", "--stage2.steps", str(SECOND_RELEASE_STEPS)
                )
            )
            await asyncio.wait({moved, fit}, return_when=asyncio.FIRST_EXCEPTION)
            fit.result()
            published = await moved
            seen_after_s = await takeover.wait_for(
                published.generation, since_s=datetime.fromisoformat(published.published_at).timestamp()
            )
        self._tally.add(takeover.tally)
        self._console.print(
            f"  generation {published.generation} answered {seen_after_s:.1f} s after it was published; "
            f"{takeover.tally.requests} calls meanwhile, {takeover.tally.failed} failed"
        )
        return takeover, seen_after_s

    async def _measure(
        self,
        client: AsyncClient,
        questions: Sequence[QuestionRecord],
        *,
        pool: Sequence[PoolImage],
        takeover: Takeover,
        seen_after_s: float,
    ) -> dict[str, Any]:
        ids = [image.image_id for image in pool]
        answers = await ask_all(client, questions, pool_ids=ids, seed=self._settings.seed, tally=self._tally)
        summary: dict[str, Any] = {
            **scores(answers, questions),
            "questions": len(questions),
            "pool": len(pool),
            "seed": self._settings.seed,
            "takeover": {
                "calls": takeover.tally.requests,
                "failed": takeover.tally.failed,
                "seen_after_s": round(seen_after_s, 2),
            },
            "releases": self._releases(),
            "requests": self._tally.requests,
            "failed_requests": self._tally.failed,
            "errors": self._tally.errors,
            "wall_s": round(time.monotonic() - self._began, 1),
        }
        (self._out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        shown = range(0, len(questions), max(1, len(questions) // NUM_CONVERSATIONS))
        pictures = {image.image_id: image.path for image in pool}
        write_report(
            self._out / "report.html",
            summary=summary,
            takeover=summary["takeover"],
            conversations=[
                _conversation(questions[i], seen=answers.retrieved[i], blind=answers.none[i], pictures=pictures)
                for i in shown
            ],
            runs={"First release": self._out / "runs" / "first", "Second release": self._out / "runs" / "second"},
        )
        return summary

    def _releases(self) -> list[dict[str, Any]]:
        state = self._registry.channel(CHANNEL)
        assert state is not None, "two releases were published"
        ids = [state.previous, state.release_id] if state.previous else [state.release_id]
        return [
            {
                "generation": state.generation - len(ids) + 1 + place,
                "release_id": release_id,
                "embedding_space_id": self._registry.manifest(release_id).embedding_space_id,
            }
            for place, release_id in enumerate(ids)
        ]


def _conversation(question: QuestionRecord, *, seen: Reply, blind: Reply, pictures: dict[str, Path]) -> dict[str, Any]:
    return {
        "turns": turns_of(question),
        "answer": seen.text,
        "blind_answer": blind.text,
        "expected": question.answer,
        "is_right": grade_answer(seen.text, question),
        "pictures": [
            {
                "image_id": used.image_id,
                "score": used.score,
                "weight": used.weight,
                "data": picture_data(pictures[used.image_id].read_bytes()),
            }
            for used in seen.images[:NUM_PICTURES]
        ],
    }
