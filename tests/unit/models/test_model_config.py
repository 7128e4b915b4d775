"""Configurations round-trip and refuse what they do not know."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sightline.errors import SettingInvalid
from sightline.models.config import TowerConfig, ZrigfConfig, num_masked_cells, tiny_config


def tiny() -> ZrigfConfig:
    return tiny_config(vocab_size=500, pad_id=0, bos_id=1, eos_id=499)


def changed(path: str, value: Any) -> str:
    values = json.loads(tiny().to_json())
    *parents, last = path.split(".")
    place = values
    for parent in parents:
        place = place[parent]
    place[last] = value
    return json.dumps(values)


def test_json_round_trip_is_exact() -> None:
    assert ZrigfConfig.from_json(tiny().to_json()) == tiny()


def test_an_encoder_only_config_round_trips() -> None:
    config = ZrigfConfig(tower=TowerConfig(vocab_size=10))
    assert ZrigfConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("path", ["colour", "tower.colour", "decoder.colour", "fusion.colour", "masking.colour"])
def test_an_unknown_key_is_refused_by_name(path: str) -> None:
    with pytest.raises(SettingInvalid, match="colour"):
        ZrigfConfig.from_json(changed(path, 1))


@pytest.mark.parametrize(
    ("path", "value"), [("tower.image_size", "56"), ("tower.image_size", True), ("tamim_weight", "x"), ("tower.tag", 3)]
)
def test_a_value_of_another_type_is_refused(path: str, value: Any) -> None:
    with pytest.raises(SettingInvalid, match="expected"):
        ZrigfConfig.from_json(changed(path, value))


def test_an_integer_stands_for_a_float() -> None:
    assert ZrigfConfig.from_json(changed("tamim_weight", 1)).tamim_weight == 1


def test_a_missing_required_key_is_refused_by_name() -> None:
    values = json.loads(tiny().to_json())
    del values["decoder"]["eos_id"]
    with pytest.raises(SettingInvalid, match="eos_id"):
        ZrigfConfig.from_json(json.dumps(values))


@pytest.mark.parametrize("text", ["", "[]", '{"tower"', '"text"'])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(SettingInvalid):
        ZrigfConfig.from_json(text)


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(SettingInvalid, match="format"):
        ZrigfConfig.from_json(changed("format", 2))


@pytest.mark.parametrize(
    ("path", "value"),
    [("tower.patch_size", 9), ("tower.text_heads", 5), ("decoder.decoder_heads", 7), ("fusion.heads", 5)],
)
def test_sizes_that_do_not_divide_are_refused(path: str, value: int) -> None:
    with pytest.raises(SettingInvalid, match="must divide"):
        ZrigfConfig.from_json(changed(path, value))


def test_a_context_longer_than_the_positions_is_refused() -> None:
    with pytest.raises(SettingInvalid, match="context_length"):
        ZrigfConfig.from_json(changed("decoder.context_length", 289))


@pytest.mark.parametrize(
    ("cells", "ratio", "masked"), [(49, 0.4, 20), (64, 0.4, 26), (10, 0.3, 3), (49, 0, 0), (9, 1, 9)]
)
def test_the_number_of_masked_cells_is_rounded_up_once(cells: int, ratio: float, masked: int) -> None:
    assert num_masked_cells(cells, ratio=ratio) == masked
