"""`edge fleet query`, `match`, `export-rdf`, `import-rdf`, `rebuild`: the fleet as linked data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.runtime.errors import BadInput, EdgeError
from edge.sdk.complete import fleet_names
from edge.sdk.fleet_options import open_database, state_option
from edge.sdk.options import debug_option, json_option, print_json

if TYPE_CHECKING:
    from edge.fleet.server.semantic.facts import ModelFacts
    from edge.fleet.server.semantic.match import Match
    from edge.fleet.server.semantic.opening import Semantics
    from edge.fleet.server.semantic.query import Answer
    from edge.fleet.server.semantic.registry import Registry

_sparql_option = click.option(
    "--sparql", metavar="URL", default="", help="Use this SPARQL 1.1 endpoint in place of the store in the folder."
)
_where_option = click.option("--where", metavar="FILTER", help="Only devices that FILTER names, as 'ram>=256KB'.")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")


@contextmanager
def _semantics(state: Path, sparql: str = "") -> Iterator[Semantics]:
    from edge.fleet.server.semantic.opening import Semantics
    from edge.fleet.server.state import State

    with open_database(state) as database:
        yield Semantics(State.existing(state), database, sparql)


@click.command("query", short_help="Find devices and models: a filter, or SPARQL.")
@click.argument("text", metavar="[SPARQL]", required=False)
@_where_option
@click.option("--show", is_flag=True, help="Print the SPARQL that --where becomes, and do not run it.")
@click.option(
    "--seconds", type=click.FloatRange(0.1, 600), default=30.0, show_default=True, help="Give up after SECONDS."
)
@click.option("--rows", type=click.IntRange(1, 1_000_000), default=1000, show_default=True, help="Show at most ROWS.")
@_sparql_option
@state_option
@json_option
@debug_option
def query(
    text: str | None,
    where: str | None,
    show: bool,
    seconds: float,
    rows: int,
    sparql: str,
    state: Path,
    as_json: bool,
) -> None:
    """Ask about the fleet: SELECT, ASK, CONSTRUCT or DESCRIBE, or a plain filter.

    \b
    edge fleet query --where 'ram>=256KB and sensor=microphone and model!=kws:2.1'
    edge fleet query 'SELECT ?d ?ram { ?d ef:inBuilding "7"; ef:ramBytes ?ram }'

    Queries only read, and never leave the store; prefixes (ef: td: ssn: s3n: nnet: schema: …) need not be declared.
    """
    if (text is None) == (where is None):
        raise click.UsageError("give SPARQL, or --where FILTER")
    from edge.fleet.server.semantic.asking import run_query
    from edge.fleet.server.semantic.filter_sparql import to_sparql
    from edge.fleet.server.semantic.filters import parse
    from edge.fleet.server.semantic.opening import opened_store
    from edge.fleet.server.state import State

    asked = text if text is not None else to_sparql(parse(where or ""))
    if show:
        click.echo(asked)
        return
    if where is not None:
        asked += " ORDER BY ?device"
    State.existing(state)

    answer = run_query(partial(opened_store, state, sparql), asked, seconds=seconds, rows=rows)
    if as_json:
        _print_answer_json(answer)
    else:
        _print_answer(answer)


def _print_answer_json(answer: Answer) -> None:
    from edge.fleet.server.semantic.query import json_term

    if answer.kind == "ask":
        print_json({"answer": answer.rows[0][0]})
        return
    rows = [
        {name: json_term(term) for name, term in zip(answer.variables, row, strict=True) if term is not None}
        for row in answer.rows
    ]
    print_json({"variables": list(answer.variables), "rows": rows, "truncated": answer.truncated})


def _print_answer(answer: Answer) -> None:
    from edge.fleet.server.semantic.query import shown_term
    from edge.sdk.console import print_table

    if answer.kind == "graph":
        import pyoxigraph as ox

        from edge.fleet.server.semantic.exchange import to_turtle

        click.echo(to_turtle(ox.Triple(*row) for row in answer.rows), nl=False)
    elif answer.kind == "ask":
        click.echo(shown_term(answer.rows[0][0]))
    else:
        print_table(answer.variables, [[shown_term(term) for term in row] for row in answer.rows])
    if answer.truncated:
        click.echo(f"only the first {len(answer.rows):,} are shown: --rows shows more", err=True)


@click.command("match", short_help="Tell which devices can run a model, and why the others cannot.")
@click.argument("model", metavar="[MODEL]", required=False, shell_complete=fleet_names("model"))
@click.option("--device", metavar="ID", help="Compare this device with every published model.")
@_where_option
@click.option("--unfit", is_flag=True, help="Show only those that do not fit.")
@state_option
@json_option
@debug_option
def match(model: str | None, device: str | None, where: str | None, unfit: bool, state: Path, as_json: bool) -> None:
    """Compare MODEL with the devices of the fleet, or one device with all models.

    MODEL is a published model (kws, its newest version, or kws:2.1), or the path of a bundle that is not published yet.
    For what does not fit, every need that is not met is told: RAM, flash, kind, architecture, target, board, runtime
    and its version, operators, number format. Sensors that the model listens to and the device does not have are told
    too: it runs the model all the same, on inputs from elsewhere.
    """
    if (model is None) == (device is None):
        raise click.UsageError("give a MODEL, or --device ID")
    if where is not None and device is not None:
        raise click.UsageError("--where is for MODEL: one device needs no filter")
    from edge.fleet.server.semantic import candidates
    from edge.fleet.server.semantic.match import match as match_one
    from edge.fleet.server.semantic.sql import SqlRegistry

    with open_database(state) as database:
        registry = SqlRegistry(database)
        if model is not None:
            found = candidates.match_all(registry, _model(registry, model), where, _not_compared)
        else:
            one = candidates.device(registry, device or "", _not_compared)
            found = [match_one(each, one) for each in candidates.models(registry)]
    if unfit:
        found = [each for each in found if not each.fits]
    if as_json:
        print_json([_match_json(each) for each in found])
        return
    from edge.sdk.console import print_table

    first = "device" if model is not None else "model"
    print_table(
        (first, "fits", "variant", "needs that are not met", "without"),
        [
            (
                each.device if model is not None else each.model,
                "yes" if each.fits else "no",
                each.variant,
                "; ".join(map(str, each.unmet)),
                ", ".join(each.without) or None,
            )
            for each in found
        ],
    )
    click.echo(f"{sum(each.fits for each in found)} of {len(found)} fit", err=True)


def _match_json(found: Match) -> dict[str, Any]:
    return {
        "device": found.device,
        "model": found.model,
        "fits": found.fits,
        "variant": found.variant,
        "without": list(found.without),
        "unmet": [{"need": each.need, "wanted": each.wanted, "found": each.found} for each in found.unmet],
    }


def _not_compared(problem: str) -> None:
    click.echo(f"edge: not compared: {problem}", err=True)


def _model(registry: Registry, model: str) -> ModelFacts:
    from edge.fleet.server.semantic import candidates
    from edge.fleet.server.semantic.facts import ModelFacts

    if not model.endswith(".edge"):
        return candidates.model(registry, model)
    from edge.runtime.bundle import Bundle

    with Bundle.open(model) as bundle:
        return ModelFacts.from_manifest(bundle.manifest)


@click.command("export-rdf", short_help="Write devices and models as Turtle or JSON-LD.")
@click.argument("things", metavar="[DEVICE|MODEL:VERSION]...", nargs=-1)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["turtle", "jsonld"]),
    default="turtle",
    show_default=True,
    help="JSON-LD of one device is its W3C Thing Description.",
)
@click.option("--check", is_flag=True, help="Check them against their SHACL shapes; say what is wrong, exit with 1.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="File to write.")
@state_option
@debug_option
def export_rdf(things: tuple[str, ...], format_: str, check: bool, output: Path | None, state: Path) -> None:
    """Write devices as W3C WoT Thing Descriptions and models in the TinyML schema; without names, all of them."""
    from edge.fleet.server.semantic import candidates
    from edge.fleet.server.semantic.exchange import to_jsonld, to_turtle
    from edge.fleet.server.semantic.expansion import triples_of
    from edge.fleet.server.semantic.network import network_description
    from edge.fleet.server.semantic.opening import broker_url
    from edge.fleet.server.semantic.sql import SqlRegistry
    from edge.fleet.server.semantic.thing import thing_description
    from edge.fleet.server.state import State

    with open_database(state) as database:
        registry = SqlRegistry(database)
        broker = broker_url(State.existing(state).settings())
        fleet = candidates.devices(registry, None, _not_compared)
        described = {facts.id: thing_description(facts, broker) for facts in fleet}
        described.update({model.key: network_description(model) for model in candidates.models(registry)})
    unknown = [thing for thing in things if thing not in described]
    if unknown:
        raise BadInput(f"{unknown[0]}: no such device, and no such model as NAME:VERSION")
    chosen = [described[thing] for thing in things or described]
    if check:
        from edge.fleet.server.semantic.validation import problems

        wrong = [line for each in chosen for line in problems(triples_of(each))]
        for line in wrong:
            click.echo(line, err=True)
        if wrong:
            raise EdgeError(f"{len(wrong)} problems in {len(chosen)} descriptions")
    if format_ == "turtle":
        written = to_turtle({triple for each in chosen for triple in triples_of(each)})
    else:
        written = to_jsonld(chosen)
    if output is None:
        click.echo(written, nl=False)
        return
    from edge.runtime.whole_file import whole_file

    with whole_file(output) as file:
        file.write(written.encode())


@click.command("import-rdf", short_help="Add descriptions of others, as Turtle or JSON-LD, to what queries see.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--name", help="Name of the import; one of that name is replaced.  [default: the file's]")
@click.option("--remove", is_flag=True, help="Remove the import of that name; FILE is only its name.")
@_sparql_option
@state_option
@debug_option
def import_rdf(file: Path, name: str | None, remove: bool, sparql: str, state: Path) -> None:
    """Add the triples of FILE (.ttl, .nt, .jsonld, .json) to what `edge fleet query` sees, in a graph of their own.

    They are data to query, not devices of the fleet: filters, `match` and rollouts do not see them.
    """
    chosen = name if name is not None else re.sub(r"[^A-Za-z0-9_-]", "-", file.stem)[:64]
    if not _NAME.fullmatch(chosen):
        raise BadInput(f"--name {chosen!r}: expected letters, digits, _ and -, at most 64")
    with _semantics(state, sparql) as semantics:
        if remove:
            if not semantics.remove_import(chosen):
                raise BadInput(f"{chosen}: there is no import of that name")
            click.echo(f"{chosen}: removed")
        else:
            click.echo(f"{chosen}: {semantics.add_import(file, chosen):,} triples")


@click.command("rebuild", short_help="Make the semantic store anew from the registry.")
@_sparql_option
@state_option
@debug_option
def rebuild(sparql: str, state: Path) -> None:
    """Make the semantic store anew from the registry, which is the truth; imports are kept.

    Never needed for a store that follows by itself: it is for one that was lost, or for a new --sparql endpoint.
    """
    with _semantics(state, sparql) as semantics:
        if not semantics.kept:
            raise EdgeError(f"{state}: another command has the semantic store open: try again when it has ended")
        semantics.projection.rebuild(semantics.registry)
        count = len(semantics.store.names())
    click.echo(f"{count:,} graphs")
