"""`edits.jsonl`: a captioned picture, an edit in words and the caption of the picture that the edit asks for.

{"id", "image", "reference_caption", "modification", "target_caption", "edit_type", "generator": {"kind", "model",
"prompt_version", "seed"}}. The target is a text: no picture of it is needed, or exists. "image" is the id that the
captions file gives the reference picture, so that pictures inside tars can be named too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sightline.data.lines import SkipReport, checked_object, read_lines, text_field, write_lines

EDIT_TYPES = ("add", "remove", "replace", "attribute", "count", "background", "viewpoint", "relation")
"""What an edit can change about a scene."""
GENERATOR_KINDS = ("llm", "rule")


@dataclass(frozen=True, kw_only=True)
class EditGenerator:
    """What wrote an edit."""

    kind: str
    """One of `GENERATOR_KINDS`."""
    model: str
    prompt_version: str
    """Of the prompt, or of the rules and the part of their templates that was used."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class EditRecord:
    """One reference picture, one modification and one target caption."""

    id: str
    """sha256 of caption, prompt version, model, seed and edit type, in hex: who asked the same has the same id."""
    image_id: str
    reference_caption: str
    modification: str
    """What changes, such as 'make the car blue'; it never restates the whole target."""
    target_caption: str
    edit_type: str
    """One of `EDIT_TYPES`."""
    generator: EditGenerator


def read_edits(path: Path, *, skip_bad: bool = False, report: SkipReport | None = None) -> list[EditRecord]:
    """The edits of a JSONL file in file order.

    Raises DataLineInvalid naming file and line, for an id seen before too; with
    `skip_bad` such lines are counted in `report`, else logged.
    """
    seen = set[str]()

    def parse(row: Mapping[str, Any]) -> EditRecord:
        record = parse_edit(row)
        if record.id in seen:
            raise ValueError(f"id: {record.id!r} occurs twice in the file")
        seen.add(record.id)
        return record

    return read_lines(path, parse=parse, skip_bad=skip_bad, report=report)


def write_edits(path: Path, records: Iterable[EditRecord]) -> int:
    """The number of edits written to a JSONL file."""
    return write_lines(path, (edit_row(record) for record in records))


def parse_edit(row: Mapping[str, Any]) -> EditRecord:
    """The record of one JSON object. Raises ValueError naming the bad field, or one that no record has."""
    _refuse_others(row, known=("id", "image", *_TEXTS, "edit_type", "generator"))
    return EditRecord(
        id=text_field(row, "id"),
        image_id=text_field(row, "image"),
        reference_caption=text_field(row, "reference_caption"),
        modification=text_field(row, "modification"),
        target_caption=text_field(row, "target_caption"),
        edit_type=_choice(row, "edit_type", choices=EDIT_TYPES),
        generator=_generator(row),
    )


def edit_row(record: EditRecord) -> dict[str, Any]:
    """The JSON object of a record, keys in the order of the format."""
    texts = {name: getattr(record, name) for name in _TEXTS}
    head = {"id": record.id, "image": record.image_id}
    return head | texts | {"edit_type": record.edit_type, "generator": asdict(record.generator)}


_TEXTS = ("reference_caption", "modification", "target_caption")


def _generator(row: Mapping[str, Any]) -> EditGenerator:
    try:
        inner = checked_object(row.get("generator"))
        _refuse_others(inner, known=("kind", "model", "prompt_version", "seed"))
        return EditGenerator(
            kind=_choice(inner, "kind", choices=GENERATOR_KINDS),
            model=text_field(inner, "model"),
            prompt_version=text_field(inner, "prompt_version"),
            seed=_whole(inner, "seed"),
        )
    except ValueError as error:
        raise ValueError(f"generator: {error}") from error


def _choice(row: Mapping[str, Any], name: str, *, choices: tuple[str, ...]) -> str:
    value = text_field(row, name)
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(choices)}")
    return value


def _whole(row: Mapping[str, Any], name: str) -> int:
    value = row.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name}: got {value!r}, expected a whole number")
    return value


def _refuse_others(row: Mapping[str, Any], *, known: tuple[str, ...]) -> None:
    if others := sorted(row.keys() - set(known)):
        raise ValueError(f"{others[0]}: no such field; there are {', '.join(known)}")
