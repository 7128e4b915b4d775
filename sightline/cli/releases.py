"""`sightline releases`: look at what the registry holds, and move its channels."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from sightline.errors import ReleaseInvalid, UsageError
from sightline.registry import ChannelState, Manifest, Registry
from sightline.settings import environment

DEFAULT_REGISTRY = "var/registry"
_SHORT_DIGITS = 12

app = typer.Typer(help="List, inspect, promote and roll back releases.", no_args_is_help=True)

RegistryOption = Annotated[
    str, typer.Option("--registry", help="Folder or bucket URI. Default: SIGHTLINE_REGISTRY, else var/registry.")
]
ChannelOption = Annotated[str, typer.Option("--channel", help="The channel to move.")]
GenerationOption = Annotated[
    int | None, typer.Option("--expect", help="Only move the channel from this generation; 0 if it never moved.")
]


@app.command("list")
def list_releases(registry: RegistryOption = "") -> None:
    """Show every release, newest last, and the channels that name it."""
    store = _open(registry)
    channels = _channels(store)
    table = Table("release", "space", "size", "published (UTC)", "channels")
    manifests, damaged = _manifests(store)
    for manifest in sorted(manifests, key=lambda each: each.created_at):
        names = [f"{name} ({state.generation})" for name, state in channels if state.release_id == manifest.release_id]
        size = f"{manifest.total_bytes / 1e6:,.1f} MB"
        table.add_row(
            _short(manifest.release_id), manifest.embedding_space_id, size, manifest.created_at[:16], "\n".join(names)
        )
    console = Console()
    console.print(table if manifests else f"No release in {escape(store.uri)}.")
    for reason in damaged:
        console.print(f"unreadable: {escape(reason)}", soft_wrap=True)


@app.command("show")
def show_release(
    release: Annotated[str, typer.Argument(help="A channel, a release id, or its first characters.")],
    registry: RegistryOption = "",
) -> None:
    """Show one release: what it is, where it came from, what it measured, and its files."""
    store = _open(registry)
    manifest = store.manifest(_resolve(store, release))
    console = Console()
    console.print(_facts(manifest))
    files = Table("file", "bytes", Column("sha256", overflow="fold"))
    for name, entry in sorted(manifest.files.items()):
        files.add_row(escape(name), f"{entry.size:,}", entry.sha256)
    console.print(files)


@app.command("promote")
def promote_release(
    release: Annotated[str, typer.Argument(help="A channel, a release id, or its first characters.")],
    channel: ChannelOption = "stable",
    expect: GenerationOption = None,
    registry: RegistryOption = "",
) -> None:
    """Point a channel to a release. Services that follow it load the release while the old one serves."""
    store = _open(registry)
    _report(channel, store.promote(channel, _resolve(store, release), expected_generation=expect))


@app.command("rollback")
def rollback_release(
    channel: ChannelOption = "stable", expect: GenerationOption = None, registry: RegistryOption = ""
) -> None:
    """Point a channel back to the release before the current one, under a new generation."""
    _report(channel, _open(registry).rollback(channel, expected_generation=expect))


def _open(uri: str) -> Registry:
    return Registry(uri or environment("SIGHTLINE_REGISTRY", default=DEFAULT_REGISTRY))


def _manifests(store: Registry) -> tuple[list[Manifest], list[str]]:
    """The readable manifests, and why the others are not."""
    manifests, damaged = [], []
    for release_id in store.releases():
        try:
            manifests.append(store.manifest(release_id))
        except ReleaseInvalid as error:
            damaged.append(error.message)
    return manifests, damaged


def _channels(store: Registry) -> list[tuple[str, ChannelState]]:
    states = ((name, store.channel(name)) for name in store.channels())
    return [(name, state) for name, state in states if state is not None]


def _resolve(store: Registry, text: str) -> str:
    """The release id that `text` names: a channel's, or the only one that starts with it."""
    for name, state in _channels(store):
        if name == text:
            return state.release_id
    found = [
        each for each in store.releases() if each.startswith(text) or each.removeprefix("sha256-").startswith(text)
    ]
    if len(found) > 1:
        raise UsageError(f"{text!r} names {len(found)} releases: {', '.join(map(_short, found))}")
    if not found:
        raise ReleaseInvalid(f"{text!r} names no release and no channel in {store.uri}")
    return found[0]


def _facts(manifest: Manifest) -> Table:
    table = Table("", Column("", overflow="fold"), show_header=False)
    rows: dict[str, Any] = {
        "release": manifest.release_id,
        "embedding space": manifest.embedding_space_id,
        "published": manifest.created_at,
        "size": f"{manifest.total_bytes:,} bytes",
    }
    for title in ("architecture", "metrics", "lineage"):
        rows.update({f"{title}.{key}": value for key, value in sorted(getattr(manifest, title).items())})
    for key, value in rows.items():
        table.add_row(escape(key), escape(str(value)))
    return table


def _report(channel: str, state: ChannelState) -> None:
    before = _short(state.previous) if state.previous else "nothing"
    Console().print(
        f"{channel}: generation {state.generation}, {_short(state.release_id)} (was {before})", soft_wrap=True
    )


def _short(release_id: str) -> str:
    """The first digits of the digest: enough for a person, and for `_resolve`."""
    return release_id.removeprefix("sha256-")[:_SHORT_DIGITS]
