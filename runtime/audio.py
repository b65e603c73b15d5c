"""Sound as float32 samples: WAV files, mono mix, sample-rate conversion and log-mel features."""

from __future__ import annotations

import math
import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.runtime.errors import BadFile, BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_RATE, MAX_RATE = 1_000, 384_000

# Twenty minutes of 48 kHz stereo at 16 bits.
MAX_WAV_BYTES = 230_400_000

# Zero crossings of the windowed sinc on either side: about 80 dB of stop band.
_CROSSINGS = 16


def read_wav(path: str | os.PathLike[str]) -> tuple[int, NDArray[np.float32]]:
    """Reads a PCM WAV file of 8, 16, 24 or 32 bits and mixes its channels to one.

    Returns:
        (sample rate in Hz, float32 [n] within -1..1).

    Raises:
        BadFile: no such file, not PCM WAV, truncated header, or larger than 230 MB.
    """
    import wave  # costs a base-install device 2 ms, and only recordings need it

    name = os.fspath(path)
    try:
        size = os.stat(name).st_size
        if size > MAX_WAV_BYTES:
            raise BadFile(f"{name}: {size:,} bytes; at most {MAX_WAV_BYTES:,} are read: cut the recording")
        with wave.open(name, "rb") as file:
            rate, width, channels = file.getframerate(), file.getsampwidth(), file.getnchannels()
            data = file.readframes(file.getnframes())
    except FileNotFoundError:
        raise BadFile(f"{name}: no such WAV file") from None
    except (wave.Error, EOFError, OSError, RuntimeError) as error:
        reason = str(error) or "the file ends early"
        raise BadFile(
            f"{name}: not a PCM WAV file ({reason}): convert it with ffmpeg -i IN -c:a pcm_s16le OUT.wav"
        ) from None
    if width not in (1, 2, 3, 4):
        raise BadFile(f"{name}: {8 * width}-bit samples: expected 8, 16, 24 or 32 bits")
    _check_rate(rate, name)
    data = data[: len(data) // (width * channels) * width * channels]
    return rate, mix(pcm_samples(data, width).reshape(-1, channels))


def pcm_samples(data: bytes, width: int) -> NDArray[np.float32]:
    """Little-endian PCM (unsigned for 1 byte a sample, else two's complement) to float32 within -1..1."""
    if width == 1:
        return _centred(np.frombuffer(data, np.uint8))
    if width == 3:
        # The three bytes go to the top of an int32; its low byte is zero.
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        data, width = wide.tobytes(), 4
    values = np.frombuffer(data, "<i2" if width == 2 else "<i4")
    return (values.astype(np.float64) / (1 << (8 * width - 1))).astype(np.float32)


def mix(samples: NDArray[Any]) -> NDArray[np.float32]:
    """[n] or [n, channels] of int16, int32, uint8 or floating point to float32 [n]; integers scale to -1..1."""
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and not 1 <= samples.shape[1] <= 64):
        raise BadInput(f"samples of shape {list(samples.shape)}: expected [n] or [n, channels]")
    if samples.dtype == np.uint8:
        wave = _centred(samples)
    elif samples.dtype in (np.int16, np.int32):
        wave = (samples / float(-np.iinfo(samples.dtype).min)).astype(np.float32)
    elif np.issubdtype(samples.dtype, np.floating):
        wave = samples.astype(np.float32)
    else:
        raise BadInput(f"samples of {samples.dtype}: expected int16, int32, uint8 or floating point")
    if not np.isfinite(wave).all():
        raise BadInput("samples hold NaN or infinity")
    mono: NDArray[np.float32] = wave if wave.ndim == 1 else wave.mean(axis=1, dtype=np.float32)
    return mono


def resample(samples: NDArray[np.float32], source_rate: int, rate: int) -> NDArray[np.float32]:
    """Polyphase sample-rate conversion with a Hann-windowed sinc, cut off at the lower of the two Nyquist rates.

    Output n lies at the input time n * source_rate / rate; outside the recording there is silence.

    Returns:
        float32 [ceil(n * rate / source_rate)].
    """
    _check_rate(source_rate, "samples")
    if source_rate == rate or not len(samples):
        return samples
    common = math.gcd(source_rate, rate)
    up, down = rate // common, source_rate // common
    count = -(-len(samples) * up // down)
    cutoff = min(1.0, up / down)
    half = math.ceil(_CROSSINGS / cutoff)
    # Output n has the fractional position of output n % up: one filter for each.
    offset = (np.arange(min(up, count)) * down % up)[:, None] / up - np.arange(-half + 1, half + 1)
    reach = np.clip(offset * cutoff / _CROSSINGS, -1, 1)
    bank = np.sinc(offset * cutoff) * (0.5 + 0.5 * np.cos(np.pi * reach))
    bank = (bank / bank.sum(axis=1, keepdims=True)).astype(np.float32)
    padded = np.pad(samples, (half - 1, half + 1))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half)
    out = np.empty(count, np.float32)
    step = max(1, (1 << 20) // (2 * half))  # 4 MB of gathered taps at a time
    for start in range(0, count, step):
        n = np.arange(start, min(start + step, count))
        out[n] = np.einsum("nk,nk->n", windows[n * down // up], bank[n % up])
    return out


def fit(samples: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """The middle `count` samples; a shorter recording is centred in silence."""
    missing = count - len(samples)
    if missing > 0:
        return np.pad(samples, (missing // 2, missing - missing // 2))
    start = -missing // 2
    return samples[start : start + count]


def log_mel(
    samples: NDArray[np.float32], rate: int, window: int, hop: int, mels: int, fmin: float, fmax: float
) -> NDArray[np.float32]:
    """Log-mel power spectrogram: log(mel @ |FFT(hann * frame)|^2 + 1e-6), natural logarithm.

    Frame i covers samples i*hop .. i*hop + window (no padding, so a stream gives the same frames); the Hann window is
    periodic; the FFT length is the next power of two; see `mel_filters` for the bands.

    Args:
        samples: float32 [n], n >= window.
        window, hop: in samples.
        fmin, fmax: edges of the lowest and the highest band in Hz.

    Returns:
        float32 [1 + (n - window) // hop, mels].
    """
    frames = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    length = fft_length(window)
    spectrum = np.fft.rfft(frames * hann, length, axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    return np.log(power @ mel_filters(rate, length, mels, fmin, fmax) + 1e-6).astype(np.float32)


def fft_length(window: int) -> int:
    return 1 << (window - 1).bit_length()


@lru_cache(maxsize=8)
def mel_filters(rate: int, length: int, mels: int, fmin: float, fmax: float) -> NDArray[np.float64]:
    """Triangles of peak 1, evenly spaced on the HTK mel scale, 2595 log10(1 + f/700) (as torchaudio's default).

    Returns:
        float64 [length / 2 + 1, mels].
    """
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (fmin, fmax))
    edges = 700 * (10 ** (np.linspace(low, high, mels + 2) / 2595) - 1)
    bins = np.linspace(0, rate / 2, length // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters: NDArray[np.float64] = np.maximum(np.minimum(rising, falling), 0)
    return filters


def _centred(samples: NDArray[np.uint8]) -> NDArray[np.float32]:
    return (samples.astype(np.float32) - np.float32(128)) / np.float32(128)


def _check_rate(rate: int, where: str) -> None:
    if not MIN_RATE <= rate <= MAX_RATE:
        raise BadInput(f"{where}: sample rate {rate} Hz: expected {MIN_RATE} to {MAX_RATE}")
