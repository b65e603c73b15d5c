"""The thread that follows the outbox: one by one, in batches, and whatever an action does."""

from __future__ import annotations

from edge.fleet.server.database import Database, Event, emit
from edge.fleet.server.follower import Follower
from tests.fleet.lab import until


def test_events_are_followed_one_by_one_and_in_batches(database: Database) -> None:
    one_by_one: list[str] = []
    batches: list[list[str]] = []
    follower = Follower(database)

    def broken(event: Event) -> None:
        one_by_one.append(event.subject)
        raise RuntimeError("an action's bug")

    follower.follow("token.changed", broken)
    follower.follow_batches("token.changed", lambda events: batches.append([event.subject for event in events]))
    with database.transaction() as connection:
        emit(connection, "token.changed", "before", {})
    after = database.last_event()
    subjects = [f"t{number}" for number in range(1500)]
    with database.transaction() as connection:
        for subject in subjects:
            emit(connection, "token.changed", subject, {})
            emit(connection, "something.else", subject, {})
    follower.start(after)
    try:
        until(lambda: len(one_by_one) == len(subjects))
        until(lambda: sum(map(len, batches)) == len(subjects))
    finally:
        follower.stop()
    assert one_by_one == subjects and [one for batch in batches for one in batch] == subjects
    assert len(batches) <= 4
