"""Decoding of pictures, the same for the index and for queries.

Pillow is imported when the first picture comes: `import transforms.decode` asks for numpy alone.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

# Part of what every stored feature of a picture is kept under: to be changed with whatever changes pixels below.
VERSION = 1

MAX_PIXELS = 178_956_970 // 2
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF")

_PLUGINS = ("Avif", "Bmp", "Gif", "Jpeg", "Mpo", "Png", "Tiff", "WebP")
_WHITE = (255, 255, 255)
_ORIENTATION = 0x0112  # EXIF tag
_DRAFT = 2  # a JPEG is decoded at the least scale that still has twice the pixels wanted, a side

Pixels = npt.NDArray[np.uint8]
Fit = Literal["crop", "pad", "stretch"]
Resample = Literal["bicubic", "bilinear"]


class PictureError(ValueError):
    """A picture cannot be used.

    `reason` is "undecodable_picture", "picture_too_large" or "empty_picture"; the text is the detail, which
    equal bytes have in common.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Keep the reason beside the sentence."""
        super().__init__(detail)
        self.reason = reason

    def __reduce__(self) -> tuple[type[PictureError], tuple[str, str]]:
        """Let the error travel between processes."""
        return type(self), (self.reason, str(self))


def decode_picture(
    data: bytes, side: int, max_pixels: int = MAX_PIXELS, fit: Fit = "stretch", resample: Resample = "bicubic",
    crop_ratio: float = 1.0,
) -> Pixels:  # fmt: skip
    """Return a picture as a square of RGB pixels, uint8[side, side, 3].

    Reads JPEG, PNG, WebP, GIF, AVIF, BMP and TIFF; of an animation the first frame. The picture is turned as
    its EXIF orientation says, transparency lies on white, CMYK and 16 bits a channel become 8-bit RGB, and a
    large JPEG is decoded at a reduced scale. Colour profiles are not applied. Threads may call it at once.

    Args:
        data: content of the picture's file.
        side: pixels of the square.
        max_pixels: pixels the picture may have by its header, before anything is decoded. Pillow itself opens
            none of more than 178,956,970.
        fit: "stretch" the picture to the square, fit it inside and "pad" with white, or scale its shorter side to
            side / crop_ratio pixels and "crop" the square in the middle.
        resample: the filter it is scaled with; both look at all pixels where it gets smaller.
        crop_ratio: see `fit`; above 0, at most 1.

    Raises:
        PictureError: the picture is empty, too large, of another format, truncated or broken.
        ModuleNotFoundError: Pillow is not installed.
    """
    with _opened(data, max_pixels) as picture:
        scaled, window = _frame(picture.size, side, fit, crop_ratio)
        draft = picture.draft(None, (_DRAFT * scaled[0], _DRAFT * scaled[1]))
        bits = _bits_of_transparency(picture)
        picture.load()
        flat = _on_white(picture, bits)
        size = (window[2] - window[0], window[3] - window[1])
        if not flat.size == scaled == size:
            whole = (0, 0, *flat.size) if draft is None else draft[1]
            box = whole if scaled == size else _source(window, scaled, whole)
            flat = flat.resize(size, _pillow().Resampling[resample.upper()], box=box, reducing_gap=3.0)
        pixels = _turn(np.asarray(flat), _orientation(picture))
    square = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - pixels.shape[0]) // 2, (side - pixels.shape[1]) // 2
    square[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return square


def picture_size(data: bytes) -> tuple[int, int]:
    """Return width and height as the header gives them; decodes nothing.

    A camera's JPEG that EXIF turns by 90 degrees gives them as they are stored.

    Raises:
        PictureError: the bytes are no picture, or Pillow refuses its size.
        ModuleNotFoundError: Pillow is not installed.
    """
    with _opened(data, None) as picture:
        return picture.size


@contextmanager
def _opened(data: bytes, max_pixels: int | None) -> Iterator[ImageFile]:
    """Open a picture for the block; whatever fails in Pillow is a `PictureError`."""
    pillow = _pillow()
    if not data:
        raise PictureError("empty_picture", "the picture has 0 bytes")
    try:
        with _without_warnings(), pillow.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
            if not width * height:
                raise PictureError("undecodable_picture", f"the picture has no pixels ({width} x {height})")
            if max_pixels is not None and width * height > max_pixels:
                raise PictureError(
                    "picture_too_large",
                    f"the picture has {width} x {height} pixels, which is over the limit of {max_pixels}",
                )
            yield picture
    except (PictureError, MemoryError):  # what this machine lacks is not the picture's fault
        raise
    except pillow.DecompressionBombError as error:
        raise PictureError("picture_too_large", f"the picture is too large: {error}") from error
    except pillow.UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        detail = f"the {len(data)} bytes are no picture ({known}); they begin with {data[:16]!r}"
        raise PictureError("undecodable_picture", detail) from error
    except Exception as error:  # on broken files Pillow's plugins raise whatever their parsers run into
        cause = str(error) or type(error).__name__
        raise PictureError("undecodable_picture", f"the picture cannot be decoded: {cause}") from error


@cache
def _pillow() -> Any:
    """Import Pillow with the plugins of our formats only; left alone, it imports some fifty."""
    try:
        for name in _PLUGINS:
            import_module(f"PIL.{name}ImagePlugin")
        return import_module("PIL.Image")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "pictures are decoded by Pillow 11.3 or later, which is not installed: "
            "pip install 'catalogue-index[query]'"
        ) from error


_IGNORED = ("ignore", None, Warning, re.compile(r"PIL(\.|\Z)"), 0)
_quiet = threading.Lock()
_decoding = 0


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Ignore Pillow's warnings while any thread decodes: they speak of the file, on which errors decide.

    `warnings.catch_warnings` would restore a state that other threads have changed since; putting one filter
    in and taking it out does not.
    """
    global _decoding
    with _quiet:
        _decoding += 1
        filters = cast("list[Any]", warnings.filters)
        if _IGNORED not in filters:
            filters.insert(0, _IGNORED)
    try:
        yield
    finally:
        with _quiet:
            _decoding -= 1
            filters = cast("list[Any]", warnings.filters)
            if not _decoding and _IGNORED in filters:
                filters.remove(_IGNORED)


def _frame(
    size: tuple[int, int], side: int, fit: Fit, crop_ratio: float
) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """Return the size a picture is scaled to, and the box of that which is kept: left, top, right, bottom."""
    if fit == "crop":
        shorter, least = min(size), round(side / crop_ratio)
        # Rounded as those do who trained networks on such crops: the longer side down, the odd pixel to the right.
        width, height = (least if length == shorter else int(least * length / shorter) for length in size)
        left, top = (width - side) // 2, (height - side) // 2
        return (width, height), (left, top, left + side, top + side)
    width, height = _inside(size, side) if fit == "pad" else (side, side)
    return (width, height), (0, 0, width, height)


def _source(
    window: tuple[int, int, int, int], scaled: tuple[int, int], whole: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    """Return where the window of the scaled picture lies in the picture as it was decoded, which `whole` covers."""
    steps = (whole[2] - whole[0]) / scaled[0], (whole[3] - whole[1]) / scaled[1]
    left, top, right, bottom = (whole[i % 2] + window[i] * steps[i % 2] for i in range(4))
    return left, top, min(right, whole[2]), min(bottom, whole[3])


def _inside(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the size of the largest picture of these proportions inside the square."""
    longest = max(size)
    return max(1, round(size[0] * side / longest)), max(1, round(size[1] * side / longest))


def _bits_of_transparency(picture: ImageFile) -> int:
    """Return the bits a channel of a PNG's transparent colour, which Pillow compares with 8-bit pixels."""
    rawmode = picture.tile[0].args if picture.tile else None
    return {"L;2": 2, "L;4": 4, "RGB;16B": 16}.get(rawmode, 8) if isinstance(rawmode, str) else 8


def _on_white(picture: ImageFile, bits: int) -> Image:
    """Return the picture in mode RGB, what is transparent on white."""
    image = _pillow()
    colour = picture.info.get("transparency")
    if picture.mode == "CMYK" and picture.format == "JPEG" and "adobe" not in picture.info:
        # Adobe's programs store ink inverted and say so; Pillow takes all CMYK JPEGs for theirs.
        return picture.point([255 - ink for ink in range(256)] * 4).convert("RGB")
    if picture.mode.startswith("I;16"):
        samples = np.asarray(picture)
        grey = _eight_bits()[samples]
        if isinstance(colour, int):
            grey[samples == colour] = 255
        return cast("Image", image.fromarray(grey).convert("RGB"))
    if picture.mode in ("I", "F"):
        raise PictureError(
            "undecodable_picture", "the picture has 32 bits a channel: save it with 8 or 16 bits a channel"
        )
    if not picture.has_transparency_data:
        return picture.convert("RGB") if picture.mode != "RGB" else picture
    if bits == 16 and isinstance(colour, tuple):
        picture.info["transparency"] = tuple(channel >> 8 for channel in colour)
    elif bits < 8 and isinstance(colour, int):
        picture.info["transparency"] = colour * 255 // (2**bits - 1)
    layer = picture.convert("RGBA")
    white = image.new("RGB", layer.size, _WHITE)
    white.paste(layer, mask=layer.getchannel("A"))
    return cast("Image", white)


@cache
def _eight_bits() -> Pixels:
    """Return the 8-bit value of each 16-bit one."""
    return np.rint(np.arange(65536) / 257).astype(np.uint8)


def _orientation(picture: ImageFile) -> int:
    """Return the orientation to be applied, 1 to 8; 1 where there is no sound EXIF block, and for TIFF.

    Pillow turns a TIFF, and swaps its size, by itself.
    """
    try:
        value = picture.getexif().get(_ORIENTATION)
    except Exception:  # the pixels are there: a broken note beside them is no reason to lose them
        return 1
    return value if isinstance(value, int) else 1


def _turn(pixels: Pixels, orientation: int) -> Pixels:
    """Turn pixels as EXIF says: 2 to 4 mirror, 5 to 8 exchange rows and columns too."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
