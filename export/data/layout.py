"""How folders and file names say which class and which split a file belongs to."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.export.data.dataset import evenly, stratified
from edge.runtime.errors import BadInput

_TRAIN = ("train", "training")
_TEST = ("test", "testing", "val", "valid", "validation")
_IGNORED = re.compile(r"(\..*|__MACOSX|_background_noise_)")
# Free Spoken Digit Dataset: {digit}_{speaker}_{index}.wav; its authors' test split is index 0 to 4.
_SPOKEN = re.compile(r"(\d+)_([^_]+)_(\d+)\.wav", re.IGNORECASE)
_SPOKEN_TEST = 5
MAX_LABEL = 200


@dataclass(frozen=True)
class Item:
    """One file: its name in the source, its class, and its split ("train", "test", or None: the data set has none)."""

    name: str
    label: str
    split: str | None


@dataclass(frozen=True)
class Plan:
    """Which files make which split.

    Attributes:
        labels: class names in natural order.
        train, test: (file name, class index) each.
        split: how they were split, in words.
    """

    labels: tuple[str, ...]
    train: list[tuple[str, int]]
    test: list[tuple[str, int]]
    split: str


def find_items(path: Path, names: list[str], suffixes: tuple[str, ...]) -> list[Item]:
    """Files with one of `suffixes` and their classes.

    A class is a folder; nested folders join their names with "/" (Omniglot's alphabet/character). Folders around all
    classes count for nothing. "train" and "test" on top are the splits. Hidden folders are passed over, and so are
    files that lie beside the class folders.

    Raises:
        BadInput: no file, files that lie in no class folder, or fewer than two classes.
    """
    found = [
        name.split("/")
        for name in names
        if name.lower().endswith(suffixes) and not any(_IGNORED.fullmatch(part) for part in name.split("/"))
    ]
    if not found:
        raise BadInput(f"{path}: no {', '.join(suffixes)} file in it")
    depth = _common_depth([parts[:-1] for parts in found])
    tops = {parts[depth].lower() for parts in found if len(parts) > depth + 1}
    split_of: dict[str, str] = {}
    if tops & set(_TRAIN) and tops & set(_TEST):
        # With both test and validation folders the latter is nobody's: it was set aside on purpose.
        held_out = tops & set(_TEST[:2]) or tops & set(_TEST)
        split_of = dict.fromkeys(tops & set(_TRAIN), "train") | dict.fromkeys(held_out, "test")
    items = []
    for parts in found:
        folders = parts[depth:-1]
        if split_of and folders:
            split = split_of.get(folders[0].lower())
            folders = folders[1:] if split else []
        else:
            split = None
        if folders:
            items.append(Item("/".join(parts), "/".join(folders), split))
    if not items:
        spoken = [_SPOKEN.fullmatch(parts[-1]) for parts in found]
        if all(spoken):
            return [
                Item("/".join(parts), match[1], "test" if int(match[3]) < _SPOKEN_TEST else "train")
                for parts, match in zip(found, spoken, strict=True)
                if match is not None
            ]
        folder = found[0][depth - 1] if depth else path.name
        raise BadInput(f"{path}: one class ({folder!r}): a classifier needs two folders or more, one for each class")
    return items


def make_plan(path: Path, items: list[Item], test_fraction: float, seed: int, limit: int | None) -> Plan:
    """Chooses the files of both splits.

    Args:
        path: of the source, for messages.
        items: what `find_items` gave.
        test_fraction: share of the test split where the data set has none of its own.
        seed: of the choice.
        limit: at most so many files in all, spread evenly over the classes, the ratio of the splits kept.

    Raises:
        BadInput: fewer than two classes, a class without training files, or a limit too small for the classes.
    """
    labels = tuple(sorted({item.label for item in items}, key=_natural))
    for label in labels:
        if not label.isprintable() or len(label) > MAX_LABEL:
            raise BadInput(f"{path}: folder {label[:40]!r} is no class name: use at most {MAX_LABEL} printable letters")
    if len(labels) < 2:
        raise BadInput(f"{path}: one class ({labels[0]!r}): a classifier needs two folders or more, one for each class")
    index = {label: i for i, label in enumerate(labels)}
    splits: dict[str | None, list[tuple[str, int]]] = {"train": [], "test": [], None: []}
    for item in items:
        splits[item.split].append((item.name, index[item.label]))
    rng = np.random.default_rng(seed)
    if not splits[None]:
        total = len(splits["train"]) + len(splits["test"])
        if limit is not None and limit < total:
            train_share = max(1, round(limit * len(splits["train"]) / total))
            splits["train"] = _evenly(splits["train"], train_share, rng)
            splits["test"] = _evenly(splits["test"], max(1, limit - train_share), rng)
        learned = {y for _, y in splits["train"]}
        absent = [label for label in labels if index[label] not in learned]
        if absent:
            _check_limit(path, limit, len(labels), total)
            raise BadInput(f"{path}: class {absent[0]!r} has test files but no training files")
        return Plan(labels, splits["train"], splits["test"], "as the data set has it")
    chosen = splits[None]
    if limit is not None and limit < len(chosen):
        total, chosen = len(chosen), _evenly(chosen, limit, rng)
        counts = Counter(y for _, y in chosen)
        if len(counts) < len(labels) or min(counts.values()) < 2:
            _check_limit(path, limit, 2 * len(labels), total)
    lonely = [label for label, n in Counter(labels[y] for _, y in chosen).items() if n < 2]
    if lonely:
        raise BadInput(f"{path}: class {lonely[0]!r} has a single file: training and test need one each")
    train, test = stratified(np.array([y for _, y in chosen]), test_fraction, seed)
    return Plan(
        labels,
        [chosen[i] for i in train],
        [chosen[i] for i in test],
        f"{100 * test_fraction:.0f} % of every class held out, seed {seed}",
    )


def _check_limit(path: Path, limit: int | None, least: int, total: int) -> None:
    if limit is not None and limit < total:
        raise BadInput(f"{path}: --limit {limit} is too small for its classes: use at least {least}")


def _evenly(items: list[tuple[str, int]], count: int, rng: np.random.Generator) -> list[tuple[str, int]]:
    return [items[i] for i in evenly(np.array([y for _, y in items], np.int64), count, rng)]


def _common_depth(folders: list[list[str]]) -> int:
    """How many leading folders all files share."""
    first, last = min(folders), max(folders)
    depth = 0
    while depth < min(len(first), len(last)) and first[depth] == last[depth]:
        depth += 1
    return depth


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key that puts 10 after 9."""
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", text) if p]
