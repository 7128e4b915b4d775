"""How a conversation looks: streaming text and the pictures behind it, in a terminal, in a pipe, or as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sightline.client import FoundImage, ReplyFinish, ReplyHeader, UsedImage

_BAR_CHARS = 10
_MAX_METADATA_CHARS = 80


@dataclass
class HeardReply:
    """A reply while it arrives."""

    text: str = ""
    header: ReplyHeader | None = None
    finish: ReplyFinish | None = None

    @property
    def images(self) -> Sequence[UsedImage]:
        """The pictures that it looks at; none before its header came."""
        return self.header.images if self.header is not None else ()

    def as_json(self) -> dict[str, Any]:
        """The whole reply as plain values."""
        images = [
            {"image_id": i.image_id, "score": i.score, "weight": i.weight, "metadata": dict(i.metadata)}
            for i in self.images
        ]
        values: dict[str, Any] = {"text": self.text, "images": images}
        if self.finish is not None:
            served = self.finish.served
            values |= {
                "finish_reason": self.finish.finish_reason,
                "generated_tokens": self.finish.usage.generated_tokens,
                "release_id": served.release_id,
                "generation": served.generation,
                "timings_us": dict(served.timings_us),
            }
        return values


class View(Protocol):
    """What a conversation shows itself on."""

    def reply(self) -> Any:
        """A context in which a HeardReply grows; `update` of what it gives is called after every event."""

    def note(self, text: str) -> None:
        """Say something that is no part of the conversation."""


@dataclass
class Screen:
    """A terminal: text appears as it is written, the pictures below it once it is whole."""

    console: Console

    @contextmanager
    def reply(self) -> Iterator[HeardReply]:
        """A reply that is redrawn as it grows."""
        heard = HeardReply()
        with Live(console=self.console, refresh_per_second=20, get_renderable=lambda: _speech(heard)):
            yield heard
        if heard.images:
            self.console.print(_pictures(heard.images))

    def note(self, text: str) -> None:
        """A dim line."""
        self.console.print(Text(text, style="dim"))


@dataclass
class Pipe:
    """A pipe or a file: one line a reply, then one line a picture."""

    console: Console

    @contextmanager
    def reply(self) -> Iterator[HeardReply]:
        """A reply that is written once it is whole."""
        heard = HeardReply()
        yield heard
        self._line(f"bot> {printable(heard.text)}")
        for image in heard.images:
            self._line("  " + _described(image))

    def note(self, text: str) -> None:
        """A line in brackets."""
        self._line(f"[{text}]")

    def _line(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)


@dataclass
class JsonLines:
    """One JSON object a reply, for programs."""

    console: Console

    @contextmanager
    def reply(self) -> Iterator[HeardReply]:
        """A reply that is written once it is whole."""
        heard = HeardReply()
        yield heard
        self.console.print(Text(json.dumps(heard.as_json(), ensure_ascii=False)), soft_wrap=True)

    def note(self, text: str) -> None:
        """Nothing: a program reads replies alone."""


def printable(text: str) -> str:
    """`text` without control characters: nothing that was stored or generated may steer a terminal."""
    return "".join(character for character in text if character.isprintable())


def described(image: FoundImage) -> str:
    """A picture that was found, on one line."""
    return f"{printable(image.image_id)} {image.score:.2f} {_metadata(image)}".rstrip()


def _speech(heard: HeardReply) -> Text:
    waiting = "looking ..." if heard.header is None else "..."
    return Text.assemble(("bot> ", "bold cyan"), printable(heard.text) or (waiting, "dim"))


def _pictures(images: Sequence[UsedImage]) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim", style="dim")
    table.add_column("     looked at")
    table.add_column("score", justify="right")
    table.add_column("weight")
    table.add_column("stored with")
    for image in images:
        filled = round(image.weight * _BAR_CHARS)
        bar = "█" * filled + "░" * (_BAR_CHARS - filled)
        name = f"     {_name(image)}"
        table.add_row(Text(name), f"{image.score:.2f}", f"{bar} {image.weight:.2f}", Text(_metadata(image)))
    return table


def _described(image: UsedImage) -> str:
    return f"looked at {_name(image)} score {image.score:.2f} weight {image.weight:.2f} {_metadata(image)}".rstrip()


def _name(image: UsedImage) -> str:
    return printable(image.image_id) or "your picture"


def _metadata(image: UsedImage | FoundImage) -> str:
    pairs = ", ".join(f"{key}: {value}" for key, value in sorted(image.metadata.items()))
    clean = printable(pairs)
    return clean if len(clean) <= _MAX_METADATA_CHARS else clean[: _MAX_METADATA_CHARS - 3] + "..."
