"""A full disk, a full bucket, a dead bucket: a clear error, and nothing half-visible."""

from __future__ import annotations

import contextlib
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sightline.errors import DependencyUnavailable
from sightline.registry import Manifest, Registry

Publish = Callable[..., Manifest]


@pytest.fixture
def bucket(tmp_path: Path, faulty_bucket: Any) -> Registry:
    return Registry(f"faulty://{tmp_path.name}/registry")


@pytest.mark.parametrize("room", [0, 1, 2, 3])  # three files, then the manifest
def test_a_full_bucket_shows_nothing_and_says_so(
    bucket: Registry, faulty_bucket: Any, publish: Publish, room: int
) -> None:
    faulty_bucket.room = room
    with pytest.raises(DependencyUnavailable, match=r"publishing sha256-.*No space left on device"):
        publish(bucket)
    assert bucket.releases() == []
    assert bucket.channels() == []
    faulty_bucket.room = 10**6
    assert bucket.releases() == [] != [publish(bucket).release_id]


def test_a_full_bucket_leaves_the_channel_where_it_was(bucket: Registry, faulty_bucket: Any, publish: Publish) -> None:
    manifest = publish(bucket)
    faulty_bucket.room = 0
    with pytest.raises(DependencyUnavailable, match="moving channel stable"):
        bucket.promote("stable", manifest.release_id, expected_generation=None)
    assert bucket.channel("stable") is None


def test_a_dead_bucket_is_named(bucket: Registry, faulty_bucket: Any, publish: Publish) -> None:
    publish(bucket)
    faulty_bucket.is_dead = True
    with pytest.raises(DependencyUnavailable, match=r"registry faulty://.*the bucket does not answer"):
        bucket.releases()


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """No file may grow past 64 bytes inside the block: writes fail in their middle, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_in_its_middle_leaves_nothing(tmp_path: Path, publish: Publish) -> None:
    publish(Registry("memory://elsewhere"))  # makes the folder
    registry = Registry(str(tmp_path / "registry"))
    with small_files(), pytest.raises(DependencyUnavailable, match=r"publishing sha256-.*File too large"):
        publish_made(registry, tmp_path)
    assert registry.releases() == []
    assert list((tmp_path / "registry" / "releases").iterdir()) == []


def test_a_download_that_fails_in_its_middle_leaves_nothing(tmp_path: Path, publish: Publish) -> None:
    registry = Registry(str(tmp_path / "registry"))
    manifest = publish(registry)
    with small_files(), pytest.raises(DependencyUnavailable, match=r"fetching sha256-.*File too large"):
        registry.fetch(manifest.release_id, into=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def publish_made(registry: Registry, tmp_path: Path) -> Manifest:
    architecture = {"embedding_space_id": "a" * 16}
    return registry.publish(tmp_path / "made-0", architecture=architecture, metrics={}, lineage={})


FULL_DISK_SCRIPT = """
import sys
from pathlib import Path
from sightline.errors import DependencyUnavailable
from sightline.registry import Registry
registry = Registry(sys.argv[1])
def publish(name):
    folder = Path(sys.argv[2]) / name
    return registry.publish(folder, architecture={"embedding_space_id": "a" * 16}, metrics={}, lineage={})
small = publish("small")
registry.promote("stable", small.release_id, expected_generation=0)
try:
    publish("large")
except DependencyUnavailable as error:
    print(error.message)
assert registry.releases() == [small.release_id]
assert registry.channel("stable").release_id == small.release_id
assert [path.name for path in (Path(sys.argv[1]) / "releases").iterdir()] == [small.release_id]
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="mounts a small file system")
def test_a_full_disk_leaves_nothing_half_visible(tmp_path: Path) -> None:
    for name, size in (("small", 1_000), ("large", 1_000_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vocabulary.txt").write_bytes(b"x" * size)
    (tmp_path / "disk").mkdir()
    unshare = shutil.which("unshare")
    mount = f"mount -t tmpfs -o size=128k tmpfs {tmp_path / 'disk'}"
    if (
        unshare is None
        or subprocess.run([unshare, "-rm", "sh", "-c", mount], check=False, capture_output=True).returncode
    ):
        pytest.skip("this machine lets no test mount a file system")
    run = f'{mount} && exec "$0" -c "$1" {tmp_path / "disk" / "registry"} {tmp_path}'
    done = subprocess.run(
        [unshare, "-rm", "sh", "-c", run, sys.executable, FULL_DISK_SCRIPT],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "No space left on device" in done.stdout
