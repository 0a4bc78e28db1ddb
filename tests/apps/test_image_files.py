"""Images in commands, page and handler: the pixels of transformers' `load_image`, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from question_files import png_header
from transformers.image_utils import load_image

from mmtok.hub.handler import MAX_ASPECT_RATIO, MAX_PIXELS
from mmtok.visuals import read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
ORIENTATION = 0x0112  # of EXIF


def oriented(path: Path, orientation: int) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(PIXELS).save(path, exif=exif)
    return path


def of_mode(path: Path, mode: str) -> Path:
    """A file of this mode; "animated" has two frames."""
    image = Image.fromarray(PIXELS)
    if mode == "animated":
        image.save(path.with_suffix(".gif"), save_all=True, append_images=[ImageOps.invert(image)])
        return path.with_suffix(".gif")
    image = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 200) if mode == "I;16" else image.convert(mode)
    path = path.with_suffix(".tif" if mode in ("CMYK", "I;16") else ".png")
    image.save(path)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_a_camera_is_applied(tmp_path, orientation) -> None:
    path = oriented(tmp_path / "photo.png", orientation)
    read = read_image(path)
    assert read.size == ((30, 20) if orientation < 5 else (20, 30))
    np.testing.assert_array_equal(np.asarray(read), np.asarray(load_image(str(path))))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "animated"])
def test_every_mode_becomes_the_pixels_of_load_image(tmp_path, mode) -> None:
    path = of_mode(tmp_path / "image", mode)
    read = read_image(path)
    assert read.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(read), np.asarray(load_image(str(path))))


def damaged() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    return file.getvalue()[:200]


REFUSED = {
    "a decompression bomb": (png_header(60_000, 60_000), f"more than {MAX_PIXELS:,}"),
    "a strip": (png_header(MAX_ASPECT_RATIO + 1, 1), "201 x 1 pixels, one side over 200 times the other"),
    "no image": (b"hello", "it is not an image, or not one of JPEG"),
    "a damaged file": (damaged(), "cannot be read as an image"),
    "an empty file": (b"", "it is not an image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_opened_is_refused_in_a_sentence(tmp_path, name) -> None:
    data, message = REFUSED[name]
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"bad\.png cannot be read as an image: .*\.$") as refused:
        read_image(path)
    assert message in str(refused.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_above_the_limit_is_refused_before_it_is_decoded(tmp_path) -> None:
    """PIL itself would only warn at this size; the file has no pixels, which decoding would report instead."""
    (tmp_path / "large.png").write_bytes(png_header(10_000, 9_000))
    with pytest.raises(ValueError, match="it has 10000 x 9000 pixels, more than 89,478,485: scale it down"):
        read_image(tmp_path / "large.png")


def test_the_strip_of_the_limit_is_opened(tmp_path) -> None:
    Image.new("RGB", (MAX_ASPECT_RATIO, 1)).save(tmp_path / "strip.png")
    assert read_image(tmp_path / "strip.png").size == (MAX_ASPECT_RATIO, 1)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"none\.png cannot be read as an image: No such file or directory\.$"):
        read_image(tmp_path / "none.png")
