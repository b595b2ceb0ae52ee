"""Picture files that harm or deceive, each with what has to become of it: its pixels, or the reason of its reject."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

Pixels = npt.NDArray[np.uint8]
SIDE = 16
# Top left, top right, bottom left, bottom right: no two orientations look alike.
QUARTERS = np.array([[(220, 40, 40), (40, 200, 60)], [(40, 60, 220), (230, 220, 50)]], np.uint8)
UPRIGHT = QUARTERS.repeat(32, 0).repeat(32, 1)
WHITE = np.full((64, 64, 3), 255, np.uint8)
GREY = np.array([[30, 120], [200, 255]], np.uint8).repeat(32, 0).repeat(32, 1)
UNDECODABLE, TOO_LARGE, EMPTY = "undecodable_picture", "picture_too_large", "empty_picture"
# The quarters, 16 x 16, coded arithmetically by libjpeg, which Pillow reads and does not write.
ARITHMETIC = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMUFRUVDA8XGBYUGBIUFRT/"
    "2wBDAQMEBAUEBQkFBQkUDQsNFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBT/yQARCAAQABADAREAAhEBAxEB"
    "/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD/ALkk2vxZivivlrWqlwkduM9ozW90kBvA/9k="
)


def encoded(pixels: Pixels | Image.Image, form: str, **options: Any) -> bytes:
    """Return a picture file of pixels."""
    stream = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.ascontiguousarray(pixels))
    image.save(stream, form, **options)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    """Return one chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)


def png(width: int, height: int, depth: int, colour: int, data: bytes, before: bytes = b"", crc: int | None = None) -> bytes:
    """Return a PNG of compressed rows; `before` are chunks, `crc` is that of the rows' chunk where it is to be wrong."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", data, crc) + chunk(b"IEND", b"")


def rows_of(pixels: npt.NDArray[Any], kind: str) -> bytes:
    """Return the raw rows of a PNG."""
    return b"".join(b"\0" + row.astype(kind).tobytes() for row in pixels)


def tiff_of_16_bits(pixels: Pixels) -> bytes:
    """Return an uncompressed TIFF of three channels of 16 bits, which Pillow does not write."""
    height, width = pixels.shape[:2]
    data = (pixels.astype("<u2") * 257).tobytes()
    bits = struct.pack("<HHH", 16, 16, 16)
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 8 + len(data)), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 8),
            (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, len(data)), (284, 3, 1, 1)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data) + len(bits)) + data + bits + directory


def without_segment(jpeg: bytes, marker: int) -> bytes:
    """Return a JPEG without the first segment of a marker."""
    at = jpeg.index(bytes([0xFF, marker]))
    (length,) = struct.unpack(">H", jpeg[at + 2 : at + 4])
    return jpeg[:at] + jpeg[at + 2 + length :]


def cmyk(inverted: bool) -> Image.Image:
    """Return the quarters in CMYK without black."""
    ink = 255 - UPRIGHT
    whole = np.dstack([ink, np.zeros_like(ink[..., 0])])
    return Image.fromarray(255 - whole if inverted else whole, "CMYK")


def stored_as(orientation: int) -> Pixels:
    """Return what a camera stores so that a viewer, turning it as EXIF says, shows the quarters upright."""
    turned = {
        1: UPRIGHT, 2: np.fliplr(UPRIGHT), 3: np.rot90(UPRIGHT, 2), 4: np.flipud(UPRIGHT), 5: UPRIGHT.swapaxes(0, 1),
        6: np.rot90(UPRIGHT, 1), 7: np.rot90(UPRIGHT, 2).swapaxes(0, 1), 8: np.rot90(UPRIGHT, -1),
    }  # fmt: skip
    return np.ascontiguousarray(turned[orientation])


def with_orientation(orientation: int) -> bytes:
    """Return a JPEG with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(stored_as(orientation), "JPEG", quality=95, subsampling="4:4:4", exif=exif)


def seen(pixels: Pixels) -> Pixels:
    """Return what a tower of 16 x 16 pixels has to see of a picture, by Pillow's resizing alone: uint8[16, 16, 3]."""
    return np.asarray(Image.fromarray(pixels).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def half_white() -> Pixels:
    """Return the quarters with the right half white."""
    pixels = UPRIGHT.copy()
    pixels[:, 32:] = 255
    return pixels


def palette(transparency: int | bytes | None) -> bytes:
    """Return a PNG of four colours by palette."""
    numbers = np.array([[0, 1], [2, 3]], np.uint8).repeat(32, 0).repeat(32, 1)
    image = Image.fromarray(numbers, "P")
    image.putpalette(QUARTERS.reshape(-1).tolist() + [0, 0, 0] * 252)
    return encoded(image, "PNG", **({} if transparency is None else {"transparency": transparency}))


def good_pictures() -> dict[str, tuple[bytes, Pixels]]:
    """Return files that look odd and hold a picture: name -> content, and what the tower has to see."""
    quarters, grey = seen(UPRIGHT), seen(np.dstack([GREY] * 3))
    alpha = np.dstack([UPRIGHT, np.full((64, 64), 255, np.uint8)])
    alpha[:, 32:, 3] = 0
    white_right = seen(half_white())
    grey_alpha = np.dstack([GREY, np.full((64, 64), 255, np.uint8)])
    grey_alpha[:, 32:, 1] = 0
    grey_left = np.dstack([GREY] * 3)
    grey_left[:, 32:] = 255
    faded = UPRIGHT.copy()
    faded[32:, 32:] = 255 - (255 - UPRIGHT[32:, 32:].astype(int)) // 5  # a fifth of it on white
    frames = [Image.fromarray(UPRIGHT), Image.fromarray(255 - UPRIGHT), Image.fromarray(WHITE)]
    animated = {"save_all": True, "append_images": frames[1:]}
    sixteen = UPRIGHT.astype(np.uint16) * 257
    bits = np.zeros((64, 64), bool)
    bits[:32] = True
    rgb = zlib.compress(rows_of(UPRIGHT, "u1"))
    thin = np.full((5000, 1, 3), (40, 80, 120), np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    jpeg = encoded(UPRIGHT, "JPEG", quality=95, subsampling="4:4:4")
    blue = np.full((16, 16, 3), (40, 80, 120), np.uint8)
    best = {"quality": 95, "subsampling": "4:4:4"}
    made = {
        "cmyk-adobe.jpg": (encoded(cmyk(inverted=False), "JPEG", quality=95), quarters),
        "cmyk-plain.jpg": (without_segment(encoded(cmyk(inverted=True), "JPEG", quality=95), 0xEE), quarters),
        "cmyk.tif": (encoded(cmyk(inverted=False), "TIFF"), quarters),
        "grey-16.png": (png(64, 64, 16, 0, zlib.compress(rows_of(GREY.astype(np.uint16) * 257, ">u2"))), grey),
        "rgb-16.png": (png(64, 64, 16, 2, zlib.compress(rows_of(sixteen, ">u2"))), quarters),
        "rgb-16.tif": (tiff_of_16_bits(UPRIGHT), quarters),
        "grey-16.tif": (encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF"), grey),
        "palette.png": (palette(None), quarters),
        "palette-transparent.png": (palette(bytes([255, 0, 255, 0])), white_right),
        "palette-faded.png": (palette(bytes([255, 255, 255, 51])), seen(faded)),
        "rgba.png": (encoded(Image.fromarray(alpha), "PNG"), white_right),
        "rgba.webp": (encoded(Image.fromarray(alpha), "WEBP", lossless=True, exact=True), white_right),
        "grey-alpha.png": (encoded(Image.fromarray(grey_alpha), "PNG"), seen(grey_left)),
        "bits.png": (encoded(Image.fromarray(bits), "PNG"), seen(np.dstack([bits * np.uint8(255)] * 3))),
        "grey.jpg": (encoded(GREY, "JPEG", quality=95), grey),
        "animated.gif": (encoded(frames[0], "GIF", **animated), quarters),
        "animated.webp": (encoded(frames[0], "WEBP", lossless=True, **animated), quarters),
        "animated.png": (encoded(frames[0], "PNG", **animated), quarters),
        "picture.avif": (encoded(UPRIGHT, "AVIF", **best), quarters),
        "picture.bmp": (encoded(UPRIGHT, "BMP"), quarters),
        "picture.tif": (encoded(UPRIGHT, "TIFF", compression="tiff_lzw"), quarters),
        "progressive.jpg": (encoded(UPRIGHT, "JPEG", progressive=True, **best), quarters),
        "arithmetic.jpg": (ARITHMETIC, QUARTERS.repeat(8, 0).repeat(8, 1)),
        "jpeg.png": (jpeg, quarters),
        "no-suffix": (jpeg, quarters),
        "trailing.jpg": (jpeg + b"<?php system($_GET['c']); ?>" * 50, quarters),
        "profile-broken.jpg": (encoded(UPRIGHT, "JPEG", icc_profile=profile[:100] + b"\xff" * 300, **best), quarters),
        "profile-broken.png": (encoded(UPRIGHT, "PNG", icc_profile=b"no profile"), quarters),
        "exif-broken.jpg": (encoded(UPRIGHT, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12", **best), quarters),
        "crc-of-data-wrong.png": (png(64, 64, 8, 2, rgb, crc=1), quarters),
        "one-pixel.png": (encoded(blue[:1, :1], "PNG"), blue),
        "thin.png": (encoded(thin, "PNG"), blue),
        "wide.jpg": (encoded(thin.swapaxes(0, 1), "JPEG", quality=95), blue),
    }  # fmt: skip
    return made | {f"exif-{number}.jpg": (with_orientation(number), quarters) for number in range(1, 9)}


def bad_pictures() -> dict[str, tuple[bytes, str]]:
    """Return files that hold no picture: name -> content, and the reason of the reject."""
    noise = np.random.default_rng(4).integers(0, 256, (64, 64, 3), np.uint8)
    jpeg, lossless = encoded(noise, "JPEG", quality=90), encoded(noise, "PNG")
    rgb = zlib.compress(rows_of(UPRIGHT, "u1"))
    header = bytearray(png(64, 64, 8, 2, rgb))
    header[29] ^= 1  # the CRC of IHDR
    flipped = bytearray(rgb)
    flipped[len(flipped) // 2] ^= 0x10
    bomb = zlib.compressobj(9)
    row = bytes(1 + 30_000 // 8)
    large = b"".join([*(bomb.compress(row * 1000) for _ in range(30)), bomb.flush()])
    text_bomb = chunk(b"zTXt", b"comment\0\0" + zlib.compress(bytes(100 << 20), 9))
    return {
        "truncated.jpg": (jpeg[: len(jpeg) * 2 // 3], UNDECODABLE),
        "header-only.jpg": (jpeg[:300], UNDECODABLE),
        "truncated.png": (lossless[: len(lossless) * 2 // 3], UNDECODABLE),
        "truncated.webp": (encoded(noise, "WEBP", quality=90)[:-400], UNDECODABLE),
        "truncated.gif": (encoded(Image.fromarray(noise), "GIF")[:-500], UNDECODABLE),
        "truncated.avif": (encoded(noise, "AVIF")[:-300], UNDECODABLE),
        "30000-a-side.png": (png(30_000, 30_000, 1, 0, large), TOO_LARGE),
        "30000-header-only.png": (png(30_000, 30_000, 8, 2, b""), TOO_LARGE),
        "text-bomb.png": (png(64, 64, 8, 2, rgb, before=text_bomb), UNDECODABLE),
        "crc-of-header-wrong.png": (bytes(header), UNDECODABLE),
        "data-flipped.png": (png(64, 64, 8, 2, bytes(flipped)), UNDECODABLE),
        "no-pixels.png": (png(0, 64, 8, 2, b""), UNDECODABLE),
        "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", UNDECODABLE),
        "not-found.jpg": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", UNDECODABLE),
        "sheet.pdf": (b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\n", UNDECODABLE),
        "page.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n", UNDECODABLE),
        "icon.ico": (encoded(UPRIGHT, "ICO"), UNDECODABLE),
        "picture.jp2": (encoded(UPRIGHT, "JPEG2000"), UNDECODABLE),
        "empty.jpg": (b"", EMPTY),
        "nul.jpg": (bytes(10_000), UNDECODABLE),
        "float.tif": (encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"), UNDECODABLE),
    }
