"""How an example runs as a command."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from sightline.errors import SightlineError


def run(main: Callable[..., object]) -> None:
    """Run `main` with the options of the command line. A SightlineError becomes one line on stderr and exit code 2."""
    try:
        typer.run(main)
    except SightlineError as error:
        typer.echo(f"error: {error.message}", err=True)
        sys.exit(2)
