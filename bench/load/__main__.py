"""`python -m bench.load`: offer chat, search and encode traffic at a rate, or at rising rates, and report."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.load.plan import Arrivals, LoadPlan, check_loopback, parse_mix, parse_pairs
from bench.load.report import write_report
from bench.load.summary import RunSummary, knee
from bench.load.sweep import MAX_STEPS, Measured, measure, rising_rates
from bench.load.traffic import SERVICES, Traffic, read_texts
from sightline.client import Endpoints
from sightline.errors import SightlineError, UsageError
from sightline.rpc.services import APPLICATIONS

DEFAULT_OBJECTIVES_MS = {"chat": 2000.0, "search": 200.0, "encode": 200.0, "picture": 500.0}
_KNEE_SHARE = 0.95

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()


@app.command()
def load(
    *,
    address: Annotated[str, typer.Option(help="host:port behind which every service is, such as Ray Serve's.")] = "",
    encoder: Annotated[str, typer.Option(help="host:port of the encoder.")] = "127.0.0.1:50051",
    retriever: Annotated[str, typer.Option(help="host:port of the retriever.")] = "127.0.0.1:50052",
    generator: Annotated[str, typer.Option(help="host:port of the generator.")] = "127.0.0.1:50053",
    mix: Annotated[str, typer.Option(help="Shares of chat, search, encode, picture.")] = "chat=0.3,search=0.7",
    rate: Annotated[float, typer.Option(help="Calls that start per second; the first rate of a sweep.")] = 20.0,
    duration_s: Annotated[float, typer.Option(help="Seconds at each rate.")] = 20.0,
    arrivals: Annotated[Arrivals, typer.Option(help="How starts are spread.")] = Arrivals.CONSTANT,
    slo_ms: Annotated[str, typer.Option(help="Longest good latency by kind, such as chat=2000,search=200.")] = "",
    timeout_s: Annotated[float, typer.Option(help="Deadline of each call.")] = 10.0,
    sweep: Annotated[bool, typer.Option("--sweep", help="Raise the rate until the objective is missed.")] = False,
    sweep_factor: Annotated[float, typer.Option(help="Each rate over the one before, 1.05 to 10.")] = 1.5,
    sweep_steps: Annotated[int, typer.Option(help=f"Most rates of a sweep, 1 to {MAX_STEPS}.")] = 8,
    pause_s: Annotated[float, typer.Option(help="Rest between two rates of a sweep.")] = 2.0,
    texts: Annotated[Path | None, typer.Option(help="JSONL with a context or a text a line to ask.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Bound of a chat's answer.")] = 16,
    channels: Annotated[int, typer.Option(help="Connections to each service.")] = 4,
    max_in_flight: Annotated[int, typer.Option(help="Calls under way beyond which due calls are shed.")] = 2000,
    token: Annotated[str, typer.Option(help="Bearer token.", envvar="SIGHTLINE_TOKEN")] = "",
    seed: Annotated[int, typer.Option(help="Seed of pauses and kinds.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of load.json and load.html.")] = Path("var/load"),
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="Load services of other machines.")] = False,
) -> None:
    """Offer calls at a rate, whether or not earlier ones came back, and write load.json and load.html."""
    plan = LoadPlan(
        rate=rate,
        duration_s=duration_s,
        mix=parse_mix(mix),
        arrivals=arrivals,
        timeout_s=timeout_s,
        max_in_flight=max_in_flight,
        seed=seed,
    )
    endpoints = (
        Endpoints.at(address) if address else Endpoints(encoder=encoder, retriever=retriever, generator=generator)
    )
    _check_addresses(endpoints, plan=plan, allow_remote=allow_remote)
    objectives_ms = DEFAULT_OBJECTIVES_MS | (parse_pairs(slo_ms, name="slo-ms") if slo_ms else {})
    rates = _rates(plan, factor=sweep_factor, steps=sweep_steps) if sweep else [rate]
    traffic = Traffic(
        endpoints,
        texts=read_texts(texts),
        num_channels=channels,
        max_new_tokens=max_new_tokens,
        token=token or None,
    )
    measured = asyncio.run(_measure(plan, traffic, rates=rates, objectives_ms=objectives_ms, pause_s=pause_s))
    _report(out, measured, facts=_facts(plan, endpoints, objectives_ms=objectives_ms, is_sweep=sweep))


async def _measure(
    plan: LoadPlan, traffic: Traffic, *, rates: Sequence[float], objectives_ms: dict[str, float], pause_s: float
) -> Measured:
    async def pause() -> None:
        await asyncio.sleep(pause_s)

    try:
        await traffic.warm_up(plan)
        return await measure(
            plan, rates=rates, calls=traffic.calls(), objectives_ms=objectives_ms, report=_print, pause=pause
        )
    finally:
        await traffic.close()


def _check_addresses(endpoints: Endpoints, *, plan: LoadPlan, allow_remote: bool) -> None:
    for kind in plan.mix:
        if not allow_remote:
            check_loopback(getattr(endpoints, APPLICATIONS[SERVICES[kind]]))


def _rates(plan: LoadPlan, *, factor: float, steps: int) -> list[float]:
    if not 1.05 <= factor <= 10 or not 1 <= steps <= MAX_STEPS:
        raise UsageError(f"sweep: got factor {factor} and {steps} steps, expected 1.05 to 10 and 1 to {MAX_STEPS}")
    return rising_rates(plan.rate, factor=factor, steps=steps)


def _print(run: RunSummary) -> None:
    table = Table("kind", "calls", "OK", "good", "p50 ms", "p95 ms", "p99 ms", title=f"{run.rate:g} calls/s offered")
    for name, kind in [("all", run.total), *sorted(run.kinds.items())]:
        latency = kind.latency
        figures = (kind.calls, kind.ok, kind.in_objective, latency.p50_ms, latency.p95_ms, latency.p99_ms)
        table.add_row(name, *(f"{figure:.0f}" for figure in figures))
    console.print(table)
    console.print("codes: " + ", ".join(f"{code} x {count}" for code, count in run.total.codes.items()))
    if run.is_late:
        console.print(f"[yellow]this process was up to {run.lateness_p99_ms:.0f} ms late: too few cores for the load")


def _report(out: Path, measured: Measured, *, facts: dict[str, Any]) -> None:
    best = knee(measured.runs, share=_KNEE_SHARE) if len(measured.runs) > 1 else None
    paths = write_report(out, runs=measured.runs, samples=measured.samples, knee=best, facts=facts)
    if best is not None:
        console.print(f"knee: {best.rate:g} calls/s, {best.total.goodput:.1f} good ones a second")
    console.print(f"wrote {paths[0]} and {paths[1]}")


def _facts(plan: LoadPlan, endpoints: Endpoints, *, objectives_ms: dict[str, float], is_sweep: bool) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "mix": ", ".join(f"{kind} {share:.2f}" for kind, share in plan.mix.items()),
        "arrivals": plan.arrivals.value,
        "rate": f"rising from {plan.rate:g}" if is_sweep else f"{plan.rate:g}",
        "duration_s": plan.duration_s,
        "timeout_s": plan.timeout_s,
        "seed": plan.seed,
        "objectives_ms": ", ".join(f"{kind} {objectives_ms[kind]:g}" for kind in plan.mix),
        "retries": "none",
        "endpoints": ", ".join(sorted({getattr(endpoints, APPLICATIONS[SERVICES[kind]]) for kind in plan.mix})),
    }


def main() -> None:
    """Run the command. A wrong wish or a service that does not answer becomes one line on stderr and exit code 2."""
    try:
        app()
    except SightlineError as error:
        typer.echo(f"error: {error.message}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
