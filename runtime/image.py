"""Images as uint8 arrays: decoding, gray and colour, and a resize that gives every device the same pixels."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from edge.runtime.errors import BadFile, BadInput, MissingDependency
from edge.runtime.fields import reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What a caller may hand over: a path, a PIL.Image.Image or an array. Pillow need not be installed for arrays.
ImageSource: TypeAlias = "str | os.PathLike[str] | NDArray[Any] | Any"

# A photo of 12,000 x 12,000 pixels; beyond it a small file unpacks to gigabytes.
MAX_PIXELS = 144_000_000

# How the files of common formats begin.
_SIGNATURES = {
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "GIF": re.compile(rb"GIF8[79]a"),
    "BMP": re.compile(rb"BM"),
    "WebP": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
    "TIFF": re.compile(rb"II[*+]\0|MM\0[*+]"),
    "PNM": re.compile(rb"P[1-7]\s"),
    "AVIF": re.compile(rb".{4}ftypavi[fs]", re.DOTALL),
    "JPEG 2000": re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
}
_SIGNATURE_BYTES = 16

_FRACTION_BITS = 22


def decode_image(source: ImageSource, height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """Turns an image into `height` x `width` pixels; the whole picture is stretched to fit, nothing is cropped.

    Args:
        source: a path (any format that Pillow reads; its EXIF orientation is honoured), a PIL image, or an array:
            [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]; uint8, or floating point within 0..1. Alpha is dropped.
        channels: 1 (gray, ITU-R 601-2 luma as in Pillow) or 3 (RGB).

    Returns:
        uint8 [height, width, channels].

    Raises:
        BadFile: there is no such file, or it is not an image.
        BadInput: an array of another shape, dtype or range.
        MissingDependency: the path of an image was given and Pillow is not installed.
    """
    pixels = _array_pixels(source) if isinstance(source, np.ndarray) else _pillow_pixels(source)
    if channels == 1:
        pixels = to_gray(pixels)
    elif pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return resize(pixels, height, width)


def to_gray(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB [H, W, 3] to luma [H, W, 1], in 16-bit fixed point like Pillow's `convert("L")`; gray stays as it is."""
    if pixels.shape[2] == 1:
        return pixels
    weights = np.array([19595, 38470, 7471], np.int32)
    luma = (pixels.astype(np.int32) @ weights + 0x8000) >> 16
    return luma.astype(np.uint8)[:, :, None]


def resize(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resizes with a triangle filter whose support grows with the reduction (Pillow's BILINEAR).

    Sums are integers in 22-bit fixed point, columns first, each pass rounded to 8 bits, so that the result does not
    depend on the machine, a vector unit or a library's version.

    Args:
        pixels: uint8 [H, W, C].

    Returns:
        uint8 [height, width, C].
    """
    if pixels.shape[1] != width:
        pixels = _resize_rows(pixels, width)
    if pixels.shape[0] != height:
        pixels = _resize_rows(pixels.swapaxes(0, 1), height).swapaxes(0, 1)
    return np.ascontiguousarray(pixels)


def _resize_rows(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """[A, in, C] to [A, size, C]: gathers one tap of every output at a time, so memory stays that of the output."""
    index, weight = _taps(pixels.shape[1], size)
    total = np.full((pixels.shape[0], size, pixels.shape[2]), 1 << (_FRACTION_BITS - 1), np.int32)
    for tap in range(index.shape[0]):
        total += pixels[:, index[tap]] * weight[tap][:, None]
    # Weights are not negative and sum to 1 within rounding, so only the top can be passed, by one.
    rounded: NDArray[np.uint8] = np.minimum(total >> _FRACTION_BITS, 255).astype(np.uint8)
    return rounded


@lru_cache(maxsize=32)
def _taps(source: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Source index and fixed-point weight of each tap, both [taps, size]; unused taps weigh 0."""
    scale = source / size
    support = max(scale, 1.0)
    centre = (np.arange(size) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.intp), 0)
    last = np.minimum((centre + support + 0.5).astype(np.intp), source)
    index = first + np.arange(int((last - first).max()))[:, None]
    weight = np.maximum(1.0 - np.abs((index - centre + 0.5) / support), 0.0) * (index < last)
    weight /= weight.sum(axis=0)
    return np.minimum(index, source - 1), np.floor(weight * (1 << _FRACTION_BITS) + 0.5).astype(np.int32)


def _array_pixels(image: NDArray[Any]) -> NDArray[np.uint8]:
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        raise BadInput(
            f"image array of shape {list(image.shape)}: expected [height, width] or [height, width, 1, 3 or 4]"
        )
    image = image[:, :, :3]
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise BadInput(f"image array of {image.dtype}: expected uint8, or floating point within 0..1")
    # Written so that NaN fails too.
    if not (image.min() >= 0 and image.max() <= 1):
        raise BadInput(
            f"image array of {image.dtype} holds {image.min():g} to {image.max():g}: expected 0..1 (or uint8)"
        )
    pixels: NDArray[np.uint8] = np.rint(image * 255).astype(np.uint8)
    return pixels


def _pillow_pixels(source: Any) -> NDArray[np.uint8]:
    path = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        if path is None:
            raise _bad_type(source) from None
        _check_signature(path)
        raise MissingDependency(
            "reading image files needs Pillow: pip install 'edge-deploy[images]' (or give the pixels as a .npy array)"
        ) from None
    if isinstance(source, Image.Image):
        return _picture_pixels(source, "image")
    if path is None:
        raise _bad_type(source)
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise BadInput(f"{path}: {picture.width} x {picture.height} pixels; at most {MAX_PIXELS:,} are read")
            return _picture_pixels(ImageOps.exif_transpose(picture), path)
    except FileNotFoundError:
        raise BadFile(f"{path}: no such image file") from None
    except UnidentifiedImageError:
        raise BadFile(f"{path}: not an image that Pillow can read") from None
    except Image.DecompressionBombError as error:
        raise BadInput(f"{path}: {error}") from None
    # Pillow's decoders raise all of these on damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, ArithmeticError, IndexError, KeyError) as error:
        raise BadFile(f"{path}: cannot be decoded: {str(error).splitlines()[0] if str(error) else error!r}") from None


def _bad_type(source: Any) -> BadInput:
    return BadInput(f"image of type {type(source).__name__}: expected a path, a PIL image or a numpy array")


def _check_signature(path: str) -> None:
    """Checks, without Pillow, that a file is there and begins like an image: whether Pillow would help at all.

    Raises:
        BadFile: it is not there, cannot be read, or begins like no image.
    """
    try:
        with open(path, "rb") as file:
            beginning = file.read(_SIGNATURE_BYTES)
    except FileNotFoundError:
        raise BadFile(f"{path}: no such image file") from None
    except OSError as error:
        raise BadFile(f"{path}: cannot be read: {reason(error)}") from None
    if not any(signature.match(beginning) for signature in _SIGNATURES.values()):
        raise BadFile(f"{path}: not an image: it does not begin like {', '.join(_SIGNATURES)}")


def _picture_pixels(picture: Any, where: str) -> NDArray[np.uint8]:
    if picture.mode.startswith("I;16"):
        # Pillow clips 16-bit gray to 255 when it converts; the upper byte is what a viewer shows.
        return (np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8)[:, :, None]
    if picture.mode in ("I", "F"):
        raise BadInput(f"{where}: 32-bit pixels have no fixed range: convert the image to 8 or 16 bits")
    gray = picture.mode in ("1", "L", "LA", "La")
    pixels = np.asarray(picture.convert("L" if gray else "RGB"))
    return pixels[:, :, None] if gray else pixels
