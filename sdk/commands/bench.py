"""`edge bench`: how fast each engine runs a model, beside its peers, or operator by operator."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.runtime.errors import EdgeError
from edge.sdk.complete import MODEL_FILE_SUFFIXES, files
from edge.sdk.options import BACKENDS, NameList, debug_option, json_option, print_json, threads_option

if TYPE_CHECKING:
    from edge.runtime.bench.profile import Profile
    from edge.runtime.model import Model

PEER_ENGINES = ("executorch", "litert", "onnx")


def _png(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    if value is None:
        return None
    if value.suffix.lower() != ".png":
        raise click.BadParameter(f"{value}: plots are PNG files: {value.with_suffix('.png')}")
    if not value.parent.is_dir():
        raise click.BadParameter(f"{value.parent}: no such folder")
    return value


@click.command("bench", short_help="Time a model on several engines, in turn; beside peers; or by operator.")
@click.argument("bundle", type=click.Path(path_type=Path), shell_complete=files(MODEL_FILE_SUFFIXES))
@click.option(
    "--backends",
    type=NameList(BACKENDS),
    help="Engines to compare, as core,litert; the first is the measure.  [default: all that run]",
)
@click.option(
    "--against",
    type=NameList(PEER_ENGINES),
    help=f"Compare the core with what these engines' own tools make of the model: {','.join(PEER_ENGINES)}.",
)
@click.option("--model", "source", help="With --against: path/to/file.py:factory, where the model is your own.")
@click.option("--profile", is_flag=True, help="Time every operator of the core, beside the machine's measured peak.")
@click.option("--runs", type=click.IntRange(min=1), default=50, show_default=True, help="Runs of each engine.")
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), callback=_png, help="Write a plot, a PNG file."
)
@threads_option
@json_option
@debug_option
def command(
    bundle: Path,
    backends: tuple[str, ...] | None,
    against: tuple[str, ...] | None,
    source: str | None,
    profile: bool,
    runs: int,
    plot: Path | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Time BUNDLE on several engines: one run of each in turn, repeated.

    The engines share every disturbance of the machine that way, and the minimum is the steadiest figure.

    --against compares the bundle on the core with the same architecture in float, int8, int4 and int2, as the tools of
    ExecuTorch, LiteRT and onnxruntime make it. --profile tells where the core's time goes.
    """
    asked = [
        name for name, given in (("--backends", backends), ("--against", against), ("--profile", profile)) if given
    ]
    if len(asked) > 1:
        raise click.UsageError(f"{' and '.join(asked)} ask for different things: choose one")
    if source is not None and not against:
        raise click.UsageError("--model goes with --against")
    if plot is not None:
        import edge.sdk.plots  # noqa: F401  (what is missing is told before anything is measured)
    threads = threads or 1
    if profile:
        _profile(bundle, runs, threads, plot, as_json)
    elif against:
        _against(bundle, against, source, runs, threads, plot, as_json)
    else:
        _compare(bundle, backends, runs, threads, plot, as_json)


def _compare(
    bundle: Path,
    backends: tuple[str, ...] | None,
    runs: int,
    threads: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    from edge.runtime.bench.timing import run_of, time_in_turn

    with ExitStack() as stack:
        models, skipped = _open(stack, bundle, backends, threads)
        times = time_in_turn({name: run_of(model) for name, model in models.items()}, runs)
    results = [{"backend": name, **timing.to_dict()} for name, timing in times.items()]
    document = _document(bundle, threads, runs, results, skipped)
    if plot is not None:
        _plot_ratios(plot, document)
    if as_json:
        print_json(document)
        return
    _show(document, ("engine",), [(row["backend"],) for row in results])


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


def _against(
    bundle: Path,
    engines: tuple[str, ...],
    source: str | None,
    runs: int,
    threads: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    from edge.export.peers.compare import compare_with_peers
    from edge.sdk.console import progress

    comparison = compare_with_peers(bundle, engines, runs, threads, progress(), source)
    results = [
        {"backend": row.engine, "form": row.form, **row.timing.to_dict(), "error_to_torch": row.error_to_torch}
        for row in comparison.rows
    ]
    document = _document(bundle, threads, runs, results, comparison.skipped)
    fastest = comparison.fastest_peer
    document["fastest_peer"] = None if fastest is None else {"name": fastest.title, "ratio": fastest.timing.ratio}
    if plot is not None:
        _plot_ratios(plot, document)
    if as_json:
        print_json(document)
        return
    from edge.sdk.console import format_ratio, format_share

    _show(
        document,
        ("engine", "form", "off torch"),
        [(row.engine, row.form, format_share(row.error_to_torch, 1)) for row in comparison.rows],
    )
    if fastest is not None:
        click.echo(f"fastest peer: {fastest.title}, {format_ratio(fastest.timing.ratio)} × the core's time")


def _document(
    bundle: Path, threads: int, runs: int, results: list[dict[str, Any]], skipped: dict[str, str]
) -> dict[str, Any]:
    from edge.runtime.bench.machine import describe_machine

    return {
        "model": str(bundle),
        "threads": threads,
        "runs": runs,
        "machine": describe_machine(),
        "results": results,
        "skipped": skipped,
    }


def _show(document: dict[str, Any], headings: tuple[str, ...], names: list[tuple[str | None, ...]]) -> None:
    """The table of a comparison: who it is, its times, and its ratio to the first with the spread."""
    from edge.runtime.bench.machine import machine_line
    from edge.sdk.console import format_ratio, format_seconds, print_table

    threads, results = document["threads"], document["results"]
    print_table(
        (*headings, "min", "median", f"time / {results[0]['backend']}", "10th to 90th %"),
        [
            (
                *cells,
                format_seconds(row["min_seconds"]),
                format_seconds(row["median_seconds"]),
                format_ratio(row["ratio"]),
                f"{format_ratio(row['ratio_p10'])} to {format_ratio(row['ratio_p90'])}",
            )
            for cells, row in zip(names, results, strict=True)
        ],
        title=f"{document['model']}: {document['runs']} runs in turn, {threads} thread{'s' if threads > 1 else ''}, "
        "batch 1",
    )
    click.echo(machine_line(document["machine"]))
    for name, reason in document["skipped"].items():
        click.echo(f"skipped {name}: {reason}")


def _plot_ratios(path: Path, document: dict[str, Any]) -> None:
    from edge.sdk.plots import plot_ratios

    rows = [{**row, "label": " ".join((row["backend"], row.get("form", ""))).strip()} for row in document["results"]]
    threads = f"{document['threads']} thread{'s' if document['threads'] > 1 else ''}"
    plot_ratios(path, f"{document['machine']['cpu']}, {threads}", {document["model"]: rows})


def _profile(bundle: Path, runs: int, threads: int, plot: Path | None, as_json: bool) -> None:
    import numpy as np

    from edge.runtime import load
    from edge.runtime.bench.machine import describe_machine, machine_line
    from edge.runtime.bench.profile import profile_model
    from edge.runtime.bench.timing import random_inputs

    with load(bundle, backend="core", threads=threads) as model:
        profile = profile_model(model, random_inputs(model.inputs, np.random.default_rng(0)), runs, threads)
    machine = describe_machine()
    if plot is not None:
        from edge.sdk.plots import plot_roofline

        plot_roofline(plot, f"{bundle} on {machine['cpu']}", profile)
    if as_json:
        print_json({"model": str(bundle), "runs": runs, "machine": machine, **profile.to_dict()})
        return
    _show_profile(bundle, runs, profile)
    click.echo(machine_line(machine))


def _show_profile(bundle: Path, runs: int, profile: "Profile") -> None:
    from edge.sdk.console import format_count, format_seconds, format_share, print_table

    whole = sum(row.seconds for row in profile.rows) or 1.0
    rows = []
    for row in profile.rows:
        kind = None if not row.macs else "int8" if row.integer else "float32"
        rows.append(
            (
                row.op.removesuffix(".out"),
                "×".join(map(str, row.shape)),
                row.count,
                format_seconds(row.seconds),
                format_share(row.seconds / whole, 1),
                format_count(row.macs or None),
                kind,
                f"{row.ops_per_second / 1e9:.1f}" if row.macs else None,
                format_share(profile.share(row), 1),
                f"{row.bytes_per_second / 1e9:.1f}",
            )
        )
    print_table(
        ("operator", "output", "calls", "time", "of all", "MACs", "kind", "GOPS", "of peak", "GB/s"),
        rows,
        title=f"{bundle} on the core: the fastest of {runs} runs of each operator; a MAC counts as 2 operations",
    )
    click.echo(f"whole run, operators only: {format_seconds(profile.total)}")
    peak = profile.peak
    for kind, rates in (("int8", peak.int8), ("float32", peak.float32)):
        told = ", ".join(f"{name} {rate / 1e9:.0f} GOPS" for name, rate in rates.items())
        click.echo(f"peak of one core, {kind}: {told}")
    click.echo(f"memory, read by one core: {peak.read / 1e9:.1f} GB/s")
