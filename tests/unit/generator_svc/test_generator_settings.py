from __future__ import annotations

import pytest

from generator_svc.settings import GeneratorSettings
from sightline.errors import SettingInvalid
from sightline.settings import read_settings


def test_settings_come_from_the_environment_by_name() -> None:
    environ = {
        "SIGHTLINE_REGISTRY": "memory://releases",
        "SIGHTLINE_GENERATOR_MIN_SCORE": "0.2",
        "SIGHTLINE_GENERATOR_RETRIEVER_TOKEN": "a-token-of-sixteen",
    }
    settings = read_settings(GeneratorSettings, section="generator", environ=environ)
    assert (settings.registry, settings.min_score) == ("memory://releases", 0.2)
    assert "a-token" not in repr(settings)


def test_an_unknown_setting_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SettingInvalid, match="min_score"):
        read_settings(GeneratorSettings, section="generator", environ={"SIGHTLINE_GENERATOR_MIN_SCOR": "0.2"})


@pytest.mark.parametrize(
    "wrong",
    [{"min_score": 1.5}, {"max_concurrent_replies": -1}, {"flush_tokens": 0}, {"poll_s": 0.0}, {"space_wait_s": -1.0}],
)
def test_a_value_outside_its_range_is_refused_at_start(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingInvalid, match=next(iter(wrong))):
        GeneratorSettings(**wrong)  # type: ignore[arg-type]


def test_no_decoders_named_means_one_for_each_core() -> None:
    settings = GeneratorSettings(max_queued_replies=3)
    assert settings.num_decoders >= 1
    assert settings.max_replies == settings.num_decoders + 3


def test_ray_serve_lets_in_more_calls_than_are_answered_so_that_refusals_carry_a_reason() -> None:
    settings = GeneratorSettings()
    assert settings.max_ongoing_requests > settings.max_replies


def test_retriever_and_encoder_are_spoken_to_as_the_settings_say() -> None:
    settings = GeneratorSettings(retriever_address="a:1", encoder_address="b:2", retriever_is_tls=True)
    assert (settings.retriever_channel().address, settings.retriever_channel().is_tls) == ("a:1", True)
    assert (settings.encoder_channel().address, settings.encoder_channel().application) == ("b:2", "encoder")
