"""Classifies what a camera sees: `python camera_classifier.py MODEL.edge [FOLDER_OF_IMAGES]`.

With a folder: the images in it and in its subfolders. Without one: what a Raspberry Pi's camera sees, until Ctrl-C.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge.runtime import EdgeError, load


def camera() -> Iterator[tuple[str, Any]]:
    """Frames of the Raspberry Pi camera as uint8 [480, 640, 3]."""
    from picamera2 import Picamera2

    with Picamera2() as device:
        # picamera2's "BGR888" is red, green, blue in memory.
        device.configure(device.create_preview_configuration({"size": (640, 480), "format": "BGR888"}))
        device.start()
        while True:
            yield "camera", device.capture_array()


def main() -> None:
    folder = Path(sys.argv[-1]).resolve(strict=True)
    files = ((str(path.relative_to(folder)), path) for path in sorted(folder.rglob("*")) if path.is_file())
    frames = files if sys.argv[2:] else camera()
    with load(sys.argv[1]) as model:
        for name, image in frames:
            print(name, *(f"{label} {score:.0%}" for label, score in model.predict(image).top(3)), sep="\t")


if __name__ == "__main__":
    try:
        main() if len(sys.argv) in (2, 3) else sys.exit(__doc__)
    except (EdgeError, ImportError, OSError, KeyboardInterrupt) as error:
        sys.exit(f"camera_classifier: {error}" if str(error) else 0)
