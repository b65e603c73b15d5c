"""Publishing: what becomes of a bundle, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tuf")

from edge.fleet.server.updates.publish import VariantRequest, parse_need, parse_variant, publish
from edge.fleet.server.updates.repository import ModelRepository
from edge.fleet.server.updates.source import Source
from edge.fleet.server.updates.store import MAX_CHUNK, BlobStore
from edge.fleet.variant import Variant
from edge.runtime import load
from edge.runtime.bundle import Bundle
from edge.runtime.errors import BadFile, BadInput


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(ModelRepository.create(tmp_path / "tuf"), BlobStore(tmp_path / "models"))


def _publish(source: Source, bundle: Path, *variants: str, **options: str) -> list[Variant]:
    return publish(
        source.repository, source.store, bundle, variants=[parse_variant(word) for word in variants], **options
    )


def test_a_bundle_is_stored_by_its_hash_with_its_facts(source: Source, digits_bundle: Path) -> None:
    (variant,) = _publish(source, digits_bundle, gate="accuracy>=0.9")
    with Bundle.open(digits_bundle) as bundle:
        manifest = bundle.manifest
    assert variant.path == f"{manifest.name}/1.0.0/bundle.edge"
    assert variant.engines == ("core", "executorch", "litert", "onnx")
    assert variant.macs == manifest.files["model.pte"].macs and variant.accuracy == pytest.approx(0.99444, abs=1e-4)
    assert variant.gate == "accuracy>=0.9" and variant.sequence == 1
    data = b""
    while chunk := source.fetch(variant.blob.sha256, len(data), 65536):
        data += chunk
    assert len(data) == variant.blob.length
    copy = source.repository.folder / "copy.edge"
    copy.write_bytes(data)
    with Bundle.open(copy) as bundle:
        bundle.verify()
        assert bundle.manifest == manifest
    assert source.repository.variants() == {variant.path: variant}
    assert _publish(source, digits_bundle, gate="accuracy>=0.9") == [variant]  # again: nothing changes


def test_variants_are_cut_from_a_bundle_and_run(source: Source, digits_bundle: Path, tmp_path: Path) -> None:
    for variant in _publish(source, digits_bundle, "pte", "onnx"):
        path = tmp_path / f"{variant.name}.edge"
        path.write_bytes(source.store.path(variant.blob.sha256).read_bytes())
        assert variant.blob.length < digits_bundle.stat().st_size / 2
        with Bundle.open(path) as bundle:
            bundle.verify()
            assert "reference.npz" in bundle.manifest.files
        if "core" in variant.engines:
            load(path, backend="core").close()


def test_a_program_for_a_board(source: Source, digits_bundle: Path, tmp_path: Path) -> None:
    program = tmp_path / "kws.pte"
    with Bundle.open(digits_bundle) as bundle:
        program.write_bytes(bundle.read("model.pte"))
        reference = bundle.read("reference.npz")
    bundled, board = _publish(source, digits_bundle, "bundle", f"cortex-m4@lm3s6965evb={program}", version="2.1")
    assert (board.kind, board.target, board.board) == ("program", "cortex-m4", "lm3s6965evb")
    assert board.path.endswith("/2.1/cortex-m4-lm3s6965evb.pte") and board.arena_bytes == board.ram_bytes == 40960
    assert board.reference is not None and source.store.path(board.reference.sha256).read_bytes() == reference
    assert bundled.sequence == board.sequence
    (later,) = _publish(source, digits_bundle, version="2.2")
    assert later.sequence == board.sequence + 1


def test_the_least_version_of_an_engine(source: Source, digits_bundle: Path) -> None:
    needs = dict(map(parse_need, ("core>=0.2.0", "litert >= 2.3")))
    bundled, onnx = publish(
        source.repository,
        source.store,
        digits_bundle,
        variants=[VariantRequest("bundle"), VariantRequest("onnx")],
        needs=needs,
    )
    assert bundled.runtimes == {"core": "0.2.0", "litert": "2.3"} and onnx.runtimes == {}
    assert source.repository.variants()[bundled.path] == bundled
    for wrong in ("core", "core>0.2", "core>=", "core>=two", "torch>=2.0", "core>=0.2;x"):
        with pytest.raises(BadInput, match="core>=0.2.0"):
            parse_need(wrong)


def test_forms_of_a_variant() -> None:
    assert parse_variant("pte") == VariantRequest("pte")
    assert parse_variant("pi5=a.edge") == VariantRequest("pi5", Path("a.edge"), "pi5")
    assert parse_variant("generic.big=a.edge") == VariantRequest("big", Path("a.edge"), "generic")
    for wrong in ("gguf", "=a.edge", "pi5=", "Pi5=a.edge", "m4@=a.bin", "../x=a.edge"):
        with pytest.raises(BadInput):
            parse_variant(wrong)


def test_what_is_refused(source: Source, digits_bundle: Path, tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("x")
    damaged = tmp_path / "damaged.edge"
    data = bytearray(digits_bundle.read_bytes())
    data[len(data) // 3] ^= 1
    damaged.write_bytes(data)
    cases: list[tuple[type[Exception], tuple[str, ...], dict[str, str], Path]] = [
        (BadFile, (), {}, damaged),
        (BadFile, (), {}, tmp_path / "none.edge"),
        (BadFile, (f"cortex-m4={text}",), {}, digits_bundle),
        (BadInput, ("pte", "pte"), {}, digits_bundle),
        (BadInput, (), {"gate": "accuracy>=2"}, digits_bundle),
        (BadInput, (), {"version": "../../etc"}, digits_bundle),
        (BadInput, (), {"target": "Raspberry Pi"}, digits_bundle),
        (BadInput, (), {"target": "nosuch"}, digits_bundle),
        (BadInput, (f"foo={digits_bundle}",), {}, digits_bundle),
    ]
    for kind, variants, options, bundle in cases:
        with pytest.raises(kind):
            _publish(source, bundle, *variants, **options)
    assert source.repository.variants() == {}


def test_nothing_else_can_be_fetched(source: Source, digits_bundle: Path) -> None:
    (variant,) = _publish(source, digits_bundle)
    key = next((source.repository.keys.folder / "root").iterdir())
    for name in ("../lock", "keys/root", f"../keys/root/{key.name}", key.stem[:63] + "g", "timestamp.json/", ""):
        with pytest.raises(BadInput):
            source.fetch(name, 0, 100)
    for offset, length in ((-1, 10), (0, 0), (0, -1), (0, MAX_CHUNK + 1)):
        with pytest.raises(BadInput):
            source.fetch(variant.blob.sha256, offset, length)
    assert source.fetch("0" * 64, 0, 100) is None and source.fetch("99.root.json", 0, 100) is None
    assert source.fetch(variant.blob.sha256, 1 << 60, 100) == b""
    assert source.fetch("1.root.json", 0, 100_000) == source.repository.trusted_root()
