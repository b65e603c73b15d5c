"""Image folders and archives, and scikit-learn's handwritten digits."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.export.data.dataset import Dataset, Shape, Split, evenly
from edge.export.data.files import Files
from edge.export.data.layout import Plan
from edge.export.progress import Progress
from edge.export.reason import first_line
from edge.runtime.errors import BadFile, BadInput, EdgeError, MissingDependency
from edge.runtime.image import MAX_PIXELS
from edge.runtime.preprocess import ImagePreprocess

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".pgm", ".ppm", ".tif", ".tiff")
MAX_BYTES = 16 << 30
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
_LARGE_SIDE, _DEFAULT_SIDE = 64, 64
_DIGITS_SHAPE = (1, 16, 16)


def load_digits(input_shape: Shape | None, test_fraction: float, seed: int, limit: int | None) -> Dataset:
    """scikit-learn's 1,797 handwritten digits (UCI, 8x8 pixels of 17 levels), 16x16 unless asked otherwise."""
    try:
        from sklearn import datasets
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise MissingDependency("the digits need scikit-learn: pip install 'edge-deploy[export]'") from None
    bunch = datasets.load_digits()
    y = bunch.target.astype(np.int64)
    pictures = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    preprocess = plain_preprocess(input_shape, _DIGITS_SHAPE)
    x = np.stack([preprocess.decode(picture) for picture in pictures])
    if limit is not None:
        # Both parts of a stratified split need one of every class.
        least = math.ceil(10 / min(test_fraction, 1 - test_fraction))
        if limit < least:
            raise BadInput(f"digits: --limit {limit} is too small for 10 classes: use at least {least}")
        chosen = evenly(y, limit, np.random.default_rng(seed))
        x, y = x[chosen], y[chosen]
    # scikit-learn's own split, so that anyone can hold out the very same samples for another model.
    train, test = train_test_split(np.arange(len(y)), test_size=test_fraction, stratify=y, random_state=seed)
    provenance = {
        "source": "scikit-learn load_digits",
        "origin": "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI",
        "licence": "CC BY 4.0",
        "split": f"sklearn train_test_split(test_size={test_fraction:g}, stratify=target, random_state={seed})",
        "train": len(train),
        "test": len(test),
    }
    labels = tuple(str(digit) for digit in range(10))
    return image_dataset("digits", labels, (x[train], y[train]), (x[test], y[test]), preprocess, provenance, "glyphs")


def load_images(
    files: Files, plan: Plan, input_shape: Shape | None, progress: Progress
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], ImagePreprocess]:
    """Decodes the files of a plan.

    Args:
        input_shape: (channels, height, width); by default those of the first picture, at most 64 x 64.

    Returns:
        uint8 [n, H, W, C] for train and test in the plan's order, and the preprocessing (not yet normalising).

    Raises:
        BadFile: a file is no image; named.
        BadInput: the decoded pictures would need more than 16 GB.
    """
    names = [name for name, _ in plan.train + plan.test]
    position = {name: i for i, name in enumerate(names)}
    progress.stage("read images", len(names))
    x: NDArray[np.uint8] | None = None
    preprocess: ImagePreprocess | None = None
    for done, (name, data) in enumerate(files.read(position)):
        picture = open_picture(data, f"{files.path}: {name}")
        if preprocess is None or x is None:
            preprocess = plain_preprocess(input_shape, _natural_shape(picture))
            shape = (len(names), preprocess.height, preprocess.width, preprocess.channels)
            if int(np.prod(shape, dtype=np.int64)) > MAX_BYTES:
                raise BadInput(f"{files.path}: {len(names)} pictures of {shape[1:]} need over 16 GB: use --limit")
            x = np.zeros(shape, np.uint8)
        try:
            x[position[name]] = preprocess.decode(picture)
        except EdgeError:
            raise
        # Pillow decodes late, and its decoders raise all of these on damaged files.
        except (OSError, SyntaxError, ValueError, EOFError, ArithmeticError, IndexError, KeyError) as error:
            raise BadFile(f"{files.path}: {name}: damaged image: {first_line(error)}") from None
        if done % 256 == 0 or done + 1 == len(names):
            progress.update(done + 1)
    assert x is not None and preprocess is not None  # a plan is never empty
    return x[: len(plan.train)], x[len(plan.train) :], preprocess


def image_dataset(
    name: str,
    labels: tuple[str, ...],
    train: tuple[NDArray[np.uint8], NDArray[np.int64]],
    test: tuple[NDArray[np.uint8], NDArray[np.int64]],
    preprocess: ImagePreprocess,
    provenance: dict[str, Any],
    augment: str,
) -> Dataset:
    """A data set whose preprocessing normalises by the mean and deviation of the training pixels."""
    pixels = train[0]
    levels = np.arange(256) / 255
    mean, std = [], []
    for channel in range(preprocess.channels):
        counts = np.bincount(pixels[..., channel].reshape(-1), minlength=256)
        share = counts / counts.sum()
        centre = float(share @ levels)
        mean.append(round(centre, 4))
        std.append(round(max(float(share @ (levels - centre) ** 2) ** 0.5, 0.01), 4))
    preprocess = replace(preprocess, mean=tuple(mean), std=tuple(std))
    return Dataset(name, labels, Split(*train, preprocess), Split(*test, preprocess), preprocess, provenance, augment)


def plain_preprocess(asked: Shape | None, natural: tuple[int, int, int]) -> ImagePreprocess:
    """Decoding to the shape that was asked for, else the data's own, with 0..1 left as it is."""
    shape = natural if asked is None else asked
    if len(shape) != 3 or shape[1] is None or shape[2] is None:
        raise BadInput(f"input shape {list(shape)}: images take [channels, height, width]")
    channels = natural[0] if shape[0] is None else shape[0]
    return ImagePreprocess(shape[1], shape[2], channels, (0.0,) * channels, (1.0,) * channels)


def open_picture(data: bytes, where: str) -> Any:
    """Opens an encoded image with Pillow, upright.

    Raises:
        BadFile: it is no image of a known format, damaged, or larger than 144 megapixels.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise MissingDependency("reading images needs Pillow: pip install 'edge-deploy[images]'") from None
    try:
        picture = Image.open(io.BytesIO(data), formats=_FORMATS)
        if picture.width * picture.height > MAX_PIXELS:
            raise BadFile(f"{where}: {picture.width} x {picture.height} pixels; at most {MAX_PIXELS:,} are read")
        return ImageOps.exif_transpose(picture)
    except Image.DecompressionBombError as error:
        raise BadFile(f"{where}: {error}") from None
    except (OSError, SyntaxError, ValueError, EOFError, ArithmeticError, IndexError, KeyError) as error:
        text = first_line(error)
        reason = "not an image" if "cannot identify" in text else f"damaged image: {text}"
        raise BadFile(f"{where}: {reason}") from None


def augmentation_for(preprocess: ImagePreprocess) -> str:
    """Gray pictures are mostly signs with an orientation; colour pictures may be mirrored."""
    return "glyphs" if preprocess.channels == 1 else "natural"


def _natural_shape(picture: Any) -> tuple[int, int, int]:
    gray = picture.mode in ("1", "L", "LA", "La") or picture.mode.startswith("I;16")
    height, width = picture.height, picture.width
    if max(height, width) > _LARGE_SIDE:
        height = width = _DEFAULT_SIDE
    return (1 if gray else 3, height, width)


def dataset_name(path: Path) -> str:
    """File name without what says that it is an archive."""
    return path.name.split(".")[0] or "data"
