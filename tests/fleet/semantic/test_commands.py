"""The commands of semantics: those that docs/semantics.md shows, in its order; and what they say."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("tuf")

from edge.fleet.server import registry
from edge.fleet.server.semantic.endpoint import RemoteStore
from edge.fleet.server.semantic.opening import Semantics
from edge.fleet.server.semantic.service import EndpointFollower
from edge.fleet.server.semantic.store import LocalStore
from edge.fleet.server.services import Server
from edge.fleet.server.state import State
from edge.runtime.bundle import file_entry, write_bundle
from edge.runtime.errors import BadFile, BadInput
from edge.runtime.manifest import Manifest
from edge.sdk.cli import cli
from tests.conftest import ROOT
from tests.fleet.lab import free_ports, needs_mosquitto, until
from tests.fleet.semantic.samples import BOARD, INVENTORY, manifest
from tests.fleet.semantic.test_projection import contents

DOCUMENT = (ROOT / "docs" / "semantics.md").read_text()
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, body in _BLOCK.findall(DOCUMENT) if kind == "sh" for line in body.splitlines()]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a fleet of three devices and one model, its bundle, and a foreign description."""
    files = {"model.pte": b"a program" * 100, "model.tflite": b"another" * 100}
    described = manifest()
    for name, data in files.items():
        made = file_entry(data)
        described["files"][name] |= {"sha256": made.sha256, "bytes": made.bytes}
    write_bundle(tmp_path / "kws.edge", Manifest.from_json(json.dumps(described)), files)
    (tmp_path / "lamps.ttl").write_text("<urn:lamp> a <https://www.w3.org/2019/wot/td#Thing> .\n")
    state = State.create(tmp_path / "fleet")
    database = state.database()
    with database.transaction() as connection:
        for name, inventory in (("attic", INVENTORY), ("nano", BOARD), ("cellar", {**BOARD, "ram_kb": 64})):
            registry.add(connection, name, inventory)
            registry.changed(connection, name)
    database.close()
    monkeypatch.setenv("EDGE_FLEET", str(tmp_path / "fleet"))
    monkeypatch.chdir(tmp_path)
    assert edge("fleet", "publish", "kws.edge")
    return tmp_path


def edge(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(cli, list(words), prog_name="edge")
    assert done.exit_code == code or (code and done.exception is not None), f"{words}\n{done.output}\n{done.exception}"
    return done.stdout


def refused(*words: str) -> str:
    """The line on standard error of a command that is refused."""
    done = subprocess.run(
        [sys.executable, "-m", "edge.sdk.cli", *words], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode in (1, 2) and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_the_document_shows_commands() -> None:
    assert len(COMMANDS) >= 13 and all(line.startswith("edge fleet ") for line in COMMANDS)


def test_the_documents_commands_run_in_their_order(place: Path) -> None:
    outputs = {line: edge(*shlex.split(line)[1:]) for line in COMMANDS}
    assert "device:nano" in outputs[COMMANDS[0]] and "device:attic" not in outputs[COMMANDS[0]]
    assert outputs[COMMANDS[1]].startswith("SELECT ?device WHERE {")
    assert json.loads((place / "attic.jsonld").read_text())["title"] == "attic"
    code = next(body for kind, body in _BLOCK.findall(DOCUMENT) if kind == "python")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['attic', 'nano']"


def test_query_in_json(place: Path) -> None:
    found = json.loads(edge("fleet", "query", "--where", "sensor=microphone", "--json", "--rows", "2"))
    assert found == {
        "variables": ["device"],
        "rows": [{"device": "urn:edge:device:attic"}, {"device": "urn:edge:device:cellar"}],
        "truncated": True,
    }
    assert json.loads(edge("fleet", "query", "ASK { ?d ef:cores 4 }", "--json")) == {"answer": True}
    assert edge("fleet", "query", "ASK { ?d ef:cores 5 }") == "no\n"


def test_match_both_ways(place: Path) -> None:
    found: list[dict[str, Any]] = json.loads(edge("fleet", "match", "kws", "--json"))
    assert [(each["device"], each["fits"]) for each in found] == [("attic", True), ("cellar", False), ("nano", False)]
    assert [need["need"] for need in found[2]["unmet"]] == ["kind"]
    bundle = json.loads(edge("fleet", "match", "kws.edge", "--json"))
    assert [(each["device"], each["fits"]) for each in bundle] == [("attic", True), ("cellar", False), ("nano", True)]
    assert bundle[1]["unmet"] == [{"need": "ram", "wanted": "100 KB", "found": "64 KB"}]
    one = json.loads(edge("fleet", "match", "--device", "attic", "--json"))
    assert [(each["model"], each["fits"]) for each in one] == [("kws:2.2", True)]
    assert "1 of 1 fit" in CliRunner().invoke(cli, ["fleet", "match", "kws:2.2", "--where", "kind=linux"]).stderr


def test_what_is_refused_is_told_in_a_line(place: Path) -> None:
    assert "give SPARQL, or --where FILTER" in refused("fleet", "query")
    assert "filter, character 6: expected a size" in refused("fleet", "query", "--where", "ram>=256")
    assert "SERVICE is refused" in refused("fleet", "query", "SELECT * { SERVICE <urn:x> { ?s ?p ?o } }")
    assert "no such model is published here" in refused("fleet", "match", "vww")
    assert "no such device" in refused("fleet", "match", "--device", "x")
    assert "no such device, and no such model" in refused("fleet", "export-rdf", "x")
    assert "there is no import of that name" in refused("fleet", "import-rdf", "x", "--remove")
    assert "expected letters, digits" in refused("fleet", "import-rdf", "lamps.ttl", "--name", "../x")
    assert "cannot be reached" in refused("fleet", "query", "ASK {}", "--sparql", "http://127.0.0.1:1/")


def test_ctrl_c_ends_a_query_at_once(place: Path) -> None:
    cross = "SELECT (COUNT(*) AS ?n) { ?a ?b ?c . ?d ?e ?f . ?g ?h ?i . ?j ?k ?l }"
    words = [sys.executable, "-m", "edge.sdk.cli", "fleet", "query", cross, "--seconds", "600"]
    asked = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    store = place / "fleet" / "semantic" / "store"
    until(lambda: store.is_dir() and len(_group(asked.pid)) == 2, what="the query did not begin")
    time.sleep(0.5)
    started = time.monotonic()
    os.killpg(asked.pid, signal.SIGINT)  # as the terminal does: to the command and to its child
    assert asked.wait(10) == 130 and time.monotonic() - started < 3
    assert asked.stderr is not None and asked.stderr.read().strip() == "edge: error: interrupted"
    until(lambda: not _group(asked.pid), what="the child lives on")


def _group(leader: int) -> list[str]:
    """The processes of a group that are not dead."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(group) == leader and state != "Z":
                found.append(stat.parent.name)
    return found


def test_no_query_and_no_import_opens_a_connection(place: Path) -> None:
    asked: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)

        do_POST = do_GET

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/x"
        for text in (
            f"SELECT * {{ SERVICE <{url}> {{ ?s ?p ?o }} }}",
            f"SELECT * {{ SERVICE SILENT <{url}> {{ ?s ?p ?o }} }}",
            f"LOAD <{url}>",
            f"SELECT * FROM <{url}> {{ ?s ?p ?o }}",
            f"SELECT * FROM NAMED <{url}> {{ GRAPH ?g {{ ?s ?p ?o }} }}",
        ):
            with pytest.raises(BadInput):
                _command("fleet", "query", text)
        edge("fleet", "query", f"SELECT * {{ GRAPH <{url}> {{ ?s ?p ?o }} }}")
        edge("fleet", "query", f"DESCRIBE <{url}>")
        for body in ({"@context": url, "@id": "urn:x"}, {"@context": {"@import": url}}):
            (place / "far.jsonld").write_text(json.dumps(body))
            with pytest.raises(BadFile):
                _command("fleet", "import-rdf", "far.jsonld")
        server.shutdown()
    assert asked == []


def _command(*words: str) -> None:
    """A command in this process, with its error as it was raised."""
    cli.main(list(words), prog_name="edge", standalone_mode=False)


def test_imports_are_kept_until_they_are_removed(place: Path) -> None:
    assert edge("fleet", "import-rdf", "lamps.ttl") == "lamps: 1 triples\n"
    ask = ("fleet", "query", "ASK { <urn:lamp> a td:Thing }")
    assert edge(*ask) == "yes\n"
    edge("fleet", "rebuild")
    assert edge(*ask) == "yes\n"
    state = State.existing(place / "fleet")
    holder = LocalStore(state.semantic / "store")
    assert edge(*ask) == "yes\n", "another process has the store: the projection is made in memory, with the imports"
    assert "another command has the semantic store open" in refused("fleet", "rebuild")
    del holder
    assert edge("fleet", "import-rdf", "lamps", "--remove") == "lamps: removed\n"
    assert edge(*ask) == "no\n"


def test_the_rebuilt_store_equals_the_followed_one(place: Path) -> None:
    state = State.existing(place / "fleet")
    database = state.database()
    semantics = Semantics(state, database)
    with database.transaction() as connection:
        registry.set_labels(connection, "nano", {"building": "8"}, "a test")
        registry.set_group(connection, "nano", "canaries", True, "a test")
    assert semantics.select("building=8 and group=canaries") == ["nano"]
    followed = contents(semantics.store)
    semantics.projection.rebuild(semantics.registry)
    assert contents(semantics.store) == followed
    database.close()


@needs_mosquitto
def test_a_running_fleet_keeps_an_endpoint_elsewhere_up_to_date(place: Path, endpoint: str) -> None:
    state = State.existing(place / "fleet")
    port, boot_port = free_ports(2)
    settings = replace(
        state.settings(), sparql=endpoint, host="127.0.0.1", port=port, boot_port=boot_port, metrics_port=0
    )
    state.save(settings)
    server = Server(state, settings)
    server.extensions = (EndpointFollower,)
    server.start()
    try:
        assert "device:nano" in edge("fleet", "query", "--where", "building=7")
        with server.database.transaction() as connection:
            registry.set_labels(connection, "nano", {"building": "9"}, "a test")
        # Asked at the endpoint itself: a command would bring it up to date.
        nano = 'ASK { <urn:edge:device:nano> <urn:edge:fleet#inBuilding> "9" }'
        until(lambda: bool(RemoteStore(endpoint).query(nano)), what="the endpoint was not told")
    finally:
        server.stop()
