"""The only reader of the process environment: variables in, frozen dataclasses out."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from sightline.errors import SettingInvalid

PREFIX = "SIGHTLINE_"
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})

SettingsT = TypeVar("SettingsT")


def read_settings(kind: type[SettingsT], *, section: str, environ: Mapping[str, str] | None = None) -> SettingsT:
    """A `kind` filled from `SIGHTLINE_<SECTION>_<FIELD>`, else `SIGHTLINE_<FIELD>`, else the field's default.

    Raises SettingInvalid if a variable of the section names no field, a value
    does not parse, or a field without a default is absent.
    """
    source = os.environ if environ is None else environ
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    _refuse_unknown(source, section=section, known=fields)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        text = _lookup(source, section=section, name=name)
        if text is not None:
            values[name] = parse_value(text, hints[name], name=name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise SettingInvalid(f"{PREFIX}{section.upper()}_{name.upper()} is required and not set")
    return kind(**values)


def parse_value(text: str, hint: Any, *, name: str) -> Any:
    """`text` as a value of `hint`: str, int, float, bool, Path, tuple[str, ...], or one of these or None.

    Raises SettingInvalid naming the value and the expected type.
    """
    options = [option for option in get_args(hint) if option is not type(None)]
    if get_origin(hint) is tuple:
        return tuple(parse_value(part.strip(), options[0], name=name) for part in text.split(",") if part.strip())
    if type(None) in get_args(hint):
        return None if text.lower() in {"", "none"} else parse_value(text, options[0], name=name)
    try:
        return _as_bool(text) if hint is bool else hint(text)
    except (TypeError, ValueError) as error:
        kind = getattr(hint, "__name__", str(hint))
        raise SettingInvalid(f"{name}: got {text!r}, expected {kind}") from error


def environment(name: str, *, default: str = "") -> str:
    """The raw variable `name` of the process environment."""
    return os.environ.get(name, default)


def set_environment(name: str, value: str) -> None:
    """Set a variable for libraries that read the environment themselves, Ray among them."""
    os.environ[name] = value


def nearest(name: str, known: Mapping[str, object] | list[str]) -> str:
    """'; did you mean a, b?' for the valid names closest to `name`, or ''."""
    close = difflib.get_close_matches(name, list(known), n=3)
    return f"; did you mean {', '.join(close)}?" if close else ""


def _refuse_unknown(source: Mapping[str, str], *, section: str, known: Mapping[str, object]) -> None:
    start = f"{PREFIX}{section.upper()}_"
    for variable in sorted(source):
        field = variable.removeprefix(start).lower()
        if variable.startswith(start) and field not in known:
            raise SettingInvalid(f"{variable} names no setting{nearest(field, known)}")


def _lookup(source: Mapping[str, str], *, section: str, name: str) -> str | None:
    for variable in (f"{PREFIX}{section.upper()}_{name.upper()}", f"{PREFIX}{name.upper()}"):
        if variable in source:
            return source[variable]
    return None


def _as_bool(text: str) -> bool:
    lowered = text.lower()
    if lowered in _TRUE | _FALSE:
        return lowered in _TRUE
    raise ValueError(text)
