"""Decoding: pixels of every format and mode against what they were made from, and files that are refused."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from transforms.decode import PictureError, decode_picture, picture_size

Pixels = npt.NDArray[np.uint8]
LOSSLESS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "WEBP": {"lossless": True},
    "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
}


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    """Return the content of a picture file."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def drawing(width: int = 64, height: int = 64) -> Pixels:
    """Return smooth colours that differ in every corner: uint8[height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1)
    return np.stack([red, green, 255 - (red + green) // 2], axis=-1).astype(np.uint8)


def distance(pixels: Pixels, expected: Pixels | tuple[int, int, int]) -> float:
    """Return the largest difference of a channel."""
    return float(np.abs(pixels.astype(float) - np.asarray(expected, float)).max())


def png(width: int, height: int, depth: int, colour: int, rows: bytes, chunks: bytes = b"") -> bytes:
    """Return a PNG of raw rows (each begins with a 0 for its filter); Pillow does not write every kind."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + chunks
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Return one chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_a_picture_of_the_right_size_keeps_its_pixels() -> None:
    expected = drawing()
    for form, options in LOSSLESS.items():
        pixels = decode_picture(encoded(Image.fromarray(expected), form, **options), 64)
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable
        np.testing.assert_array_equal(pixels, expected, err_msg=form)


@pytest.mark.parametrize(("form", "tolerance"), [("JPEG", 6), ("AVIF", 10), ("GIF", 40)])
def test_lossy_formats_come_close(form: str, tolerance: int) -> None:
    expected = drawing()
    options: dict[str, Any] = {} if form == "GIF" else {"quality": 95}
    data = encoded(Image.fromarray(expected), form, **options)
    assert distance(decode_picture(data, 64), expected) <= tolerance


def test_a_large_jpeg_at_reduced_scale_is_close_to_the_whole_one() -> None:
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (150, 150, 3), np.uint8)
    photo = Image.fromarray(texture).resize((1501, 1203), Image.Resampling.BICUBIC)
    whole = photo.resize((100, 100), Image.Resampling.BICUBIC)
    pixels = decode_picture(encoded(photo, "JPEG", quality=95), 100)
    assert np.abs(pixels.astype(float) - np.asarray(whole, float)).mean() < 1.5


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_exif_orientation_is_applied(form: str, orientation: int, fit: str) -> None:
    # What a camera stores so that a viewer, turning it as EXIF says, shows `upright`.
    upright = drawing(64, 40)
    stored = {
        1: upright,
        2: np.fliplr(upright),
        3: np.rot90(upright, 2),
        4: np.flipud(upright),
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = LOSSLESS.get(form, {"quality": 95, "subsampling": "4:4:4"})
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), form, exif=exif, **options)
    if fit == "stretch":
        expected = np.asarray(Image.fromarray(upright).resize((64, 64), Image.Resampling.BICUBIC))
        assert distance(decode_picture(data, 64), expected) <= 12
    else:
        pixels = decode_picture(data, 64, fit="pad")
        assert distance(pixels[12:52], upright) <= 12
        assert (pixels[:12] == 255).all()
        assert (pixels[52:] == 255).all()


def test_padding_keeps_proportions_and_centres() -> None:
    whole, middle, line = slice(0, 40), slice(15, 25), slice(19, 20)
    for size, rows, columns in (
        ((20, 80), whole, middle),
        ((80, 20), middle, whole),
        ((1, 900), whole, line),
    ):
        pixels = decode_picture(encoded(Image.new("RGB", size, (9, 60, 200)), "PNG"), 40, fit="pad")
        inside = np.zeros((40, 40), bool)
        inside[rows, columns] = True
        assert (pixels[inside] == (9, 60, 200)).all()
        assert (pixels[~inside] == 255).all()


def test_a_large_turned_jpeg_is_padded_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.new("RGB", (1203, 601), (200, 30, 30))
    pixels = decode_picture(encoded(stored, "JPEG", exif=exif), 100, fit="pad")
    assert distance(pixels[:, 25:75], (200, 30, 30)) <= 2
    assert (pixels[:, :25] == 255).all()


def test_transparent_pixels_are_white() -> None:
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[:, 4:, 3] = 255
    rgba[:4, :4, 3] = 51  # a fifth of the red over white
    expected = np.full((8, 8, 3), 255, np.uint8)
    expected[:, 4:] = (200, 0, 0)
    expected[:4, :4] = (244, 204, 204)
    for form, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        data = encoded(Image.fromarray(rgba), form, **options)
        assert distance(decode_picture(data, 8), expected) <= 1, form
    avif = decode_picture(encoded(Image.fromarray(rgba), "AVIF", quality=100, subsampling="4:4:4"), 8)
    assert distance(avif, expected) <= 6


def test_grey_with_alpha_lies_on_white() -> None:
    grey = Image.merge("LA", (Image.new("L", (4, 4), 100), Image.new("L", (4, 4), 0)))
    grey.putpixel((0, 0), (100, 255))
    pixels = decode_picture(encoded(grey, "PNG"), 4)
    assert tuple(pixels[0, 0]) == (100, 100, 100)
    assert (pixels[1:] == 255).all()


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_palette_with_transparency_lies_on_white(form: str) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 200, 30] + [0, 0, 0] * 254)
    image.paste(0, (0, 0, 2, 4))
    pixels = decode_picture(encoded(image, form, transparency=0), 4)
    assert (pixels[:, :2] == 255).all()
    assert (pixels[:, 2:] == (10, 200, 30)).all()


def test_a_palette_of_half_transparent_colours_lies_on_white() -> None:
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 200, 0, 0] + [0, 0, 0] * 254)
    pixels = decode_picture(encoded(image, "PNG", transparency=bytes([0, 51])), 2)
    assert distance(pixels, (244, 204, 204)) <= 1


@pytest.mark.parametrize(
    ("depth", "colour", "row", "transparent", "expected"),
    [
        (1, 0, b"\x40", b"\x00\x00", [255, 255]),
        (2, 0, b"\x70", b"\x00\x03", [85, 255]),
        (4, 0, b"\x37", b"\x00\x07", [51, 255]),
        (8, 0, b"\x33\x77", b"\x00\x77", [51, 255]),
        (16, 0, b"\x33\x33\x77\x77", b"\x77\x77", [51, 255]),
        (8, 2, b"\x33\x33\x33\x77\x77\x77", b"\x00\x77" * 3, [51, 255]),
        (16, 2, b"\x33\x22" * 3 + b"\x77\x11" * 3, b"\x77\x11" * 3, [51, 255]),
    ],
)
def test_a_png_with_one_transparent_colour_shows_it_white(
    depth: int, colour: int, row: bytes, transparent: bytes, expected: list[int]
) -> None:
    data = png(2, 1, depth, colour, b"\0" + row, png_chunk(b"tRNS", transparent))
    assert decode_picture(data, 2).tolist() == [[[value] * 3 for value in expected]] * 2


def test_sixteen_bits_are_scaled_to_eight() -> None:
    values = np.array([[0, 257 * 128], [257 * 200 + 20, 65535]], np.uint16)
    for data in (encoded(Image.fromarray(values), "PNG"), encoded(Image.fromarray(values), "TIFF")):
        assert decode_picture(data, 2)[..., 0].tolist() == [[0, 128], [200, 255]]
    rgb = b"".join(b"\0" + values[y].astype(">u2").repeat(3).tobytes() for y in range(2))
    assert decode_picture(png(2, 2, 16, 2, rgb), 2)[..., 1].tolist() == [[0, 128], [200, 255]]


def test_thirty_two_bits_are_refused() -> None:
    for image in (Image.new("F", (4, 4), 0.5), Image.new("I", (4, 4), 70_000)):
        with pytest.raises(PictureError, match="32 bits a channel: save it with 8 or 16") as caught:
            decode_picture(encoded(image, "TIFF"), 4)
        assert caught.value.reason == "undecodable_picture"


def test_bilevel_and_grey_pictures_become_rgb() -> None:
    for mode, value, expected in (("1", 1, 255), ("1", 0, 0), ("L", 77, 77)):
        assert (decode_picture(encoded(Image.new(mode, (8, 8), value), "PNG"), 8) == expected).all()


def test_cmyk_is_read_with_the_inversion_that_each_format_has() -> None:
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # full magenta and yellow: red
    jpeg = encoded(cmyk, "JPEG", quality=95)
    assert b"Adobe" in jpeg
    for data in (jpeg, encoded(cmyk, "TIFF")):
        assert distance(decode_picture(data, 16), (255, 0, 0)) <= 4


def test_cmyk_without_the_mark_of_adobe_is_not_inverted() -> None:
    jpeg = encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 255)), "JPEG", quality=95)  # stored inverted: red
    at = jpeg.index(b"\xff\xee")
    plain = jpeg[:at] + jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big") :]
    assert b"Adobe" not in plain
    assert distance(decode_picture(plain, 16), (255, 0, 0)) <= 4


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    for form, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("AVIF", {}), ("TIFF", {})):
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
        assert distance(decode_picture(data, 8), (250, 0, 0)) <= 6, form


def test_small_and_thin_pictures_fill_the_square() -> None:
    for size in ((1, 1), (1, 3000), (3000, 1)):
        for form in ("PNG", "JPEG"):
            pixels = decode_picture(encoded(Image.new("RGB", size, (40, 80, 120)), form), 16)
            assert distance(pixels, (40, 80, 120)) <= 3


def test_the_pixel_limit_is_read_from_the_header() -> None:
    data = png(30_000, 20_000, 8, 2, b"", b"")  # no pixels in it at all
    with pytest.raises(PictureError) as caught:
        decode_picture(encoded(Image.new("L", (300, 200)), "PNG"), 8, max_pixels=59_999)
    assert caught.value.reason == "picture_too_large"
    assert str(caught.value) == "the picture has 300 x 200 pixels, which is over the limit of 59999"
    with pytest.raises(PictureError, match="600000000 pixels") as caught:
        decode_picture(data, 8)
    assert caught.value.reason == "picture_too_large"
    assert decode_picture(encoded(Image.new("L", (300, 200)), "PNG"), 8, max_pixels=60_000).shape == (8, 8, 3)
    with pytest.raises(PictureError, match="9500 x 9500") as caught:  # where Pillow only warns
        decode_picture(png(9500, 9500, 8, 2, b""), 8)
    assert caught.value.reason == "picture_too_large"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF", "GIF"])
def test_a_truncated_file_is_refused(form: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), form)
    for part in (0.1, 0.5, 0.9):
        with pytest.raises(PictureError) as caught:
            decode_picture(data[: int(len(data) * part)], 64)
        assert caught.value.reason == "undecodable_picture"


def test_a_truncated_jpeg_is_refused_at_reduced_scale_too() -> None:
    data = encoded(Image.fromarray(drawing(1600, 1600)), "JPEG")
    with pytest.raises(PictureError, match=r"cannot be decoded: .*truncated"):
        decode_picture(data[: len(data) * 3 // 4], 64)


@pytest.mark.parametrize(
    "data",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'><rect width='9' height='9'/></svg>",
        b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"P6 2 2 255 aaabbbcccddd",
        b"\x00",
    ],
)
def test_other_formats_are_refused_by_name(data: bytes) -> None:
    with pytest.raises(PictureError) as caught:
        decode_picture(data, 8)
    assert caught.value.reason == "undecodable_picture"
    assert str(caught.value) == (
        f"the {len(data)} bytes are no picture (JPEG, PNG, WEBP, GIF, AVIF, BMP, TIFF); "
        f"they begin with {data[:16]!r}"
    )


def test_no_bytes_are_an_empty_picture() -> None:
    for read in (lambda: decode_picture(b"", 8), lambda: picture_size(b"")):
        with pytest.raises(PictureError, match="0 bytes") as caught:
            read()
        assert caught.value.reason == "empty_picture"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF"])
def test_damaged_files_are_decoded_or_refused_and_nothing_else(form: str) -> None:
    rng = np.random.default_rng(2)
    exif = Image.Exif()
    exif[0x0112] = 6
    options: dict[str, Any] = {} if form in ("GIF", "BMP") else {"exif": exif}
    whole = encoded(Image.fromarray(drawing(40, 30)), form, **options)
    refused = []
    for _ in range(150):
        data = bytearray(whole)
        for place in rng.integers(0, min(len(data), 400), rng.integers(1, 6)):
            data[place] = rng.integers(0, 256)
        try:
            pixels = decode_picture(bytes(data), 16, max_pixels=1_000_000)
        except PictureError as error:
            refused.append(error)
        else:
            assert pixels.shape == (16, 16, 3)
    assert {error.reason for error in refused} <= {"undecodable_picture", "picture_too_large"}
    assert refused
    # An address in the detail would make rejects of equal bytes differ.
    assert not [error for error in refused if " at 0x" in str(error)]


def test_a_broken_exif_block_loses_no_picture() -> None:
    for block in (b"garbage", b"MM\0*\0\0\0\x08\0\x09\x01\x12", b"II*\0\xff\xff\xff\x7f"):
        data = encoded(Image.fromarray(drawing()), "JPEG", quality=95, exif=b"Exif\0\0" + block)
        assert distance(decode_picture(data, 64), drawing()) <= 6


def test_warnings_of_pillow_neither_leak_nor_stay_off() -> None:
    cut_short = b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12\0\x03\0\0\0\x01"
    data = encoded(Image.new("RGB", (8, 8)), "JPEG", exif=cut_short)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        with pytest.raises(UserWarning):
            Image.open(io.BytesIO(data)).getexif()
        decode_picture(data, 8)
        with pytest.raises(PictureError):
            decode_picture(b"broken", 8)
        assert warnings.filters == before


def test_threads_decode_at_once() -> None:
    colours = [(c, 255 - c, c // 2) for c in range(0, 256, 4)]
    forms = ("JPEG", "PNG", "WEBP", "AVIF")
    files = [encoded(Image.new("RGB", (90, 70), colour), forms[i % 4]) for i, colour in enumerate(colours)]
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda data: decode_picture(data, 32), files * 5))
    assert warnings.filters == before
    for pixels, colour in zip(found, colours * 5, strict=True):
        assert distance(pixels, colour) <= 4


def test_picture_size_is_what_the_header_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (300, 200)), "JPEG", exif=exif)
    assert picture_size(data) == picture_size(data[:700]) == (300, 200)
    with pytest.raises(PictureError, match=r"has no pixels \(0 x 5\)|no picture|cannot be decoded"):
        picture_size(png(0, 5, 8, 2, b""))


def test_a_picture_error_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(PictureError("empty_picture", "the picture has 0 bytes")))
    assert (error.reason, str(error)) == ("empty_picture", "the picture has 0 bytes")


def test_without_pillow_the_module_imports_and_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['PIL'] = None\n"
        "from transforms.decode import decode_picture\n"
        "try: decode_picture(b'x', 8)\n"
        "except ModuleNotFoundError as error: print(error)\n"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip().endswith("which is not installed: pip install 'catalogue-index[query]'")


@pytest.mark.parametrize(("size", "ratio"), [((120, 80), 1.0), ((80, 121), 1.0), ((300, 200), 0.875), ((64, 64), 0.95)])
@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
def test_a_crop_is_the_middle_of_the_picture_scaled_by_its_shorter_side(
    size: tuple[int, int], ratio: float, resample: Literal["bicubic", "bilinear"]
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture, stream = Image.fromarray(pixels), io.BytesIO()
    picture.save(stream, "PNG")
    found = decode_picture(stream.getvalue(), 64, fit="crop", resample=resample, crop_ratio=ratio)
    least = round(64 / ratio)
    shorter = min(size)
    scaled = tuple(least if length == shorter else int(least * length / shorter) for length in size)
    left, top = (scaled[0] - 64) // 2, (scaled[1] - 64) // 2
    whole = picture.resize(scaled, Image.Resampling[resample.upper()])  # type: ignore[arg-type]
    expected = np.asarray(whole.crop((left, top, left + 64, top + 64)))
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


def test_a_crop_of_a_long_strip_costs_no_more_than_the_square() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (50_000, 20), (10, 200, 30)).save(stream, "PNG")
    assert (decode_picture(stream.getvalue(), 64, fit="crop") == (10, 200, 30)).all()
