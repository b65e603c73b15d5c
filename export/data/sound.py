"""WAV folders and archives as log-mel features."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.export.data.dataset import Dataset, Shape, Split
from edge.export.data.files import Files
from edge.export.data.layout import Plan
from edge.export.progress import Progress
from edge.runtime import audio
from edge.runtime.errors import BadFile, BadInput
from edge.runtime.preprocess import AudioPreprocess

SUFFIXES = (".wav",)
_WINDOW_SECONDS, _HOP_SECONDS = 0.032, 0.016
_MELS = 32
_FMIN = 60.0
_LONGEST_SECONDS = 4.0
# A clip covers all but the longest recordings.
_COVERED = 0.95


def load_sound(
    name: str,
    files: Files,
    plan: Plan,
    input_shape: Shape | None,
    provenance: dict[str, Any],
    progress: Progress,
) -> Dataset:
    """Reads the recordings of a plan and turns them into log-mel features.

    The sample rate is that of the first recording; the clip is as long as 95 % of the training recordings, at most 4 s.

    Args:
        input_shape: (1, frames, bands); by default 32 bands and a frame every 16 ms.

    Raises:
        BadFile: a file is no PCM WAV; named.
        BadInput: an input shape that is no spectrogram, or recordings without any sample.
    """
    names = [item for item, _ in plan.train + plan.test]
    position = {item: i for i, item in enumerate(names)}
    recordings: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(names)
    progress.stage("read recordings", len(names))
    rate = 0
    for done, (item, data) in enumerate(files.read(position)):
        source_rate, samples = read_wav(data, f"{files.path}: {item}")
        rate = rate or source_rate
        samples = audio.resample(samples, source_rate, rate)
        # Nothing beyond the longest clip is ever looked at; the middle is what `fit` keeps.
        recordings[position[item]] = audio.fit(samples, min(len(samples), int(_LONGEST_SECONDS * rate)))
        if done % 64 == 0 or done + 1 == len(names):
            progress.update(done + 1)
    preprocess = _preprocess(rate, [len(r) for r in recordings[: len(plan.train)]], input_shape, str(files.path))
    progress.stage("log-mel features", len(names))
    x = np.stack(list(_features(preprocess, recordings, progress)))[:, None]
    cut = len(plan.train)
    mean, std = float(x[:cut].mean()), max(float(x[:cut].std()), 1e-3)
    preprocess = replace(preprocess, mean=round(mean, 4), std=round(std, 4))
    y = np.array([label for _, label in plan.train + plan.test], np.int64)
    train, test = Split(x[:cut], y[:cut], preprocess), Split(x[cut:], y[cut:], preprocess)
    return Dataset(name, plan.labels, train, test, preprocess, provenance, "sound")


def read_wav(data: bytes, where: str) -> tuple[int, NDArray[np.float32]]:
    """Decodes a PCM WAV file in memory to (rate in Hz, mono float32 [n] within -1..1).

    Raises:
        BadFile: it is not one.
    """
    try:
        with wave.open(io.BytesIO(data), "rb") as file:
            rate, width, channels = file.getframerate(), file.getsampwidth(), file.getnchannels()
            frames = file.readframes(file.getnframes())
    except (wave.Error, EOFError, OSError, RuntimeError) as error:
        reason = str(error) or "the file ends early"
        raise BadFile(f"{where}: not a PCM WAV file ({reason})") from None
    if width not in (1, 2, 3, 4) or not audio.MIN_RATE <= rate <= audio.MAX_RATE:
        raise BadFile(f"{where}: {8 * width}-bit samples at {rate} Hz: expected 8 to 32 bits, 1,000 to 384,000 Hz")
    frames = frames[: len(frames) // (width * channels) * width * channels]
    return rate, audio.mix(audio.pcm_samples(frames, width).reshape(-1, channels))


def _features(
    preprocess: AudioPreprocess, recordings: list[NDArray[np.float32]], progress: Progress
) -> Iterator[NDArray[np.float32]]:
    for done, samples in enumerate(recordings):
        yield preprocess.features(audio.fit(samples, preprocess.samples))
        if done % 64 == 0 or done + 1 == len(recordings):
            progress.update(done + 1)


def _preprocess(rate: int, lengths: list[int], input_shape: Shape | None, where: str) -> AudioPreprocess:
    window = max(16, round(_WINDOW_SECONDS * rate))
    hop = max(1, round(_HOP_SECONDS * rate))
    typical = int(np.quantile(lengths, _COVERED))
    if typical < window:
        raise BadInput(
            f"{where}: most recordings are shorter than {_WINDOW_SECONDS * 1000:g} ms: nothing to learn from"
        )
    frames, mels = 1 + -(-(typical - window) // hop), _MELS
    if input_shape is not None:
        frames, mels = _frames_and_bands(input_shape)
        hop = min(window, max(1, -(-(typical - window) // max(1, frames - 1))))
    samples = window + (frames - 1) * hop
    return AudioPreprocess(rate, samples, window, hop, mels, _FMIN, rate / 2)


def _frames_and_bands(shape: Shape) -> tuple[int, int]:
    if len(shape) == 3 and shape[0] in (1, None) and shape[1] is not None and shape[2] is not None and shape[1] > 0:
        return shape[1], shape[2]
    raise BadInput(f"input shape {list(shape)}: recordings take [1, frames, mel bands]")
