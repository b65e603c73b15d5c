"""Spots keywords: `python keyword_spotter.py MODEL.edge [RECORDING.wav ...]`.

With WAV files it prints one line each. Without, it listens to the microphone (pip install sounddevice) until Ctrl-C.
"""

import sys
from collections.abc import Iterator
from typing import Any

from edge.runtime import AudioPreprocess, EdgeError, load

THRESHOLD = 0.6


def microphone(sound: AudioPreprocess) -> Iterator[tuple[str, Any]]:
    """The latest window of sound, four times a window."""
    import numpy as np
    import sounddevice

    window = np.zeros(sound.samples, np.float32)
    with sounddevice.InputStream(samplerate=sound.sample_rate, channels=1, dtype="float32") as stream:
        while True:
            window = np.concatenate([window, stream.read(sound.samples // 4)[0][:, 0]])[-sound.samples :]
            yield "microphone", window


def main() -> None:
    with load(sys.argv[1]) as model:
        recordings = ((path, path) for path in sys.argv[2:]) if sys.argv[2:] else microphone(model.inputs[0].preprocess)
        for name, recording in recordings:
            found = model.predict(recording)
            print(f"{name}\t{found.label if found.score >= THRESHOLD else '-'}\t{found.score:.0%}")


if __name__ == "__main__":
    try:
        main() if sys.argv[1:] else sys.exit(__doc__)
    except (EdgeError, ImportError, OSError, KeyboardInterrupt) as error:
        sys.exit(f"keyword_spotter: {error}" if str(error) else 0)
