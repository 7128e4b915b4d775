"""What the encoder may be told, and what it refuses to be told."""

from __future__ import annotations

from pathlib import Path

import pytest

from encoder_svc.settings import MOST_TEXTS_OF_A_CALL, EncoderSettings
from sightline.errors import SettingInvalid
from sightline.limits import MAX_COMPOSED_PER_CALL, MAX_EDIT_TEXTS, MAX_PICTURES_PER_CALL, MAX_TEXTS_PER_CALL
from sightline.settings import read_settings


def test_settings_come_from_the_environment() -> None:
    environ = {
        "SIGHTLINE_REGISTRY": "s3://releases",
        "SIGHTLINE_ENCODER_CHANNEL": "canary",
        "SIGHTLINE_ENCODER_CACHE_DIR": "somewhere",
        "SIGHTLINE_ENCODER_MAX_WAIT_MS": "2.5",
        "SIGHTLINE_GENERATOR_PORT": "1",
    }
    settings = read_settings(EncoderSettings, section="encoder", environ=environ)
    assert (settings.registry, settings.channel, settings.port) == ("s3://releases", "canary", 50051)
    assert settings.cache_dir == Path("somewhere")
    assert settings.text_batches.max_wait_ms == settings.image_batches.max_wait_ms == 2.5


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("max_queued_texts", MOST_TEXTS_OF_A_CALL),
        ("max_queued_images", MAX_PICTURES_PER_CALL),
        ("max_queued_composed", MAX_COMPOSED_PER_CALL),
        ("max_composed_batch", 1),
        ("max_text_batch", 1),
        ("max_image_batch", 1),
        ("max_ongoing_requests", 1),
        ("num_replicas", 1),
        ("port", 0),
        ("threads_per_forward", 0),
        ("decode_threads", 0),
        ("text_cache_bytes", 0),
        ("image_cache_bytes", 0),
    ],
)
def test_a_value_at_its_limit_passes_and_one_below_is_refused(name: str, least: int) -> None:
    assert getattr(EncoderSettings(**{name: least}), name) == least
    with pytest.raises(SettingInvalid, match=f"got {least - 1}"):
        EncoderSettings(**{name: least - 1})


@pytest.mark.parametrize("changed", [{"poll_s": 0.0}, {"max_wait_ms": -1.0}, {"max_text_batch": 4096}])
def test_settings_that_cannot_work_are_refused(changed: dict[str, float]) -> None:
    with pytest.raises(SettingInvalid):
        EncoderSettings(**changed)


def test_a_queue_holds_a_full_call() -> None:
    settings = EncoderSettings()
    assert settings.text_batches.max_queue >= MAX_TEXTS_PER_CALL
    assert settings.text_batches.max_queue >= MAX_COMPOSED_PER_CALL * (1 + MAX_EDIT_TEXTS)
    assert settings.composed_batches.max_queue >= MAX_COMPOSED_PER_CALL
    assert settings.image_batches.max_queue >= MAX_PICTURES_PER_CALL
