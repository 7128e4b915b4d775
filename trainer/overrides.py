"""Command-line settings laid over a recipe: dotted names, typed, nothing unknown let through."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from sightline.errors import SettingInvalid
from sightline.settings import nearest, parse_value
from trainer.config import flatten

SettingsT = TypeVar("SettingsT")


def apply_overrides(config: SettingsT, *, arguments: Sequence[str]) -> SettingsT:
    """`config` with `--name value` or `--name=value` pairs applied in order; dashes and underscores are one.

    A boolean may stand alone, which means true. Raises SettingInvalid for an
    unknown or ill-typed setting, naming the nearest valid names or the type.
    """
    leaves = flatten(config)
    values: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        name, text = _next_pair(rest, leaves=leaves)
        values[name] = parse_value(text, leaves[name][0], name=f"--{name}")
    return replace_nested(config, values=values)


def replace_nested(config: SettingsT, *, values: Mapping[str, Any]) -> SettingsT:
    """`config` with the leaves at dotted names replaced."""
    changes: dict[str, Any] = {name: value for name, value in values.items() if "." not in name}
    sections = {name.partition(".")[0] for name in values if "." in name}
    for section in sections:
        inner = {name.partition(".")[2]: value for name, value in values.items() if name.startswith(f"{section}.")}
        changes[section] = replace_nested(getattr(config, section), values=inner)
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def _next_pair(rest: list[str], *, leaves: Mapping[str, tuple[Any, Any]]) -> tuple[str, str]:
    argument = rest.pop(0)
    if not argument.startswith("--"):
        raise SettingInvalid(f"expected --setting value, got {argument!r}")
    written, equals, text = argument[2:].partition("=")
    name = written.replace("-", "_")
    if name not in leaves:
        raise SettingInvalid(f"--{written} names no setting{_suggest(name, leaves=leaves)}")
    if equals:
        return name, text
    is_alone = not rest or rest[0].startswith("--")
    if is_alone and leaves[name][0] is bool:
        return name, "true"
    if is_alone:
        raise SettingInvalid(f"--{written} needs a value")
    return name, rest.pop(0)


def _suggest(name: str, *, leaves: Mapping[str, tuple[Any, Any]]) -> str:
    by_leaf = [known for known in leaves if known.rpartition(".")[2] == name.rpartition(".")[2]]
    return f"; did you mean {', '.join(by_leaf)}?" if by_leaf else nearest(name, list(leaves))
