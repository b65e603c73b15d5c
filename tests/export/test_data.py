"""Readers: what is found in folders and archives, how it is split, and what is refused by name."""

from __future__ import annotations

import bz2
import io
import struct
import tarfile
import tracemalloc
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edge.export.data import Dataset, load_dataset, stratified
from edge.export.data.dataset import evenly
from edge.export.data.files import open_files
from edge.runtime.errors import BadFile, BadInput
from edge.runtime.preprocess import ArrayPreprocess, AudioPreprocess, ImagePreprocess


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_CACHE", raising=False)


def png(value: int, mode: str = "L", size: tuple[int, int] = (6, 5)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, value if mode == "L" else (value, 10, 20)).save(buffer, "PNG")
    return buffer.getvalue()


def wav(frequency: float, seconds: float = 0.3, rate: int = 8000, width: int = 2) -> bytes:
    t = np.arange(int(seconds * rate)) / rate
    samples = 0.5 * np.sin(2 * np.pi * frequency * t)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(width)
        file.setframerate(rate)
        data = (samples * 32767).astype("<i2") if width == 2 else (samples * 127 + 128).astype(np.uint8)
        file.writeframes(data.tobytes())
    return buffer.getvalue()


def two_classes(count: int = 5, mode: str = "L") -> dict[str, bytes]:
    return {f"{c}/{i}.png": png(40 * i + 9 * (c == "dog"), mode) for c in ("cat", "dog") for i in range(count)}


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def every_form(tmp_path: Path, files: dict[str, bytes]) -> list[Path]:
    return [
        write_folder(tmp_path / "folder", files),
        write_zip(tmp_path / "a.zip", files),
        write_tar(tmp_path / "a.tar", files, "w"),
        write_tar(tmp_path / "a.tar.gz", files),
        write_tar(tmp_path / "a.tar.bz2", files, "w:bz2"),
        write_tar(tmp_path / "a.tar.xz", files, "w:xz"),
    ]


# --- digits -----------------------------------------------------------------------------------------------------------


def test_digits() -> None:
    data = load_dataset("digits")
    assert data.labels == tuple("0123456789") and data.name == "digits" and data.augment == "glyphs"
    assert data.input_shape == (1, 16, 16) and data.task == "image-classification"
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert data.train.x.dtype == np.uint8 and data.train.y.dtype == np.int64
    assert np.bincount(data.test.y).min() >= 34
    batch = data.train.batch(torch.arange(64))
    assert batch.dtype == torch.float32 and batch.shape == (64, 1, 16, 16) and batch.is_contiguous()
    whole = data.train.arrays()
    assert abs(whole.mean()) < 0.01 and abs(whole.std() - 1) < 0.01
    assert np.array_equal(whole[:64], batch.numpy())


def test_digits_are_what_predict_sees() -> None:
    """An 8x8 picture handed to the preprocessing gives the very input that was trained on."""
    from sklearn.datasets import load_digits

    data = load_dataset("digits")
    pictures = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    inputs = {data.preprocess(picture).tobytes() for picture in pictures}
    assert all(data.test.batch([i]).numpy().tobytes() in inputs for i in range(0, len(data.test), 20))


def test_digits_splits_share_nothing_and_follow_the_seed() -> None:
    first, again, other = (load_dataset("digits", seed=s) for s in (3, 3, 4))
    assert np.array_equal(first.test.x, again.test.x) and not np.array_equal(first.test.x, other.test.x)
    assert len(load_dataset("digits", limit=100).train) == 80
    assert load_dataset("digits", input_shape=(3, 32, 32)).input_shape == (3, 32, 32)
    with pytest.raises(BadInput, match="use at least 50"):
        load_dataset("digits", limit=10)


# --- splitting --------------------------------------------------------------------------------------------------------

labels = st.lists(st.integers(0, 4), min_size=1, max_size=60)


@given(labels, st.floats(0.05, 0.95), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_stratified_splits_partition_every_class(classes: list[int], fraction: float, seed: int) -> None:
    y = np.array(classes * 2, np.int64)
    train, test = stratified(y, fraction, seed)
    assert sorted([*train, *test]) == list(range(len(y)))
    for label in np.unique(y):
        count, held = int((y == label).sum()), int((y[test] == label).sum())
        assert 1 <= held < count and held - fraction * count < 1


@given(labels, st.integers(1, 70), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_evenly_differs_by_one_at_most(classes: list[int], count: int, seed: int) -> None:
    y = np.array(classes, np.int64)
    chosen = evenly(y, count, np.random.default_rng(seed))
    assert len(chosen) == len(set(chosen)) == min(count, len(y)) and list(chosen) == sorted(chosen)
    taken = np.bincount(y[chosen], minlength=5)
    available = np.bincount(y, minlength=5)
    assert all(taken[i] >= min(available[i], taken.max() - 1) for i in range(5))


# --- images -----------------------------------------------------------------------------------------------------------


def test_folders_and_archives_give_the_same(tmp_path: Path) -> None:
    loaded = [load_dataset(path) for path in every_form(tmp_path, two_classes())]
    for data in loaded:
        assert data.labels == ("cat", "dog") and data.input_shape == (1, 5, 6) and data.augment == "glyphs"
        assert (len(data.train), len(data.test)) == (8, 2)
        assert sorted(data.test.y) == [0, 1]
        for split in (data.train, data.test):
            assert np.array_equal(split.x, loaded[0].train.x if split is data.train else loaded[0].test.x)
    assert loaded[3].name == "a" and len(loaded[3].provenance["sha256"]) == 64
    # The values say which file became which sample.
    everything = np.concatenate([loaded[0].train.x, loaded[0].test.x])[:, 0, 0, 0] % 40
    assert np.array_equal(everything // 9, np.concatenate([loaded[0].train.y, loaded[0].test.y]))


def test_colour_and_size(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", two_classes(mode="RGB"))
    data = load_dataset(path)
    assert data.input_shape == (3, 5, 6) and data.augment == "natural"
    assert load_dataset(path, input_shape=(1, 8, 8)).input_shape == (1, 8, 8)
    assert load_dataset(path, input_shape=(None, 8, 9)).input_shape == (3, 8, 9)
    preprocess = load_dataset(path).preprocess
    assert isinstance(preprocess, ImagePreprocess) and len(preprocess.mean) == 3
    large = {f"{c}/{i}.png": png(i, size=(100, 90)) for c in "ab" for i in range(2)}
    assert load_dataset(write_zip(tmp_path / "b.zip", large)).input_shape == (1, 64, 64)


def test_train_and_test_folders_are_honoured(tmp_path: Path) -> None:
    files = {f"set/train/{c}/{i}.png": png(10 + i) for c in "ab" for i in range(6)}
    files |= {f"set/test/{c}/{i}.png": png(200 + i) for c in "ab" for i in range(2)}
    files |= {"set/validation/a/0.png": png(0), "set/sample.png": png(0), "set/LICENSE": b"text"}
    for path in every_form(tmp_path, files):
        data = load_dataset(path)
        assert (len(data.train), len(data.test)) == (12, 4)
        assert data.train.x.max() < 20 and data.test.x.min() >= 200
        assert data.provenance["split"] == "as the data set has it"
        limited = load_dataset(path, limit=8)
        assert (len(limited.train), len(limited.test)) == (6, 2)
        assert list(np.bincount(limited.train.y)) == [3, 3]


def test_validation_stands_in_for_test(tmp_path: Path) -> None:
    files = {f"{s}/{c}/{i}.png": png(i) for s in ("Train", "val") for c in "ab" for i in range(3)}
    data = load_dataset(write_folder(tmp_path, files))
    assert (len(data.train), len(data.test)) == (6, 6)


def test_nested_classes_join_their_names(tmp_path: Path) -> None:
    files = {
        f"root/{a}/{c}/{i}.png": png(i)
        for a in ("Greek", "Latin")
        for c in ("character1", "character10")
        for i in range(2)
    }
    files |= {f"root/Latin/character2/{i}.png": png(i) for i in range(2)}
    data = load_dataset(write_zip(tmp_path / "a.zip", files))
    assert data.labels == (
        "Greek/character1",
        "Greek/character10",
        "Latin/character1",
        "Latin/character2",
        "Latin/character10",
    )


def test_what_operating_systems_leave_is_passed_over(tmp_path: Path) -> None:
    files = two_classes(2) | {"__MACOSX/cat/._0.png": b"x", ".cache/x/1.png": b"x", "cat/.0.png": b"x"}
    assert load_dataset(write_zip(tmp_path / "a.zip", files)).labels == ("cat", "dog")


def test_a_folder_with_one_archive_stands_for_it(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", two_classes())
    (tmp_path / "README").write_text("about")
    assert load_dataset(tmp_path).name == "a"
    write_zip(tmp_path / "b.zip", two_classes())
    with pytest.raises(BadInput, match=r"holds 2 archives \(a\.zip, b\.zip\): name one"):
        load_dataset(tmp_path)


def test_one_class_is_refused(tmp_path: Path) -> None:
    one = {f"cat/{i}.png": png(i) for i in range(3)}
    both = {f"{s}/cat/{i}.png": png(i) for s in ("train", "test") for i in range(3)}
    flat = {f"{i}.png": png(i) for i in range(3)}
    for name, files in (("one", one), ("both", both), ("flat", flat)):
        for path in every_form(tmp_path / name if (tmp_path / name).mkdir() is None else tmp_path, files):
            with pytest.raises(BadInput, match=r"one class \('.*'\): a classifier needs two folders or more"):
                load_dataset(path)


def test_nothing_to_read_is_refused(tmp_path: Path) -> None:
    for path in every_form(tmp_path, {"a/readme.txt": b"hello", "b/table.csv": b"1,2"}):
        with pytest.raises(
            BadInput, match=r"no images \(\.png, \.jpg, \.jpeg, \.bmp \.\.\.\) and no \.wav files in it"
        ):
            load_dataset(path)
    with pytest.raises(BadFile, match="no such file or folder"):
        load_dataset(tmp_path / "absent.zip")
    (tmp_path / "data.csv").write_text("1,2,3\n" * 1000)
    with pytest.raises(BadFile, match=r"data\.csv: not a folder, zip, tar or \.npz"):
        load_dataset(tmp_path / "data.csv")


def test_an_archive_that_was_cut_says_so(tmp_path: Path) -> None:
    whole = write_zip(tmp_path / "whole.zip", two_classes()).read_bytes()
    for name in ("cut.zip", "named.tar.gz"):
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(BadFile, match=rf"{name}: truncated, or not an archive: fetch it or pack it again"):
            load_dataset(tmp_path / name)


def test_lonely_samples_are_named(tmp_path: Path) -> None:
    files = two_classes() | {"emu/0.png": png(1)}
    with pytest.raises(BadInput, match="class 'emu' has a single file"):
        load_dataset(write_zip(tmp_path / "a.zip", files))
    files = {f"train/{c}/{i}.png": png(i) for c in "ab" for i in range(2)} | {"test/c/0.png": png(1)}
    with pytest.raises(BadInput, match="class 'c' has test files but no training files"):
        load_dataset(write_zip(tmp_path / "b.zip", files))


def test_limits_too_small_are_refused(tmp_path: Path) -> None:
    files = {f"{c}/{i}.png": png(i) for c in "abcdef" for i in range(5)}
    path = write_zip(tmp_path / "a.zip", files)
    with pytest.raises(BadInput, match="--limit 8 is too small for its classes: use at least 12"):
        load_dataset(path, limit=8)
    assert len(load_dataset(path, limit=12).train) == 6
    with pytest.raises(BadInput, match="--limit: expected 4 or more"):
        load_dataset(path, limit=1)
    with pytest.raises(BadInput, match="test_fraction"):
        load_dataset(path, test_fraction=1.0)
    with pytest.raises(BadInput, match="--kind: expected one of image, audio, array"):
        load_dataset(path, kind="video")


def test_corrupt_images_are_named(tmp_path: Path) -> None:
    for name, damage in (("text", b"no image at all"), ("cut", png(3)[:50]), ("empty", b"")):
        folder = tmp_path / name
        folder.mkdir()
        for path in every_form(folder, two_classes() | {"dog/bad one.png": damage}):
            with pytest.raises(BadFile, match=r"dog/bad one\.png: (not an image|damaged image)"):
                load_dataset(path)


def test_image_bombs_are_refused(tmp_path: Path) -> None:
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 100_000, 100_000, 1, 0, 0, 0, 0)
    with pytest.raises(BadFile, match=r"cat/bomb\.png"):
        load_dataset(write_zip(tmp_path / "a.zip", two_classes() | {"cat/bomb.png": header + b"\0" * 40}))


# --- hostile archives -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../../evil.png", "/etc/evil.png", "cat/../../evil.png", "C:/evil.png", "..\\evil.png"]
)
def test_names_that_point_out_are_refused(tmp_path: Path, name: str) -> None:
    files = two_classes() | {name: png(1)}
    for path in (write_zip(tmp_path / "a.zip", files), write_tar(tmp_path / "a.tar.gz", files)):
        with pytest.raises(BadFile, match="points out of the archive"):
            load_dataset(path)
    assert not (tmp_path.parent / "evil.png").exists()


def test_links_and_devices_in_archives_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_tar(path, two_classes(), "w")
    with tarfile.open(path, "a") as archive:
        for name, kind, target in (
            ("cat/link.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("cat/hard.png", tarfile.LNKTYPE, "dog/0.png"),
            ("cat/device.png", tarfile.CHRTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    assert load_dataset(path).provenance["files"] == 10


def test_declared_sizes_are_checked_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.export.data.files.MAX_FILE_BYTES", 1000)
    files = two_classes() | {"cat/large.png": b"\0" * 5000}
    for path in every_form(tmp_path, files):
        with pytest.raises(BadFile, match=r"cat/large\.png: larger than"):
            load_dataset(path)


def test_a_tar_header_of_gigabytes_is_refused(tmp_path: Path) -> None:
    """A GNU long name is read into memory whole: its declared size must be checked."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 10240)
    with pytest.raises(BadFile, match=r"a\.tar"):
        load_dataset(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zips_that_cannot_be_unpacked_piece_by_piece_are_refused(tmp_path: Path, method: int) -> None:
    """Python's zipfile unpacks all of them at once, a gigabyte out of 600 bytes."""
    for name, entry in (("a.zip", "cat/a.png"), ("a.npz", "x.npy")):
        with zipfile.ZipFile(tmp_path / name, "w", method) as archive:
            archive.writestr(entry, bytes(1000))
        with pytest.raises(BadFile, match=f"is compressed by method {method}: zip it again"):
            load_dataset(tmp_path / name)


def test_a_zip_entry_unpacks_to_its_declared_size(tmp_path: Path) -> None:
    """It declares 1,000 bytes and holds 64 MB."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/a.png", bytes(64 << 20))
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\1\2") + 24, 1000)
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(BadFile, match=r"a\.zip: damaged archive: Bad CRC-32"):
            list(open_files(path).read(["cat/a.png"]))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def hostile_tar(path: Path, size: int, *blocks: bytes) -> Path:
    """A .tar.bz2 of an entry that declares `size`, a negative one in tar's binary form, and of blocks after it."""
    header = bytearray(tarfile.TarInfo("cat/a.png").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = size.to_bytes(12, "big", signed=True) if size < 0 else b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(b"".join(bz2.compress(block) for block in (bytes(header), *blocks, bytes(1024))))
    return path


def test_a_tar_entry_of_negative_size_is_refused(tmp_path: Path) -> None:
    """To read -1 bytes is to read all there are."""
    with pytest.raises(BadFile, match=r"entry 'cat/a\.png' has a size of -1"):
        load_dataset(hostile_tar(tmp_path / "a.tar.bz2", -1, bytes(1 << 20)))


def test_a_small_tar_unpacks_to_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing a tar unpacks it to its end; the best packed kilobyte is minutes of work."""
    monkeypatch.setattr("edge.export.data.files.RATIO_FREE_BYTES", 8 << 20)
    path = hostile_tar(tmp_path / "a.tar.bz2", 16 << 20, bytes(16 << 20))
    assert path.stat().st_size * 1000 < 8 << 20
    with pytest.raises(BadFile, match=r"a\.tar\.bz2: more than 8 MB unpacked: unpack it into a folder"):
        load_dataset(path)
    monkeypatch.setattr("edge.export.data.files.RATIO_FREE_BYTES", 17 << 20)
    assert open_files(path).names() == ["cat/a.png"]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [({f"k{i}": "v" for i in range(1001)}, "more than 1,000 attributes"), ({"k": "v" * (1 << 20)}, "than 1024 kB")],
)
def test_tar_headers_are_bounded(tmp_path: Path, attributes: dict[str, str], message: str) -> None:
    """tarfile keeps the attributes of all files in memory, and copies them for each."""
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT, pax_headers=attributes) as archive:
        archive.addfile(tarfile.TarInfo("cat/a.png"))
    with pytest.raises(BadFile, match=message):
        load_dataset(tmp_path / "a.tar")


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    for path in every_form(tmp_path, two_classes(40))[1:]:
        whole = path.read_bytes()
        for cut in (len(whole) // 3, len(whole) // 2):
            path.write_bytes(whole[:cut])
            with pytest.raises(BadFile, match=path.name):
                load_dataset(path)
    broken = bytearray(write_zip(tmp_path / "a.zip", two_classes()).read_bytes())
    broken[60] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(broken)
    with pytest.raises(BadFile, match=r"a\.zip"):
        load_dataset(tmp_path / "a.zip")


def test_unprintable_classes_are_refused(tmp_path: Path) -> None:
    files = {f"{c}/{i}.png": png(i) for c in ("a", "b\x1b[2J") for i in range(2)}
    with pytest.raises(BadInput, match="is no class name"):
        load_dataset(write_tar(tmp_path / "a.tar", files, "w"))


# --- sound ------------------------------------------------------------------------------------------------------------


def test_recordings(tmp_path: Path) -> None:
    files = {f"{name}/{i}.wav": wav(f + 20 * i) for name, f in (("low", 300), ("high", 1500)) for i in range(5)}
    files |= {"low/other.wav": wav(300, rate=16000), "high/eight.wav": wav(1500, width=1)}
    for path in every_form(tmp_path, files):
        data = load_dataset(path)
        assert data.labels == ("high", "low") and data.augment == "sound" and data.task == "audio-classification"
        preprocess = data.preprocess
        assert (
            isinstance(preprocess, AudioPreprocess)
            and preprocess.mels == 32
            and preprocess.sample_rate in (8000, 16000)
        )
        assert data.input_shape == (1, preprocess.frames, 32)
        assert data.train.x.dtype == np.float32 and data.train.x.shape == (8, 1, preprocess.frames, 32)
        whole = data.train.arrays()
        assert abs(whole.mean()) < 0.05 and abs(whole.std() - 1) < 0.05
    fixed = load_dataset(tmp_path / "a.zip", input_shape=(1, 49, 20))
    assert fixed.input_shape == (1, 49, 20) and fixed.train.batch([0]).shape == (1, 1, 49, 20)
    assert load_dataset(tmp_path / "a.zip", input_shape=(None, 32, 32)).input_shape == (1, 32, 32)


def test_features_are_what_predict_sees(tmp_path: Path) -> None:
    files = {
        f"{c}/{i}.wav": wav(f + 50 * i, seconds=0.2 + 0.05 * i) for c, f in (("a", 300), ("b", 900)) for i in range(5)
    }
    path = write_folder(tmp_path, files)
    data = load_dataset(path)
    inputs = [data.preprocess(path / name) for name in files]
    for index in range(len(data.test)):
        assert min(np.abs(data.test.batch([index]).numpy() - x).max() for x in inputs) < 1e-5


def test_spoken_digits_have_their_official_split(tmp_path: Path) -> None:
    files = {
        f"recordings/{d}_{who}_{i}.wav": wav(200 + 100 * d + i, 0.1)
        for d in range(2)
        for who in ("ann", "bob")
        for i in range(7)
    }
    files["metadata.py"] = b"speakers = {}"
    for path in every_form(tmp_path, files):
        data = load_dataset(path)
        assert data.labels == ("0", "1")
        assert (len(data.train), len(data.test)) == (2 * 2 * 2, 2 * 2 * 5)


def test_bad_recordings_are_named(tmp_path: Path) -> None:
    good = {f"{c}/{i}.wav": wav(300) for c in "ab" for i in range(3)}
    for name, damage in (
        ("text", b"no sound"),
        ("cut", wav(300)[:20]),
        ("rate", wav(300, rate=8000)[:24] + b"\0" * 20),
    ):
        path = write_zip(tmp_path / f"{name}.zip", good | {"b/bad.wav": damage})
        with pytest.raises(BadFile, match=r"b/bad\.wav"):
            load_dataset(path)
    short = {f"{c}/{i}.wav": wav(300, seconds=0.01) for c in "ab" for i in range(3)}
    with pytest.raises(BadInput, match="shorter than 32 ms"):
        load_dataset(write_zip(tmp_path / "short.zip", short))
    with pytest.raises(BadInput, match="recordings take \\[1, frames, mel bands\\]"):
        load_dataset(write_zip(tmp_path / "good.zip", good), input_shape=(3, 32, 32))


def test_images_beside_recordings_need_a_word(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", two_classes() | {f"{c}/{i}.wav": wav(300) for c in "xy" for i in range(2)})
    with pytest.raises(BadInput, match="holds images and recordings: say which with --kind image or --kind audio"):
        load_dataset(path)
    assert load_dataset(path, kind="audio").labels == ("x", "y")


# --- arrays -----------------------------------------------------------------------------------------------------------


def test_tables_are_normalised_by_feature(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal([5, -100, 0], [1, 30, 0], (50, 3))
    np.savez(tmp_path / "t.npz", x=x, y=np.arange(50) % 2, labels=["no", "yes"])
    data = load_dataset(tmp_path / "t.npz")
    assert data.labels == ("no", "yes") and data.task == "classification" and data.augment is None
    assert isinstance(data.preprocess, ArrayPreprocess) and data.input_shape == (3,)
    assert np.allclose(data.train.arrays().mean(0), 0, atol=1e-4)
    assert np.isfinite(data.train.arrays()).all()
    assert (len(data.train), len(data.test)) == (40, 10)


def test_images_in_npz_and_own_splits(tmp_path: Path) -> None:
    x = np.arange(20 * 36, dtype=np.uint64).astype(np.uint8).reshape(20, 6, 6)
    y = np.array(["b", "a"] * 10)
    np.savez_compressed(tmp_path / "i.npz", x_train=x[:14], y_train=y[:14], x_test=x[14:], y_test=y[14:])
    data = load_dataset(tmp_path / "i.npz")
    assert data.labels == ("a", "b") and data.input_shape == (1, 6, 6) and data.augment == "glyphs"
    assert np.array_equal(data.test.x[..., 0], x[14:]) and list(data.test.y) == [1, 0] * 3
    assert load_dataset(tmp_path / "i.npz", input_shape=(None, 12, 12)).input_shape == (1, 12, 12)
    assert len(load_dataset(tmp_path / "i.npz", limit=10).train) == 7


def test_signals_keep_their_shape(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(3, 2, (30, 1, 4, 8)).astype(np.float32)
    np.savez(tmp_path / "s.npz", x=x, y=np.arange(30) % 3)
    assert load_dataset(tmp_path / "s.npz", input_shape=(None, 32, 32)).input_shape == (1, 4, 8)
    with pytest.raises(BadInput, match=r"samples are \[1, 4, 8\], the model takes \[3, 32, 32\]"):
        load_dataset(tmp_path / "s.npz", input_shape=(3, 32, 32))


def save(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_bad_npz_files_are_refused(tmp_path: Path) -> None:
    x, y = np.zeros((6, 2), np.float32), np.arange(6) % 2
    cases = [
        ({"a": x}, "expected arrays x and y, or x_train.*; found a"),
        ({"x": x, "y": y[:4]}, r"x is \[6, 2\] and y \[4\]"),
        ({"x": x, "y": y * 0}, "one class"),
        ({"x": x, "y": y - 1}, "expected classes from 0"),
        ({"x": x, "y": y / 2}, "expected integers or text"),
        ({"x": x * np.nan, "y": y}, "x holds NaN or infinity"),
        ({"x": x.astype("U"), "y": y}, "expected numbers"),
        ({"x": x, "y": y, "labels": ["only"]}, "labels must be text"),
        ({"x": x, "y": y, "labels": ["twice", "twice"]}, "labels must differ"),
        ({"x": x, "y": np.array([0, 0, 0, 1, 1, 4])}, "class 4 has a single sample"),
    ]
    for index, (arrays, message) in enumerate(cases):
        with pytest.raises(BadInput, match=message):
            load_dataset(save(tmp_path / f"{index}.npz", **arrays))


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((1 << 45,), "|u1", r"'x\.npy' claims uint8 \[35184372088832\], yet holds 8 bytes"),
        ((-8,), "|u1", "yet holds 8 bytes"),
        ((1 << 60,), "<U0", "yet holds 8 bytes"),
        ((9,), "|u1", "yet holds 8 bytes"),
    ],
)
def test_npz_headers_that_claim_other_sizes_are_refused(
    tmp_path: Path, shape: tuple[int, ...], dtype: str, message: str
) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue() + bytes(8))
    with pytest.raises(BadFile, match=message):
        load_dataset(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", b"\x93NUMPY\3\0" + bytes(80), r"is an array of format \(3, 0\)"),
        ("x.npy", b"\x93NUMPY\1\0\x10\x27" + b"(" * 10000, "cannot be read"),
        ("x", b"text", "'x' is no array"),
    ],
)
def test_other_entries_of_npz_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(name, content)
    with pytest.raises(BadFile, match=message):
        load_dataset(tmp_path / "a.npz")


def test_objects_in_npz_are_not_unpickled(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return (exec, ("raise SystemExit('unpickled')",))

    path = save(tmp_path / "o.npz", x=np.array([Hostile(), 1], dtype=object), y=np.arange(2))
    with pytest.raises(BadFile, match="holds Python objects, which are not read"):
        load_dataset(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadFile, match=r"cannot be read as \.npz"):
        load_dataset(path)


# --- cache ------------------------------------------------------------------------------------------------------------


def same(a: Dataset, b: Dataset) -> bool:
    arrays = zip((a.train.x, a.train.y, a.test.x, a.test.y), (b.train.x, b.train.y, b.test.x, b.test.y), strict=True)
    rest = ("name", "labels", "preprocess", "provenance", "augment")
    return all(np.array_equal(p, q) for p, q in arrays) and all(getattr(a, n) == getattr(b, n) for n in rest)


def test_cache_gives_the_same_and_notices_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    path = write_zip(tmp_path / "a.zip", two_classes())
    first = load_dataset(path)
    (cached,) = (tmp_path / "cache" / "data").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr("edge.export.data.open_files", lambda _: pytest.fail("read again"))
        assert same(first, load_dataset(path))
    cached.write_bytes(cached.read_bytes()[:200])
    assert same(first, load_dataset(path))
    write_zip(path, two_classes(7))
    assert len(load_dataset(path).train) == 10
    assert len(load_dataset(path, limit=8).train) == 6
    assert not list((tmp_path / "cache" / "data").glob("*.part"))


# --- real data --------------------------------------------------------------------------------------------------------


def test_real_fashion_mnist(real_data: Path) -> None:
    data = load_dataset(real_data / "fashion-mnist", limit=700)
    assert data.labels == tuple("0123456789") and data.input_shape == (1, 28, 28)
    assert (len(data.train), len(data.test)) == (600, 100) and data.provenance["files"] == 70_000
    assert set(np.bincount(data.train.y)) == {60}


def test_real_cifar10(real_data: Path) -> None:
    data = load_dataset(real_data / "cifar10-jpg" / "cifar10_jpg.tar.gz", limit=600)
    assert data.labels[:3] == ("airplane", "automobile", "bird") and data.input_shape == (3, 32, 32)
    assert (len(data.train), len(data.test)) == (500, 100) and data.provenance["files"] == 60_000
    assert data.augment == "natural"


def test_real_omniglot(real_data: Path) -> None:
    data = load_dataset(real_data / "omniglot" / "omniglot_png.tar.gz", limit=3300, input_shape=(1, 28, 28))
    assert len(data.labels) == 1623 and data.provenance["files"] == 32_460
    assert "images_background/Greek/character01" in data.labels
    small = load_dataset(real_data / "omniglot" / "images_background_small1.zip", input_shape=(1, 28, 28))
    assert len(small.labels) == 136 and len(small.train) + len(small.test) == 2720
    assert "Balinese/character01" in small.labels


def test_real_spoken_digits(real_data: Path) -> None:
    data = load_dataset(real_data / "fsdd", limit=600)
    assert data.labels == tuple("0123456789") and (len(data.train), len(data.test)) == (540, 60)
    assert isinstance(data.preprocess, AudioPreprocess) and data.preprocess.sample_rate == 8000
    assert 0.5 < data.preprocess.samples / 8000 < 1


@pytest.mark.parametrize("limit", [20, 30, 49])
def test_digits_too_few_for_every_class_in_both_parts(limit: int) -> None:
    with pytest.raises(BadInput, match="use at least 50"):
        load_dataset("digits", limit=limit)


def test_fewest_digits_have_every_class_in_both_parts() -> None:
    data = load_dataset("digits", limit=50)
    assert len(set(data.train.y)) == len(set(data.test.y)) == 10
