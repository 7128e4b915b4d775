"""`sightline chat`: talk to a bot that sees, in the terminal or through a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from sightline.cli.chat_view import HeardReply, JsonLines, Pipe, Screen, View, described
from sightline.client import (
    Client,
    ComposedSearch,
    Edit,
    Endpoints,
    ReplyEvent,
    ReplyHeader,
    ReplyOptions,
    ReplyText,
    Tls,
    Turn,
    follow_up,
)
from sightline.errors import CapabilityMissing, ImageNotFound, IndexEmpty, SightlineError, UsageError
from sightline.limits import DEFAULT_NEW_TOKENS, DEFAULT_REPLY_IMAGES, MAX_DIALOGUE_TURNS, MAX_PICTURE_BYTES
from sightline.settings import environment

DEFAULT_ADDRESS = "127.0.0.1:9000"
HELP = """"like that one, but red", "the same without the car": finds what you mean from the picture shown last
/look FILE             show a picture; the bot looks at it until the next /look or /pictures
/pictures retrieve     find pictures in the index for every question (the default)
/pictures none         answer from the text alone
/reset                 forget the conversation
/save FILE             write the conversation as JSON
/quit                  leave"""

app = typer.Typer(help="Talk to a bot that sees.")


@dataclass
class Conversation:
    """What was said, and what the bot looks at."""

    turns: list[Turn] = field(default_factory=list)
    transcript: list[dict[str, Any]] = field(default_factory=list)
    """Each turn with the pictures behind it, as `/save` writes it."""
    shown: bytes | None = None
    """The picture that the user shows."""
    last_shown: bytes | str | None = None
    """The picture shown last, by the user (its bytes) or the best behind the last answer (its id)."""
    grounding: Literal["auto", "none"] = "auto"

    def ask(self, text: str) -> list[Turn]:
        """The dialogue to send: what was said, as far as a call may carry it, and `text` last."""
        return [*self.turns, Turn(speaker="user", text=text)][-MAX_DIALOGUE_TURNS:]

    def remember(self, text: str, *, heard: HeardReply, found: Sequence[str] = ()) -> None:
        """Add a question, the pictures that were found for it if it was an edit, and its answer.

        An answer without words is no turn.
        """
        self.turns.append(Turn(speaker="user", text=text))
        self.transcript.append({"speaker": "user", "text": text, "shows_picture": self.shown is not None})
        shown = [*found, *(image.image_id for image in heard.images if image.image_id)]
        self.last_shown = next(iter(shown), self.last_shown)
        if heard.text.strip():
            self.turns.append(Turn(speaker="bot", text=heard.text))
        self.transcript.append({"speaker": "bot", **heard.as_json()})

    def reset(self) -> None:
        """Forget everything but where pictures come from."""
        self.turns.clear()
        self.transcript.clear()
        self.shown = self.last_shown = None


class Chat:
    """A conversation with a bot: lines in, replies on a view."""

    def __init__(self, client: Client, view: View, *, options: ReplyOptions) -> None:
        self._client = client
        self._view = view
        self._options = options
        self._k = options.get("k", DEFAULT_REPLY_IMAGES)
        self._conversation = Conversation()
        self._commands: dict[str, Callable[[str], None]] = {
            "/look": self._look,
            "/pictures": self._pictures,
            "/reset": self._reset,
            "/save": self._save,
            "/help": lambda _: self._view.note(HELP),
        }

    def handle(self, line: str) -> bool:
        """Answer one line, or do what it commands; False if it ends the conversation.

        Raises UsageError for a bad command and what the services raise.
        """
        text = line.strip()
        if text == "/quit":
            return False
        if text.startswith("/"):
            self._command(text)
        elif text:
            self._answer(text)
        return True

    def _command(self, text: str) -> None:
        name, _, argument = text.partition(" ")
        if name not in self._commands:
            raise UsageError(f"command: got {name}, expected one of {', '.join(self._commands)}, /quit")
        self._commands[name](argument.strip())

    def _answer(self, text: str) -> None:
        conversation = self._conversation
        found = self._found_by_edit(text)
        options = self._options | ReplyOptions(grounding=conversation.grounding)
        if found:
            options |= ReplyOptions(image_ids=found, grounding="retrieved")
        elif conversation.shown is not None:
            options |= ReplyOptions(picture=conversation.shown, grounding="given")
        events = self._client.stream_reply(conversation.ask(text), **options)
        with self._view.reply() as heard:
            _listen(events, heard=heard)
        conversation.remember(text, heard=heard, found=found)

    def _found_by_edit(self, text: str) -> list[str]:
        """The pictures that a follow-up such as "like that one, but red" asks for; none if it is an ordinary turn.

        It is also one, and a note says why, where nothing was shown before,
        where no composer answers, and where the picture is gone.
        """
        edit = follow_up(text)
        if edit is None or self._conversation.grounding == "none":
            return []
        last = self._conversation.last_shown
        if last is None:
            self._view.note("no picture was shown yet: taking this as a question")
            return []
        try:
            found = self._client.search_images(_search_from(last, edit=edit), k=self._k)
        except (CapabilityMissing, ImageNotFound, IndexEmpty) as error:
            self._view.note(f"{error.message}: taking this as a question")
            return []
        self._view.note("; ".join(["found", *(described(image) for image in found.images)]))
        return [image.image_id for image in found.images]

    def _look(self, argument: str) -> None:
        path = Path(argument).expanduser()
        if not argument or not path.is_file():
            raise UsageError(f"/look: got {argument!r}, expected the path of a picture")
        if path.stat().st_size > MAX_PICTURE_BYTES:
            raise UsageError(f"/look: {path} has {path.stat().st_size} bytes, limit {MAX_PICTURE_BYTES}")
        self._conversation.shown = self._conversation.last_shown = path.read_bytes()
        self._view.note(f"looking at {path.name}")

    def _pictures(self, argument: str) -> None:
        if argument not in {"none", "retrieve"}:
            raise UsageError(f"/pictures: got {argument!r}, expected none or retrieve")
        self._conversation.shown = None
        self._conversation.grounding = "none" if argument == "none" else "auto"
        self._view.note("answering from text alone" if argument == "none" else "looking for pictures")

    def _reset(self, argument: str) -> None:
        self._conversation.reset()
        self._view.note("forgot the conversation")

    def _save(self, argument: str) -> None:
        if not argument:
            raise UsageError("/save: got nothing, expected a path")
        path = Path(argument).expanduser()
        document = json.dumps({"turns": self._conversation.transcript}, indent=2, ensure_ascii=False)
        try:
            path.write_text(document + "\n", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"/save: cannot write {path}: {error.strerror}") from error
        self._view.note(f"saved {len(self._conversation.transcript)} turns to {path}")


@app.callback(invoke_without_command=True)
def chat(
    *,
    address: Annotated[
        str, typer.Option(help="host:port of Ray Serve. Default: SIGHTLINE_ADDRESS, else 127.0.0.1:9000.")
    ] = "",
    generator: Annotated[str, typer.Option(help="host:port of a generator that is hosted by itself.")] = "",
    retriever: Annotated[str, typer.Option(help="host:port of a retriever that is hosted by itself.")] = "",
    once: Annotated[str, typer.Option(help="Ask this one question and leave.")] = "",
    look: Annotated[Path | None, typer.Option(help="Show this picture from the start.")] = None,
    pictures: Annotated[str, typer.Option(help="retrieve or none.")] = "retrieve",
    k: Annotated[int, typer.Option(help="Pictures to retrieve, 1 to 8.")] = DEFAULT_REPLY_IMAGES,
    min_score: Annotated[float | None, typer.Option(help="Least similarity of a picture, -1 to 1.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer in tokens, 1 to 256.")] = DEFAULT_NEW_TOKENS,
    timeout_s: Annotated[float, typer.Option(help="Longest wait for an answer.")] = 60.0,
    tls: Annotated[bool, typer.Option("--tls", help="Speak TLS, trusting the machine's roots or --ca-file.")] = False,
    ca_file: Annotated[Path | None, typer.Option(help="PEM certificates that sign the service.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write each reply as one JSON object.")] = False,
) -> None:
    """Talk to a bot that sees. Lines from a pipe are one turn each. /help inside lists the commands."""
    together = address or environment("SIGHTLINE_ADDRESS", default=DEFAULT_ADDRESS)
    endpoints = Endpoints(generator=generator or together, retriever=retriever or together)
    token = environment("SIGHTLINE_TOKEN") or None
    options = ReplyOptions(k=k, max_new_tokens=max_new_tokens)
    if min_score is not None:
        options["min_score"] = min_score
    secured = Tls(ca_file=ca_file) if tls or ca_file is not None else None
    with Client(endpoints, token=token, timeout_s=timeout_s, tls=secured) as client:
        console = Console(highlight=False)
        bot = Chat(client, _view(console, as_json=as_json), options=options)
        opening = [f"/pictures {pictures}"] if pictures != "retrieve" else []
        opening += [f"/look {look}"] if look is not None else []
        for line in opening:
            bot.handle(line)
        _converse(bot, console, once=once)


def _search_from(shown: bytes | str, *, edit: Edit) -> ComposedSearch:
    if isinstance(shown, bytes):
        return ComposedSearch.of(edit, picture=shown)
    return ComposedSearch.of(edit, image_id=shown)


def _converse(bot: Chat, console: Console, *, once: str) -> None:
    if once:
        bot.handle(once)
    elif sys.stdin.isatty():
        _talk(bot, console)
    else:
        _run(bot, sys.stdin)


def _talk(bot: Chat, console: Console) -> None:
    """A person types: a failure is shown, and the conversation goes on; Ctrl-C ends a reply, at the prompt all."""
    import readline  # noqa: F401 - gives the prompt its line editing and history

    console.print("Ask something, or /help.", style="dim")
    for line in _typed(console):
        try:
            if not bot.handle(line):
                return
        except SightlineError as error:
            console.print(f"{error.reason}: {error.message}", style="red", markup=False)
        except KeyboardInterrupt:
            console.print("stopped", style="dim")


def _typed(console: Console) -> Iterator[str]:
    while True:
        try:
            yield console.input("[bold]you> [/bold]")
        except (EOFError, KeyboardInterrupt):
            return


def _run(bot: Chat, lines: Iterable[str]) -> None:
    """A program writes: the first failure ends it, with an exit code."""
    for line in lines:
        if not bot.handle(line):
            return


def _listen(events: Iterator[ReplyEvent], *, heard: HeardReply) -> None:
    for event in events:
        match event:
            case ReplyHeader():
                heard.header = event
            case ReplyText(text=text):
                heard.text += text
            case _:
                heard.finish = event


def _view(console: Console, *, as_json: bool) -> View:
    if as_json:
        return JsonLines(console)
    return Screen(console) if console.is_terminal else Pipe(console)
