"""`edge doctor`: what is installed, what is missing, and how to get it."""

import importlib.util
import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from edge.sdk.extras import PACKAGES, Package
from edge.sdk.options import debug_option, json_option, print_json
from edge.sdk.version import version


@click.command("doctor", short_help="Check what is installed, what is missing, and how to get it.")
@json_option
@debug_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Check this machine: engines, packages, compiler, cache. Exits with 1 if the base install is broken."""
    core = _core()
    report: dict[str, Any] = {
        "edge": version(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "core": core,
        "engines": _engines(),
        "packages": _packages(),
        "tools": _tools(),
        "cache": _cache(),
    }
    if as_json:
        print_json(report)
    else:
        _show(report)
    if not core["ok"]:
        ctx.exit(1)


def _core() -> dict[str, Any]:
    """The C core: whether it loads, and how many operators it runs."""
    try:
        from edge.runtime._core import operators
    except ImportError as error:
        return {
            "ok": False,
            "operators": 0,
            "hint": f"{error}: reinstall with pip install --force-reinstall edge-deploy",
        }
    return {"ok": True, "operators": len(operators()), "hint": None}


def _engines() -> list[dict[str, Any]]:
    """Each engine: its name, the files it opens, and what it lacks (None: ready)."""
    from edge.runtime.backends import backend_module
    from edge.runtime.manifest import ENGINES, FORMAT_ENGINES

    return [
        {
            "name": name,
            "formats": [kind for kind, engines in FORMAT_ENGINES.items() if name in engines],
            "missing": backend_module(name).available(),
        }
        for name in ENGINES
    ]


def _packages() -> list[dict[str, Any]]:
    versions = {package.distribution: _installed(package) for package in PACKAGES}
    return [
        {
            "name": package.distribution,
            "extra": package.extra,
            "purpose": package.purpose,
            "version": versions[package.distribution],
            # An alternative is of use only where the package whose place it takes is missing.
            "install": None
            if versions[package.distribution] or versions.get(package.alternative_to)
            else package.install,
        }
        for package in PACKAGES
    ]


def _installed(package: Package) -> str | None:
    if importlib.util.find_spec(package.module) is None:
        return None
    try:
        return metadata.version(package.distribution)
    except metadata.PackageNotFoundError:
        return "unknown"


def _tools() -> list[dict[str, Any]]:
    """Programs beside Python: only the ExecuTorch backend needs one, to build its op library once."""
    names = filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++"))
    compiler = next(filter(None, map(shutil.which, names)), None)
    hint = "sudo apt install g++" if shutil.which("apt-get") else "install g++ or clang++"
    return [
        {
            "name": "C++ compiler",
            "path": compiler,
            "purpose": "the ExecuTorch op library",
            "install": None if compiler else hint,
        }
    ]


def _cache() -> dict[str, Any]:
    """Where bundles are unpacked and libraries built, how much lies there, and whether it may be written to."""
    from edge.runtime.cache import cache_dir

    folder = cache_dir()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return {"path": str(folder), "bytes": size, "writable": os.access(existing, os.W_OK)}


def _show(report: dict[str, Any]) -> None:
    from edge.sdk.console import format_bytes, print_table

    core, cache = report["core"], report["cache"]
    engines, packages, tools = report["engines"], report["packages"], report["tools"]

    click.echo(f"edge {report['edge']} on Python {report['python']} ({Path(sys.executable)}), {report['machine']}")
    click.echo(f"core: {core['operators']} operators" if core["ok"] else f"core: missing. {core['hint']}")
    writable = "" if cache["writable"] else ", not writable: set EDGE_CACHE to a folder that is"
    click.echo(f"cache: {cache['path']} ({format_bytes(cache['bytes'])}{writable})\n")
    print_table(
        ("engine", "opens", "state"),
        [(row["name"], " ".join(f".{kind}" for kind in row["formats"]), row["missing"] or "ready") for row in engines],
    )
    click.echo()
    print_table(
        ("package", "version", "for", "get it"),
        [
            *((row["name"], row["version"], row["purpose"], row["install"] or "") for row in packages),
            *((row["name"], row["path"], row["purpose"], row["install"] or "") for row in tools),
        ],
    )
