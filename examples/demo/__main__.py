"""`python -m examples.demo`: the demo's command line."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from examples.demo.processes import StepFailed
from examples.demo.story import DemoSettings, Story


def main() -> int:
    """Run the demo and print its scores; 0 if every step succeeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("var/demo"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--questions", type=int, default=0, help="held-out questions to ask; 0 asks all")
    parser.add_argument("fit_options", nargs="*", help="further options of the trainings, after --")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.out, ignore_errors=True)
    console = Console()
    settings = DemoSettings(
        out=arguments.out,
        seed=arguments.seed,
        questions=arguments.questions,
        fit_options=tuple(arguments.fit_options),
    )
    try:
        summary = asyncio.run(Story(settings, console=console).tell())
    except StepFailed as error:
        console.print(f"[red]error:[/red] {error}")
        return 1
    console.print(_table(summary))
    console.print(f"report: {arguments.out / 'report.html'}   summary: {arguments.out / 'summary.json'}")
    return 0


def _table(summary: dict[str, object]) -> Table:
    table = Table("measured through gRPC", "", show_edge=False)
    for name in (
        "grounded_accuracy",
        "text_only_accuracy",
        "random_picture_accuracy",
        "retrieval_recall_at_1",
        "questions",
        "pool",
        "requests",
        "failed_requests",
        "wall_s",
    ):
        value = summary[name]
        table.add_row(name, f"{value:.3f}" if isinstance(value, float) and name != "wall_s" else str(value))
    return table


if __name__ == "__main__":
    sys.exit(main())
