"""Releases: content-addressed folders, channels that name them, and the watcher that swaps them in. No torch."""

from sightline.registry.channels import ChannelState
from sightline.registry.manifest import FileEntry, Manifest
from sightline.registry.registry import Registry
from sightline.registry.reload import HotReloader, Loaded, ReloadSettings, ReloadState

__all__ = [
    "ChannelState",
    "FileEntry",
    "HotReloader",
    "Loaded",
    "Manifest",
    "Registry",
    "ReloadSettings",
    "ReloadState",
]
