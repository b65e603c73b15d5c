"""A person's query in a process of its own, because nothing else ends one: pyoxigraph cannot be interrupted.

The child opens the store and brings it up to date, for which it has all the time it needs; from then on it may take so
many seconds and so much memory, and is killed when it takes more, or when nobody waits any longer. It writes nothing
then but rows, so a kill loses nothing. It is forked, as a new interpreter would take longer to start than most queries,
but not where this process has threads: RocksDB's own do not come along, and a store opened in the child would wait for
them for ever.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pyoxigraph as ox

from edge.fleet.server.semantic.query import Answer, check_read_only
from edge.fleet.server.semantic.store import Graphs
from edge.runtime.errors import BadFile, BadInput, EdgeError
from edge.runtime.fields import reason

DEFAULT_SECONDS = 30.0
DEFAULT_ROWS = 1_000
MEMORY = 1 << 30
MAX_ANSWER = 256 << 20  # bytes of rows, as they come through the pipe
_BATCH = 500

Opener = Callable[[], AbstractContextManager[Graphs]]
_ERRORS = {kind.__name__: kind for kind in (BadFile, BadInput)}


def run_query(
    opener: Graphs | Opener,
    text: str,
    *,
    seconds: float = DEFAULT_SECONDS,
    rows: int = DEFAULT_ROWS,
    memory: int = MEMORY,
) -> Answer:
    """Runs a query.

    Args:
        opener: opens the store, in the child (a function of a module); or a store, in memory or elsewhere. (One on
            disk cannot be used from two processes: give what opens it.)
        seconds: wall time after which it is given up, without the opening.
        rows: how many rows or triples are kept.
        memory: bytes that it may take beside what the open store takes.

    Raises:
        BadInput: it is refused, or is not SPARQL.
        EdgeError: it takes more time or memory, or the store cannot be opened.
    """
    check_read_only(text)
    context: Any = multiprocessing.get_context("spawn" if callable(opener) and _has_threads() else "fork")
    ours, theirs = context.Pipe(duplex=False)
    opened: Opener = opener if callable(opener) else lambda: nullcontext(opener)
    child = context.Process(target=_child, args=(theirs, opened, text, rows, seconds, memory), daemon=True)
    child.start()
    theirs.close()
    try:
        return _received(ours, child, seconds, memory)
    finally:
        child.kill()
        child.join()
        ours.close()


def _has_threads() -> bool:
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) > 1 if tasks.is_dir() else threading.active_count() > 1


def _received(ours: Connection, child: BaseProcess, seconds: float, memory: int) -> Answer:
    late = EdgeError(f"query: no answer within {seconds:g} s: make it narrower, or give it more with --seconds")
    deadline: float | None = None
    head: dict[str, Any] = {}
    found: list[tuple[Any, ...]] = []
    size = 0
    while True:
        if deadline is not None and not ours.poll(max(0.0, deadline - time.monotonic())):
            raise late
        try:
            data = ours.recv_bytes()
        except EOFError:
            child.join()
            if child.exitcode in (-signal.SIGXCPU, -signal.SIGALRM):
                raise late from None
            raise EdgeError(
                f"query: needs more than {memory >> 20:,} MB of memory beside the store's: make it narrower"
            ) from None
        said = json.loads(data)
        size += len(data)
        if "ready" in said:
            deadline = time.monotonic() + seconds
        elif "error" in said:
            raise _ERRORS.get(said["kind"], EdgeError)(said["error"])
        elif "variables" in said:
            head = said
        else:
            found += [tuple(map(_term, row)) for row in said["rows"]]
            if said["end"] is not None or size > MAX_ANSWER:
                cut = bool(said["end"]) or said["end"] is None
                return Answer(head["answer"], tuple(head["variables"]), tuple(found), cut)


def _child(theirs: Connection, opened: Opener, text: str, rows: int, seconds: float, memory: int) -> None:
    """What the child does: every way out of it but being killed is a message."""
    # Ctrl-C reaches both: the parent says what there is to say.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def say(**what: Any) -> None:
        theirs.send_bytes(json.dumps(what).encode())

    try:
        with opened() as store:
            say(ready=True)
            _limit(seconds, memory)
            for said in _said(store, text, rows):
                say(**said)
            # Nothing is left to do that a kill would not do: a store is as it was when the query began.
            os._exit(0)
    except SyntaxError as error:
        say(kind="BadInput", error=f"query: {reason(error)}")
    except MemoryError:
        os._exit(1)
    except EdgeError as error:
        say(kind=type(error).__name__, error=str(error))
    except BrokenPipeError:
        os._exit(1)
    except Exception as error:  # a thing that the engine cannot do; the parent is owed a line
        say(kind="EdgeError", error=f"query: cannot be answered: {type(error).__name__}: {reason(error)}")


def _limit(seconds: float, memory: int) -> None:
    """From here on this process may take so much CPU time and memory; what a library says when it dies is not shown."""
    faulthandler.disable()
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The parent's clock is the one that counts; this one ends a child whose parent was killed.
    used = int(time.process_time() + seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (used, used))
    pages = Path("/proc/self/statm")
    if pages.exists():  # Linux; elsewhere the time limit has to do
        held = int(pages.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + memory, held + memory))


def _said(store: Graphs, text: str, rows: int) -> Iterator[dict[str, Any]]:
    """An answer as messages: what it is, then its rows; "end" is None while more come, then whether it was cut."""
    found = store.query(text)
    if isinstance(found, ox.QueryBoolean):
        yield {"answer": "ask", "variables": ["answer"]}
        yield {"rows": [[["boolean", bool(found)]]], "end": False}
        return
    if isinstance(found, ox.QuerySolutions):
        variables = [variable.value for variable in found.variables]
        yield {"answer": "select", "variables": variables}
        width = range(len(variables))
        made: Iterator[list[Any]] = ([_told(row[index]) for index in width] for row in found)
    else:
        yield {"answer": "graph", "variables": ["subject", "predicate", "object"]}
        made = ([_told(triple.subject), _told(triple.predicate), _told(triple.object)] for triple in found)
    left = rows
    while batch := list(islice(made, min(_BATCH, left))):
        left -= len(batch)
        yield {"rows": batch, "end": None}
        if not left:
            break
    yield {"rows": [], "end": next(made, None) is not None}


def _told(term: object) -> list[Any] | None:
    if isinstance(term, ox.NamedNode):
        return ["iri", term.value]
    if isinstance(term, ox.BlankNode):
        return ["blank", term.value]
    if isinstance(term, ox.Literal):
        return ["literal", term.value, term.language, term.datatype.value]
    return None if term is None else ["text", str(term)]


def _term(told: list[Any] | None) -> Any:
    if told is None:
        return None
    kind, value, *more = told
    if kind == "iri":
        return ox.NamedNode(value)
    if kind == "blank":
        return ox.BlankNode(value)
    if kind == "literal":
        language, datatype = more
        return ox.Literal(value, language=language) if language else ox.Literal(value, datatype=ox.NamedNode(datatype))
    return value
