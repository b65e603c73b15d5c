"""What turns an image, a recording or an array into a model's input: the same code in training and on every device."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from edge.runtime import audio, fields
from edge.runtime.errors import BadFile, BadInput
from edge.runtime.image import ImageSource, decode_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_SIDE = 4096
MAX_SAMPLES = 10_000_000
MAX_ELEMENTS = 1 << 26


@dataclass(frozen=True)
class ImagePreprocess:
    """Decode, stretch to `height` x `width`, then (pixel / 255 - mean) / std for each channel.

    Args:
        channels: 1 (gray) or 3 (RGB).
        mean, std: one value a channel, in units of the 0..1 range.
    """

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_integer("height", self.height, 1, MAX_SIDE)
        _check_integer("width", self.width, 1, MAX_SIDE)
        if self.channels not in (1, 3):
            raise BadInput(f"channels: expected 1 (gray) or 3 (RGB), found {self.channels!r}")
        _check_statistics(self.mean, self.std, (self.channels,))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of what `__call__` returns: (1, channels, height, width)."""
        return (1, self.channels, self.height, self.width)

    def decode(self, source: ImageSource) -> NDArray[np.uint8]:
        """Image (path, PIL image or array, see `image.decode_image`) to uint8 [height, width, channels]."""
        return decode_image(source, self.height, self.width, self.channels)

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [..., height, width, channels] to float32 [..., channels, height, width]."""
        std = np.asarray(self.std, np.float64)
        scale = (1 / (255 * std)).astype(np.float32)
        offset = (np.asarray(self.mean, np.float64) / std).astype(np.float32)
        return np.ascontiguousarray(np.moveaxis(pixels * scale - offset, -1, -3))

    def __call__(self, source: ImageSource) -> NDArray[np.float32]:
        """Image to float32 [1, channels, height, width]; an array of just that is the network's input and stays so."""
        ready = _network_input(source, self.input_shape)
        return self.normalize(self.decode(source))[None] if ready is None else ready

    def to_dict(self) -> dict[str, Any]:
        return _to_dict("image", self)


@dataclass(frozen=True)
class AudioPreprocess:
    """Mono, `sample_rate`, the middle `samples` of it (or silence around it), log-mel, then (x - mean) / std.

    Args:
        sample_rate: Hz.
        samples: length of the window that the model sees.
        window, hop: length and step of a frame in samples; see `audio.log_mel` for the exact features.
        mels: number of mel bands, from `fmin` to `fmax` Hz.
        mean, std: of the log-mel features.
    """

    sample_rate: int
    samples: int
    window: int
    hop: int
    mels: int
    fmin: float
    fmax: float
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        _check_integer("sample_rate", self.sample_rate, audio.MIN_RATE, audio.MAX_RATE)
        _check_integer("samples", self.samples, 16, MAX_SAMPLES)
        _check_integer("window", self.window, 16, min(self.samples, 1 << 16))
        _check_integer("hop", self.hop, 1, self.window)
        _check_integer("mels", self.mels, 1, 512)
        if not 0 <= self.fmin < self.fmax <= self.sample_rate / 2:
            raise BadInput(
                f"fmin, fmax: expected 0 <= fmin < fmax <= {self.sample_rate / 2:g} (half the sample rate), "
                f"found {self.fmin!r}, {self.fmax!r}"
            )
        if self.frames * self.mels > MAX_ELEMENTS:
            raise BadInput(f"{self.frames} frames of {self.mels} bands: at most {MAX_ELEMENTS:,} values")
        _check_statistics((self.mean,), (self.std,), (1,))
        filters = audio.mel_filters(
            self.sample_rate, audio.fft_length(self.window), self.mels, float(self.fmin), float(self.fmax)
        )
        empty = np.flatnonzero(filters.max(axis=0) <= 0)
        if len(empty):
            raise BadInput(
                f"mels: band {empty[0]} holds no FFT bin: use fewer than {self.mels} bands or a longer window"
            )

    @property
    def frames(self) -> int:
        return 1 + (self.samples - self.window) // self.hop

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of what `__call__` returns: (1, 1, frames, mels)."""
        return (1, 1, self.frames, self.mels)

    def decode(self, source: str | os.PathLike[str] | tuple[int, NDArray[Any]] | NDArray[Any]) -> NDArray[np.float32]:
        """Recording to float32 [samples].

        Args:
            source: path of a PCM WAV file, (rate in Hz, samples), or samples at `sample_rate`; samples are [n] or
                [n, channels], int16, int32, uint8 or floating point within -1..1.
        """
        if isinstance(source, (str, os.PathLike)):
            rate, samples = audio.read_wav(source)
        elif isinstance(source, np.ndarray):
            rate, samples = self.sample_rate, audio.mix(source)
        elif isinstance(source, tuple) and len(source) == 2 and isinstance(source[1], np.ndarray):
            rate, samples = int(source[0]), audio.mix(source[1])
        else:
            raise BadInput(
                f"recording of type {type(source).__name__}: expected a path, (rate, samples) or a numpy array"
            )
        return audio.fit(audio.resample(samples, rate, self.sample_rate), self.samples)

    def features(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [n] at `sample_rate` to log-mel float32 [frames, mels], not normalised."""
        return audio.log_mel(
            samples, self.sample_rate, self.window, self.hop, self.mels, float(self.fmin), float(self.fmax)
        )

    def normalize(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(features - mean) / std, any shape, float32."""
        return (features - np.float32(self.mean)) / np.float32(self.std)

    def __call__(self, source: str | os.PathLike[str] | tuple[int, NDArray[Any]] | NDArray[Any]) -> NDArray[np.float32]:
        """Recording to float32 [1, 1, frames, mels]; an array of just that is the network's input and stays so."""
        ready = _network_input(source, self.input_shape)
        return self.normalize(self.features(self.decode(source)))[None, None] if ready is None else ready

    def to_dict(self) -> dict[str, Any]:
        return _to_dict("audio", self)


@dataclass(frozen=True)
class ArrayPreprocess:
    """(x - mean) / std over an array.

    Args:
        shape: of one sample, without the batch axis.
        mean, std: one value, or one for each entry of the last axis.
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not isinstance(self.shape, tuple) or not 1 <= len(self.shape) <= 7:
            raise BadInput(f"shape: expected 1 to 7 sizes, found {self.shape!r}")
        for size in self.shape:
            _check_integer("shape", size, 1, MAX_ELEMENTS)
        if math.prod(self.shape) > MAX_ELEMENTS:
            raise BadInput(f"shape: {list(self.shape)} holds more than {MAX_ELEMENTS:,} values")
        _check_statistics(self.mean, self.std, (1, self.shape[-1]))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of what `__call__` returns for one sample: (1, *shape)."""
        return (1, *self.shape)

    def normalize(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """(values - mean) / std, float32 [..., *shape]."""
        centred = values.astype(np.float32) - np.asarray(self.mean, np.float32)
        return np.asarray(centred / np.asarray(self.std, np.float32), np.float32)

    def __call__(self, source: NDArray[Any]) -> NDArray[np.float32]:
        """One sample, of `shape` or (1, *shape), to float32 (1, *shape): with the batch axis it is the same sample.

        Raises:
            BadInput: another shape, not numbers, or NaN or infinity among them.
        """
        values = np.asarray(source)
        if values.dtype.kind not in "fiub":
            raise BadInput(f"array of {values.dtype}: expected numbers")
        if values.shape not in (self.shape, self.input_shape):
            raise BadInput(f"array of shape {list(values.shape)}: expected {list(self.shape)}")
        if not np.isfinite(values).all():
            raise BadInput("array holds NaN or infinity")
        return self.normalize(values).reshape(self.input_shape)

    def to_dict(self) -> dict[str, Any]:
        return _to_dict("array", self)


Preprocess: TypeAlias = "ImagePreprocess | AudioPreprocess | ArrayPreprocess"


def preprocess_from_dict(value: object, where: str = "preprocess") -> Preprocess:
    """Reads what `to_dict` wrote.

    Raises:
        BadFile: an unknown kind or field, a missing field, or a value of the wrong type or out of range.
    """
    record = fields.Fields(value, where)
    kind = record.choice("kind", ("image", "audio", "array"))
    made: Preprocess
    try:
        if kind == "image":
            made = ImagePreprocess(
                height=record.integer("height", 1, MAX_SIDE),
                width=record.integer("width", 1, MAX_SIDE),
                channels=record.integer("channels", 1, 3),
                mean=record.items("mean", 3, _statistic),
                std=record.items("std", 3, _statistic),
            )
        elif kind == "audio":
            made = AudioPreprocess(
                sample_rate=record.integer("sample_rate", audio.MIN_RATE, audio.MAX_RATE),
                samples=record.integer("samples", 16, MAX_SAMPLES),
                window=record.integer("window", 16, 1 << 16),
                hop=record.integer("hop", 1, 1 << 16),
                mels=record.integer("mels", 1, 512),
                fmin=record.number("fmin", 0, audio.MAX_RATE),
                fmax=record.number("fmax", 0, audio.MAX_RATE),
                mean=record.number("mean", -1e30, 1e30),
                std=record.number("std", 0, 1e30),
            )
        else:
            made = ArrayPreprocess(
                shape=record.items("shape", 7, lambda size, at: fields.integer(size, at, 1, MAX_ELEMENTS)),
                mean=record.items("mean", 1 << 16, _statistic),
                std=record.items("std", 1 << 16, _statistic),
            )
    except BadInput as error:
        raise BadFile(f"{where}.{error}") from None
    record.done()
    return made


def _network_input(source: object, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """`source` if it is an array of the network's input `shape`, which no image and no recording has; else None.

    Raises:
        BadInput: it has the shape, but is not float32, or holds NaN or infinity.
    """
    if not isinstance(source, np.ndarray) or source.shape != shape:
        return None
    if source.dtype.newbyteorder("=") != np.float32:
        raise BadInput(f"{source.dtype} array of the network's input shape {list(shape)}: expected float32")
    if not np.isfinite(source).all():
        raise BadInput("array holds NaN or infinity")
    return np.ascontiguousarray(source, np.float32)


def _statistic(value: object, where: str) -> float:
    return fields.number(value, where, -1e30, 1e30)


def _to_dict(kind: str, preprocess: Any) -> dict[str, Any]:
    values = {key: list(item) if isinstance(item, tuple) else item for key, item in asdict(preprocess).items()}
    return {"kind": kind, **values}


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadInput(f"{name}: expected an integer from {low} to {high}, found {value!r}")


def _check_statistics(mean: tuple[float, ...], std: tuple[float, ...], lengths: tuple[int, ...]) -> None:
    for name, values in (("mean", mean), ("std", std)):
        if not isinstance(values, tuple) or len(values) not in lengths:
            raise BadInput(
                f"{name}: expected a tuple of {' or '.join(map(str, lengths))}, found {fields.shown(values)}"
            )
        if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
            raise BadInput(f"{name}: expected finite numbers, found {fields.shown(values)}")
    # Below this, 1 / std no longer fits a float32.
    if min(std) < 1e-30:
        raise BadInput(f"std: expected positive numbers, found {fields.shown(std)}")
