"""Image-Chat as ParlAI distributes it: one JSON array of {"image_hash", "dialog": [[style, text], ..]}.

Pictures lie in one folder under their hash. Styles and candidates are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sightline.data.arrays import read_array
from sightline.data.captions import CaptionRecord
from sightline.data.dialogues import DialogueRecord, numbered
from sightline.data.lines import SkipReport, text_field

_SUFFIXES = (".jpg", ".jpeg", ".png")


def read_image_chat(path: Path, *, skip_bad: bool = False, report: SkipReport | None = None) -> list[DialogueRecord]:
    """The dialogues of an Image-Chat file; `image_id` is the hash.

    The context is every turn but the last, the response the last: of a dialogue
    of one turn the response opens it. Raises DataLineInvalid naming file, item
    and field, also for a dialogue without a turn.
    """
    return numbered(read_array(path, parse=_dialogue, skip_bad=skip_bad, report=report), stem=path.stem)


def read_image_chat_captions(
    path: Path, *, images: Path, skip_bad: bool = False, report: SkipReport | None = None
) -> list[CaptionRecord]:
    """Each picture with what was said about it, as the published stage 1 pairs them: every turn but the last.

    Of a dialogue of one turn it is that turn. Pictures lie in `images` as
    <hash>.jpg, .jpeg or .png. Raises DataLineInvalid naming file, item and
    field, and the picture if it is missing.
    """

    def parse(row: Mapping[str, Any]) -> CaptionRecord:
        turns, image_id = _turns(row), text_field(row, "image_hash")
        return CaptionRecord(image_id=image_id, path=_picture(images, image_id), caption=" ".join(turns[:-1] or turns))

    return read_array(path, parse=parse, skip_bad=skip_bad, report=report)


def _dialogue(row: Mapping[str, Any]) -> DialogueRecord:
    image_id, turns = text_field(row, "image_hash"), _turns(row)
    return DialogueRecord(id="", context=tuple(turns[:-1]), response=turns[-1], image_id=image_id)


def _turns(row: Mapping[str, Any]) -> list[str]:
    turns = row.get("dialog")
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"dialog: got {turns!r}, expected at least one [style, text]")
    return [_turn_text(turn) for turn in turns]


def _turn_text(turn: Any) -> str:
    if not isinstance(turn, list) or len(turn) != 2:
        raise ValueError(f"dialog: got the turn {turn!r}, expected [style, text]")
    return text_field({"dialog": turn[1]}, "dialog")


def _picture(images: Path, image_hash: str) -> Path:
    found = next((path for suffix in _SUFFIXES if (path := images / f"{image_hash}{suffix}").is_file()), None)
    if found is None:
        raise ValueError(f"image_hash: no picture {images / image_hash}{{{','.join(_SUFFIXES)}}}")
    return found
