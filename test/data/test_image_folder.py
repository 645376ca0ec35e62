# SPDX-License-Identifier: Apache-2.0
"""A folder whose images change size is refused by its files' headers, before its first frame."""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from vidllm_ros.data import image_folder
from vidllm_ros.data.image_folder import EXIF_ORIENTATION, ImageFolder, header_size
from vidllm_ros.data.video import iterate_frames, sample_uniform

SIZE = (64, 48)  # width, height, px


def write(file: Path, size: tuple[int, int] = SIZE, orientation: int | None = None) -> Path:
    exif = Image.Exif()
    if orientation is not None:
        exif[EXIF_ORIENTATION] = orientation
    Image.new("RGB", size, (10, 20, 30)).save(file, exif=exif)
    return file


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of images that were decoded."""
    names: list[str] = []
    whole = image_folder.decode_image

    def note(coded: bytes, name: str) -> np.ndarray:
        names.append(Path(name).name)
        return whole(coded, name)

    monkeypatch.setattr(image_folder, "decode_image", note)
    return names


def test_another_size_is_said_before_the_first_frame(tmp_path: Path, decoded: list[str]) -> None:
    for number in range(10):
        write(tmp_path / f"{number}.png", (32, 24) if number in (7, 9) else SIZE)
    with pytest.raises(ValueError, match=r"7\.png: expected 64 x 48 px .* got 32 x 24; keep"):
        next(iterate_frames(tmp_path))
    assert decoded == ["0.png", "7.png"]  # of the rest the header was enough


def test_only_images_that_are_wanted_must_agree(tmp_path: Path) -> None:
    for number in range(5):
        write(tmp_path / f"{number}.png", (32, 24) if number == 1 else SIZE)
    assert len(sample_uniform(tmp_path, 2)) == 2
    assert len(list(ImageFolder(tmp_path).read([0, 2, 3]))) == 3


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tiff", "ppm"])
def test_headers_say_what_decoding_gives(tmp_path: Path, suffix: str) -> None:
    assert header_size(write(tmp_path / f"a.{suffix}")) == SIZE
    assert next(iterate_frames(tmp_path)).rgb.shape == (48, 64, 3)


def test_a_photo_that_is_turned_when_decoded_counts_as_turned(tmp_path: Path) -> None:
    upright = write(tmp_path / "1.jpg")
    turned = write(tmp_path / "2.jpg", SIZE, orientation=6)
    assert header_size(upright) == SIZE
    assert header_size(turned) == (48, 64)
    with pytest.raises(ValueError, match=r"2\.jpg: expected 64 x 48 px .* got 48 x 64"):
        next(iterate_frames(tmp_path))
    write(tmp_path / "2.jpg", (48, 64), orientation=6)
    assert [frame.rgb.shape for frame in iterate_frames(tmp_path)] == [(48, 64, 3)] * 2


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_every_kind_that_is_turned_when_decoded_counts_as_decoded(
    tmp_path: Path, suffix: str
) -> None:
    turned = write(tmp_path / f"2.{suffix}", SIZE, orientation=6)
    decoded = image_folder.decode_image(turned.read_bytes(), "")
    assert decoded.shape == (64, 48, 3)
    assert header_size(turned) == ((48, 64) if suffix == "jpg" else None)
    write(tmp_path / f"1.{suffix}")
    with pytest.raises(ValueError, match=rf"2\.{suffix}: expected 64 x 48 px .* got 48 x 64"):
        next(iterate_frames(tmp_path))
    write(tmp_path / f"1.{suffix}", (48, 64))
    assert [frame.rgb.shape for frame in iterate_frames(tmp_path)] == [(64, 48, 3)] * 2
    assert header_size(write(tmp_path / f"3.{suffix}", SIZE, orientation=3)) == SIZE


def test_exif_behind_the_pixels_of_a_png_is_met_when_it_is_decoded(tmp_path: Path) -> None:
    write(tmp_path / "0.png", SIZE)
    file = write(tmp_path / "a.png", SIZE, orientation=6)
    coded = file.read_bytes()
    at = coded.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(coded[at : at + 4], "big")
    iend = len(coded) - 12
    file.write_bytes(coded[:at] + coded[end:iend] + coded[at:end] + coded[iend:])
    assert image_folder.decode_image(file.read_bytes(), "").shape == (64, 48, 3)
    assert header_size(file) == SIZE
    with pytest.raises(ValueError, match="expected 64 x 48 px as the images before it"):
        list(iterate_frames(tmp_path))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize(
    "torn",
    [b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01", b"Exif\0\0MM\0*", b"Exif\0\0junkjunk"],
)
def test_a_torn_exif_is_passed_over_in_silence(tmp_path: Path, suffix: str, torn: bytes) -> None:
    file = tmp_path / f"a.{suffix}"
    Image.new("RGB", SIZE).save(file, exif=torn)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert header_size(file) in (SIZE, None)
    assert next(iterate_frames(tmp_path)).rgb.shape == (48, 64, 3)


def test_a_header_nobody_knows_is_left_to_the_decoder(tmp_path: Path) -> None:
    write(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"torn")
    assert header_size(tmp_path / "2.png") is None
    with pytest.raises(ValueError, match=r"2\.png: expected an image, got 4 bytes"):
        next(iterate_frames(tmp_path))


def test_an_image_written_anew_while_it_is_read_is_still_found(tmp_path: Path) -> None:
    write(tmp_path / "1.png")
    write(tmp_path / "2.png")
    frames = iterate_frames(tmp_path)
    next(frames)
    cv2.imwrite(str(tmp_path / "2.png"), np.zeros((24, 32, 3), np.uint8))
    with pytest.raises(ValueError, match=r"2\.png: expected 64 x 48 px .* got 32 x 24"):
        next(frames)
