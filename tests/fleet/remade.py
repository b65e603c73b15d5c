"""Bundles made from a real one: another version, a model whose weights are spoilt, a hostile zip."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from edge.runtime.bundle import Bundle, file_entry, write_bundle


def remade(bundle: Path, target: Path, *, spoil: bool = False, lie: bool = False, **fields: Any) -> Path:
    """Writes `bundle` again, with its core program alone.

    Args:
        spoil: the weights are replaced by noise.
        lie: the reference outputs are those of the spoilt weights, so that it looks healthy by itself.
        fields: of the manifest.
    """
    with Bundle.open(bundle) as opened:
        manifest = opened.manifest
        program, reference = opened.read("model.pte"), opened.read("reference.npz")
    if spoil:
        program = spoilt(program)
    if lie:
        reference = answered(program, reference)
    entry = manifest.files["model.pte"]
    files = {"model.pte": program, "reference.npz": reference}
    fields.setdefault("metrics", None)
    made = dataclasses.replace(
        manifest,
        files={
            "model.pte": file_entry(
                program, entry.engines, arena_bytes=entry.arena_bytes, macs=entry.macs, ops=entry.ops
            ),
            "reference.npz": file_entry(reference),
        },
        **fields,
    )
    write_bundle(target, made, files)
    return target


def spoilt(program: bytes) -> bytes:
    """The program with noise for its weights: they are the last part of a `.pte`."""
    noise = np.random.default_rng(1).integers(0, 2, 40_000, np.uint8) * 0x55
    data = bytearray(program)
    begin = len(data) - 60_000
    data[begin : begin + len(noise)] = noise.tobytes()
    return bytes(data)


def answered(program: bytes, reference: bytes) -> bytes:
    """The reference inputs with what `program` makes of them."""
    from edge.runtime._core import Program  # noqa: F401  (the core must be there)
    from edge.runtime.backends.core import open as open_core

    with np.load(io.BytesIO(reference)) as arrays:
        inputs = arrays["inputs"]
    session = open_core(program, 1)
    shape = session.inputs[0].shape
    outputs = [np.array(session.run([np.ascontiguousarray(x.reshape(shape))])[0]).reshape(-1) for x in inputs]
    buffer = io.BytesIO()
    np.savez(buffer, inputs=inputs, outputs=np.stack(outputs))
    return buffer.getvalue()


def with_entry(bundle: Path, target: Path, name: str) -> Path:
    """The bundle with one more entry, as an attacker would add it."""
    target.write_bytes(bundle.read_bytes())
    with zipfile.ZipFile(target, "a") as archive:
        archive.writestr(name, b"#!/bin/sh\n")
    return target
