"""How an answer is read: as one JSON object of texts that speak of the scene, or not at all. Nothing is repaired."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any, TypeAlias

from sightline.language.asking import Problem

Run: TypeAlias = tuple[str, ...]
_PROMPT_RUN = 6
"""So many words in a row, the same as in our instructions, are a leak of them."""
_META = frozenset({"image", "images", "caption", "captions", "instruction", "instructions", "prompt", "json"})
_URL = re.compile(r"(?i)\b(?:[a-z][a-z0-9+.-]*://|www\.)|\b[a-z0-9-]+\.(?:com|org|net|io|ru|cn)\b")
_ROLE = re.compile(
    r"(?i)^\s*(?:system|assistant|user|human|developer)\s*:|<\|.*?\|>|<<?/?sys>>?|\[/?inst\]|</?(?:s|scene|edit)>|#{3}"
)
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffd]")
_WORD = re.compile(r"[\w']+")


def schema_of(fields: tuple[str, ...]) -> dict[str, Any]:
    """The JSON schema of an object of exactly these texts, none empty."""
    return {
        "type": "object",
        "properties": {name: {"type": "string", "minLength": 1} for name in fields},
        "required": list(fields),
        "additionalProperties": False,
    }


def quoted(text: str) -> str:
    """The text as JSON that can stand between <tags> and cannot close them: brackets are spelt with an escape."""
    return json.dumps(text, ensure_ascii=False).replace("<", "\\u003c").replace(">", "\\u003e")


def read_texts(text: str, *, fields: tuple[str, ...]) -> dict[str, str] | Problem:
    """The texts of an answer that is one JSON object of exactly these fields, in a code fence or bare."""
    try:
        found = json.loads(_unfenced(text))
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a ValueError too
        return Problem(reason="not_json", detail=f"not one JSON object: {_told(error)}", is_failure=True)
    has_fields = isinstance(found, dict) and found.keys() == set(fields)
    if not has_fields or not all(isinstance(value, str) for value in found.values()):
        wanted = " and ".join(fields)
        detail = f"expected exactly the text field{'s' if len(fields) > 1 else ''} {wanted}"
        return Problem(reason="wrong_fields", detail=detail, is_failure=True)
    return {name: found[name].strip() for name in fields}


def foreign(text: str, *, about: str, instructions: Collection[Run]) -> Problem | None:
    """What belongs to the conversation rather than to a scene, or would lead somewhere else.

    `about` is what the model was given, `instructions` the `runs` of what it was
    told: words of the first may come back, words of the second may not.
    """
    if _URL.search(text):
        return Problem(reason="url", detail="a text holds an address")
    if _ROLE.search(text):
        return Problem(reason="role_marker", detail="a text holds a role or template marker")
    if _CONTROL.search(text):
        detail = "a text holds a line break, a control character or half a letter"
        return Problem(reason="control_character", detail=detail)
    if runs(text) & (set(instructions) - runs(about)):
        return Problem(reason="prompt_phrase", detail="a text repeats the instructions")
    if meta := (set(words(text)) & _META) - set(words(about)):
        return Problem(reason="meta_word", detail=f"a text says {min(meta)!r}, which is not part of the scene")
    return None


def without_surrogates(text: str) -> str:
    """A text that can be written and sent: half of a pair of escapes, which is no letter, becomes U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)


def folded(text: str) -> str:
    """A text as far as it matters for being the same: letter case, spaces and the last full stop do not."""
    return " ".join(text.casefold().split()).rstrip(".")


def words(text: str) -> list[str]:
    """The words of a text, case folded."""
    return _WORD.findall(text.casefold())


def runs(text: str) -> frozenset[Run]:
    """Every six words in a row."""
    found = words(text)
    return frozenset(tuple(found[start : start + _PROMPT_RUN]) for start in range(len(found) - _PROMPT_RUN + 1))


def _unfenced(text: str) -> str:
    stripped = text.strip()
    if stripped.startswith("```") and stripped.endswith("```") and "\n" in stripped:
        return stripped.split("\n", 1)[1].removesuffix("```")
    return stripped


def _told(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"
