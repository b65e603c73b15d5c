"""The projection: following events gives what a rebuild gives, in memory, on disk and at an endpoint elsewhere."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pyoxigraph as ox
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.fleet.server.semantic import projection as projection_module
from edge.fleet.server.semantic.endpoint import RemoteStore, _lines
from edge.fleet.server.semantic.exchange import import_graph
from edge.fleet.server.semantic.expansion import statements, triples
from edge.fleet.server.semantic.filter_sparql import find_devices
from edge.fleet.server.semantic.filters import parse
from edge.fleet.server.semantic.names import CURSOR_GRAPH
from edge.fleet.server.semantic.projection import Projection, form
from edge.fleet.server.semantic.registry import Event
from edge.fleet.server.semantic.store import Graphs, LocalStore, StoreInUse
from edge.runtime.errors import BadInput, EdgeError
from tests.fleet.semantic.samples import BOARD, BODIES, INVENTORY, ListRegistry, manifest

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("device.changed"), st.sampled_from(["d0", "d1", "d2"]), BODIES),
        st.tuples(st.just("device.changed"), st.sampled_from(["d0", "d1"]), st.just({"inventory": {"ram_kb": "x"}})),
        st.tuples(st.just("device.removed"), st.sampled_from(["d0", "d1", "d9"]), st.just({})),
        st.tuples(
            st.just("model.published"),
            st.sampled_from(["kws:2.2", "kws:9"]),
            st.builds(lambda text: {"manifest": manifest(license=text)}, st.sampled_from(["MIT", "", 'a"b\\u0022'])),
        ),
        st.tuples(st.just("model.removed"), st.sampled_from(["kws:2.2", "none:1"]), st.just({})),
        st.tuples(st.just("job.created"), st.just("j1"), st.just({})),
    ),
    max_size=12,
)


def contents(store: Graphs) -> set[Any]:
    """Every quad of a store but the cursor."""
    found = store.query("SELECT ?g ?s ?p ?o WHERE { GRAPH ?g { ?s ?p ?o } }")
    assert isinstance(found, ox.QuerySolutions)
    return {tuple(row[name] for name in "gspo") for row in found if row["g"] != ox.NamedNode(CURSOR_GRAPH)}


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.integers(0, 12))
def test_following_equals_a_rebuild(events: list[tuple[str, str, Any]], half: int) -> None:
    registry = ListRegistry()
    followed = Projection(LocalStore())
    for number, event in enumerate(events):
        registry.put(*event)
        if number == half:
            followed.follow(registry)  # a rebuild, then events
        elif number > half:
            followed.apply(registry.log[-1])
    followed.follow(registry)
    rebuilt = Projection(LocalStore())
    rebuilt.rebuild(registry)
    applied = Projection(LocalStore())
    for entry in registry.log:
        applied.apply(entry)
        assert not applied.apply(entry), "an event is applied once"
    assert contents(followed.store) == contents(rebuilt.store) == contents(applied.store)
    assert followed.store.cursor() == rebuilt.store.cursor() == len(events)


def test_a_store_on_disk_goes_on_where_it_was(tmp_path: Path) -> None:
    registry = ListRegistry()
    registry.put("device.changed", "pi", {"inventory": INVENTORY})
    first = Projection(LocalStore(tmp_path / "store"))
    first.follow(registry)
    with pytest.raises(StoreInUse, match="the semantic store cannot be opened"):
        LocalStore(tmp_path / "store")
    del first
    registry.put("device.changed", "nano", {"inventory": BOARD})
    registry.put("device.changed", "pi", {"inventory": {**INVENTORY, "labels": {"building": "8"}}})
    registry.put("job.created", "j", {})
    again = Projection(LocalStore(tmp_path / "store"))
    assert again.cursor == 1
    assert again.follow(registry) == 2 + 1  # the job's event counts as seen, and changes nothing
    assert again.store.cursor() == 4 and again.follow(registry) == 0
    assert find_devices(again.store, parse("building=7")) == ["nano"]
    rebuilt = Projection(LocalStore())
    rebuilt.rebuild(registry)
    assert contents(again.store) == contents(rebuilt.store)
    assert (tmp_path / "store").stat().st_mode & 0o077 == 0


def test_a_killed_writer_leaves_whole_descriptions(tmp_path: Path) -> None:
    """SIGKILL between and within updates: each device's description is of one event, the cursor's or the one after."""
    program = (
        "import sys; from pathlib import Path\n"
        "from edge.fleet.server.semantic.store import LocalStore\n"
        "from edge.fleet.server.semantic.projection import Projection\n"
        "from edge.fleet.server.semantic.registry import Event\n"
        "p = Projection(LocalStore(Path(sys.argv[1])))\n"
        "n = p.cursor\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    n += 1\n"
        "    p.apply(Event(n, 'device.changed', 'd0', {'inventory': {'cores': n, 'ram_kb': n}}))\n"
    )
    for _ in range(5):
        child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "store")], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        try:
            child.wait(0.05 + int.from_bytes(os.urandom(1), "big") / 1000)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
        child.wait()
        store = LocalStore(tmp_path / "store")
        found = store.query("SELECT ?cores ?ram { <urn:edge:device:d0> ef:cores ?cores; ef:ramBytes ?ram }")
        assert isinstance(found, ox.QuerySolutions)
        rows = [(int(row["cores"].value), int(row["ram"].value)) for row in found]
        assert rows == ([(store.cursor(), store.cursor() * 1024)] if store.cursor() else [])
        del store, found


def test_imports_survive_a_rebuild_and_devices_do_not_mix_with_them() -> None:
    registry = ListRegistry()
    registry.put("device.changed", "pi", {"inventory": INVENTORY})
    projection = Projection(LocalStore())
    lamp = ox.NamedNode("urn:lamp")
    projection.store.replace(import_graph("lamps"), [f'{lamp} {lamp} "on" .'])
    projection.rebuild(registry)
    assert import_graph("lamps") in projection.store.names()
    assert find_devices(projection.store, parse("not id=x")) == ["pi"]


def test_a_revoked_device_is_found_by_nobody() -> None:
    registry = ListRegistry()
    registry.put("device.changed", "pi", {"inventory": INVENTORY, "state": "active"})
    projection = Projection(LocalStore())
    projection.follow(registry)
    assert find_devices(projection.store, parse("building=7")) == ["pi"]
    projection.apply(Event(9, "device.changed", "pi", {"inventory": INVENTORY, "state": "revoked"}))
    assert find_devices(projection.store, parse("building=7")) == []


def test_far_behind_it_rebuilds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection_module, "REBUILD_BEHIND", 3)
    registry = ListRegistry()
    projection = Projection(LocalStore())
    registry.put("device.changed", "d0", {"inventory": BOARD})
    projection.follow(registry)
    for number in range(5):
        registry.put("device.changed", f"d{number}", {"inventory": BOARD})
    registry.events = lambda after: pytest.fail("five events are followed one by one")  # type: ignore[method-assign]
    projection.follow(registry)
    assert len(find_devices(projection.store, parse("sensor=microphone"))) == 5


class _OddPages(BaseHTTPRequestHandler):
    """What answers under a URL that is no endpoint."""

    def do_POST(self) -> None:
        if self.path == "/moved":
            return self._answer(302, b"", "text/plain", Location="/page")
        return self._answer(200, b"<html>", "text/html")

    def _answer(self, code: int, body: bytes, kind: str, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def odd_pages() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _OddPages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_endpoint_elsewhere_holds_the_same(endpoint: str) -> None:
    registry = ListRegistry()
    local, remote = Projection(LocalStore()), Projection(RemoteStore(endpoint))
    lamp = ox.NamedNode("urn:lamp")
    for each in (local, remote):
        each.store.replace(import_graph("lamps"), [f'{lamp} {lamp} "on" .'])
    for name, inventory in (("pi", INVENTORY), ("nano", BOARD), ("pi", {**INVENTORY, "ram_kb": 512})):
        registry.put("device.changed", name, {"inventory": inventory})
        for each in (local, remote):
            each.follow(registry)
    registry.put("model.published", "kws:2.2", {"manifest": manifest()})
    registry.put("device.removed", "nano", {})
    for each in (local, remote):
        each.follow(registry)
    assert contents(local.store) == contents(remote.store)
    assert remote.store.cursor() == Projection(RemoteStore(endpoint)).cursor == 5
    assert local.store.names() == remote.store.names()
    remote.rebuild(registry)
    assert contents(local.store) == contents(remote.store)
    assert find_devices(remote.store, parse("ram<=512KB")) == ["pi"]
    graph = remote.store.query("CONSTRUCT { ?s ?p ?o } WHERE { GRAPH <urn:edge:device:pi> { ?s ?p ?o } }")
    assert len(list(graph)) > 50  # type: ignore[arg-type]


def test_an_endpoint_that_does_not_serve_is_told_in_a_line(endpoint: str, odd_pages: str) -> None:
    cases = {
        f"{odd_pages}/moved": "refused \\(302\\)",
        f"{odd_pages}/page": "answered text/html, not SPARQL results: is it an endpoint\\?",
        "http://127.0.0.1:1/sparql": "cannot be reached: Connection refused",
    }
    for url, message in cases.items():
        with pytest.raises(EdgeError, match=message) as caught:
            RemoteStore(url).names()
        assert "\n" not in str(caught.value)
    with pytest.raises(EdgeError, match="refused \\(400\\)"):
        RemoteStore(endpoint).query("SELECT nonsense")
    for url in ("file:///etc/passwd", "ftp://x/", "sparql"):
        with pytest.raises(BadInput, match="expected an http or https URL"):
            RemoteStore(url)


@pytest.mark.parametrize("text", ["\\u0022 } #", "C:\\users", "\\\\u007d\\", "\\U00000022 \\t\\", 'é\n"\\u'])
def test_what_an_endpoint_is_sent_cannot_end_a_literal(endpoint: str, text: str) -> None:
    """Neither where escapes are read within texts (as here), nor where \\uXXXX is put in place before all else."""
    node = ox.NamedNode("urn:x")
    sent = statements([ox.Triple(node, node, ox.Literal(text))])
    store = RemoteStore(endpoint)
    store.replace("urn:g", sent)
    found = store.query("SELECT ?o { <urn:x> <urn:x> ?o }")
    assert isinstance(found, ox.QuerySolutions)
    assert [row[0].value for row in found] == [text]
    (line,) = _lines(sent)
    early = re.sub(r"\\u([0-9A-Fa-f]{4})|\\U([0-9A-Fa-f]{8})", lambda match: chr(int(match[1] or match[2], 16)), line)
    assert [each.object.value for each in triples(early.encode())] == [text]


def test_a_store_of_another_form_is_made_anew(tmp_path: Path) -> None:
    registry = ListRegistry()
    registry.put("device.changed", "pi", {"inventory": INVENTORY})
    registry.put("device.changed", "nano", {"inventory": BOARD})
    for broker in ("mqtts://one:8883", "mqtts://two:8883"):
        projection = Projection(LocalStore(tmp_path / "store"), broker)
        projection.follow(registry)
        rebuilt = Projection(LocalStore(), broker)
        rebuilt.rebuild(registry)
        assert contents(projection.store) == contents(rebuilt.store)
        del projection
    assert form("mqtts://one:8883") != form("mqtts://two:8883")


def test_a_store_that_missed_events_which_are_gone_is_made_anew(tmp_path: Path) -> None:
    registry = ListRegistry()
    registry.put("device.changed", "pi", {"inventory": INVENTORY})
    projection = Projection(LocalStore(tmp_path / "store"))
    projection.follow(registry)
    registry.put("device.changed", "nano", {"inventory": BOARD})
    registry.put("device.changed", "pi", {"inventory": {**INVENTORY, "labels": {"building": "8"}}})
    del registry.log[:2]
    projection.follow(registry)
    assert find_devices(projection.store, parse("building=7")) == ["nano"]
    assert find_devices(projection.store, parse("building=8")) == ["pi"]


@pytest.mark.parametrize("how", ["a file in its place", "a damaged file in it"])
def test_a_damaged_store_is_put_aside_and_made_anew(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "store"
    if how == "a file in its place":
        folder.write_text("x")
    else:
        del_me = LocalStore(folder)
        del_me.replace("urn:a", ["<urn:a> <urn:b> <urn:c> ."])
        del del_me
        (folder / "CURRENT").write_text("rubbish")
    store = LocalStore(folder)
    assert len(store) == 0
    store.replace("urn:a", ["<urn:a> <urn:b> <urn:c> ."])
    assert len(store) == 1 and len(list(tmp_path.glob("store.damaged-*"))) == 1
