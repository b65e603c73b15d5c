"""`edge bench`: how fast each engine runs a model, measured in turn so that all see the same machine."""

import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.runtime.errors import EdgeError
from edge.sdk.complete import MODEL_FILE_SUFFIXES, files
from edge.sdk.options import BACKENDS, NameList, debug_option, json_option, print_json, threads_option

if TYPE_CHECKING:
    from edge.runtime.model import Model

_WARM_UPS = 3


@click.command("bench", short_help="Time a model on several engines, in turn.")
@click.argument("bundle", type=click.Path(path_type=Path), shell_complete=files(MODEL_FILE_SUFFIXES))
@click.option(
    "--backends",
    type=NameList(BACKENDS),
    help="Engines to compare, as core,litert; the first is the measure.  [default: all that run]",
)
@click.option("--runs", type=click.IntRange(min=1), default=50, show_default=True, help="Runs of each engine.")
@threads_option
@json_option
@debug_option
def command(bundle: Path, backends: tuple[str, ...] | None, runs: int, threads: int | None, as_json: bool) -> None:
    """Time BUNDLE on several engines: one run of each in turn, repeated.

    The engines share every disturbance of the machine that way, and the minimum is the steadiest figure.
    """
    threads = threads or 1
    with ExitStack() as stack:
        models, skipped = _open(stack, bundle, backends, threads)
        times = _measure(models, runs)
    fastest_first = min(times[next(iter(models))])
    results: list[dict[str, Any]] = [
        {
            "backend": name,
            "min_seconds": min(values),
            "median_seconds": statistics.median(values),
            "ratio": min(values) / fastest_first,
        }
        for name, values in times.items()
    ]
    if as_json:
        print_json({"model": str(bundle), "threads": threads, "runs": runs, "results": results, "skipped": skipped})
        return
    from edge.sdk.console import format_seconds, print_table

    print_table(
        ("engine", "min", "median", f"time / {results[0]['backend']}"),
        [
            (
                row["backend"],
                format_seconds(row["min_seconds"]),
                format_seconds(row["median_seconds"]),
                f"{row['ratio']:.2f}",
            )
            for row in results
        ],
        title=f"{bundle}: {runs} runs in turn, {threads} thread{'s' if threads > 1 else ''}, batch 1",
    )
    for name, reason in skipped.items():
        click.echo(f"skipped {name}: {reason}")


def _open(
    stack: ExitStack, bundle: Path, backends: tuple[str, ...] | None, threads: int
) -> tuple[dict[str, "Model"], dict[str, str]]:
    """The models by engine. Engines that were named must run; of those that were not, failures are listed."""
    from edge.runtime import load

    if backends:
        return {name: stack.enter_context(load(bundle, backend=name, threads=threads)) for name in backends}, {}
    models: dict[str, Model] = {}
    skipped: dict[str, str] = {}
    failure: EdgeError | None = None
    for name in BACKENDS:
        try:
            models[name] = stack.enter_context(load(bundle, backend=name, threads=threads))
        except EdgeError as error:
            failure = failure or error
            skipped[name] = str(error)
    if failure is not None and not models:
        raise failure
    return models, skipped


def _measure(models: dict[str, "Model"], runs: int) -> dict[str, list[float]]:
    """Seconds of every run by engine, on the same random inputs (seed 0)."""
    import numpy as np

    from edge.sdk.inputs import random_inputs

    inputs = {name: random_inputs(model.inputs, np.random.default_rng(0)) for name, model in models.items()}
    for name, model in models.items():
        for _ in range(_WARM_UPS):
            model(*inputs[name])
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(runs):
        for name, model in models.items():
            start = time.perf_counter()
            model(*inputs[name])
            times[name].append(time.perf_counter() - start)
    return times
