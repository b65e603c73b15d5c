"""The core beside its peers, in one process: what `edge bench --against` and the benchmarks measure."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from edge.export.peers.forms import TERNARY, Architecture, Form, architecture_of, select
from edge.export.peers.make import Peers, make_peers, open_peers
from edge.export.progress import Progress
from edge.runtime import Bundle, Model, load
from edge.runtime.bench.timing import Timing, run_of, time_in_turn
from edge.runtime.errors import BadInput, EdgeError

OWN = "this bundle"
"""The form of the bundle's own files."""


@dataclass(frozen=True)
class PeerRow:
    """One engine with one file.

    Attributes:
        engine, form: as "litert", "int8 static".
        timing: beside the core's.
        error_to_torch: see `edge.export.peers.make.OpenedPeer`.
    """

    engine: str
    form: str
    timing: Timing
    error_to_torch: float | None

    @property
    def title(self) -> str:
        return f"{self.engine} {self.form}"


@dataclass(frozen=True)
class Comparison:
    """What was measured, the core first, and by name why something could not be."""

    rows: list[PeerRow]
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def fastest_peer(self) -> PeerRow | None:
        """The fastest of the others, our own files on their engines included."""
        return min(self.rows[1:], key=lambda row: row.timing.minimum, default=None)


def compare_with_peers(
    bundle: Path,
    engines: Sequence[str],
    runs: int,
    threads: int,
    display: AbstractContextManager[Progress],
    source: str | None = None,
) -> Comparison:
    """A bundle on the core beside its own files and the same architecture on `engines`.

    Args:
        bundle: a `.edge` file.
        engines: of `forms.PEERS`.
        runs: rounds, see `time_in_turn`.
        threads: of every engine.
        display: where the making of the peers' models is shown; closed before anything is timed.
        source: see `architecture_of`.

    Raises:
        EdgeError: the bundle cannot be read or run, or its architecture cannot be built; a peer that fails is skipped.
    """
    if bundle.suffix.lower() != ".edge":
        raise BadInput(f"{bundle}: peers are made from a bundle's manifest: give a .edge file")
    with Bundle.open(bundle) as opened:
        manifest = opened.manifest
    architecture = architecture_of(manifest, str(bundle), source)
    with ExitStack() as stack:
        own = {"core": stack.enter_context(load(bundle, backend="core", threads=threads))}
        skipped: dict[str, str] = {}
        for engine in engines:
            if engine != "executorch" and manifest.files_for(engine):  # its .pte is the core's, and made for the core
                try:
                    own[engine] = stack.enter_context(load(bundle, backend=engine, threads=threads))
                except EdgeError as error:
                    skipped[f"{engine} {OWN}"] = str(error)
        peers = _made(architecture, select(engines), runs, display)
        models = {Form(engine, OWN, "ternary"): model for engine, model in own.items()}
        comparison = _compare(stack, models, peers, runs, threads)
    return Comparison(comparison.rows, {**skipped, **comparison.skipped})


def compare_untrained(
    architecture: Architecture,
    forms: Sequence[Form],
    runs: int,
    threads: int,
    display: AbstractContextManager[Progress],
    core: Form = TERNARY["core"],
) -> Comparison:
    """The same for an architecture that nobody trained: our own export of random weights, `core`, beside `forms`.

    Raises:
        EdgeError: our own export of it does not run on the core.
    """
    made = _made(architecture, [core, *forms], runs, display)
    with ExitStack() as stack:
        ours, failed = open_peers(stack, Peers({core: made.files[core]} if core in made.files else {}), threads)
        if core not in ours:
            raise EdgeError(f"{architecture.source}: {({**made.failed, **failed})[core.title]}")
        others = {form: path for form, path in made.files.items() if form != core}
        return _compare(stack, {core: ours[core].model}, Peers(others, made.failed), runs, threads)


def _made(
    architecture: Architecture, forms: Sequence[Form], runs: int, display: AbstractContextManager[Progress]
) -> Peers:
    with display as progress:
        peers = make_peers(architecture, forms, progress)
        progress.note(f"timing {len(peers.files)} models of peers in turn, {runs} rounds")
    return peers


def _compare(stack: ExitStack, ours: dict[Form, Model], peers: Peers, runs: int, threads: int) -> Comparison:
    theirs, skipped = open_peers(stack, peers, threads)
    [core] = [model for form, model in ours.items() if form.engine == "core"]
    for form, peer in list(theirs.items()):
        wanted, found = core.outputs[0].shape, peer.model.outputs[0].shape
        if wanted != found:
            skipped[form.title] = f"gives {list(found)}, the core gives {list(wanted)}: not the same architecture"
            del theirs[form]
    everyone = {**ours, **{form: peer.model for form, peer in theirs.items()}}
    times = time_in_turn({form.title: run_of(model) for form, model in everyone.items()}, runs)
    errors = {form: peer.error_to_torch for form, peer in theirs.items()}
    rows = [PeerRow(form.engine, form.name, times[form.title], errors.get(form)) for form in everyone]
    return Comparison(rows, skipped)
