"""What processes that share a registry do in the tests of it, each run by `multiprocessing`'s spawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection

from edge.fleet import topics
from edge.fleet.messages import Envelope, JobReport
from edge.fleet.server.database import Database, emit
from edge.fleet.server.ingest import Ingest, Publication, Report
from edge.fleet.server.updates.rollout import Rollouts


def _take_in(url: str, offered: list[tuple[str, bytes]], start: Any, extend: Callable[[Database, Ingest], None]) -> Any:
    """Takes messages in; returns what was counted and answered."""
    database = Database(url)
    answers: list[Publication] = []
    ingest = Ingest(database, answers.append)
    extend(database, ingest)
    ingest.start()
    start.wait(30)
    for topic, payload in offered:
        ingest.offer(topic, payload)
    ingest.stop()
    database.close()
    return ingest.counts, sorted(answer.topic for answer in answers)


def keep(url: str, boot: str, numbers: list[int], start: Any, results: Any) -> None:
    """Takes in a report of each number, with a handler that leaves an event behind for each that it sees."""

    def seen(connection: Connection, report: Report) -> None:
        emit(connection, "seen", f"{report.device} {report.envelope.seq}", {})

    offered = []
    for number in numbers:
        kind = ("tel", "td")[number % 2]
        body: dict[str, Any] = {"values": {"number": number}}
        offered.append((topics.up("attic", kind), Envelope(boot, number, 1.0, body).encode()))
    results.put(_take_in(url, offered, start, lambda _, ingest: ingest.on("td", seen)))


def fail(url: str, jobs: dict[str, str], start: Any, results: Any) -> None:
    """Takes in that these devices have failed: the job of each, by device."""

    def extend(database: Database, ingest: Ingest) -> None:
        rollouts = Rollouts(database)

        def reported(connection: Connection, report: Report) -> None:
            body = JobReport.read(report.envelope.body)
            rollouts.report(connection, report.device, report.rest[0], body.state, body.detail, body.metrics)

        ingest.on("job", reported)

    body = JobReport("failed", "its reference inputs gave something else").json()
    offered = [
        (topics.up(device, "job", job), Envelope("ab" * 8, 1, 1.0, body).encode()) for device, job in jobs.items()
    ]
    results.put(_take_in(url, offered, start, extend))


def in_processes(target: Callable[..., None], arguments: list[tuple[Any, ...]]) -> list[Any]:
    """Runs `target` once in a process of its own for each of the arguments, all at once; returns what each found."""
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(len(arguments)), context.Queue()
    processes = [context.Process(target=target, args=(*each, start, results)) for each in arguments]
    for process in processes:
        process.start()
    try:
        return [results.get(timeout=60) for _ in processes]
    finally:
        for process in processes:
            process.join(10)
            process.kill()
