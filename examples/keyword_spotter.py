"""Spots keywords: `python keyword_spotter.py MODEL.edge [RECORDING.wav ...]`.

With WAV files it prints one line each. Without, it listens to the microphone (pip install sounddevice) until Ctrl-C.
"""

import sys
from collections.abc import Iterator

from edge.runtime import AudioPreprocess, EdgeError, load

THRESHOLD = 0.6


def microphone(sound: AudioPreprocess) -> Iterator[tuple[str, object]]:
    """The latest window of sound, four times a window."""
    import numpy as np
    import sounddevice  # an OSError if PortAudio is missing: sudo apt install libportaudio2

    window = np.zeros(sound.samples, np.float32)
    with sounddevice.InputStream(samplerate=sound.sample_rate, channels=1, dtype="float32") as stream:
        while True:
            window = np.concatenate([window, stream.read(sound.samples // 4)[0][:, 0]])[-sound.samples :]
            yield "microphone", window


def main(bundle: str, *recordings: str) -> None:
    with load(bundle) as model:
        for name, sound in ((r, r) for r in recordings) if recordings else microphone(model.inputs[0].preprocess):
            found = model.predict(sound)
            print(f"{name}\t{found.label if found.score >= THRESHOLD else '-'}\t{100 * found.score:.0f} %")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:]) if sys.argv[1:] else sys.exit(__doc__)
    except ImportError as error:
        sys.exit(f"keyword_spotter: {error}: pip install sounddevice, or give recordings")
    except (EdgeError, OSError, KeyboardInterrupt) as error:
        sys.exit(f"keyword_spotter: {error}" if str(error) else 0)
