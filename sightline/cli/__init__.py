"""The `sightline` command: one module for each group of commands, imported when it is asked for."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import typer
import typer.core
import typer.main

from sightline.errors import SightlineError

_COMMANDS = ("chat", "composed", "convert", "index", "releases", "search", "toytown")


class _LazyCommands(typer.core.TyperGroup):
    """Commands found by module name, so that one command never waits for another's imports."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """The commands whose modules exist, in order."""
        return [name for name in _COMMANDS if importlib.util.find_spec(f"{__name__}.{name}")]

    def get_command(self, ctx: typer.Context, cmd_name: str):  # type: ignore[no-untyped-def,override]
        """The command of one module; None for an unknown name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command = typer.main.get_command(importlib.import_module(f"{__name__}.{cmd_name}").app)
        command.name = cmd_name
        return command


app = typer.Typer(cls=_LazyCommands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def sightline() -> None:
    """Talk to, fill and look after Sightline's services."""


def main() -> None:
    """Run the `sightline` command. A SightlineError becomes one line on stderr and exit code 2."""
    try:
        app()
    except SightlineError as error:
        typer.echo(f"error: {error.message}", err=True)
        sys.exit(2)
