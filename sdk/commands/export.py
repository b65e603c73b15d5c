"""`edge export`: trains a model with quantized weights and writes a bundle that runs without PyTorch."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.runtime.errors import BadInput
from edge.sdk.complete import DATA_SUFFIXES, MODELS, files
from edge.sdk.options import TARGET_NAMES, NameList, debug_option, json_option, print_json

if TYPE_CHECKING:
    from edge.export.options import ExportResult

FORMATS = ("pte", "tflite", "onnx")


class ImageSize(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on
    """ "32" or "24x32": height and width in pixels."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        words = str(value).lower().split("x")
        if len(words) > 2 or not all(word.isdecimal() and int(word) > 0 for word in words):
            self.fail(f"{value}: expected pixels, as 32 or 24x32 (height x width)", param, ctx)
        return int(words[0]), int(words[-1])


@click.command("export", short_help="Train a model with quantized weights and write it as a bundle.")
@click.argument("model", default="cct_2_3x2", metavar="[MODEL]", shell_complete=files((".py",), MODELS))
@click.option(
    "--bits",
    type=click.Choice(["1.58", "2", "4", "8", "32"]),
    default="1.58",
    show_default=True,
    help="Bits of a weight; 1.58 is ternary, 32 leaves the model in float.",
)
@click.option(
    "--data",
    shell_complete=files(DATA_SUFFIXES, ("digits",)),
    help="digits, or a path: a folder, .zip or .tar.gz with one folder of images or WAV files a class, or .npz.  "
    "[default: digits]",
)
@click.option(
    "--kind",
    type=click.Choice(["image", "audio", "array"]),
    help="What the data is, where it holds several kinds.  [default: what is found]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The bundle to write; its name ends in .edge.  [default: MODEL.edge]",
)
@click.option(
    "--target",
    type=click.Choice(TARGET_NAMES),
    default="generic",
    show_default=True,
    help="Machine it is meant for; see edge targets.",
)
@click.option(
    "--formats",
    type=NameList(FORMATS, ordered=False),
    help="Files to write, as pte,onnx.  [default: what the target reads]",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="PATTERN",
    help="Leave the modules of this name, with all under them, in float; head.* says the same as head. Repeatable.",
)
@click.option(
    "--measure",
    type=click.Choice(["median", "mean"]),
    default="median",
    show_default=True,
    help="Of |W|: the scale of ternary weights.",
)
@click.option(
    "--conv",
    type=click.Choice(["int8", "ternary", "float"]),
    default="int8",
    show_default=True,
    help="Weights of k×k and depthwise convolutions; ternary leaves depthwise ones and those of an image in int8.",
)
@click.option(
    "--attention",
    type=click.Choice(["float", "int8"]),
    default="float",
    show_default=True,
    help="Products of attention in the .pte; int8 is faster, most of all on ARM.",
)
@click.option(
    "--bitlinear-compat", is_flag=True, help="Quantize with the numerics of PyPI bitlinear 2.4.6, layer by layer."
)
@click.option(
    "--float-fraction",
    type=click.FloatRange(min=0, max=1, max_open=True),
    help="Share of the steps in float before quantization begins (16-bit to 1.58-bit).  [default: by model and data]",
)
@click.option(
    "--tflite-bits",
    type=click.Choice(["2", "4", "8"]),
    default="2",
    show_default=True,
    help="Storage of ternary weights in .tflite; tflite-runtime 2.14 reads 4 and 8.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the training data.  [default: by data set]")
@click.option("--batch-size", type=click.IntRange(min=1), help="Samples a step.  [default: by data set]")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Peak learning rate.  [default: by data set]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of everything random.")
@click.option("--input-size", type=ImageSize(), help="Scale images to this, as 32 or 24x32.  [default: by data set]")
@click.option(
    "--limit",
    type=click.IntRange(min=4),
    help="Use at most this many samples, training and test together, for a quick try; the digits need at least 50.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads for training.  [default: all cores]")
@click.option(
    "--resume",
    is_flag=True,
    help="Go on from the checkpoint that an interrupted export left, if it did.",
)
@click.option(
    "--pretrained",
    type=click.Path(path_type=Path),
    help="Start from these weights (.safetensors, or .pt/.pth without pickled code).",
)
@click.option("--no-float-twin", is_flag=True, help="Do not train the float model that the accuracy is compared with.")
@click.option("--name", help="Name of the model in the manifest.  [default: data set and model]")
@click.option("--model-version", default="1.0.0", show_default=True, help="Version of the model in the manifest.")
@click.option("--license", default="unspecified", show_default=True, help="SPDX identifier of the model's licence.")
@click.option(
    "--report/--no-report", default=True, show_default=True, help="Write a page with plots beside the bundle."
)
@json_option
@debug_option
def command(model: str, output: Path | None, as_json: bool, **options: Any) -> None:
    """Train MODEL with quantized weights and write a bundle of .pte, .tflite and .onnx, each verified on its engine.

    MODEL is a name from `edge models`, or path/to/file.py:factory, a function that returns your torch module.

    \b
    edge export --bits 1.58                              the built-in example: CCT-2 on handwritten digits
    edge export ds_cnn --data recordings/ -o kws.edge    a folder of WAV files, one folder a class
    edge export my_model.py:build --data photos.zip      your own module and images
    """
    # Wrong words on the command line are told before the seconds that torch takes to import.
    from edge.export.options import ExportOptions, check_words

    choices = ExportOptions(
        model=model,
        bits=float(options["bits"]),
        data=options["data"],
        kind=options["kind"],
        output=output or Path(f"{_stem(model)}.edge"),
        keep=options["keep"],
        measure=options["measure"],
        conv=options["conv"],
        attention=options["attention"],
        bitlinear_compat=options["bitlinear_compat"],
        float_fraction=options["float_fraction"],
        epochs=options["epochs"],
        batch_size=options["batch_size"],
        lr=options["lr"],
        seed=options["seed"],
        threads=options["threads"],
        tflite_bits=int(options["tflite_bits"]),
        formats=options["formats"],
        resume=options["resume"],
        pretrained=options["pretrained"],
        float_twin=not options["no_float_twin"],
        name=options["name"],
        version=options["model_version"],
        license=options["license"],
        input_size=options["input_size"],
        limit=options["limit"],
        target=options["target"],
        report=options["report"],
    )
    try:
        check_words(choices)
    except BadInput as error:
        raise click.UsageError(str(error)) from None
    from edge.export.pipeline import export_model
    from edge.sdk.console import progress

    with progress() as display:
        result = export_model(choices, display)
    if as_json:
        print_json(_document(result))
    else:
        _show(result)


def _stem(model: str) -> str:
    """ "cct_2_3x2" -> itself; "path/to/file.py:factory" -> "file"."""
    return Path(model.rpartition(":")[0]).stem if ".py:" in model else model


def _document(result: "ExportResult") -> dict[str, object]:
    """The result as one JSON document: where things are, and everything that was measured."""
    import json

    manifest = json.loads(result.manifest.to_json())
    return {
        "bundle": str(result.bundle),
        "bytes": result.bundle.stat().st_size,
        "report": str(result.report) if result.report else None,
        "accuracy": manifest["metrics"]["torch"],
        "float_accuracy": manifest["metrics"]["float"],
        "metrics": manifest["metrics"],
        "files": manifest["files"],
        "seconds": result.seconds,
        "notes": result.notes,
    }


def _show(result: "ExportResult") -> None:
    from edge.sdk.console import format_bytes, format_seconds, format_share, print_table

    manifest = result.manifest
    metrics, quantization = manifest.metrics, manifest.quantization
    assert metrics is not None and quantization is not None
    rows = []
    for engine, metric in metrics.engines.items():
        entry = manifest.files[metric.file]
        rows.append(
            (
                metric.file,
                format_bytes(entry.bytes),
                engine,
                metric.samples,
                format_share(metric.value),
                format_share(metric.agreement),
            )
        )
    print_table(
        ("file", "size", "engine", "samples", metrics.metric, "agrees with torch"),
        rows,
        title=f"{manifest.name}, each file measured on its engine with held-out samples",
    )
    twin = "" if metrics.float is None else f", the same model in float {format_share(metrics.float)}"
    click.echo(
        f"\n{metrics.metric} at {quantization.bits:g} bits: {format_share(metrics.torch)}{twin} "
        f"(in torch, {metrics.samples} held-out samples)"
    )
    spent = ", ".join(f"{stage} {format_seconds(seconds)}" for stage, seconds in result.stages)
    click.echo(f"time: {spent}")
    if result.report:
        click.echo(f"report: {result.report}")
    click.echo(f"bundle: {result.bundle} ({format_bytes(result.bundle.stat().st_size)})")
    click.echo(f"next: edge run {result.bundle}")
