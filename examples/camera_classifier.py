"""Classifies what a camera sees: `python camera_classifier.py MODEL.edge [FOLDER_OF_IMAGES]`.

With a folder: the images in it and in its subfolders. Without one: what a Raspberry Pi's camera sees, until Ctrl-C.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from edge.runtime import EdgeError, load

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def camera() -> Iterator[tuple[str, object]]:
    """Frames of the Raspberry Pi camera as uint8 [480, 640, 3]; picamera2's "BGR888" is red, green, blue in memory."""
    from picamera2 import Picamera2

    with Picamera2() as device:
        device.start(device.create_preview_configuration({"size": (640, 480), "format": "BGR888"}))
        while True:
            yield "camera", device.capture_array()


def main(bundle: str, folder: str | None = None) -> None:
    images = [path for path in sorted(Path(folder).rglob("*") if folder else ()) if path.suffix.lower() in SUFFIXES]
    if folder and not images:
        sys.exit(f"camera_classifier: {folder}: no folder with images; expected files ending in {' '.join(SUFFIXES)}")
    with load(bundle) as model:
        for name, image in ((path.relative_to(folder), path) for path in images) if folder else camera():
            print(name, *(f"{label} {100 * score:.0f} %" for label, score in model.predict(image).top(3)), sep="\t")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:]) if len(sys.argv) in (2, 3) else sys.exit(__doc__)
    except (EdgeError, ImportError, OSError, KeyboardInterrupt) as error:
        advice = ": sudo apt install python3-picamera2, or give a folder" if isinstance(error, ImportError) else ""
        sys.exit(f"camera_classifier: {error}{advice}" if str(error) else 0)
