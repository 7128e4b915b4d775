"""What a person sees of a result: a row for each group, a column for each metric, and what it must not be taken for."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from trainer.benchmarks.run import Result

_NOT_MEASURED = ""


def print_result(console: Console, result: Result) -> None:
    """Show scores, sizes, and every reservation."""
    made_of = result.made_of
    if result.scores:
        console.print(score_table(result))
    for name, sizes in made_of["tasks"].items():
        console.print(f"{name}: {sizes['num_queries']:,} queries over {sizes['gallery_size']:,} pictures")
    for line in [*reservations(result), *made_of["notes"]]:
        console.print(line, soft_wrap=True)
    for path in result.submissions:
        console.print(f"wrote {path}", soft_wrap=True)


def score_table(result: Result) -> Table:
    """Percent, to two digits."""
    title = f"{result.made_of['benchmark']} {result.made_of['split']}, {result.made_of['system']} (%)"
    metrics = list(dict.fromkeys(metric for row in result.scores.values() for metric in row))
    table = Table("", title=title, title_justify="left", show_edge=False)
    for metric in metrics:
        table.add_column(metric, justify="right")
    for group, row in result.scores.items():
        table.add_row(group, *(f"{row[metric]:.2f}" if metric in row else _NOT_MEASURED for metric in metrics))
    return table


def reservations(result: Result) -> list[str]:
    """Why these are no scores of the published benchmark, if they are not."""
    found, missing = [], result.made_of["missing"]
    if missing:
        lost = f"{missing['num_pictures']:,} pictures ({missing['listed_in']}) and {missing['num_queries']:,} queries"
        found.append(f"incomplete: measured without {lost}; no score of this benchmark")
    elif not result.made_of["is_published_size"] and result.made_of["benchmark"] != "triplets":
        found.append("not the published set: the numbers of queries or pictures differ")
    return found
