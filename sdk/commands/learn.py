"""`edge learn`: a model learns on this device, from a folder of labelled files or from arrays."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edge.runtime.errors import BadFile, BadInput, EdgeError, Interrupted
from edge.sdk.commands.run import SUFFIXES
from edge.sdk.complete import files
from edge.sdk.options import debug_option, json_option, print_json

if TYPE_CHECKING:
    from edge.runtime.model import Model

T = TypeVar("T")
_HELD_OUT_SEED = 0


@dataclass(frozen=True)
class _Sample:
    """A source as `Model.learn` takes it, and its label."""

    source: Any
    label: str
    name: str


def _layers(ctx: click.Context, param: click.Parameter, value: str) -> "int | str":
    if value == "all":
        return value
    if not value.isdecimal() or not 1 <= int(value) <= 24:
        raise click.BadParameter("expected a number from 1 to 24, or all")
    return int(value)


@click.command("learn", short_help="Teach a model on this device, from labelled files.")
@click.argument("bundle", type=click.Path(path_type=Path), shell_complete=files((".edge", ".pte")))
@click.argument("data", nargs=-1, type=click.Path(path_type=Path), shell_complete=files((".npz",)))
@click.option(
    "--layers", default="1", show_default=True, callback=_layers, metavar="N|all", help="Last layers that learn."
)
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), default=0.01, show_default=True, help="Learning rate."
)
@click.option("--epochs", type=click.IntRange(1, 10_000), default=1, show_default=True, help="Passes over the samples.")
@click.option("--new-labels", is_flag=True, help="Labels that the model does not have become new classes.")
@click.option(
    "--held-out",
    type=click.FloatRange(0, 0.9),
    default=0.2,
    show_default=True,
    help="Share of each class that is not learned but measured on, before and after.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order of the samples.")
@click.option("--file", "kept", type=click.Path(path_type=Path), help="Learned weights [default: BUNDLE.learned].")
@click.option("--restart", is_flag=True, help="Start from the model as it was exported, not from what it has learned.")
@click.option("--budget", "only_budget", is_flag=True, help="Show the memory that learning takes, and learn nothing.")
@click.option("--forget", is_flag=True, help="Remove what was learned: the model is as it was exported.")
@json_option
@debug_option
def command(
    bundle: Path,
    data: tuple[Path, ...],
    layers: "int | str",
    rate: float,
    epochs: int,
    new_labels: bool,
    held_out: float,
    seed: int,
    kept: Path | None,
    restart: bool,
    only_budget: bool,
    forget: bool,
    as_json: bool,
) -> None:
    """Teach BUNDLE (.edge or .pte) from DATA: folders with one folder a class, or .npz files with arrays x and y.

    The last layers learn, one sample at a time, on the C core: no PyTorch is needed. What is learned is kept beside the
    bundle, and edge run uses it. Ctrl-C keeps it too; the same command goes on where it stopped.
    """
    from edge.runtime import load

    if (forget or only_budget) == bool(data) and not (only_budget and data):
        raise click.UsageError("--forget takes no DATA" if data else "Missing argument 'DATA...'")
    with load(bundle, backend="core", learned=True if kept is None else kept) as model:
        if forget:
            had = model.learned is not None
            model.forget()
            _tell(
                as_json,
                {"model": str(bundle), "forgot": had},
                "what it learned is removed" if had else "nothing was learned",
            )
            return
        if only_budget:
            _show_budget(model, bundle, layers, as_json)
            return
        samples = _read(data)
        _teach(model, bundle, samples, layers, rate, epochs, new_labels, held_out, seed, restart, as_json)


def _tell(as_json: bool, document: dict[str, Any], text: str) -> None:
    if as_json:
        print_json(document)
    else:
        click.echo(f"{document['model']}: {text}.")


def _show_budget(model: "Model", bundle: Path, layers: "int | str", as_json: bool) -> None:
    from dataclasses import asdict

    from edge.sdk.console import format_bytes, print_table

    budget = asdict(model.learning_budget(layers=layers))  # type: ignore[arg-type]  # the option checked it
    if as_json:
        print_json({"model": str(bundle), "budget": budget})
        return
    rows = [(name.removesuffix("_bytes"), format_bytes(budget[name])) for name in budget if name.endswith("_bytes")]
    print_table(
        ("memory", "bytes"),
        [*rows[1:], rows[0]],
        title=f"{bundle}: {budget['layers']} layers learn, "
        f"{budget['parameters']:,} parameters, {budget['classes']} classes",
    )


def _read(data: tuple[Path, ...]) -> list[_Sample]:
    samples: list[_Sample] = []
    for place in data:
        if place.suffix.lower() == ".npz" and place.is_file():
            samples += _read_arrays(place)
        elif place.is_dir():
            samples += _read_folder(place)
        elif not place.exists():
            raise BadFile(f"{place}: no such file or folder")
        else:
            raise BadFile(f"{place}: expected a folder with one folder a class, or an .npz with x and y")
    return samples


def _read_folder(place: Path) -> list[_Sample]:
    found = [
        _Sample(str(file), folder.name, str(file))
        for folder in sorted(place.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in SUFFIXES and file.is_file()
    ]
    if not found:
        raise BadInput(f"{place}: no images, .wav or .npy files in it: each class is a folder, named as its label")
    return found


def _read_arrays(place: Path) -> list[_Sample]:
    import numpy as np

    try:
        with np.load(place, allow_pickle=False) as arrays:
            if "x" not in arrays or "y" not in arrays:
                raise BadInput(f"{place}: expected arrays x and y (and labels, if y are their indices)")
            x, y = arrays["x"], arrays["y"]
            names = [str(name) for name in arrays["labels"]] if "labels" in arrays else None
    except EdgeError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise whatever a damaged archive makes them
        raise BadFile(f"{place}: cannot be read as arrays: {error}") from None
    if y.ndim != 1 or len(x) != len(y) or y.dtype.kind not in "iuU":
        raise BadInput(
            f"{place}: x {list(x.shape)}, y {y.dtype} {list(y.shape)}: expected an index or a label a sample"
        )
    if names is not None and y.dtype.kind != "U" and len(y) and not 0 <= int(y.min()) <= int(y.max()) < len(names):
        raise BadInput(f"{place}: y has indices beyond its {len(names)} labels")
    labels = [str(one) if names is None or y.dtype.kind == "U" else names[int(one)] for one in y]
    return [_Sample(x[i], labels[i], f"{place.name}[{i}]") for i in range(len(x))]


def _split(samples: Sequence[_Sample], share: float, seed: int) -> tuple[list[_Sample], list[_Sample]]:
    """(to learn, in a random order; held out): whatever `seed` is, the same are held out and so never learned."""
    import numpy as np

    fixed, drawn = np.random.default_rng(_HELD_OUT_SEED), np.random.default_rng(seed)
    held: list[int] = []
    for label in sorted({sample.label for sample in samples}):
        own = np.array([i for i, sample in enumerate(samples) if sample.label == label])
        held += fixed.permutation(own)[: round(share * len(own))].tolist()
    kept_back = set(held)
    order = [int(i) for i in drawn.permutation(len(samples)) if int(i) not in kept_back]
    return [samples[i] for i in order], [samples[i] for i in sorted(held)]


def _accuracy(model: "Model", samples: Sequence[_Sample]) -> float | None:
    if not samples:
        return None
    right = sum(_named(sample, model.predict, sample.source).label == sample.label for sample in samples)
    return right / len(samples)


def _named(sample: _Sample, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """The result of `call`; what is wrong with a sample says which it was."""
    try:
        return call(*arguments, **options)
    except (BadFile, BadInput) as error:
        raise type(error)(str(error) if sample.name in str(error) else f"{sample.name}: {error}") from None


def _stream(samples: Sequence[_Sample], *options: object) -> str:
    """A name for these samples in this order, learned in this way."""
    digest = hashlib.sha256(repr(options).encode())
    for sample in samples:
        digest.update(f"{sample.name}\0{sample.label}\0".encode())
    return digest.hexdigest()[:32]


def _teach(
    model: "Model",
    bundle: Path,
    samples: Sequence[_Sample],
    layers: "int | str",
    rate: float,
    epochs: int,
    new_labels: bool,
    held_out: float,
    seed: int,
    restart: bool,
    as_json: bool,
) -> None:
    from edge.sdk.console import progress

    unknown = sorted({sample.label for sample in samples} - set(_labels(model)))
    if unknown and not new_labels:
        raise BadInput(f"{bundle}: no class {unknown[0]!r} in the model: --new-labels adds it")
    if restart:
        model.forget()
    if model.learned is None:
        model.learner(layers=layers, learning_rate=rate)  # type: ignore[arg-type]
    elif layers != "all" and model.learned.layers != layers:
        raise BadInput(f"{bundle}: {model.learned.layers} layers have learned so far: --restart for another --layers")
    assert model.learned is not None
    fresh = [label for label in unknown if label not in model.learned.labels]
    if fresh:
        model.add_labels(fresh)
    model.learned.set_learning_rate(rate)
    learn, held = _split(samples, held_out, seed)
    budget = model.learned.budget
    stream = _stream(learn, layers, rate, epochs, seed)
    total = epochs * len(learn)
    begun = model.learned_position(stream)
    before = _accuracy(model, held)
    correct = done = 0
    with progress() as shown:
        shown.note(
            f"{budget.layers} layer{'s' if budget.layers > 1 else ''} of {budget.parameters:,} parameters learn in "
            f"{budget.total_bytes:,} bytes; {len(learn)} samples, {len(held)} held out"
        )
        if begun:
            shown.note(f"goes on at sample {begun + 1} of {total}, where it stopped")
        shown.stage("learn", total)
        try:
            for number in range(begun, total):
                sample = learn[number % len(learn)]
                place = (stream, (number + 1) % total)
                result = _named(sample, model.learn, sample.source, sample.label, position=place)
                correct, done = correct + result.correct, done + 1
                shown.update(number + 1, accuracy=correct / done)
        except KeyboardInterrupt:
            kept = model.save_learned()
            raise Interrupted(
                f"stopped at sample {begun + done} of {total}; {kept} keeps what was learned: "
                "the same command goes on there"
            ) from None
    kept = model.save_learned()
    after = _accuracy(model, held)
    document = {
        "model": str(bundle),
        "file": kept,
        "labels": list(model.labels),
        "samples": done,
        "held_out": len(held),
        "accuracy_before": before,
        "accuracy_after": after,
        "accuracy_online": correct / done if done else None,
        "budget_bytes": budget.total_bytes,
    }
    if as_json:
        print_json(document)
        return
    if before is not None and after is not None:
        click.echo(f"Accuracy on {len(held)} held-out samples: {before:.1%} before, {after:.1%} after.")
    if done:
        click.echo(f"Right just before it was learned: {correct / done:.1%} of {done} samples.")
    click.echo(f"{kept} keeps what was learned; edge run {bundle} uses it, edge learn {bundle} --forget removes it.")


def _labels(model: "Model") -> tuple[str, ...]:
    return model.labels or tuple(map(str, range(model.outputs[0].shape[-1])))
