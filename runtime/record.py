"""Frozen records like those of the standard library's dataclasses, for what opening a model needs.

Importing dataclasses, and the code that it makes for ten classes, take 0.4 MB of a process. `dataclasses.replace`,
`asdict` and `fields` know these records as their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import Field
    from typing import ClassVar

    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_options: object) -> Any:
        return lambda cls: cls


class _DataclassFields:
    """What makes a class a dataclass to the functions of that module, made when one of them asks."""

    def __get__(self, _instance: object, owner: type[Record]) -> dict[str, Field[Any]]:
        return _dataclass_fields(owner)


@dataclass_transform(frozen_default=True)
class Record:
    """A class whose annotations are its fields, in order, a base's first; a class attribute is a field's default.

    A default that is a dict is copied for each instance. Instances compare by their fields, and refuse to change.
    """

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
        _names: ClassVar[tuple[str, ...]]
    else:
        __dataclass_fields__ = _DataclassFields()
        _names = ()

        def __init_subclass__(cls) -> None:
            own = [name for name in cls.__annotations__ if name not in cls._names]
            cls._names = (*cls._names, *own)

        def __init__(self, *values: Any, **named: Any) -> None:
            names, kind = self._names, type(self).__name__
            if len(values) > len(names):
                raise TypeError(f"{kind}: takes {len(names)} values, {len(values)} given")
            fields = self.__dict__
            fields.update(zip(names, values, strict=False))
            for name, value in named.items():
                if name not in names or name in fields:
                    raise TypeError(f"{kind}: {name} is {'given twice' if name in fields else 'no field'}")
                fields[name] = value
            for name in names:
                if name in fields:
                    continue
                try:
                    default = getattr(type(self), name)
                except AttributeError:
                    raise TypeError(f"{kind}: {name} is missing") from None
                fields[name] = dict(default) if type(default) is dict else default
            self.__post_init__()

    def __post_init__(self) -> None:
        """Checks a new instance."""

    def __setattr__(self, name: str, _value: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed")

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self._names)})"

    def _values(self) -> tuple[Any, ...]:
        return tuple([self.__dict__[name] for name in self._names])


_known: dict[type, dict[str, Field[Any]]] = {}


def _dataclass_fields(owner: type[Record]) -> dict[str, Field[Any]]:
    if owner in _known:
        return _known[owner]
    from dataclasses import MISSING, field, make_dataclass

    wanted: list[Any] = []
    for name in owner._names:
        default = getattr(owner, name, MISSING)
        wanted.append((name, Any, field(default_factory=dict) if default == {} else field(default=default)))
    made: Any = make_dataclass(owner.__name__, wanted)
    _known[owner] = made.__dataclass_fields__
    return _known[owner]
