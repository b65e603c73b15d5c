"""`edge fleet publish`, `models`, `withdraw`, `keys`, `deploy`: what devices may run, and who gets it when."""

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from edge.sdk.commands.fleet_enroll import Duration
from edge.sdk.complete import files, fleet_names
from edge.sdk.fleet_options import confirm, open_database, operator, state_option
from edge.sdk.options import debug_option, json_option, print_json

_keys_option = click.option(
    "--keys",
    "media",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with keys that are kept elsewhere, as on a medium.",
)


class Share(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on
    """ "2%" or "0.02", as 0.02."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        word = str(value).strip()
        try:
            share = float(word.removesuffix("%")) / (100 if word.endswith("%") else 1)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            self.fail(f"{value}: a share, like 2% or 0.02", param, ctx)
        return share


class Moment(click.ParamType):  # type: ignore[type-arg]
    """ "2026-12-01T03:00", local time unless it names its zone; seconds since 1970."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return datetime.fromisoformat(str(value).replace("Z", "+00:00")).timestamp()
        except (ValueError, OverflowError, OSError):
            self.fail(f"{value}: a time, like 2026-12-01T03:00", param, ctx)


@click.command("publish", short_help="Sign a model, so that devices may run it.")
@click.argument("bundle", type=click.Path(path_type=Path), shell_complete=files((".edge",)))
@click.option("--version", metavar="VERSION", help="Publish it as this version.  [default: the bundle's own]")
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="VARIANT",
    help="bundle, pte, tflite, onnx (cut from the bundle), TARGET=FILE or TARGET@BOARD=FILE.  [default: bundle]",
)
@click.option(
    "--target", default="generic", show_default=True, help="Machine that the bundle is for; see edge targets."
)
@click.option("--gate", default="", metavar="GATE", help="What must hold on a device before it is activated, always.")
@click.option("--abi", type=click.IntRange(min=0), help="Version of the programs that a board's core must run.")
@click.option("--needs", multiple=True, metavar="ENGINE>=VERSION", help="Not for devices with an older engine.")
@_keys_option
@state_option
@json_option
@debug_option
def publish(
    bundle: Path,
    version: str | None,
    variants: tuple[str, ...],
    target: str,
    gate: str,
    abi: int | None,
    needs: tuple[str, ...],
    media: tuple[Path, ...],
    state: Path,
    as_json: bool,
) -> None:
    """Check BUNDLE, store it by its hash, and sign what devices need to know of it (TUF).

    Several variants of one version may be published, at once or later; each device gets the one that fits it. What is
    published is never changed: another file needs another version.
    """
    from edge.fleet.server.state import State
    from edge.fleet.server.updates.catalogue import publish_model
    from edge.fleet.server.updates.publish import parse_need, parse_variant
    from edge.fleet.server.updates.publish import publish as sign
    from edge.fleet.server.updates.service import open_source
    from edge.runtime.bundle import Bundle

    asked = [parse_variant(word) for word in variants]
    least = dict(map(parse_need, needs))
    with open_database(state) as database:
        source = open_source(State.existing(state), media)
        made = sign(
            source.repository,
            source.store,
            bundle,
            version=version,
            variants=asked,
            target=target,
            gate=gate,
            abi=abi,
            needs=least,
        )
        with Bundle.open(bundle) as opened:
            manifest = json.loads(opened.manifest.to_json())
        publish_model(database, made, {**manifest, "version": made[0].version}, operator())
    if as_json:
        print_json([variant.to_dict() for variant in made])
        return
    from edge.sdk.console import format_bytes

    for variant in made:
        size = format_bytes(variant.blob.length)
        click.echo(f"published {variant.path}, {size}, for {variant.board or variant.target}")


@click.command("models", short_help="List what is published.")
@state_option
@json_option
@debug_option
def models(state: Path, as_json: bool) -> None:
    """List the published models, each version with its variants."""
    from edge.fleet.server.updates.catalogue import published

    with open_database(state) as database:
        rows = published(database)
    if as_json:
        print_json(rows)
        return
    from edge.sdk.console import format_bytes, format_count, format_share, print_table

    print_table(
        ("model", "variant", "for", "engines", "size", "RAM", "MACs", "accuracy", "gate"),
        [
            (
                f"{row['name']}:{row['version']}",
                variant["variant"],
                variant["board"] or variant["target"],
                ",".join(variant["engines"]) or None,
                format_bytes(variant["length"]),
                format_bytes(variant["ram_bytes"] or None),
                format_count(variant["macs"]),
                None if variant["accuracy"] is None else format_share(float(variant["accuracy"])),
                variant["gate"] or None,
            )
            for row in rows
            for variant in row["variants"]
        ],
    )


@click.command("withdraw", short_help="Take a version out of what devices may get.")
@click.argument("model", metavar="MODEL:VERSION", shell_complete=fleet_names("model"))
@click.option("--yes", is_flag=True, help="Do not ask.")
@_keys_option
@state_option
@debug_option
def withdraw(model: str, yes: bool, media: tuple[Path, ...], state: Path) -> None:
    """Take a version out of the repository. Devices that run it keep it, and can no longer be sent back to it."""
    from edge.fleet.server.state import State
    from edge.fleet.server.updates.catalogue import find_version
    from edge.fleet.server.updates.catalogue import withdraw as take_out
    from edge.fleet.server.updates.service import open_source

    if ":" not in model:
        raise click.UsageError(f"{model}: name the version too, as {model}:1.0")
    with open_database(state) as database:
        name, version = find_version(database, model)
        if not yes:
            confirm(f"Take {name}:{version} out, files and all?")
        take_out(database, open_source(State.existing(state), media), name, version, operator())
    click.echo(f"{name}:{version} is no longer published")


@click.command("keys", short_help="Show the keys that sign models, or replace one.")
@click.option("--rotate", type=click.Choice(["root", "targets", "snapshot", "timestamp"]), help="Replace a role's key.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_keys_option
@state_option
@json_option
@debug_option
def keys(rotate: str | None, yes: bool, media: tuple[Path, ...], state: Path, as_json: bool) -> None:
    """Show which keys sign what, until when; and whether their files are here.

    The files of root and targets, below tuf/keys in the fleet's folder, are needed only to publish and to rotate: move
    them to a medium and name its folder with --keys when it is there.
    """
    from edge.fleet.server.database import audit
    from edge.fleet.server.state import State
    from edge.fleet.server.updates.service import open_source

    with open_database(state) as database:
        repository = open_source(State.existing(state), media).repository
        if rotate is not None:
            if not yes:
                confirm(f"Replace the {rotate} key? The old one signs nothing any more")
            new = repository.rotate(rotate)
            with database.transaction() as connection:
                audit(connection, operator(), "keys.rotate", rotate, key=new)
        rows = repository.status()
    if as_json:
        print_json(rows)
        return
    from edge.sdk.console import print_table

    print_table(
        ("role", "version", "expires", "key", "file"),
        [
            (
                row["role"],
                row["version"],
                row["expires"] + (" (expired)" if row["expired"] else ""),
                " ".join(key[:16] for key in row["keys"]),
                "here" if row["key_here"] else "elsewhere",
            )
            for row in rows
        ],
    )


@click.command("deploy", short_help="Roll a model out: to few devices, then to more.")
@click.argument("model", metavar="MODEL[:VERSION]", shell_complete=fleet_names("model"))
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="ID",
    help="To these devices only; may be repeated.",
    shell_complete=fleet_names("device"),
)
@click.option("--where", metavar="FILTER", help="To devices that FILTER names, as 'building=7', also later ones.")
@click.option("--canary", type=click.IntRange(min=0), default=0, help="Begin with so many devices.")
@click.option("--phases", default="100%", show_default=True, help="Devices so far, by count or per cent: 10%,50%,100%.")
@click.option("--abort-over", type=Share(), default="5%", show_default=True, help="Stop where more devices fail.")
@click.option("--success", type=Share(), default="0%", show_default=True, help="What a phase needs to go on.")
@click.option("--gate", default="", metavar="GATE", help="As 'accuracy>=0.9|latency_p95<20ms|agreement>=0.95'.")
@click.option("--samples", type=click.IntRange(1, 1024), default=64, show_default=True, help="Inputs that gates judge.")
@click.option("--pause-on-success", is_flag=True, help="Wait for 'rollout resume' after each phase.")
@click.option("--activate-at", type=Moment(), metavar="TIME", help="Download and try now, activate at this time.")
@click.option("--timeout", type=Duration(), default="1d", show_default=True, help="For a device, then it is silent.")
@click.option("--mirror", default="", metavar="URL", help="HTTPS copy of the folder models/, for large files.")
@click.option("--dry-run", is_flag=True, help="Show who would get what, and start nothing.")
@state_option
@json_option
@debug_option
def deploy(model: str, state: Path, as_json: bool, dry_run: bool, **given: Any) -> None:
    """Bring MODEL to devices, phase by phase. Without a version: the newest.

    Each device downloads the variant that fits it, verifies it, tries it on its own reference inputs and, for the gate,
    beside the old model on what the device itself has seen. A device that finds it wanting keeps the old one; where
    more devices than --abort-over do, the rollout stops.
    """
    from edge.fleet.server.updates.catalogue import find_version
    from edge.fleet.server.updates.plan import Plan, parse_steps
    from edge.fleet.server.updates.rollout import Rollouts
    from edge.fleet.server.updates.selection import selector

    moment = given["activate_at"]
    if moment is not None and moment <= time.time():
        raise click.BadParameter("lies in the past", param_hint="--activate-at")
    with open_database(state) as database:
        name, version = find_version(database, model)
        plan = Plan(
            model=name,
            version=version,
            devices=given["devices"] or None,
            where=given["where"],
            steps=parse_steps(given["phases"], given["canary"]),
            abort_over=given["abort_over"],
            success=given["success"],
            gate=given["gate"],
            samples=given["samples"],
            pause_on_success=given["pause_on_success"],
            activate_at=moment,
            timeout=given["timeout"],
            mirror=given["mirror"],
        )
        rollouts = Rollouts(database, selector(database))
        if dry_run:
            _show_plan(rollouts.preview(plan), plan, as_json)
            return
        shown = rollouts.show(rollouts.create(plan, operator()))
    if as_json:
        print_json(shown)
        return
    click.echo(f"rollout {shown['id']}: {shown['started']} of {shown['total']} devices have been asked to begin")
    click.echo(f"watch it: edge fleet rollout show {shown['id']} --watch")


def _show_plan(rows: list[dict[str, Any]], plan: Any, as_json: bool) -> None:
    if as_json:
        print_json({"plan": plan.to_dict(), "devices": rows})
        return
    from edge.sdk.console import print_table

    print_table(
        ("device", "gets", "has"),
        [(row["device"], row["target"] or f"nothing: {row['detail']}", row["before"] or None) for row in rows],
    )
    fit = sum(bool(row["target"]) for row in rows)
    steps = ", ".join(str(plan.allowed(phase, fit)) for phase in range(len(plan.steps)))
    click.echo(f"phases, devices in all: {steps}")
