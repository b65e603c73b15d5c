"""How ternary weights lie in a program: row-major, or as a microcontroller's kernels read them in place.

The byte order of each layout is told in `runtime/core/kernels/layouts.h` and docs/operators.md; here it stands in
numpy, for exports, the oracle and `edge inspect`. A tensor's rank names its layout: uint8 [N, row bytes] followed by
as many sizes of 1 as the layout's place in `LAYOUTS`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
I8 = NDArray[np.int8]

LAYOUTS = ("rows", "pairs", "trits", "planes")
"""Names, at the number that the tensor's rank carries."""

# Column of the eight that the lanes of each step of a word in `pairs` hold.
_PAIR_COLUMNS = ((0, 2), (1, 3), (4, 6), (5, 7))


def layout_of(packed: U8) -> str:
    """The layout that the shape of a weight tensor names.

    Raises:
        ValueError: it names none.
    """
    number = packed.ndim - 2
    if not 0 <= number < len(LAYOUTS) or any(size != 1 for size in packed.shape[2:]):
        raise ValueError(f"weights of shape {list(packed.shape)} are in no layout")
    return LAYOUTS[number]


def row_bytes(layout: str, k: int) -> int:
    """Bytes that k weights take in a layout."""
    return {"pairs": -(-k // 8) * 2, "trits": -(-k // 5)}.get(layout, -(-k // 4))


def pack_layout(codes: I8, layout: str) -> U8:
    """Packs ternary weights.

    Args:
        codes: int8 [N, K] of -1, 0, 1.
        layout: one of `LAYOUTS`.

    Returns:
        uint8 [N, `row_bytes(layout, K)`, 1 …].
    """
    pack = {"rows": _rows, "pairs": _pairs, "trits": _trits, "planes": _planes}[layout]
    n, k = codes.shape
    shape = (n, row_bytes(layout, k)) + (1,) * LAYOUTS.index(layout)
    return np.array(pack((codes + 1).astype(np.uint8))).reshape(shape)


def unpack_layout(packed: U8, k: int) -> I8:
    """The inverse of `pack_layout`: the weights int8 [N, k].

    Raises:
        ValueError: the shape names no layout, or is not that of k weights a row.
    """
    layout = layout_of(packed)
    if packed.shape[1] != row_bytes(layout, k):
        raise ValueError(f"{packed.shape[1]} bytes a row in layout {layout}, expected {row_bytes(layout, k)}")
    unpack = {"rows": _from_rows, "pairs": _from_pairs, "trits": _from_trits, "planes": _from_planes}[layout]
    codes: U8 = unpack(packed.reshape(packed.shape[:2]), k)
    return codes.astype(np.int8) - np.int8(1)


def _padded(codes: U8, multiple: int) -> U8:
    """Codes w + 1 with columns of w = 0 added."""
    return np.pad(codes, ((0, 0), (0, -codes.shape[1] % multiple)), constant_values=1)


def _rows(codes: U8) -> U8:
    fields = _padded(codes, 4).reshape(codes.shape[0], -1, 4)
    return np.asarray((fields << np.array([0, 2, 4, 6], np.uint8)).sum(-1), np.uint8)


def _from_rows(packed: U8, k: int) -> U8:
    fields = packed[:, :, None] >> np.array([0, 2, 4, 6], np.uint8) & 3
    return np.asarray(fields.reshape(packed.shape[0], -1)[:, :k], np.uint8)


def _blocks(n: int) -> list[tuple[int, int]]:
    """(first output, outputs) of the blocks of `pairs`."""
    return [(first, min(8, n - first)) for first in range(0, n, 8)]


def _pairs(codes: U8) -> U8:
    codes = _padded(codes, 8)
    parts = []
    for first, count in _blocks(codes.shape[0]):
        paired = count - count % 2
        block = codes[first : first + paired].reshape(paired // 2, 2, codes.shape[1] // 8, 8).astype(np.uint32)
        a, b = block[:, 0], block[:, 1] - np.uint32(1) & np.uint32(3)
        lanes = a | b << np.uint32(14)
        words = np.zeros(lanes.shape[:2], np.uint32)
        for step, (low, high) in enumerate(_PAIR_COLUMNS):
            both = lanes[..., low] | lanes[..., high] << np.uint32(16)
            words |= both << np.uint32(4 * step) | (both >> np.uint32(32 - 4 * step) if step else np.uint32(0))
        parts.append(np.ascontiguousarray(words.T).astype("<u4").tobytes())
        if count % 2:
            parts.append(_rows(codes[first + count - 1][None]).tobytes())
    return np.frombuffer(b"".join(parts), np.uint8)


def _from_pairs(packed: U8, k: int) -> U8:
    n, groups = packed.shape[0], packed.shape[1] // 2
    codes = np.empty((n, groups * 8), np.uint8)
    data = packed.tobytes()
    for first, count in _blocks(n):
        pairs = count // 2
        words = np.frombuffer(data, "<u4", groups * pairs, first * 2 * groups).reshape(groups, pairs).T
        for step, columns in enumerate(_PAIR_COLUMNS):
            lanes = words >> np.uint32(4 * step) | (words << np.uint32(32 - 4 * step) if step else np.uint32(0))
            for lane, column in enumerate(columns):
                a = lanes >> np.uint32(16 * lane) & 3
                b = (lanes >> np.uint32(16 * lane + 14)) + np.uint32(1) & 3
                codes[first : first + 2 * pairs : 2, column::8] = a
                codes[first + 1 : first + 2 * pairs : 2, column::8] = b
        if count % 2:
            last = np.frombuffer(data, np.uint8, 2 * groups, (first + count - 1) * 2 * groups)
            codes[first + count - 1] = _from_rows(last[None], groups * 8)[0]
    return codes[:, :k]


def _passes(groups: int) -> list[tuple[int, int]]:
    """(first byte, bytes) of a row that each pass of `trits` holds."""
    eights, rest = groups // 8, groups % 8
    passes = [(8 * i, 8) for i in range(eights)] + ([(8 * eights, 4)] if rest >= 4 else [])
    ones = rest % 4
    return passes + [(groups - ones + i, 1) for i in range(ones)]


def _trits(codes: U8) -> U8:
    digits = _padded(codes, 5).reshape(codes.shape[0], -1, 5)
    low, block = digits[..., :3] @ np.array([1, 3, 9], np.uint8), digits[..., 3] + 3 * digits[..., 4]
    sums = np.asarray(14 * block + low + np.where(low >= 14, 112, 0), np.uint8)
    return np.concatenate([np.zeros(0, np.uint8), *(sums[:, at : at + w].ravel() for at, w in _passes(sums.shape[1]))])


def _from_trits(packed: U8, k: int) -> U8:
    n, groups = packed.shape
    flat, sums = packed.ravel(), np.empty((n, groups), np.uint8)
    for at, width in _passes(groups):
        sums[:, at : at + width] = flat[n * at : n * (at + width)].reshape(n, width)
    high = sums >= 126
    block, low = np.divmod(sums - np.where(high, 126, 0).astype(np.uint8), 14)
    low += np.where(high, 14, 0).astype(np.uint8)
    digits = np.stack([low % 3, low // 3 % 3, low // 9, block % 3, block // 3], axis=-1)
    return np.asarray(digits.reshape(n, -1)[:, :k], np.uint8)


def _tiles(k: int) -> list[tuple[int, int]]:
    """(first column, bytes) of the tiles of a row of `planes`."""
    return [(first, -(-min(64, k - first) // 4)) for first in range(0, k, 64)]


def _planes(codes: U8) -> U8:
    n, k = codes.shape
    codes = _padded(codes, 4)
    tiles = [
        (codes[:, at : at + 4 * width].reshape(n, 4, width) << np.array([0, 2, 4, 6], np.uint8)[:, None]).sum(1)
        for at, width in _tiles(k)
    ]
    return np.concatenate(tiles, axis=1).astype(np.uint8)


def _from_planes(packed: U8, k: int) -> U8:
    n = packed.shape[0]
    fields = [
        (packed[:, None, at // 4 : at // 4 + width] >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3).reshape(n, -1)
        for at, width in _tiles(k)
    ]
    return np.concatenate(fields, axis=1)[:, :k]
