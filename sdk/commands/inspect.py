"""`edge inspect`: what is inside a bundle or a model file, layer by layer."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from edge.runtime.errors import BadFile, MissingDependency, Unsupported
from edge.sdk.complete import MODEL_FILE_SUFFIXES, files
from edge.sdk.options import debug_option, json_option, print_json


@click.command("inspect", short_help="Show what a bundle or model file holds, layer by layer.")
@click.argument("file", type=click.Path(path_type=Path), shell_complete=files(MODEL_FILE_SUFFIXES))
@json_option
@debug_option
def command(file: Path, as_json: bool) -> None:
    """Show what FILE holds: a bundle (.edge), a program (.pte), or a .tflite or .onnx model.

    A bundle's files are checked against their hashes. Layers come with their bits, shape, bytes, share of zero weights
    and multiply-accumulates (MACs).
    """
    readers = {".edge": _read_bundle, ".pte": _read_program, ".tflite": _read_other, ".onnx": _read_other}
    reader = readers.get(file.suffix.lower())
    if not file.exists():
        raise BadFile(f"{file}: no such file")
    if reader is None:
        raise BadFile(f"{file}: not a file that edge reads: expected .edge, .pte, .tflite or .onnx")
    if not file.is_file():
        raise BadFile(f"{file}: not a file")
    document = {"file": str(file), "bytes": file.stat().st_size, **reader(file)}
    if as_json:
        print_json(document)
    else:
        _show(document)


def _read_bundle(path: Path) -> dict[str, Any]:
    from edge.runtime.bundle import Bundle

    with Bundle.open(path) as bundle:
        bundle.verify()
        return {"kind": "bundle", "manifest": json.loads(bundle.manifest.to_json())}


def _read_program(path: Path) -> dict[str, Any]:
    from edge.runtime._core import CoreError, Program
    from edge.runtime.backends.core import told
    from edge.runtime.layers import program_layers

    try:
        program = Program(path.read_bytes())
        layers = program_layers(program)
    except CoreError as error:
        status, _ = error.args
        raise (Unsupported if status == "unsupported" else BadFile)(f"{path}: {told(error)}") from error
    operators = Counter(operator for operator, _, _ in program.instructions)
    return {
        "kind": "program",
        "inputs": [_tensor(dtype, shape) for dtype, shape in program.inputs],
        "outputs": [_tensor(dtype, shape) for dtype, shape in program.outputs],
        "arena_bytes": program.arena_bytes,
        "scratch_bytes": program.scratch_bytes,
        "state_bytes": program.state_bytes,
        "packed_bytes": program.packed_bytes,
        "macs": program.macs,
        "operators": dict(operators.most_common()),
        "layers": [{**vars(layer), "shape": list(layer.shape)} for layer in layers],
    }


def _read_other(path: Path) -> dict[str, Any]:
    """What the file's own engine says of it, and its layers if the package with the format's schema is installed."""
    from edge.runtime import load
    from edge.runtime.layers import onnx_layers, tflite_layers

    kind = path.suffix.lower().lstrip(".")
    document: dict[str, Any] = {"kind": kind, "layers": None, "missing": None}
    with load(path) as model:
        document["engine"] = model.backend
        document["inputs"] = [_tensor(spec.dtype, spec.shape, spec.name) for spec in model.inputs]
        document["outputs"] = [_tensor(spec.dtype, spec.shape, spec.name) for spec in model.outputs]
    try:
        layers = (tflite_layers if kind == "tflite" else onnx_layers)(path.read_bytes())
        document["layers"] = [{**vars(layer), "shape": list(layer.shape)} for layer in layers]
    except MissingDependency as error:
        document["missing"] = str(error)
    except BadFile as error:
        raise BadFile(f"{path}: {error}") from error
    return document


def _tensor(dtype: str, shape: Iterable[int], name: str = "") -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape)}


def _show(document: dict[str, Any]) -> None:
    from edge.sdk.console import format_bytes, format_count

    click.echo(f"{document['file']}: {document['kind']}, {format_bytes(document['bytes'])}")
    if document["kind"] == "bundle":
        _show_manifest(document["manifest"])
        return
    for side in ("inputs", "outputs"):
        _show_tensors(side, document[side])
    if document["kind"] == "program":
        memory = ", ".join(
            f"{name} {format_bytes(document[f'{name}_bytes'])}" for name in ("arena", "scratch", "state", "packed")
        )
        click.echo(f"memory: {memory}; {format_count(document['macs'])} MACs")
        click.echo("operators: " + ", ".join(f"{name} ×{count}" for name, count in document["operators"].items()))
        _show_layers(document["layers"])
    else:
        click.echo(f"engine: {document['engine']}")
        if document["layers"] is None:
            click.echo(document["missing"])
        else:
            _show_layers(document["layers"])


def _show_tensors(side: str, tensors: list[dict[str, Any]]) -> None:
    shown = (f"{tensor['name']} {tensor['dtype']} {tensor['shape']}".strip() for tensor in tensors)
    click.echo(f"{side}: {', '.join(shown)}")


def _show_manifest(manifest: dict[str, Any]) -> None:
    from edge.sdk.console import format_bytes, format_count, format_share, print_table

    click.echo(
        f"{manifest['name']} {manifest['version']}: {manifest['task']}, made {manifest['created']}, "
        f"licence {manifest['license']}"
    )
    for side in ("inputs", "outputs"):
        _show_tensors(side, manifest[side])
    labels = manifest["labels"]
    if labels:
        shown = ", ".join(labels[:12]) + (", …" if len(labels) > 12 else "")
        click.echo(f"labels: {len(labels)} ({shown})")
    metrics = manifest["metrics"] or {"engines": {}}
    click.echo()
    print_table(
        ("file", "size", "engines", "arena", "MACs", "operators"),
        [
            (
                name,
                format_bytes(entry["bytes"]),
                " ".join(entry["engines"]),
                format_bytes(entry["arena_bytes"]),
                format_count(entry["macs"]),
                sum(entry["ops"].values()) or None,
            )
            for name, entry in manifest["files"].items()
        ],
    )
    if metrics["engines"]:
        click.echo()
        print_table(
            ("engine", "file", "samples", metrics["metric"], "agrees with torch", "largest difference"),
            [
                (
                    engine,
                    entry["file"],
                    entry["samples"],
                    format_share(entry["value"]),
                    format_share(entry["agreement"]),
                    f"{entry['max_abs_error']:.2g}",
                )
                for engine, entry in metrics["engines"].items()
            ],
            title=f"{metrics['metric']} in torch on {metrics['samples']} held-out samples: "
            f"{format_share(metrics['torch'])}, float twin {format_share(metrics['float']) or 'not trained'}",
        )
    quantization = manifest["quantization"]
    if quantization:
        click.echo(
            f"\nquantization: {quantization['bits']:g} bits, measure {quantization['measure']}, "
            f"convolutions {quantization['conv']}"
        )
        _show_layers(quantization["layers"])


def _show_layers(layers: list[dict[str, Any]]) -> None:
    from edge.sdk.console import format_bytes, format_count, format_share, print_table

    click.echo()
    print_table(
        ("layer", "kind", "bits", "shape", "size", "zeros", "MACs"),
        [
            (
                layer["name"],
                layer["kind"],
                f"{layer['bits']:g}",
                "×".join(str(size) for size in layer["shape"]),
                format_bytes(layer["bytes"]),
                format_share(layer["zero_fraction"], 1),
                format_count(layer["macs"]),
            )
            for layer in layers
        ],
    )
    click.echo(
        f"{len(layers)} layers, {format_bytes(sum(layer['bytes'] for layer in layers))}, "
        f"{format_count(sum(layer['macs'] or 0 for layer in layers))} MACs"
        + (" where they are known" if any(layer["macs"] is None for layer in layers) else "")
    )
