"""`edge run`: runs a model on files, folders, or the reference inputs that its bundle carries."""

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.runtime.errors import BadInput, EdgeError, MissingDependency
from edge.sdk.complete import MODEL_FILE_SUFFIXES, files
from edge.sdk.failure import EXIT_ERROR, message, report
from edge.sdk.options import BACKENDS, Invocation, debug_option, json_option, print_json, threads_option

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge.runtime.model import Model

# What `Model.predict` reads; in a folder, other files are passed over.
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".wav", ".npy"}


@click.command("run", short_help="Run a model on images, WAV files, arrays, or folders of them.")
@click.argument("bundle", type=click.Path(path_type=Path), shell_complete=files(MODEL_FILE_SUFFIXES))
@click.argument("inputs", nargs=-1, type=click.Path(path_type=Path), shell_complete=files(SUFFIXES))
@click.option(
    "--backend",
    type=click.Choice(["auto", *BACKENDS]),
    default="auto",
    show_default=True,
    help="Engine; auto is the first that is installed and runs the model.",
)
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="Classes to show for each input.")
@click.option("--demo", is_flag=True, help="Run the reference inputs stored in the bundle (so does giving no input).")
@click.option("--as-exported", is_flag=True, help="Leave out what edge learn taught the model on this device.")
@threads_option
@json_option
@debug_option
@click.pass_context
def command(
    ctx: click.Context,
    bundle: Path,
    inputs: tuple[Path, ...],
    backend: str,
    top: int,
    demo: bool,
    as_exported: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Run BUNDLE (.edge, .pte, .tflite or .onnx) on INPUTS: images, WAV files, .npy arrays, or folders of them.

    An input that cannot be read does not keep the others from running: it is reported, and the exit code is 1.
    """
    if demo and inputs:
        raise click.UsageError("--demo runs the stored inputs: give no others")
    failures: list[Exception] = []
    with _loaded(bundle, backend, threads, as_exported or not inputs) as model:
        document: dict[str, Any] = {"model": str(bundle), "backend": model.backend}
        if model.learned is not None:
            document["learned"] = {"samples": model.learned.samples, "labels": list(model.labels)}
        if inputs:
            document["results"], failures = predict_all(model, inputs, top)
        else:
            document.update(_run_reference(model, bundle, top))
    tell_results(ctx, document, failures, as_json)


def _loaded(bundle: Path, backend: str, threads: int | None, as_exported: bool) -> "Model":
    """The model; a warning about its learned weights in one line on standard error."""
    import warnings

    from edge.runtime import load

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = load(bundle, backend=backend, threads=threads, learned=not as_exported)
    for warning in told:
        click.echo(f"edge: {warning.message}", err=True)
    return model


def tell_results(ctx: click.Context, document: dict[str, Any], failures: list[Exception], as_json: bool) -> None:
    """Shows the results that there are, then reports the failures, and leaves with exit code 1 if there are any."""
    if any("error" not in row for row in document["results"]):
        if as_json:
            print_json(document)
        else:
            _show_results(document)
    if failures:
        invocation = ctx.find_object(Invocation)
        for failure in failures:
            report(failure, as_json=as_json, debug=invocation is not None and invocation.debug)
        ctx.exit(EXIT_ERROR)


def predict_all(model: "Model", inputs: tuple[Path, ...], top: int) -> tuple[list[dict[str, Any]], list[Exception]]:
    """A result for each file, and the errors of those that could not be read (their result holds the message)."""
    results: list[dict[str, Any]] = []
    failures: list[Exception] = []
    for path in _expand(inputs):
        try:
            results.append(_predict(model, path, top))
        except (EdgeError, OSError) as error:
            # A missing package is no fault of one file: it is told once, however many files need it.
            if not isinstance(error, MissingDependency) or str(error) not in map(str, failures):
                failures.append(error)
            results.append({"input": str(path), "error": message(error)})
    return results, failures


def _expand(paths: tuple[Path, ...]) -> Iterator[Path]:
    """The files named, and those with a known suffix in the folders named, in name order; an empty folder as it is."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        yield from files or [path]


def _predict(model: "Model", path: Path, top: int) -> dict[str, Any]:
    if path.is_dir():
        raise BadInput(f"{path}: no image, .wav or .npy file in this folder")
    start = time.perf_counter()
    prediction = model.predict(path)
    seconds = time.perf_counter() - start
    return {"input": str(path), "seconds": seconds, **_ranking(prediction.top(top))}


def _ranking(top: list[tuple[str, float]]) -> dict[str, Any]:
    """The best class and the others worth showing, from (label, score) pairs, best first."""
    return {
        "label": top[0][0],
        "score": top[0][1],
        "top": [{"label": label, "score": score} for label, score in top],
    }


def _run_reference(model: "Model", bundle: Path, top: int) -> dict[str, Any]:
    """Runs the bundle's stored inputs and says how many outputs agree with torch's, stored beside them."""
    reference = model.manifest.reference if model.manifest else None
    if reference is None:
        raise BadInput(f"{bundle}: holds no reference inputs: give an image, a .wav, a .npy file or a folder")
    import numpy as np

    from edge.runtime.bundle import Bundle

    with Bundle.open(bundle) as opened:
        stored = opened.read(reference)
    with np.load(io.BytesIO(stored), allow_pickle=False) as arrays:
        inputs, expected = arrays["inputs"], arrays["outputs"]
    results: list[dict[str, Any]] = []
    agreeing = 0
    for number, (sample, wanted) in enumerate(zip(inputs, expected, strict=True)):
        start = time.perf_counter()
        given = model(np.ascontiguousarray(sample.reshape(model.inputs[0].shape)))
        seconds = time.perf_counter() - start
        logits = np.asarray(given[0] if isinstance(given, tuple) else given).reshape(-1)
        agreeing += int(np.argmax(logits) == np.argmax(wanted))
        ranked = _best(logits, model.labels, top)
        results.append({"input": f"{reference}[{number}]", "seconds": seconds, **_ranking(ranked)})
    return {"reference": reference, "agreeing": agreeing, "results": results}


def _best(logits: "NDArray[Any]", labels: tuple[str, ...], count: int) -> list[tuple[str, float]]:
    """The `count` best classes with their softmax, best first."""
    import numpy as np

    weights = np.exp(logits - logits.max())
    scores = weights / weights.sum()
    order = np.argsort(-scores, kind="stable")[:count]
    return [(labels[index] if labels else str(index), float(scores[index])) for index in order]


def _show_results(document: dict[str, Any]) -> None:
    from edge.sdk.console import format_seconds, print_table

    results = document["results"]
    if "learned" in document:
        click.echo(
            f"With what it learned here: {document['learned']['samples']:,} samples "
            "(edge learn --forget removes it; edge run --as-exported leaves it out)."
        )
    if "reference" in document:
        click.echo(
            f"No input given: ran the {len(results)} reference inputs stored in the bundle; "
            f"{document['agreeing']} of {len(results)} have the class that torch gave."
        )
    print_table(
        ("input", "class", "score", "next", "time"),
        [
            (
                row["input"],
                row["label"],
                f"{row['score']:.3f}",
                "  ".join(f"{other['label']} {other['score']:.3f}" for other in row["top"][1:]),
                format_seconds(row["seconds"]),
            )
            for row in results
            if "error" not in row
        ],
        title=f"{document['model']} on {document['backend']}",
    )
