"""Packing of weight codes: round trips, layout, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.export import reference

RANGES = {1.58: (-1, 1), 2: (-2, 1), 4: (-8, 7), 8: (-128, 127)}


@st.composite
def codes_and_bits(draw: st.DrawFn) -> tuple[np.ndarray, float]:
    bits = draw(st.sampled_from(sorted(RANGES)))
    n, k = draw(st.integers(1, 6)), draw(st.integers(1, 40))
    low, high = RANGES[bits]
    values = draw(st.lists(st.integers(low, high), min_size=n * k, max_size=n * k))
    return np.array(values, dtype=np.int8).reshape(n, k), bits


@settings(max_examples=200, deadline=None)
@given(codes_and_bits())
def test_unpack_is_the_inverse(case: tuple[np.ndarray, float]) -> None:
    codes, bits = case
    packed = reference.pack_codes(codes, bits)
    width = 2 if bits == 1.58 else int(bits)
    assert packed.shape == (codes.shape[0], -(-codes.shape[1] * width // 8))
    assert packed.dtype == (np.int8 if bits == 8 else np.uint8)
    unpacked = reference.unpack_codes(packed, codes.shape[1], bits)
    assert unpacked.dtype == np.int8
    assert np.array_equal(unpacked, codes)


@settings(max_examples=100, deadline=None)
@given(codes_and_bits())
def test_padding_is_zero_weights(case: tuple[np.ndarray, float]) -> None:
    codes, bits = case
    if bits == 8:
        return
    packed = reference.pack_codes(codes, bits)
    per_byte = 4 if bits < 4 else 2
    whole = reference.unpack_codes(packed, packed.shape[1] * per_byte, bits)
    assert not whole[:, codes.shape[1] :].any()


def test_layout_by_hand() -> None:
    """Little end first: the first weight is in the lowest bits."""
    assert reference.pack_codes(np.int8([[-1, 0, 1, 1, 0]]), 1.58).tolist() == [[0b10_10_01_00, 0b01_01_01_01]]
    assert reference.pack_codes(np.int8([[-2, 1]]), 2).tolist() == [[0b10_10_11_00]]
    assert reference.pack_codes(np.int8([[-8, 7, 0]]), 4).tolist() == [[0xF0, 0x88]]
    assert reference.pack_codes(np.int8([[-128, 127]]), 8).tolist() == [[-128, 127]]


@pytest.mark.parametrize(("value", "bits"), [(2, 1.58), (-2, 1.58), (2, 2), (-3, 2), (8, 4), (-9, 4)])
def test_codes_out_of_range_are_refused(value: int, bits: float) -> None:
    with pytest.raises(ValueError, match=f"do not fit {bits} bits"):
        reference.pack_codes(np.full((1, 3), value, dtype=np.int8), bits)


@pytest.mark.parametrize("bits", [1, 3, 16, 1.5])
def test_unknown_widths_are_refused(bits: float) -> None:
    with pytest.raises(ValueError, match="expected 1.58, 2, 4 or 8"):
        reference.pack_codes(np.zeros((1, 3), dtype=np.int8), bits)
