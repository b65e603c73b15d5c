"""Models on microcontrollers: building the firmware, talking to boards, emulating them, and owning their links."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge.firmware_bridge.remote_model import RemoteModel, connect

__all__ = ["RemoteModel", "connect"]


def __getattr__(name: str) -> Any:
    # Found when it is asked for: those who only build firmware do without it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module = importlib.import_module("edge.firmware_bridge.remote_model")
    globals().update({each: getattr(module, each) for each in __all__})
    return globals()[name]
