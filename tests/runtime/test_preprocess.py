"""Preprocessing against Pillow, SciPy and closed forms."""

from __future__ import annotations

import contextlib
import json
import math
import struct
import sys
import tarfile
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edge.runtime import ArrayPreprocess, AudioPreprocess, BadFile, BadInput, ImagePreprocess, MissingDependency, audio
from edge.runtime.image import resize, to_gray
from edge.runtime.preprocess import preprocess_from_dict

IMAGE = ImagePreprocess(height=6, width=9, channels=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
AUDIO = AudioPreprocess(8000, 8000, 256, 128, 40, 20.0, 4000.0, mean=-3.0, std=2.0)
ARRAY = ArrayPreprocess((2, 3), mean=(1.0, 2.0, 3.0), std=(1.0, 2.0, 4.0))


# ---- images


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**31))
def test_resize_is_pillows(height: int, width: int, to_height: int, to_width: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    wanted = np.asarray(Image.fromarray(pixels).resize((to_width, to_height), Image.Resampling.BILINEAR))
    # Pillow chooses which axis goes first; the roundings between the passes then differ by one level.
    assert np.abs(resize(pixels, to_height, to_width).astype(int) - wanted).max() <= 1


def test_resize_in_one_direction_is_exactly_pillows() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 57, 3), dtype=np.uint8)
    for size in (1, 8, 31, 56, 58, 200):
        wanted = np.asarray(Image.fromarray(pixels).resize((size, 40), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(resize(pixels, 40, size), wanted)


def test_resize_keeps_flat_and_extreme_pictures() -> None:
    for level in (0, 1, 254, 255):
        flat = np.full((13, 29, 1), level, np.uint8)
        assert np.unique(resize(flat, 7, 64)).tolist() == [level]
    board = (np.indices((50, 50)).sum(0) % 2 * 255).astype(np.uint8)[:, :, None]
    assert abs(int(resize(board, 10, 10).mean()) - 127) <= 2


def test_gray_is_pillows() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(to_gray(pixels)[:, :, 0], np.asarray(Image.fromarray(pixels).convert("L")))


def test_sources_agree(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    wanted = IMAGE.decode(pixels)
    assert wanted.shape == (6, 9, 3) and wanted.dtype == np.uint8
    alpha = np.dstack([pixels, np.full((20, 30), 7, np.uint8)])
    for source in (tmp_path / "x.png", str(tmp_path / "x.png"), Image.fromarray(pixels), alpha, pixels / 255.0):
        np.testing.assert_array_equal(IMAGE.decode(source), wanted)


def test_normalize() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (5, 6, 9, 3), dtype=np.uint8)
    wanted = np.moveaxis((pixels / 255 - IMAGE.mean) / IMAGE.std, -1, -3)
    found = IMAGE.normalize(pixels)
    assert found.dtype == np.float32 and found.shape == (5, 3, 6, 9) and found.flags.c_contiguous
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_array_equal(IMAGE(pixels[0])[0], IMAGE.normalize(IMAGE.decode(pixels[0])))
    assert IMAGE(pixels[0]).shape == IMAGE.input_shape == (1, 3, 6, 9)


def test_channels_are_converted() -> None:
    gray = ImagePreprocess(4, 4, 1, (0.0,), (1.0,))
    colour = ImagePreprocess(4, 4, 3, (0.0,) * 3, (1.0,) * 3)
    flat = np.full((4, 4), 100, np.uint8)
    assert np.unique(colour.decode(flat)).tolist() == [100] and colour.decode(flat).shape == (4, 4, 3)
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    assert np.unique(gray.decode(red)).tolist() == [76]


@pytest.mark.parametrize(
    ("mode", "value", "level"),
    [("L", 90, 90), ("1", 1, 255), ("I;16", 0x8042, 0x80), ("LA", (40, 9), 40), ("RGBA", (5, 5, 5, 0), 5), ("P", 3, 3)],
)
def test_pillow_modes(mode: str, value: object, level: int) -> None:
    picture = Image.new(mode, (4, 4), value)  # type: ignore[arg-type]
    if mode == "P":
        picture.putpalette([channel for index in range(256) for channel in (index, index, index)])
    assert np.unique(ImagePreprocess(4, 4, 1, (0.0,), (1.0,)).decode(picture)).tolist() == [level]


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    pixels = np.zeros((8, 16), np.uint8)
    pixels[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise: the left half comes to the top
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    shown = ImagePreprocess(16, 8, 1, (0.0,), (1.0,)).decode(tmp_path / "turned.png")[:, :, 0]
    assert shown[0].min() == 255 and shown[-1].max() == 0


@pytest.mark.parametrize("preprocess", [IMAGE, AUDIO])
def test_the_networks_input_stays_as_it_is(preprocess: ImagePreprocess | AudioPreprocess) -> None:
    ready = np.random.default_rng(0).normal(0, 3, preprocess.input_shape).astype(np.float32)
    for source in (ready, np.asfortranarray(ready), ready.astype(">f4")):
        found = preprocess(source)
        np.testing.assert_array_equal(found, ready)
        assert found.dtype == np.float32 and found.dtype.isnative and found.flags.c_contiguous
    for dtype in (np.float64, np.uint8):
        with pytest.raises(BadInput, match=r"network's input shape \[1, .*: expected float32"):
            preprocess(ready.astype(dtype))
    ready[0, 0, 0, 0] = np.nan
    with pytest.raises(BadInput, match="NaN"):
        preprocess(ready)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((2, 2, 5), np.uint8), r"shape \[2, 2, 5\]: expected"),
        (np.zeros((1, 3, 8, 8), np.float32), "expected"),
        (np.zeros((0, 4), np.uint8), "expected"),
        (np.zeros((4, 4), np.int64), "int64: expected uint8"),
        (np.full((4, 4), 1.5), r"holds 1.5 to 1.5: expected 0\.\.1"),
        (np.full((4, 4), np.nan), "holds nan"),
        (17, "type int: expected a path"),
        (Image.new("F", (4, 4)), "32-bit pixels"),
    ],
)
def test_bad_image_sources(source: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        IMAGE(source)


def test_bad_image_files(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="no such image file"):
        IMAGE(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(BadFile, match="not an image"):
        IMAGE(tmp_path / "text.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(BadFile, match=r"cut\.png: cannot be decoded"):
        IMAGE(tmp_path / "cut.png")
    with pytest.raises(BadFile):
        IMAGE(tmp_path)


def test_huge_image_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (20, 20)).save(tmp_path / "x.png")
    monkeypatch.setattr("edge.runtime.image.MAX_PIXELS", 399)
    with pytest.raises(BadInput, match="20 x 20 pixels; at most 399"):
        IMAGE(tmp_path / "x.png")


def test_without_pillow_arrays_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert IMAGE(np.zeros((4, 4), np.uint8)).shape == (1, 3, 6, 9)
    with pytest.raises(BadInput, match="type int: expected a path"):
        IMAGE(17)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp", "tif", "ppm", "pgm", "avif", "jp2"])
def test_without_pillow_an_image_is_told_from_what_is_none(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"x.{suffix}"
    Image.init()
    if Image.registered_extensions().get(f".{suffix}") not in Image.SAVE:
        pytest.skip(f"this Pillow writes no .{suffix}")
    Image.new("L" if suffix == "pgm" else "RGB", (20, 20)).save(path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependency, match=r"pip install 'edge-deploy\[images\]'"):
        IMAGE(path)
    path.write_bytes(b"x" + path.read_bytes())
    with pytest.raises(BadFile, match=rf"x\.{suffix}: not an image: it does not begin like PNG, JPEG"):
        IMAGE(path)
    path.unlink()
    with pytest.raises(BadFile, match=rf"x\.{suffix}: no such image file"):
        IMAGE(path)
    with pytest.raises(BadFile, match="cannot be read"):
        IMAGE(tmp_path)


# ---- sound


def write_wav(path: Path, data: bytes, width: int, channels: int = 1, rate: int = 8000) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data)
    return path


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_wav_widths(tmp_path: Path, width: int) -> None:
    values = np.array([-1.0, -0.5, 0.0, 0.25, 0.5, 127 / 128])
    if width == 1:
        data = bytes((values * 128 + 128).astype(np.uint8))
    else:
        whole = np.round(values * 2.0 ** (8 * width - 1)).astype(np.int64)
        data = b"".join(int(v).to_bytes(width, "little", signed=True) for v in whole)
    rate, samples = audio.read_wav(write_wav(tmp_path / "x.wav", data, width))
    assert rate == 8000 and samples.dtype == np.float32
    np.testing.assert_allclose(samples, values, atol=1e-7)


def test_wav_channels_are_mixed(tmp_path: Path) -> None:
    stereo = np.array([[1000, 3000], [-2000, 2000]], "<i2")
    _, samples = audio.read_wav(write_wav(tmp_path / "x.wav", stereo.tobytes(), 2, channels=2))
    np.testing.assert_allclose(samples * 32768, [2000, 0])


def test_bad_wav_files(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="no such WAV file"):
        AUDIO(tmp_path / "none.wav")
    good = write_wav(tmp_path / "x.wav", bytes(4000), 2).read_bytes()
    path = tmp_path / "bad.wav"
    for data in (b"", b"RIFF", good[:30], b"not sound at all" * 9, good[:20] + struct.pack("<H", 3) + good[22:]):
        path.write_bytes(data)
        with pytest.raises(BadFile, match=r"bad\.wav: not a PCM WAV file") as caught:
            AUDIO(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(good[:24] + struct.pack("<I", 4_000_000_000) + good[28:])
    with pytest.raises(BadInput, match="sample rate 4000000000 Hz"):
        AUDIO(path)
    path.write_bytes(good[:1001])  # ends within a sample: the rest is read
    assert len(audio.read_wav(path)[1]) == (1001 - 44) // 2


def test_mutated_wav_files_give_our_errors(tmp_path: Path) -> None:
    good = bytearray(write_wav(tmp_path / "x.wav", bytes(range(256)) * 4, 2).read_bytes())
    random = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(good)
        for at in random.integers(0, 48, random.integers(1, 4)):
            data[at] = random.integers(256)
        (tmp_path / "m.wav").write_bytes(data)
        with contextlib.suppress(BadFile, BadInput):
            assert AUDIO(tmp_path / "m.wav").shape == AUDIO.input_shape


@pytest.mark.parametrize(
    ("source", "rate"), [(44100, 16000), (16000, 8000), (8000, 16000), (48000, 44100), (11025, 8000)]
)
def test_resample_keeps_a_tone(source: int, rate: int) -> None:
    hertz = 0.3 * min(source, rate)
    tone = np.sin(2 * np.pi * hertz * np.arange(source // 4) / source).astype(np.float32)
    found = audio.resample(tone, source, rate)
    assert len(found) == math.ceil(len(tone) * rate / source)
    wanted = np.sin(2 * np.pi * hertz * np.arange(len(found)) / rate)
    edge = len(found) // 8
    np.testing.assert_allclose(found[edge:-edge], wanted[edge:-edge], atol=2e-3)


def test_resample_removes_what_would_alias() -> None:
    tone = np.sin(2 * np.pi * 5500 * np.arange(16000) / 16000).astype(np.float32)
    assert np.abs(audio.resample(tone, 16000, 8000)[200:-200]).max() < 1e-3


@settings(max_examples=40, deadline=None)
@given(st.integers(1000, 60000), st.integers(1000, 60000), st.integers(0, 500))
def test_resample_any_rates(source: int, rate: int, count: int) -> None:
    found = audio.resample(np.ones(count, np.float32), source, rate)
    assert len(found) == math.ceil(count * rate / source) and found.dtype == np.float32
    assert np.isfinite(found).all() and np.abs(found).max(initial=0) < 1.3


def test_fit() -> None:
    samples = np.arange(1, 6, dtype=np.float32)
    assert audio.fit(samples, 5).tolist() == [1, 2, 3, 4, 5]
    assert audio.fit(samples, 3).tolist() == [2, 3, 4]
    assert audio.fit(samples, 8).tolist() == [0, 1, 2, 3, 4, 5, 0, 0]


def test_log_mel_against_a_plain_loop() -> None:
    samples = np.random.default_rng(5).standard_normal(700).astype(np.float32)
    window, hop, rate, mels, low, high = 200, 80, 8000, 12, 60.0, 3600.0

    def mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    edges = [700 * (10 ** ((mel(low) + (mel(high) - mel(low)) * i / (mels + 1)) / 2595) - 1) for i in range(mels + 2)]
    found = audio.log_mel(samples, rate, window, hop, mels, low, high)
    assert found.shape == (7, mels) and found.dtype == np.float32
    for frame in range(7):
        piece = [
            float(samples[frame * hop + i]) * (0.5 - 0.5 * math.cos(2 * math.pi * i / window)) for i in range(window)
        ]
        power = np.abs(np.fft.fft(piece, 256)[:129]) ** 2
        for band in range(mels):
            left, centre, right = edges[band : band + 3]
            total = 0.0
            for k in range(129):
                hertz = k * rate / 256
                total += power[k] * max(0.0, min((hertz - left) / (centre - left), (right - hertz) / (right - centre)))
            assert abs(found[frame, band] - math.log(total + 1e-6)) < 1e-4


def test_audio_sources_agree(tmp_path: Path) -> None:
    whole = np.random.default_rng(6).integers(-20000, 20000, 5000).astype(np.int16)
    path = write_wav(tmp_path / "x.wav", whole.tobytes(), 2)
    wanted = AUDIO(path)
    assert wanted.shape == AUDIO.input_shape == (1, 1, AUDIO.frames, 40) and wanted.dtype == np.float32
    for source in (str(path), (8000, whole), whole, (whole / 32768).astype(np.float32), np.stack([whole, whole], 1)):
        np.testing.assert_allclose(AUDIO(source), wanted, atol=1e-5)
    samples = AUDIO.decode(path)
    np.testing.assert_array_equal(wanted[0, 0], (AUDIO.features(samples) - np.float32(-3)) / np.float32(2))
    silence = AUDIO(np.zeros(0, np.float32))
    np.testing.assert_allclose(silence, (math.log(1e-6) + 3) / 2, atol=1e-5)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((2, 2, 2), np.int16), r"shape \[2, 2, 2\]"),
        (np.zeros(9, np.int64), "int64: expected int16"),
        (np.full(9, np.inf), "NaN or infinity"),
        ((10, np.zeros(9, np.float32)), "sample rate 10 Hz"),
        ([0.0], "type list: expected a path"),
    ],
)
def test_bad_recordings(source: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        AUDIO(source)  # type: ignore[arg-type]


def test_real_recordings(real_data: Path, tmp_path: Path) -> None:
    with tarfile.open(real_data / "fsdd" / "fsdd_recordings.tar.gz") as archive:
        for name in [name for name in archive.getnames() if name.endswith("_0.wav")][:20]:
            file = archive.extractfile(name)
            assert file is not None
            (tmp_path / "x.wav").write_bytes(file.read())
            features = AUDIO(tmp_path / "x.wav")
            assert np.isfinite(features).all() and features.std() > 0.1


# ---- arrays, and the records of all three


def test_array() -> None:
    values = np.array([[1, 2, 3], [2, 4, 7]])
    np.testing.assert_array_equal(ARRAY(values), [[[0, 0, 0], [1, 1, 1]]])
    np.testing.assert_array_equal(ARRAY(values[None]), ARRAY(values))
    for bad, message in (
        (np.zeros((3, 2)), r"shape \[3, 2\]: expected \[2, 3\]"),
        (np.full((2, 3), np.nan), "NaN"),
        (np.full((2, 3), "x"), "expected numbers"),
    ):
        with pytest.raises(BadInput, match=message):
            ARRAY(bad)


@pytest.mark.parametrize("preprocess", [IMAGE, AUDIO, ARRAY])
def test_dict_round_trip(preprocess: ImagePreprocess | AudioPreprocess | ArrayPreprocess) -> None:
    assert preprocess_from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess


@pytest.mark.parametrize(
    ("preprocess", "change", "message"),
    [
        (IMAGE, {"height": 0}, "height: expected 1 to 4096, found 0"),
        (IMAGE, {"height": 2.0}, "height: expected an integer, found a number"),
        (IMAGE, {"height": True}, "height: expected an integer, found a boolean"),
        (IMAGE, {"channels": 2}, "channels: expected 1 .gray. or 3"),
        (IMAGE, {"mean": [0.5]}, "mean: expected a tuple of 3"),
        (IMAGE, {"std": [0.5, 0.5, 0.0]}, "std: expected positive"),
        (IMAGE, {"std": [0.5, 0.5, float("nan")]}, "finite"),
        (IMAGE, {"std": "abc"}, "std: expected a list, found text"),
        (IMAGE, {"crop": 3}, "unknown field 'crop'"),
        (IMAGE, {"kind": "video"}, "kind: expected one of image, audio, array; found 'video'"),
        (AUDIO, {"hop": 300}, "hop: expected an integer from 1 to 256"),
        (AUDIO, {"fmax": 5000.0}, "half the sample rate"),
        (AUDIO, {"window": 9000}, "window: expected an integer from 16 to 8000"),
        (AUDIO, {"mels": 400}, "holds no FFT bin"),
        (AUDIO, {"fmin": None}, "fmin: expected a number, found null"),
        (ARRAY, {"shape": []}, "shape: expected 1 to 7 sizes"),
        (ARRAY, {"shape": [1 << 20, 1 << 20]}, "holds more than"),
        (ARRAY, {"mean": [1.0, 2.0]}, "mean: expected a tuple of 1 or 3"),
    ],
)
def test_bad_records(preprocess: ImagePreprocess, change: dict[str, object], message: str) -> None:
    with pytest.raises(BadFile, match=message) as caught:
        preprocess_from_dict({**preprocess.to_dict(), **change}, "inputs[0].preprocess")
    assert str(caught.value).startswith("inputs[0].preprocess")


def test_missing_field_of_a_record() -> None:
    record = IMAGE.to_dict()
    del record["std"]
    with pytest.raises(BadFile, match="field 'std' is missing"):
        preprocess_from_dict(record)
    with pytest.raises(BadFile, match="expected an object, found a list"):
        preprocess_from_dict([1])
