"""Publishing: from a bundle and what else an operator names to the variants of one model version, stored and signed."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge.fleet.gates import parse_gate
from edge.fleet.server.updates.repository import ModelRepository
from edge.fleet.server.updates.store import BlobStore
from edge.fleet.slot_header import LONGEST_NAME, LONGEST_VERSION, SlotHeader
from edge.fleet.variant import ENGINE_VERSION, KINDS, Blob, Tensor, Variant, check_model_version, check_variant_name
from edge.runtime.bundle import Bundle, write_bundle
from edge.runtime.errors import BadFile, BadInput
from edge.runtime.layouts import LAYOUTS
from edge.runtime.manifest import ENGINES, FORMAT_ENGINES, Manifest
from edge.runtime.target import TARGETS

if TYPE_CHECKING:
    from edge.runtime._core import Program

_KIND_OF_SUFFIX = {".edge": "bundle", ".pte": "program", ".bin": "image", ".slot": "image"}


@dataclass(frozen=True)
class VariantRequest:
    """One variant as the operator names it.

    Attributes:
        name: of the variant. "bundle" is the whole bundle; "pte", "tflite" and "onnx" are cut from it.
        file: its file, if it is none of these.
        target: machine that it is for; "generic": any.
        board: the only board that it is for.
    """

    name: str
    file: Path | None = None
    target: str = "generic"
    board: str | None = None


def parse_variant(text: str) -> VariantRequest:
    """Reads `pte`, `NAME=FILE`, `TARGET@BOARD=FILE`.

    A name with a file is also the target that it is for, as `cortex-m4=kws.pte` or `cortex-m4@lm3s6965evb=slot.bin`;
    `generic.NAME=FILE` is for any machine.

    Raises:
        BadInput: the text has another form.
    """
    name, equals, file = text.partition("=")
    if not equals:
        if name != "bundle" and name not in FORMAT_ENGINES:
            raise BadInput(
                f"variant {text[:60]!r}: expected bundle, {', '.join(FORMAT_ENGINES)}, or TARGET=FILE or "
                "TARGET@BOARD=FILE"
            )
        return VariantRequest(name)
    target, at, board = name.partition("@")
    check_variant_name(target, f"variant {text[:60]!r}")
    if at:
        check_variant_name(board, f"variant {text[:60]!r}")
    if not file:
        raise BadInput(f"variant {text[:60]!r}: names no file")
    generic = target.startswith("generic.")
    return VariantRequest(
        name=f"{target}-{board}" if at else target.removeprefix("generic."),
        file=Path(file),
        target="generic" if generic else target,
        board=board if at else None,
    )


def parse_need(text: str) -> tuple[str, str]:
    """Reads `core>=0.2.0`: an engine and the least version of it.

    Raises:
        BadInput: the text has another form.
    """
    engine, _, version = text.partition(">=")
    if engine.strip() not in ENGINES or not ENGINE_VERSION.fullmatch(version.strip()):
        raise BadInput(f"needs {text[:60]!r}: expected {' or '.join(ENGINES)}, >= and a version, as core>=0.2.0")
    return engine.strip(), version.strip()


def publish(
    repository: ModelRepository,
    store: BlobStore,
    bundle: Path,
    *,
    version: str | None = None,
    variants: Sequence[VariantRequest] = (),
    target: str = "generic",
    gate: str = "",
    abi: int | None = None,
    needs: Mapping[str, str] | None = None,
) -> list[Variant]:
    """Checks, stores and signs the variants of one model version.

    Args:
        bundle: gives the model's name, its version unless `version` is given, and its facts.
        variants: by default the whole bundle alone.
        target: machine that the bundle and what is cut from it are for.
        gate: what must hold before a device activates it; see `edge.fleet.gates`.
        abi: version of the programs that a board's core must run; an image says it itself.
        needs: the least version of engines that run it: {"core": "0.2.0"}.

    Returns:
        The variants as they were published.

    Raises:
        BadFile: a file is damaged or of another kind.
        BadInput: two variants of one name, or the version is published with other contents.
        EdgeError: the store cannot be written, or the targets key is not here.
    """
    parse_gate(gate)
    asked = list(variants) or [VariantRequest("bundle")]
    for name in (target, *(request.target for request in asked)):
        _check_target(name)
    names = [request.name for request in asked]
    if len(set(names)) != len(names):
        raise BadInput(f"variant {max(names, key=names.count)}: is given twice")
    with Bundle.open(bundle) as opened:
        opened.verify()
        manifest = opened.manifest
        if version is not None:
            manifest = dataclasses.replace(manifest, version=version)
        check_model_version(manifest.name, manifest.version)
        sequence = _sequence(repository, manifest)
        made: list[Variant] = []
        for request in asked:
            base = Variant(
                model=manifest.name,
                version=manifest.version,
                name=request.name,
                sequence=sequence,
                kind="bundle",
                blob=Blob("0" * 64, 1),
                target=target if request.file is None else request.target,
                board=request.board,
                task=manifest.task,
                inputs=tuple(Tensor(spec.dtype, spec.shape) for spec in manifest.inputs),
                outputs=tuple(Tensor(spec.dtype, spec.shape) for spec in manifest.outputs),
                gate=gate,
            )
            if request.file is None:
                made.append(_cut(base, opened, manifest, store))
            else:
                made.append(_given(base, request.file, opened, manifest, store, abi))
    least = needs or {}
    made = [
        # A board's core goes by its ABI.
        dataclasses.replace(variant, runtimes={name: least[name] for name in variant.engines if name in least})
        if variant.kind == "bundle"
        else variant
        for variant in made
    ]
    repository.publish(made)
    return made


def _check_target(name: str) -> None:
    if name not in (names := [target.name for target in TARGETS]):
        raise BadInput(f"target {name[:60]!r}: expected one of {', '.join(names)} (edge targets)")


def _sequence(repository: ModelRepository, manifest: Manifest) -> int:
    """The number of this version: that of its variants if some are published, else the next."""
    held = [variant for variant in repository.variants().values() if variant.model == manifest.name]
    for variant in held:
        if variant.version == manifest.version:
            return variant.sequence
    return max((variant.sequence for variant in held), default=0) + 1


def _cut(base: Variant, bundle: Bundle, manifest: Manifest, store: BlobStore) -> Variant:
    """The whole bundle, or one with the files of one format: the manifest of each tells its own files alone."""
    if base.name == "bundle":
        files = list(manifest.files)
    else:
        engines = FORMAT_ENGINES[base.name]
        run = [name for name, entry in manifest.files.items() if set(entry.engines) & set(engines)]
        files = [name for name, entry in manifest.files.items() if name in run or not entry.engines]
        if not run:
            raise BadInput(f"variant {base.name}: {bundle.path} holds no such file")
    metrics = manifest.metrics
    if metrics is not None:
        kept = {name: metric for name, metric in metrics.engines.items() if metric.file in files}
        metrics = dataclasses.replace(metrics, engines=kept)
    slim = dataclasses.replace(manifest, files={name: manifest.files[name] for name in files}, metrics=metrics)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.edge"
        write_bundle(path, slim, {name: bytes(bundle.view(name)) for name in files})
        blob = store.add(path)
    return _with_facts(dataclasses.replace(base, blob=blob), slim)


def _given(base: Variant, file: Path, bundle: Bundle, manifest: Manifest, store: BlobStore, abi: int | None) -> Variant:
    """A variant with a file of its own: a bundle of the same model, a program, or a slot image."""
    kind = _KIND_OF_SUFFIX.get(file.suffix.lower())
    if kind is None or kind not in KINDS:
        raise BadFile(f"{file}: expected a .edge bundle, a .pte program, or a .bin or .slot slot image")
    if kind == "bundle":
        with Bundle.open(file) as opened:
            opened.verify()
            other = opened.manifest
            mine = [(spec.dtype, spec.shape) for spec in (*other.inputs, *other.outputs)]
            if mine != [(spec.dtype, spec.shape) for spec in (*manifest.inputs, *manifest.outputs)]:
                raise BadInput(f"{file}: its inputs and outputs are not those of {bundle.path}: not a variant of it")
            whole = dataclasses.replace(other, name=manifest.name, version=manifest.version)
            made = _cut(dataclasses.replace(base, name="bundle"), opened, whole, store)
            return dataclasses.replace(made, name=base.name)
    reference = None
    if manifest.reference is not None:
        reference = store.add_bytes(bundle.read(manifest.reference))
    try:
        data = file.read_bytes()
    except OSError as error:
        raise BadFile(f"{file}: cannot be read: {error.strerror}") from None
    if kind == "image":
        header = SlotHeader.read(data, str(file))
        wanted = manifest.name[:LONGEST_NAME], manifest.version[:LONGEST_VERSION]
        if (header.name, header.version) != wanted:
            raise BadInput(
                f"{file}: says that it is {header.name}:{header.version}, and its boards will: "
                f"sign it as {':'.join(wanted)}"
            )
        base = _of_class(base, header, file)
        abi = header.abi if abi is None else abi
        if abi != header.abi:
            raise BadInput(f"{file}: is for programs of ABI {header.abi}, not {abi}")
        data = header.program(data)
    program = _program(data, file)
    operators = tuple(dict.fromkeys(operator for operator, _, _ in program.instructions))
    _check_layout(base, program, file)
    metrics = manifest.metrics
    accuracy = metrics.engines["core"].value if metrics is not None and "core" in metrics.engines else None
    return dataclasses.replace(
        base,
        kind=kind,
        blob=store.add(file),
        engines=("core",),
        abi=abi,
        arena_bytes=program.arena_bytes,
        ram_bytes=program.arena_bytes,
        macs=program.macs,
        accuracy=_share(accuracy, manifest),
        reference=reference,
        operators=operators,
    )


def _program(data: bytes, file: Path) -> Program:
    from edge.runtime._core import CoreError, Program

    try:
        return Program(data)
    except CoreError as error:
        raise BadFile(f"{file}: the core refuses it: {' '.join(map(str, error.args[1:]))}") from None


def _of_class(base: Variant, header: SlotHeader, file: Path) -> Variant:
    """The variant for the machine that the image is for, which must be the one that the operator names."""
    target, board = header.target or base.target, header.board or base.board
    if base.target not in (target, "generic"):
        raise BadInput(f"{file}: its target is {target}, not {base.target}")
    if base.board not in (board, None):
        raise BadInput(f"{file}: its board is {board}, not {base.board}")
    return dataclasses.replace(base, target=target, board=board)


def _check_layout(base: Variant, program: Program, file: Path) -> None:
    """Checks that ternary weights lie as the target's kernels read them in place, or row-major, as all do."""
    own = next((target.layout for target in TARGETS if target.name == base.target), None)
    for operator, _, arguments in program.instructions:
        if "::ternary_" not in operator:
            continue
        tensors = [argument for argument in arguments if isinstance(argument, tuple) and argument[0] == "tensor"]
        number = len(tensors[1][2]) - 2 if len(tensors) > 1 else 0
        layout = LAYOUTS[number] if 0 <= number < len(LAYOUTS) else "unknown"
        if own is not None and layout not in (LAYOUTS[0], own):
            where = f"{file}: its weights lie in {layout}, and {base.target} reads {own}"
            raise BadInput(f"{where}: edge export --target {base.target}")


def _with_facts(variant: Variant, manifest: Manifest) -> Variant:
    """Engines, memory, work and accuracy of a bundle: of its first file that an engine runs."""
    runnable = {name: entry for name, entry in manifest.files.items() if entry.engines}
    if not runnable:
        raise BadInput(f"variant {variant.name}: holds no file that an engine runs")
    engines = tuple(dict.fromkeys(engine for entry in runnable.values() for engine in entry.engines))
    first = next(iter(runnable.values()))
    values = [metric.value for metric in manifest.metrics.engines.values()] if manifest.metrics is not None else []
    return dataclasses.replace(
        variant,
        engines=engines,
        arena_bytes=first.arena_bytes,
        ram_bytes=min(entry.bytes + (entry.arena_bytes or 0) for entry in runnable.values()),
        macs=first.macs,
        accuracy=_share(min(values), manifest) if values else None,
    )


def _share(value: float | None, manifest: Manifest) -> float | None:
    """An accuracy; other metrics are no share of 1."""
    if value is None or manifest.metrics is None or manifest.metrics.metric != "accuracy" or not 0 <= value <= 1:
        return None
    return round(value, 6)
