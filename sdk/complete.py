"""What a shell offers while a command line is typed: names that edge knows, and files of the right kinds.

It is asked at every press of Tab, so nothing heavy is imported: the names and suffixes that `edge.export` owns stand
here again, and tests hold them against it.
"""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

MODELS = (
    "cct_2_3x2",
    "cct_4_3x2",
    "cct_6_3x1",
    "cct_6_3x2",
    "cct_7_3x1",
    "cct_7_3x2",
    "cct_7_7x2",
    "cct_14_7x2",
    "ds_cnn",
    "mlp",
)
DATA_SUFFIXES = (".npz", ".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MODEL_FILE_SUFFIXES = (".edge", ".pte", ".tflite", ".onnx")

Completer = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]


def files(suffixes: Iterable[str], names: Iterable[str] = ()) -> Completer:
    """A completer that offers the `names`, the files that end in one of `suffixes`, and folders."""
    endings, known = tuple(suffixes), tuple(names)

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        matching = [name for name in known if name.startswith(incomplete)]
        found = _listing(incomplete, endings)
        # A shell puts a space behind a word of ours. So where nothing but folders fits, or a name needs quotes, it
        # is asked to complete files by itself, which it does better.
        if not matching and all(word.endswith("/") for word in found):
            return [CompletionItem(incomplete, type="file")]
        if any(not set(word).isdisjoint(" \t\n'\"\\$`&|;<>()*?[]#!,:") for word in found):
            return [CompletionItem(incomplete, type="file")]
        return [CompletionItem(word) for word in (*matching, *found)]

    return complete


# What each kind of name is in the registry of a fleet.
_NAMES = {
    "device": "SELECT id FROM devices WHERE id LIKE ? ESCAPE '!'",
    "pending": "SELECT device FROM enrollments WHERE state = 'pending' AND device LIKE ? ESCAPE '!'",
    "rollout": "SELECT id FROM rollouts WHERE id LIKE ? ESCAPE '!'",
    "model": "SELECT name FROM models WHERE name LIKE ? ESCAPE '!' UNION SELECT name || ':' || version FROM models"
    " WHERE name || ':' || version LIKE ? ESCAPE '!'",
}
_MOST_NAMES = 200


def fleet_names(kind: str) -> Completer:
    """A completer that offers what a fleet on this machine knows: "device", "pending", "rollout", "model".

    It reads the registry's SQLite file by itself, as the fleet's own modules take too long to import for a press of
    Tab; nothing is offered of a registry in PostgreSQL.
    """

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
        import sqlite3
        from contextlib import closing

        from click.shell_completion import CompletionItem

        from edge.sdk.fleet_options import default_state

        place = ctx.params.get("state") or os.environ.get("EDGE_FLEET") or default_state()
        pattern = re.sub("([!%_])", r"!\1", incomplete) + "%"
        query = f"SELECT * FROM ({_NAMES[kind]}) ORDER BY 1 LIMIT {_MOST_NAMES}"  # noqa: S608 (all of it is here)
        try:
            uri = f"{Path(place, 'registry.sqlite').absolute().as_uri()}?mode=ro"
            with closing(sqlite3.connect(uri, uri=True, timeout=0.2)) as registry:
                return [CompletionItem(row[0]) for row in registry.execute(query, [pattern] * query.count("?"))]
        except sqlite3.Error:  # no fleet here, or one that was never up
            return []

    return complete


def _listing(incomplete: str, endings: tuple[str, ...]) -> list[str]:
    """Files with one of `endings` and folders (with a "/") whose path, as it is being typed, begins so; in order."""
    folder, beginning = os.path.split(incomplete)
    words = []
    try:
        for entry in os.scandir(os.path.expanduser(folder) or "."):
            hidden = entry.name.startswith(".") and not beginning.startswith(".")
            if hidden or not entry.name.startswith(beginning):
                continue
            word = os.path.join(folder, entry.name)
            if entry.is_dir():
                words.append(f"{word}/")
            elif entry.name.lower().endswith(endings):
                words.append(word)
    except OSError:  # no such folder, or one that may not be read: nothing to offer
        return []
    return sorted(words)
