"""How long work tells whoever watches it what it is doing; the CLI draws it, a script may ignore it."""

from typing import Protocol


class Progress(Protocol):
    """Receiver of progress. Calls come from one thread; none may raise."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Starts a stage, for example "train" with 1,400 steps; `total` is None when its length is unknown."""

    def update(self, done: int, **values: float | str) -> None:
        """Says how many units of the stage are done, with figures worth showing (loss, accuracy)."""

    def note(self, text: str) -> None:
        """Says something once, in one line."""


class Silent:
    """A `Progress` that shows nothing."""

    def stage(self, name: str, total: int | None = None) -> None: ...

    def update(self, done: int, **values: float | str) -> None: ...

    def note(self, text: str) -> None: ...
