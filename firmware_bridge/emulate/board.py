"""What every emulated board offers: a serial port, power, and storage that outlives it."""

from __future__ import annotations

import abc
from types import TracebackType

from edge.runtime.errors import BadInput


class EmulatedBoard(abc.ABC):
    """A board that runs firmware in this process or beside it; it is also the serial port to it.

    Attributes:
        name: The board's.
        faults: What went wrong in the firmware so far, one line each; the board started again after each.
        resets: How often the firmware started again, by itself or by `reset`.
    """

    name: str
    faults: list[str]
    resets: int

    @abc.abstractmethod
    def read(self, size: int = 1, timeout: float | None = None) -> bytes:
        """Takes what the board has sent.

        Args:
            size: How many bytes at most.
            timeout: Seconds to wait for the first of them; None waits until there is one.

        Returns:
            At least one byte, or none where the time is over or the board has no power any more.
        """

    @abc.abstractmethod
    def write(self, data: bytes) -> int:
        """Sends bytes to the board; they wait until it reads them. Returns how many they are."""

    @property
    @abc.abstractmethod
    def powered(self) -> bool:
        """Whether it runs."""

    @property
    @abc.abstractmethod
    def instructions(self) -> int:
        """Instructions since power came on, exactly; counted by unicorn alone.

        Raises:
            BadInput: This emulator does not count.
        """

    @abc.abstractmethod
    def reset(self) -> None:
        """Presses the reset button: RAM keeps what it holds. Bytes that are under way are lost."""

    @abc.abstractmethod
    def cut_power(
        self, *, after_storage_operations: int | None = None, after_instructions: int | None = None, seed: int = 0
    ) -> None:
        """Cuts the power, now or later; what the storage holds then is kept for the next board that is started on it.

        Args:
            after_storage_operations: In the middle of the so-many-th erasure of a sector or programming of a unit from
                now on (1 is the next one), which leaves garbage there.
            after_instructions: When so many more have been executed, to the end of a block of them.
            seed: Of that garbage.

        Raises:
            BadInput: This emulator cannot cut it later.
        """

    @abc.abstractmethod
    def storage(self) -> bytes:
        """What the storage holds."""

    @abc.abstractmethod
    def memory(self, address: int, count: int) -> bytes:
        """What `count` bytes from `address` on hold.

        Raises:
            BadInput: There is no memory, or this emulator cannot look.
        """

    def stack_used(self) -> int:
        """The most bytes of the stack that were in use since power came on; unicorn alone knows.

        Raises:
            BadInput: This emulator cannot tell.
        """
        raise BadInput(f"{self.name}: this emulator cannot tell how much stack was used: use unicorn")

    @abc.abstractmethod
    def close(self) -> None:
        """Ends it; the storage file, if there is one, holds what the storage held."""

    def __enter__(self) -> EmulatedBoard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
