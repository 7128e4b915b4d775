"""What the registry refuses: pickles, paths that lead out, foreign, half-written and tampered releases."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sightline.errors import ReleaseInvalid, SettingInvalid, UsageError
from sightline.registry import FileEntry, Manifest, Registry
from sightline.registry.manifest import release_digest

Publish = Callable[..., Manifest]
ARCHITECTURE = {"embedding_space_id": "a" * 16}


@pytest.fixture
def local(tmp_path: Path) -> Registry:
    return Registry(str(tmp_path / "registry"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    made.mkdir()
    (made / "config.json").write_text("{}")
    return made


def publish_folder(registry: Registry, folder: Path, **architecture: object) -> Manifest:
    return registry.publish(folder, architecture={**ARCHITECTURE, **architecture}, metrics={}, lineage={})


def stored(registry: Registry, manifest: Manifest, name: str) -> Path:
    return Path(registry.uri) / "releases" / manifest.release_id / name


def plant(registry: Registry, *, name: str = "config.json", **fields: object) -> str:
    """A manifest written past `publish`, consistent with its own digest; gives its release id."""
    entry = {"sha256": "0" * 64, "size": 2}
    release_id = release_digest({name: FileEntry(**entry)}, architecture=ARCHITECTURE)  # type: ignore[arg-type]
    manifest = {
        "format": "sightline-release",
        "format_version": 1,
        "release_id": release_id,
        "embedding_space_id": "a" * 16,
        "files": {name: entry},
        "architecture": ARCHITECTURE,
        "metrics": {},
        "lineage": {},
        "created_at": "2026-01-01T00:00:00+00:00",
        **fields,
    }
    target = Path(registry.uri) / "releases" / release_id
    target.mkdir(parents=True)
    (target / "manifest.json").write_text(json.dumps(manifest))
    return release_id


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".pkl", ".PT", ".ckpt", ".npz"])
def test_a_file_type_that_can_hold_a_pickle_is_refused(local: Registry, folder: Path, suffix: str) -> None:
    (folder / f"weights{suffix}").write_bytes(b"anything")
    with pytest.raises(ReleaseInvalid, match=f"weights{suffix}"):
        publish_folder(local, folder)
    assert local.releases() == []


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_pickle_where_weights_should_be_is_refused(local: Registry, folder: Path, protocol: int) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps({"weight": [1.0, 2.0]}, protocol=protocol))
    with pytest.raises(ReleaseInvalid, match=r"model\.safetensors"):
        publish_folder(local, folder)


def test_a_pickle_under_an_innocent_name_is_refused(local: Registry, folder: Path) -> None:
    (folder / "notes.txt").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ReleaseInvalid, match="pickle"):
        publish_folder(local, folder)


def test_a_zip_archive_is_refused(local: Registry, folder: Path) -> None:
    with zipfile.ZipFile(folder / "model.safetensors", "w") as archive:
        archive.writestr("data.pkl", b"")
    with pytest.raises(ReleaseInvalid, match="zip"):
        publish_folder(local, folder)


def test_truncated_weights_are_refused(registry: Registry, publish: Publish, tmp_path: Path) -> None:
    publish(registry, seed=0)
    weights = tmp_path / "made-0" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ReleaseInvalid, match="whole safetensors"):
        publish_folder(registry, tmp_path / "made-0")


def test_a_planted_pickle_is_refused_on_fetch(local: Registry, publish: Publish, tmp_path: Path) -> None:
    data = pickle.dumps([1])
    entry = FileEntry(sha256=__import__("hashlib").sha256(data).hexdigest(), size=len(data))
    release_id = release_digest({"model.safetensors": entry}, architecture=ARCHITECTURE)
    planted = plant(local)
    target = Path(local.uri) / "releases" / planted
    text = json.loads((target / "manifest.json").read_text())
    text |= {
        "release_id": release_id,
        "files": {"model.safetensors": {"sha256": entry.sha256, "size": entry.size}},
    }
    (target / "manifest.json").write_text(json.dumps(text))
    (target / "model.safetensors").write_bytes(data)
    target.rename(target.with_name(release_id))
    with pytest.raises(ReleaseInvalid, match="pickle"):
        local.fetch(release_id, into=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/../../evil", "a\\evil", "c:evil", "a//b", "", ".", "manifest.json", "a\nb"]
)
def test_a_file_name_that_leads_out_of_the_release_is_refused(local: Registry, name: str, tmp_path: Path) -> None:
    release_id = plant(local, name=name)
    with pytest.raises(ReleaseInvalid, match="plain path"):
        local.fetch(release_id, into=tmp_path / "cache")


@pytest.mark.parametrize("release_id", ["../../etc", "sha256-00", "sha256-" + "G" * 64, ""])
def test_an_ill_formed_release_id_is_refused(registry: Registry, release_id: str, tmp_path: Path) -> None:
    with pytest.raises(ReleaseInvalid, match="64 hex digits"):
        registry.fetch(release_id, into=tmp_path / "cache")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"format_version": 2}, "foreign"),
        ({"format": "something-else"}, "format"),
        ({"extra": 1}, "unknown fields"),
        ({"files": {}}, "0 files"),
        ({"architecture": {"embedding_space_id": "b" * 16}}, "embedding_space_id"),
        ({"architecture": {**ARCHITECTURE, "layers": 3}}, "another release"),
        ({"embedding_space_id": "short"}, "embedding_space_id"),
        ({"files": {"config.json": {"sha256": "0" * 64, "size": -1}}}, "size"),
    ],
)
def test_a_foreign_or_edited_manifest_is_refused(local: Registry, fields: dict[str, object], said: str) -> None:
    release_id = plant(local, **fields)
    with pytest.raises(ReleaseInvalid, match=said):
        local.manifest(release_id)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"'])
def test_a_manifest_that_is_no_object_is_refused(local: Registry, text: str) -> None:
    release_id = plant(local)
    (Path(local.uri) / "releases" / release_id / "manifest.json").write_text(text)
    with pytest.raises(ReleaseInvalid):
        local.manifest(release_id)


def test_a_half_written_release_is_invisible_and_refused(local: Registry, publish: Publish, tmp_path: Path) -> None:
    manifest = publish(local)
    stored(local, manifest, "manifest.json").unlink()
    assert local.releases() == []
    with pytest.raises(ReleaseInvalid, match="half-written"):
        local.fetch(manifest.release_id, into=tmp_path / "cache")
    with pytest.raises(ReleaseInvalid, match="half-written"):
        local.promote("stable", manifest.release_id, expected_generation=None)


def test_publishing_again_completes_a_half_written_release(local: Registry, publish: Publish, tmp_path: Path) -> None:
    manifest = publish(local)
    stored(local, manifest, "manifest.json").unlink()
    assert publish(local).release_id == manifest.release_id
    assert local.fetch(manifest.release_id, into=tmp_path / "cache").is_dir()


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_tampered_file_is_refused_on_fetch(local: Registry, publish: Publish, tmp_path: Path, damage: str) -> None:
    manifest = publish(local)
    path = stored(local, manifest, "config.json")
    original = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(b"?" + original[1:] if damage == "flip" else original[:-1])
    with pytest.raises(ReleaseInvalid, match=r"config\.json"):
        local.fetch(manifest.release_id, into=tmp_path / "cache")
    assert not (tmp_path / "cache" / manifest.release_id).exists()


def test_publishing_again_repairs_a_tampered_release(local: Registry, publish: Publish, tmp_path: Path) -> None:
    manifest = publish(local)
    stored(local, manifest, "config.json").write_text("tampered")
    publish(local)
    assert (local.fetch(manifest.release_id, into=tmp_path / "cache") / "config.json").read_text() == '{"seed": 0}'


def test_a_link_is_refused(local: Registry, folder: Path) -> None:
    (folder / "tokenizer.json").symlink_to("/etc/hostname")
    with pytest.raises(ReleaseInvalid, match="link"):
        publish_folder(local, folder)


def test_a_pipe_is_refused(local: Registry, folder: Path) -> None:
    os.mkfifo(folder / "pipe.json")
    with pytest.raises(ReleaseInvalid, match="plain file"):
        publish_folder(local, folder)


def test_an_empty_or_absent_folder_is_refused(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(ReleaseInvalid, match="not a folder"):
        publish_folder(registry, tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReleaseInvalid, match="0 files"):
        publish_folder(registry, tmp_path / "empty")


@pytest.mark.parametrize("space", ["", "xyz", "A" * 16, None])
def test_a_release_without_an_embedding_space_is_refused(registry: Registry, folder: Path, space: object) -> None:
    with pytest.raises(ReleaseInvalid, match="embedding_space_id"):
        publish_folder(registry, folder, embedding_space_id=space)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_a_metric_that_json_cannot_hold_is_refused(registry: Registry, folder: Path, value: object) -> None:
    with pytest.raises(ReleaseInvalid, match="JSON"):
        registry.publish(folder, architecture=ARCHITECTURE, metrics={"loss": value}, lineage={})


@pytest.mark.parametrize("name", ["", "Stable", "a/b", "../x", ".hidden", "x" * 64])
def test_an_ill_formed_channel_name_is_refused(registry: Registry, name: str) -> None:
    with pytest.raises(UsageError, match="channel"):
        registry.channel(name)


def test_a_registry_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(SettingInvalid, match="nosuch"):
        Registry("nosuch://bucket/registry")
