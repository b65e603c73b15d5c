"""Rollouts: their plans, their state machine, and what it never does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from edge.fleet.errors import Refused
from edge.fleet.inventory import InstalledModel, Inventory
from edge.fleet.messages import JobReport
from edge.fleet.server import registry, tables
from edge.fleet.server.database import Database
from edge.fleet.server.updates import joining, reverting
from edge.fleet.server.updates.plan import Plan, Step, choose, parse_steps, unmet
from edge.fleet.server.updates.rollout import Rollouts
from edge.fleet.server.updates.tables import rollout_devices
from edge.fleet.variant import Blob, Variant
from edge.runtime.errors import BadInput
from tests.fleet.fleets import NEW, add_devices, publish_kws, queued, take


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "registry.sqlite")
    publish_kws(made)
    yield made
    made.close()


@pytest.fixture
def rollouts(database: Database, clock: Clock) -> Rollouts:
    return Rollouts(database, now=clock)


def _report(database: Database, rollouts: Rollouts, device: str, job: str, state: str) -> None:
    take(database, job, state)  # as the registry does with every report
    with database.transaction() as connection:
        rollouts.report(connection, device, job, state, "", {})


def _answer_all(database: Database, rollouts: Rollouts, state: str = "active", most: int = 10**6) -> list[str]:
    """Lets the devices with queued jobs answer; returns who they are."""
    devices = []
    for device, job in list(queued(database).items())[:most]:
        _report(database, rollouts, device, job, state)
        devices.append(device)
    return devices


def _names(count: int, start: int = 0) -> list[str]:
    return [f"d{index:04}" for index in range(start, start + count)]


def test_phases_are_read() -> None:
    steps = parse_steps("10%,50%,100%", canary=5)
    assert steps == (Step(count=5), Step(share=0.1), Step(share=0.5), Step(share=1.0))
    plan = Plan("kws", "2.0", steps=steps)
    assert [plan.allowed(phase, 200) for phase in range(4)] == [5, 20, 100, 200]
    assert [plan.allowed(phase, 3) for phase in range(4)] == [3, 3, 3, 3]
    assert Plan.from_dict(plan.to_dict()) == plan
    for wrong in ("", "ten", "0", "0%", "101%", "50%,10%", "5,5", "1.5", "10%,", "-1"):
        with pytest.raises(BadInput, match="^phases"):
            parse_steps(wrong)


@pytest.fixture
def on_postgres(empty_postgres: str) -> Iterator[Database]:
    made = Database(empty_postgres)
    publish_kws(made)
    yield made
    made.close()


def test_reports_and_ticks_on_postgresql_never_lock_each_other_out(
    on_postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report writes an event and then locks the rollout's row; a tick must not do it the other way round."""
    rollouts = Rollouts(on_postgres)
    add_devices(on_postgres, _names(4))
    id = rollouts.create(Plan("kws", "2.0", steps=parse_steps("2,100%"), abort_over=0.3), "root")
    jobs = queued(on_postgres)
    (failing, silent) = jobs
    ticking, judge = threading.Event(), reverting.abort_if_over

    def slowly(record: Any, plan: Plan) -> bool:
        ticking.set()
        time.sleep(0.5)
        return judge(record, plan)

    with on_postgres.transaction() as connection:
        late = rollout_devices.update().where(rollout_devices.c.device == silent)
        connection.execute(late.values(deadline=time.time() - 1))
    monkeypatch.setattr(reverting, "abort_if_over", slowly)
    with ThreadPoolExecutor() as threads:
        tick = threads.submit(rollouts.tick)
        assert ticking.wait(5)
        with on_postgres.transaction() as connection:
            registry.job_reported(connection, failing, jobs[failing], JobReport("failed"))
            rollouts.report(connection, failing, jobs[failing], "failed", "", {})
        tick.result()
    shown = rollouts.show(id)
    assert shown["state"] == "aborted" and shown["devices"] == {"cancelled": 1, "silent": 1, "waiting": 2}


def test_of_two_rollouts_that_are_made_at_once_one_is_refused(
    on_postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_devices(on_postgres, _names(4))
    both, join = threading.Barrier(2), joining.join

    def slowly(*arguments: Any) -> int:
        time.sleep(0.3)
        return join(*arguments)

    monkeypatch.setattr(joining, "join", slowly)

    def create(version: str) -> str:
        both.wait(5)
        try:
            return Rollouts(on_postgres).create(Plan("kws", version), "root")
        except Refused as error:
            return str(error)

    with ThreadPoolExecutor() as threads:
        told = sorted(threads.map(create, ("1.0", "2.0")), key=len)
    assert told[0].startswith("kws-") and told[1].endswith("is open: finish or abort it first")


def test_plans_that_cannot_be_are_refused() -> None:
    for wrong in (
        {"devices": ("a",), "where": "x"},
        {"devices": ("../x",)},
        {"abort_over": 1.5},
        {"gate": "accuracy"},
        {"samples": 0},
        {"timeout": 0},
        {"steps": ()},
    ):
        with pytest.raises(BadInput):
            Plan("kws", "2.0", **wrong)  # type: ignore[arg-type]


def test_each_device_gets_the_variant_that_fits() -> None:
    bundle = Variant("kws", "1", "bundle", 1, "bundle", Blob("a" * 64, 500_000), engines=("core", "onnx"))
    variants = [
        bundle,
        replace(bundle, name="pte", blob=Blob("b" * 64, 150_000), engines=("core",), ram_bytes=10 << 20),
        replace(bundle, name="onnx", blob=Blob("c" * 64, 100_000), engines=("onnx",)),
        replace(bundle, name="pi5", target="pi5"),
        replace(bundle, name="m4", kind="image", target="cortex-m4", blob=Blob("d" * 64, 60_000), ram_bytes=80_000),
        replace(bundle, name="m4-bare", kind="program", target="cortex-m4", blob=Blob("e" * 64, 1_000)),
        replace(bundle, name="m4-lm3s", kind="image", target="cortex-m4", board="lm3s", ram_bytes=60_000),
    ]

    def name(inventory: Inventory) -> str:
        variant, why = choose(variants, inventory)
        return variant.name if variant is not None else why

    linux = Inventory(runtimes={"core": "1", "onnx": "1"}, ram_kb=1_000_000, target="pi4")
    assert name(linux) == "pte"
    assert name(replace(linux, ram_kb=5_000)) == "bundle"
    assert name(replace(linux, runtimes={"onnx": "1"})) == "onnx"
    assert name(replace(linux, target="pi5")) == "pi5"
    board = Inventory(kind="microcontroller", target="cortex-m4", ram_kb=256, flash_kb=512)
    assert name(board) == "m4"
    assert name(replace(board, board="lm3s", ram_kb=64, flash_kb=1024)) == "m4-lm3s"
    assert "m4: needs 80,000 bytes of RAM of 65,536" in name(replace(board, ram_kb=64))
    assert "bundle: needs core or onnx; installed: litert" in name(replace(linux, runtimes={"litert": "2"}))
    assert unmet(variants[6], linux) == [
        "is for a board's firmware",
        "is for the board lm3s, not an unknown one",
        "is for cortex-m4, not pi4",
    ]


def test_a_board_gets_only_what_its_firmware_can_take() -> None:
    image = Variant("kws", "1", "m4", 1, "image", Blob("a" * 64, 60_000), target="cortex-m4", abi=1)
    image = replace(image, operators=("edge::ternary_linear.out", "aten::relu.out"))
    board = Inventory(kind="microcontroller", target="cortex-m4", board="lm3s", runtimes={"core": "abi 1"})
    assert choose([image], board)[0] is image  # what the firmware does not say is not held against it
    both = replace(board, operators=("aten::relu.out", "edge::ternary_linear.out", "aten::add.out"))
    assert choose([image], both)[0] is image
    lacking = replace(board, operators=("aten::add.out",))
    for inventory, variant, told in (
        (lacking, image, "calls aten::relu.out, edge::ternary_linear.out, which its firmware lacks"),
        (replace(board, runtimes={"core": "abi 2"}), image, "is a program of ABI 1; its firmware runs ABI 2"),
        (replace(board, target="cortex-m0"), image, "is for cortex-m4, not cortex-m0"),
        (board, replace(image, board="nrf52840"), "is for the board nrf52840, not lm3s"),
        (board, replace(image, kind="program"), "is a bare program, and boards take slot images"),
        (board, replace(image, kind="bundle"), "is a bundle, for Linux"),
    ):
        variant_, why = choose([variant], inventory)
        assert variant_ is None and told in why, why


def test_an_engine_must_be_new_enough() -> None:
    old = Variant("kws", "1", "old", 1, "bundle", Blob("a" * 64, 900), engines=("core", "onnx"))
    new = replace(old, name="new", blob=Blob("b" * 64, 100), runtimes={"core": "0.10.0"})
    linux = Inventory(runtimes={"core": "0.9.1"})
    assert choose([old, new], linux)[0] is old
    assert choose([old, new], replace(linux, runtimes={"core": "0.10.0"}))[0] is new
    variant, why = choose([new], linux)
    assert variant is None and why == "new: needs core 0.10.0 or later or onnx; installed: core 0.9.1"
    assert choose([new], replace(linux, runtimes={"core": "unknown"}))[0] is None
    # The other engine will do; but a version that runs on the core goes before it.
    both = replace(linux, runtimes={"core": "0.9.1", "onnx": "1.2"})
    assert choose([new], both)[0] is new and choose([old, new], both)[0] is old
    assert Variant.from_dict(new.to_dict()) == new


def test_a_rollout_goes_from_the_canary_to_all(database: Database, rollouts: Rollouts) -> None:
    add_devices(database, _names(40))
    id = rollouts.create(Plan("kws", "2.0", steps=parse_steps("25%,100%", canary=2), gate="accuracy>=0.9"), "root")
    sizes = []
    while jobs := queued(database):
        for job in jobs.values():
            assert take(database, job, "queued")["target"] == "kws/2.0/bundle.edge"
        sizes.append(len(jobs))
        assert _answer_all(database, rollouts, "staged", most=1)
        rollouts.tick()
        for device, job in jobs.items():
            _report(database, rollouts, device, job, "active")
        rollouts.tick()
    assert sizes == [2, 8, 30]
    shown = rollouts.show(id)
    assert shown["state"] == "done" and shown["devices"] == {"active": 40}
    assert rollouts.all()[0]["id"] == id


def test_one_failure_too_many_aborts_at_once(database: Database, rollouts: Rollouts) -> None:
    add_devices(database, _names(100))
    plan = Plan("kws", "2.0", steps=parse_steps("50%,100%"), abort_over=0.04)
    id = rollouts.create(plan, "root")
    jobs = queued(database)
    assert len(jobs) == 50
    devices = list(jobs)
    take(database, jobs[devices[10]])
    for device in devices[:2]:
        _report(database, rollouts, device, jobs[device], "failed")
    assert rollouts.show(id)["state"] == "running"
    _report(database, rollouts, devices[2], jobs[devices[2]], "rolled-back")
    shown = rollouts.show(id)
    assert shown["state"] == "aborted" and shown["reason"] == "3 of 50 devices failed, more than 4 %"
    assert shown["devices"] == {"failed": 2, "rolled-back": 1, "cancelled": 47, "waiting": 50}
    assert {row["device"] for row in shown["problems"]} == set(devices[:3])
    # What no device had taken is withdrawn; whoever may have it is told.
    assert queued(database) == {} and len(queued(database, "model.cancel")) == 47
    _report(database, rollouts, devices[10], jobs[devices[10]], "active")  # it was too late
    assert rollouts.show(id)["devices"]["active"] == 1
    with pytest.raises(Refused, match="is aborted: it cannot be aborted any more"):
        rollouts.abort(id, "root")


def test_rolled_back_every_device_has_what_it_had(database: Database, rollouts: Rollouts) -> None:
    add_devices(database, _names(4))
    add_devices(database, ["new"], models=())
    id = rollouts.create(Plan("kws", "2.0", abort_over=1.0), "root")
    jobs = queued(database)
    slow = "d0003"
    for device, job in jobs.items():
        take(database, job)
        if device != slow:
            _report(database, rollouts, device, job, "active")
    assert rollouts.rollback(id, "root") == 3
    back = queued(database)
    assert set(back) == {"d0000", "d0001", "d0002"}
    arguments = take(database, back["d0000"])
    assert arguments == {"target": "kws/1.0/bundle.edge", "rollback": True}
    # One that had not heard of it activates the new model, and is sent back too.
    _report(database, rollouts, slow, jobs[slow], "active")
    back = {**back, **queued(database)}
    assert set(back) == {"d0000", "d0001", "d0002", slow}
    assert rollouts.show(id)["state"] == "rolling-back"
    for device, job in back.items():
        _report(database, rollouts, device, job, "active")
    shown = rollouts.show(id)
    assert shown["state"] == "rolled-back" and shown["devices"] == {"reverted": 4, "stuck": 1}
    assert shown["problems"][0]["detail"] == "had no published version before: keeps this one"
    with database.reading() as connection:
        ends = sa.select(sa.func.count()).where(tables.audit.c.action == "rollout.rolled-back")
        assert connection.scalar(ends) == 1
    for _ in range(2):  # what comes late ends it no second time
        _report(database, rollouts, "new", jobs["new"], "failed")
    with database.reading() as connection:
        assert connection.scalar(ends) == 1
    with pytest.raises(Refused, match="is rolled-back already"):
        rollouts.rollback(id, "root")


def test_it_pauses_and_resumes(database: Database, rollouts: Rollouts) -> None:
    add_devices(database, _names(10))
    id = rollouts.create(Plan("kws", "2.0", steps=parse_steps("2,5,100%"), pause_on_success=True), "root")
    for expected in (2, 3, 5):
        assert len(_answer_all(database, rollouts)) == expected
        rollouts.tick()
        rollouts.tick()
        if expected < 5:
            assert rollouts.show(id)["state"] == "paused" and queued(database) == {}
            rollouts.resume(id, "root")
    assert rollouts.show(id)["state"] == "done"
    with pytest.raises(Refused, match="only a paused one resumes"):
        rollouts.resume(id, "root")


def test_a_pause_starts_nobody(database: Database, rollouts: Rollouts) -> None:
    add_devices(database, _names(10))
    id = rollouts.create(Plan("kws", "2.0", steps=parse_steps("2,100%")), "root")
    rollouts.pause(id, "root")
    assert len(_answer_all(database, rollouts)) == 2
    rollouts.tick()
    assert queued(database) == {}
    with pytest.raises(Refused):
        rollouts.pause(id, "root")
    rollouts.resume(id, "root")
    assert len(queued(database)) == 8


def test_too_few_successes_pause_it(database: Database, rollouts: Rollouts) -> None:
    add_devices(database, _names(20))
    id = rollouts.create(Plan("kws", "2.0", steps=parse_steps("10,100%"), abort_over=0.5, success=0.9), "root")
    _answer_all(database, rollouts, "failed", most=2)
    _answer_all(database, rollouts)
    rollouts.tick()
    shown = rollouts.show(id)
    assert shown["state"] == "paused" and shown["reason"] == "phase 1: 8 of 10 devices succeeded, 90% are needed"
    rollouts.resume(id, "root")
    assert len(queued(database)) == 10


def test_devices_join_while_it_runs(database: Database, clock: Clock) -> None:
    found = set(_names(4))
    rollouts = Rollouts(database, lambda where: found, clock)
    add_devices(database, _names(6))
    id = rollouts.create(Plan("kws", "2.0", where="building=7", steps=parse_steps("50%,100%")), "root")
    assert len(queued(database)) == 2
    found.update(_names(6))
    clock.now += 11
    rollouts.tick()
    assert len(queued(database)) == 3  # half of six
    _answer_all(database, rollouts)
    add_devices(database, ["late", "elsewhere"])
    found.add("late")
    clock.now += 11
    rollouts.tick()
    rollouts.tick()
    while _answer_all(database, rollouts):
        rollouts.tick()
    assert rollouts.show(id)["devices"] == {"active": 7}


def test_a_silent_device_counts_as_failed_until_it_speaks(database: Database, rollouts: Rollouts, clock: Clock) -> None:
    add_devices(database, _names(4))
    id = rollouts.create(Plan("kws", "2.0", abort_over=0.5, timeout=3600), "root")
    jobs = queued(database)
    _answer_all(database, rollouts, most=3)
    clock.now += 3601
    rollouts.tick()
    shown = rollouts.show(id)
    assert shown["state"] == "done" and shown["devices"] == {"active": 3, "silent": 1}
    (late,) = (row["device"] for row in shown["problems"])
    _report(database, rollouts, late, jobs[late], "active")
    assert rollouts.show(id)["devices"] == {"active": 4}


def test_all_activate_at_one_time(database: Database, rollouts: Rollouts, clock: Clock) -> None:
    add_devices(database, _names(10))
    plan = Plan("kws", "2.0", steps=parse_steps("2,100%"), activate_at=clock.now + 7200, timeout=600)
    id = rollouts.create(plan, "root")
    jobs = queued(database)
    for device, job in jobs.items():
        _report(database, rollouts, device, job, "staged")
    rollouts.tick()
    jobs |= queued(database)
    assert len(jobs) == 10  # what is staged is enough to go on
    _answer_all(database, rollouts, "staged")
    clock.now += 7000
    rollouts.tick()
    assert rollouts.show(id)["state"] == "running" and rollouts.show(id)["devices"] == {"staged": 10}
    clock.now += 300
    for device, job in jobs.items():
        _report(database, rollouts, device, job, "active")
    rollouts.tick()
    assert rollouts.show(id)["state"] == "done"


def test_what_cannot_be_rolled_out(database: Database, rollouts: Rollouts) -> None:
    with pytest.raises(BadInput, match="none is found"):
        rollouts.create(Plan("kws", "2.0"), "root")
    add_devices(database, _names(3))
    add_devices(database, ["tiny"], ram_kb=0, runtimes={})
    with pytest.raises(BadInput, match=r"kws 9.9: is not published"):
        rollouts.create(Plan("kws", "9.9"), "root")
    id = rollouts.create(Plan("kws", "2.0"), "root")
    with pytest.raises(Refused, match=f"rollout {id} is open"):
        rollouts.create(Plan("kws", "1.0"), "root")
    shown = rollouts.show(id)
    assert shown["devices"] == {"started": 3, "unfit": 1}
    assert shown["problems"][0]["detail"] == "bundle: needs core; installed: none"
    with pytest.raises(BadInput, match="there is none"):
        rollouts.show("nothing")


def test_reports_that_belong_to_nothing_change_nothing(database: Database, rollouts: Rollouts) -> None:
    add_devices(database, _names(2))
    id = rollouts.create(Plan("kws", "2.0"), "root")
    jobs = queued(database)
    with database.transaction() as connection:
        assert not rollouts.report(connection, "d0000", "u0", "failed", "", {})
        assert not rollouts.report(connection, "d0000", jobs["d0001"], "failed", "", {})  # another's job
        assert rollouts.report(connection, "d0000", jobs["d0000"], "active", "", {})
        assert rollouts.report(connection, "d0000", jobs["d0000"], "downloading", "", {})  # late
        assert rollouts.report(connection, "d0000", jobs["d0000"], "failed", "", {})
    assert rollouts.show(id)["devices"] == {"active": 1, "started": 1}


@pytest.mark.quiet
def test_two_thousand_devices(database: Database, rollouts: Rollouts) -> None:
    """Planned in a second; and the report that crosses the threshold aborts it."""
    add_devices(database, _names(2000))
    started = time.process_time()
    id = rollouts.create(Plan("kws", "2.0", abort_over=0.02), "root")
    planned = time.process_time() - started
    jobs = list(queued(database).items())
    assert len(jobs) == 2000
    started, reports = time.process_time(), 0
    for device, job in jobs:
        reports += 1
        _report(database, rollouts, device, job, "failed" if reports % 10 == 0 else "active")
        if rollouts.show(id)["state"] == "aborted":
            break
    took = time.process_time() - started
    print(f"planned in {planned:.3f} s of CPU; {reports} reports until the abort, {took / reports * 1e3:.2f} ms each")
    assert planned <= 1.0
    assert reports == 410 and took < 5.0


class RolloutMachine(RuleBasedStateMachine):
    """A fleet that obeys, fails, is late, speaks twice and joins, before a server that is restarted at any time."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        RolloutMachine.counter = getattr(RolloutMachine, "counter", 0) + 1
        self.path = self.folder / f"{RolloutMachine.counter}.sqlite"
        self.database = Database(self.path)
        publish_kws(self.database)
        self.clock = Clock()
        self.rollouts = Rollouts(self.database, now=self.clock)
        self.known: dict[str, str] = {}  # job by device, as devices received them
        self.models: dict[str, str] = {}  # what each device runs
        self.ended: set[str] = set()

    @initialize(
        count=st.integers(1, 12),
        steps=st.sampled_from(["100%", "1,100%", "2,50%,100%", "10%,30%,100%", "50%"]),
        abort=st.sampled_from([0.0, 0.1, 0.34, 1.0]),
        success=st.sampled_from([0.0, 0.9]),
        pause=st.booleans(),
        later=st.booleans(),
    )
    def plan(self, count: int, steps: str, abort: float, success: float, pause: bool, later: bool) -> None:
        self.models = dict.fromkeys(_names(count), "1.0")
        add_devices(self.database, self.models)
        self.plan_ = Plan(
            "kws",
            "2.0",
            steps=parse_steps(steps),
            abort_over=abort,
            success=success,
            pause_on_success=pause,
            activate_at=self.clock.now + 500 if later else None,
            timeout=1000,
        )
        self.id = self.rollouts.create(self.plan_, "root")

    @rule()
    def restart(self) -> None:
        self.database.close()
        self.database = Database(self.path)
        self.rollouts = Rollouts(self.database, now=self.clock)

    @rule(seconds=st.sampled_from([1, 20, 400, 1100]))
    def time_passes(self, seconds: int) -> None:
        self.clock.now += seconds
        self.rollouts.tick()

    @rule(pick=st.integers(0, 100), state=st.sampled_from(["staged", "active", "active", "failed", "rolled-back"]))
    def device_answers(self, pick: int, state: str) -> None:
        for device, job in queued(self.database).items():
            self.known[job] = device
        if not self.known:
            return
        job = sorted(self.known)[pick % len(self.known)]
        device = self.known[job]
        arguments = take(self.database, job)
        if job not in self.ended:
            if state == "active":
                self.models[device] = arguments["target"].split("/")[1]
            if state != "staged":
                self.ended.add(job)
        elif state == "failed":
            return
        _report(self.database, self.rollouts, device, job, state)
        self.last = state

    @rule()
    def device_joins(self) -> None:
        name = f"j{len(self.models):04}"
        self.models[name] = "1.0"
        add_devices(self.database, [name])

    @rule()
    def operator_pauses(self) -> None:
        if self.shown["state"] == "running":
            self.rollouts.pause(self.id, "root")

    @rule()
    def operator_resumes(self) -> None:
        if self.shown["state"] == "paused":
            self.rollouts.resume(self.id, "root")

    @rule(really=st.integers(0, 9))
    def operator_rolls_back(self, really: int) -> None:
        if really == 0 and self.shown["state"] not in ("rolling-back", "rolled-back"):
            self.rollouts.rollback(self.id, "root")

    @property
    def shown(self) -> dict[str, Any]:
        return self.rollouts.show(self.id)

    @invariant()
    def never_more_than_the_phase_allows(self) -> None:
        if not hasattr(self, "id"):
            return
        shown = self.shown
        total = sum(count for state, count in shown["devices"].items() if state != "unfit")
        started = sum(count for state, count in shown["devices"].items() if state not in ("waiting", "unfit"))
        assert started <= self.plan_.allowed(shown["phase"], total)

    @invariant()
    def aborted_where_too_many_failed(self) -> None:
        if not hasattr(self, "id"):
            return
        shown = self.shown
        bad = sum(shown["devices"].get(state, 0) for state in ("failed", "rolled-back", "silent"))
        if shown["state"] in ("running", "paused"):
            assert bad <= self.plan_.abort_over * shown["started"] + 1e-9

    @invariant()
    def nothing_new_starts_once_it_has_ended(self) -> None:
        if not hasattr(self, "id"):
            return
        if self.shown["state"] in ("aborted", "rolling-back", "rolled-back"):
            for job in queued(self.database).values():
                assert take(self.database, job, "queued").get("rollback") is True

    @invariant()
    def every_device_has_a_model(self) -> None:
        assert all(version in ("1.0", "2.0") for version in self.models.values())
        if hasattr(self, "id") and self.shown["state"] == "done":
            assert not any(self.shown["devices"].get(state) for state in ("started", "staged"))

    def teardown(self) -> None:
        """Left alone, with devices that answer, every rollout comes to an end, and a rollback brings all back."""
        if hasattr(self, "id"):
            for _ in range(60):
                shown = self.shown
                if shown["state"] in ("done", "aborted", "rolled-back"):
                    break
                if shown["state"] == "paused":
                    self.rollouts.resume(self.id, "root")
                for device, job in queued(self.database).items():
                    self.models[device] = take(self.database, job)["target"].split("/")[1]
                    _report(self.database, self.rollouts, device, job, "active")
                self.clock.now += 100
                self.rollouts.tick()
            assert self.shown["state"] in ("done", "aborted", "rolled-back"), self.shown
        self.database.close()
        self.path.unlink()


def test_the_state_machine_as_a_whole(tmp_path: Path) -> None:
    RolloutMachine.folder = tmp_path
    run_state_machine_as_test(
        RolloutMachine,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            phases=(Phase.reuse, Phase.generate),  # shrinking takes minutes: each example has a database
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_on_postgresql(postgres: str, clock: Clock) -> None:
    database = Database(postgres)
    try:
        publish_kws(database)
        add_devices(database, _names(20))
        rollouts = Rollouts(database, now=clock)
        id = rollouts.create(Plan("kws", "2.0", steps=parse_steps("25%,100%", canary=2)), "root")
        while _answer_all(database, rollouts):
            rollouts.tick()
        assert rollouts.show(id)["state"] == "done" and rollouts.show(id)["devices"] == {"active": 20}
        assert rollouts.rollback(id, "root") == 20
    finally:
        database.close()


def test_who_is_not_there_and_who_is_ahead_is_told(database: Database, rollouts: Rollouts) -> None:
    add_devices(database, ["old"])
    add_devices(database, ["new"], models=(InstalledModel("kws", "2.0", NEW, True),))
    with pytest.raises(BadInput, match="nosuch: no active device"):
        rollouts.create(Plan("kws", "1.0", devices=("new", "nosuch")), "ana@desk")
    with pytest.raises(BadInput, match="nosuch: no active device"):
        rollouts.preview(Plan("kws", "1.0", devices=("nosuch",)))
    rows = {row["device"]: row for row in rollouts.preview(Plan("kws", "1.0"))}
    assert rows["old"]["target"] and not rows["new"]["target"]
    assert "has version 2.0, which is newer" in rows["new"]["detail"]
    id = rollouts.create(Plan("kws", "1.0"), "ana@desk")
    assert rollouts.show(id)["devices"] == {"started": 1, "unfit": 1}


def test_a_rollout_stays_what_it_was_when_a_device_is_removed(database: Database, rollouts: Rollouts) -> None:
    add_devices(database, _names(3))
    first = rollouts.create(Plan("kws", "2.0"), "ana@desk")
    _answer_all(database, rollouts)
    rollouts.tick()
    assert rollouts.show(first)["state"] == "done"

    def remove(device: str) -> None:
        with database.transaction() as connection:
            connection.execute(tables.devices.update().where(tables.devices.c.id == device).values(state="revoked"))
            registry.remove(connection, device, "ana@desk")

    remove("d0000")
    assert rollouts.show(first)["devices"] == {"active": 3}
    assert rollouts.rollback(first, "ana@desk") == 2  # who is gone cannot go back
    remove("d0001")
    assert rollouts.show(first)["devices"] == {"active": 1, "reverting": 1}
    for device, job in queued(database).items():
        _report(database, rollouts, device, job, "active")
    rollouts.tick()
    assert rollouts.show(first)["state"] == "rolled-back"
