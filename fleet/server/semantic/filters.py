"""Plain filters, as `ram>=256KB and sensor=microphone and building=7 and model!=kws:2.1`: their language and meaning.

    filter     = all {"or" all}
    all        = one {"and" one}
    one        = "not" one | "(" filter ")" | key operator value
    operator   = "=" | "!=" | "<" | "<=" | ">" | ">="
    value      = word | '"' any characters but " and \\ '"'

A comparison holds or it does not; there is no third value. `key!=value` is exactly `not key=value`: it also holds where
the device says nothing of `key`. `<`, `<=`, `>`, `>=` need a number, and do not hold where the device gives none.
`matches` is the meaning; `filter_sparql` compiles to SPARQL that gives the same devices.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from edge.fleet.server.semantic.facts import DTYPES, KINDS, DeviceFacts, operator_name, sensor_name
from edge.runtime.errors import BadInput

MAX_FILTER = 4_096
MAX_DEPTH = 32
MAX_VALUE = 200

UNITS = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}
_SIZES = ("ram", "flash")
_COUNTS = ("cores",)
_ORDERED = ("<", "<=", ">", ">=")
KEYS: dict[str, str] = {
    "ram": "memory, with a unit: KB, MB, GB (1 KB = 1 KiB = 1,024 bytes)",
    "flash": "storage for models, as ram",
    "cores": "number of cores",
    "sensor": "a sensor it has: microphone, camera, accelerometer, …",
    "building": "its label building",
    "label.KEY": "its label KEY",
    "group": "a group of the operator's that it is in",
    "gateway": "of a board: the gateway behind which it is",
    "model": "a model that it runs: kws, or one version of it: kws:2.1",
    "holds": "a model's version that lies on it, running or not: kws:2.1",
    "runtime": "an engine that it has: litert, or one version: litert:2.3.0",
    "dtype": f"what it computes with: {', '.join(DTYPES)}",
    "operator": "of a microcontroller: what its firmware has: edge::ternary_conv2d",
    "kind": " or ".join(KINDS),
    "arch": "of the processor: aarch64, armv7em",
    "cpu": "the processor's name",
    "feature": "an extension of the processor: asimddp, avx2",
    "os": "its system",
    "board": "of a microcontroller: its board",
    "target": "its name in `edge targets`",
    "id": "the device",
}


@dataclass(frozen=True)
class Comparison:
    """`key operator value`; `number` is the value in bytes or pieces where the key is one that is counted."""

    key: str
    operator: str
    value: str
    number: int | None = None


@dataclass(frozen=True)
class Not:
    part: Filter


@dataclass(frozen=True)
class All:
    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class Any_:
    parts: tuple[Filter, ...]


Filter: TypeAlias = "Comparison | Not | All | Any_"

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<paren>[()])
      | (?P<operator><=|>=|!=|=|<|>)
      | "(?P<quoted>[^"\\\x00-\x1f\x7f]*)"
      | (?P<word>[^\s()<>=!"\\\x00-\x1f\x7f]+)
    )""",
    re.VERBOSE,
)


class BadFilter(BadInput):
    """A filter that cannot be read; the message ends with its text and a caret, ▶, before what cannot be read."""

    def __init__(self, text: str, at: int, problem: str) -> None:
        self.at = at
        # One line, as every error: the caret stands inside the text itself.
        start, end = max(0, at - 30), at + 30
        before = ("…" if start else "") + text[start:at]
        after = text[at:end] + ("…" if len(text) > end else "")
        super().__init__(f"filter, character {at + 1}: {problem}: {before}▶{after}")


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


def parse(text: str) -> Filter:
    """Reads a filter.

    Raises:
        BadFilter: it is not one; the message says where and what was expected.
    """
    if len(text) > MAX_FILTER:
        raise BadFilter(text, MAX_FILTER, f"longer than {MAX_FILTER:,} characters")
    parser = _Parser(text)
    made = parser.any(0)
    parser.end()
    return made


class _Parser:
    """Recursive descent over the tokens; each method reads one rule of the grammar."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._next = 0

    def any(self, depth: int) -> Filter:
        parts = [self._all(depth)]
        while self._take("or"):
            parts.append(self._all(depth))
        return parts[0] if len(parts) == 1 else Any_(tuple(parts))

    def end(self) -> None:
        token = self._token()
        if token.kind != "end":
            raise self._fail(token, 'expected "and", "or" or the end')

    def _all(self, depth: int) -> Filter:
        parts = [self._one(depth)]
        while self._take("and"):
            parts.append(self._one(depth))
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _one(self, depth: int) -> Filter:
        token = self._token()
        if depth > MAX_DEPTH:
            raise self._fail(token, f"nested deeper than {MAX_DEPTH} levels")
        if self._take("not"):
            return Not(self._one(depth + 1))
        if token.kind == "paren" and token.text == "(":
            self._next += 1
            inner = self.any(depth + 1)
            token = self._token()
            if token.text != ")" or token.kind != "paren":
                raise self._fail(token, 'expected ")"')
            self._next += 1
            return inner
        return self._comparison()

    def _comparison(self) -> Comparison:
        key = self._token()
        if key.kind != "word" or key.text.lower() in ("and", "or"):
            raise self._fail(key, 'expected a key, "not" or "("')
        name = _key(key.text)
        if name is None:
            raise self._fail(key, f"there is no key {key.text[:40]!r}: use {', '.join(KEYS)}")
        self._next += 1
        operator = self._token()
        if operator.kind != "operator":
            raise self._fail(operator, "expected = != < <= > or >=")
        self._next += 1
        value = self._token()
        if value.kind not in ("word", "quoted"):
            raise self._fail(value, f'expected a value of {name} (quote one that has spaces or ()<>=!: "a b")')
        self._next += 1
        return self._checked(name, operator, value)

    def _checked(self, key: str, operator: _Token, value: _Token) -> Comparison:
        if not 0 < len(value.text) <= MAX_VALUE:
            raise self._fail(value, f"a value has 1 to {MAX_VALUE} characters")
        if key in _SIZES:
            number = _size(value.text)
            if number is None:
                raise self._fail(value, f"expected a size with its unit, as 256KB or 1.5MB, for {key}")
            return Comparison(key, operator.text, value.text, number)
        if key in _COUNTS:
            if not re.fullmatch(r"[0-9]{1,9}", value.text):
                raise self._fail(value, f"expected a whole number for {key}")
            return Comparison(key, operator.text, value.text, int(value.text))
        if operator.text in _ORDERED:
            raise self._fail(operator, f"{key} has no order: use = or !=; {', '.join((*_SIZES, *_COUNTS))} have one")
        known = {"dtype": DTYPES, "kind": KINDS}.get(key)
        if known and value.text not in known:
            raise self._fail(value, f"{key} is one of {', '.join(known)}")
        if key == "holds" and ":" not in value.text:
            raise self._fail(value, "expected a model and its version, as kws:2.1")
        named = {"sensor": sensor_name, "operator": operator_name}.get(key)
        return Comparison(key, operator.text, value.text if named is None else named(value.text))

    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, word: str) -> bool:
        token = self._token()
        if token.kind == "word" and token.text.lower() == word:
            self._next += 1
            return True
        return False

    def _fail(self, token: _Token, problem: str) -> BadFilter:
        found = "the end" if token.kind == "end" else repr(token.text[:40])
        told = problem if problem.startswith(("there is", "nested", "a value")) else f"{problem}, found {found}"
        return BadFilter(self._text, token.at, told)


def _tokens(text: str) -> list[_Token]:
    found = []
    at = 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            while text[at].isspace():
                at += 1
            what = "a quote that is not closed" if text[at] == '"' else f"{text[at]!r} has no meaning here"
            raise BadFilter(text, at, what)
        kind = match.lastgroup
        assert kind is not None
        begin = match.start(kind) - (kind == "quoted")
        found.append(_Token(kind, match[kind], begin))
        at = match.end()
    return [*found, _Token("end", "", end)]


def _key(text: str) -> str | None:
    lower = text.lower()
    if lower.startswith("label.") and len(text) > len("label."):
        return "label." + text[len("label.") :]
    return lower if lower in KEYS and lower != "label.key" else None


def _size(text: str) -> int | None:
    """ "256KB" -> 262,144; None for what is not a whole number of bytes."""
    match = re.fullmatch(r"([0-9]{1,12})(?:\.([0-9]{1,3}))?([KMGT]?)I?B", text.upper())
    if match is None:
        return None
    whole, part, unit = match.groups()
    thousandths = int(whole) * 1000 + int((part or "0").ljust(3, "0"))
    count, rest = divmod(thousandths * UNITS[f"{unit}B"], 1000)
    return count if rest == 0 and count < 1 << 62 else None


def matches(filter_: Filter, device: DeviceFacts) -> bool:
    """Whether a device is one that the filter asks for. What SPARQL answers must be this."""
    if isinstance(filter_, Not):
        return not matches(filter_.part, device)
    if isinstance(filter_, All):
        return all(matches(part, device) for part in filter_.parts)
    if isinstance(filter_, Any_):
        return any(matches(part, device) for part in filter_.parts)
    if filter_.operator == "!=":
        return not _holds(filter_.key, "=", filter_.value, filter_.number, device)
    return _holds(filter_.key, filter_.operator, filter_.value, filter_.number, device)


def _holds(key: str, operator: str, value: str, number: int | None, device: DeviceFacts) -> bool:
    if number is not None:
        has = {"ram": device.ram, "flash": device.flash, "cores": device.cores}[key]
        if has is None:
            return False
        return {
            "=": has == number,
            "<": has < number,
            "<=": has <= number,
            ">": has > number,
            ">=": has >= number,
        }[operator]
    return value in _values(key, device)


def _values(key: str, device: DeviceFacts) -> set[str]:
    """All that `key=` finds a device by."""
    if key.startswith("label."):
        return {label for name, label in device.labels.items() if name == key[len("label.") :]}
    if key == "building":
        return {device.labels["building"]} if "building" in device.labels else set()
    if key == "model":
        running = [model for model in device.models if model.active]
        return {model.name for model in running} | {f"{model.name}:{model.version}" for model in running}
    if key == "holds":
        return {f"{model.name}:{model.version}" for model in device.models}
    if key == "runtime":
        return set(device.runtimes) | {f"{name}:{version}" for name, version in device.runtimes.items()}
    several = {
        "sensor": device.sensors,
        "dtype": device.dtypes,
        "feature": device.features,
        "group": device.groups,
        "operator": device.operators or frozenset(),
    }
    if key in several:
        return set(several[key])
    one = {
        "kind": device.kind,
        "arch": device.arch,
        "cpu": device.cpu,
        "os": device.os,
        "board": device.board,
        "target": device.target,
        "gateway": device.gateway,
        "id": device.id,
    }[key]
    return set() if one is None else {one}
