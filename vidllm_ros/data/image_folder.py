# SPDX-License-Identifier: Apache-2.0
"""A folder of images as a film: names in reading order, times from the names where they have any.

An RGB-D recording keeps depth beside colour; only colour is a film. `camera-intrinsics.txt`, nine
numbers, is the camera's K. Sizes are read from the files' headers first: a film whose size changes
is refused before its first frame. Next: seven_scenes.py, which reads the depth and the poses too.
"""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vidllm_ros.data.frame_source import (
    FIRST_STAMP_NS,
    OPTICAL_FRAME,
    VideoFrame,
    check_size,
    decode_image,
)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
INTRINSICS_FILE = "camera-intrinsics.txt"
FOLDER_RATE_HZ = 10.0
NUMBERED_RATE_HZ = 30.0  # frame-000005.color.jpg: the numbers count a depth camera's frames
EARLIEST_CLOCK_S = 1e8  # 1973; a number in a name below it is a counter, not a time
EXIF_ORIENTATION = 0x0112
JPEGS = ("JPEG", "MPO")
SIDEWAYS = (5, 6, 7, 8)  # turned by 90 degrees when decoded
Size = tuple[int, int]

_COLOR = re.compile(r"\.color\.")
_DEPTH = re.compile(r"(^|[._-])depth([._-]|$)")
_NUMBERED = re.compile(r"frame-(\d+)\.color$")


class ImageFolder:
    """The images of a folder, or one image alone, oldest first.

    Attributes:
        path: the folder, or the image.
        files: the images, in the order of their names.
        stamps_ns: one an image: the time in its name (seconds or nanoseconds since 1970), the
            frame number of frame-NNNNNN.color at 30 Hz, or else its place at 10 Hz.
        K: of every image, (3, 3), px, or None where the folder tells none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = list_images(path)
        self.stamps_ns = name_stamps([file.stem for file in self.files])
        folder = path if path.is_dir() else path.parent
        self.K = load_K(folder / INTRINSICS_FILE)

    def count(self) -> int:
        return len(self.files)

    def read(self, chosen: Collection[int] | None = None) -> Iterator[VideoFrame]:
        """Yield the images at these places.

        Raises:
            ValueError: a file is no image or is too small; before the first is yielded: they
                differ in size.
        """
        places = list(range(len(self.files))) if chosen is None else sorted(chosen)
        size = one_size([self.files[place] for place in places])
        for place in places:
            file = self.files[place]
            rgb = decode_image(file.read_bytes(), str(file))
            if size_of(rgb) != size:  # written anew meanwhile
                raise ValueError(f"{file}: {_other_size(size_of(rgb), size)}")
            check_size(str(file), rgb)
            yield VideoFrame(self.stamps_ns[place], rgb, OPTICAL_FRAME, self.K)


def list_images(path: Path) -> list[Path]:
    """Return the colour images of a folder in reading order (2 before 10).

    Raises:
        FileNotFoundError: there is none.
    """
    if not path.is_dir():
        return [path]
    files = [
        entry
        for entry in path.iterdir()
        if entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".")
    ]
    named = [file for file in files if _COLOR.search(file.name.lower())]
    color = named or [file for file in files if not _DEPTH.search(file.stem.lower())]
    if not color:
        found = f"{len(files)} depth images" if files else "none"
        raise FileNotFoundError(
            f"{path}: expected images ({', '.join(IMAGE_SUFFIXES[:3])}, ...) or a rosbag2 in this "
            f"folder, found {found}; give the folder that holds them"
        )
    return sorted(color, key=lambda file: reading_order(file.name))


def one_size(files: Sequence[Path]) -> Size:
    """Return the size that all images have, (width, height), px; only odd ones are decoded.

    Raises:
        ValueError: one differs from the first, or cannot be read.
    """
    size: Size | None = None
    for file in files:
        announced = header_size(file)
        if size is not None and announced == size:
            continue
        real = size_of(decode_image(file.read_bytes(), str(file)))
        size = size or real
        if real != size:
            raise ValueError(f"{file}: {_other_size(real, size)}")
    return size or (0, 0)


def header_size(file: Path) -> Size | None:
    """Read width and height, px, as decoded, from an image's first bytes; None if unclear."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a torn EXIF is no EXIF, here as for the decoder
            with Image.open(file) as image:
                is_turned = _orientation(image) in SIDEWAYS
                size, kind = image.size, image.format
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError):
        return None
    if not is_turned:
        return size
    # OpenCV 5 turns PNG, WebP and TIFF too, older ones not all: the decoder itself is asked.
    return (size[1], size[0]) if kind in JPEGS else None


def _orientation(image: Image.Image) -> int:
    """Return what EXIF says of an image that is open, 1 to 8; its pixels are not read.

    A PNG may have it behind its pixels, where Pillow would read all of it: such a one is found out
    when it is decoded.
    """
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    return int(image.getexif().get(EXIF_ORIENTATION, 1))


def size_of(rgb: NDArray[np.uint8]) -> Size:
    """Return (width, height), px, of an array (H, W, 3)."""
    return rgb.shape[1], rgb.shape[0]


def _other_size(got: Size, wanted: Size) -> str:
    return (
        f"expected {wanted[0]} x {wanted[1]} px as the images before it, got {got[0]} x {got[1]}; "
        "keep images of one size in a folder, the others in a folder of their own"
    )


def reading_order(name: str) -> list[tuple[int, str]]:
    """Return a sort key that compares runs of digits as numbers; equal numbers by their text."""
    parts = re.split(r"(\d+)", name)
    key = [(int(part), "") if part.isdecimal() else (0, part.lower()) for part in parts]
    return [*key, (0, name)]


def name_stamps(stems: Sequence[str]) -> tuple[int, ...]:
    """Return a stamp for each name, growing; see `ImageFolder.stamps_ns`."""
    for read_time in (_clock_ns, _numbered_ns):
        times = [read_time(stem) for stem in stems]
        known = [time for time in times if time is not None]
        if len(known) == len(stems) and all(b > a for a, b in pairwise(known)):
            return tuple(known)
    return tuple(FIRST_STAMP_NS + round(i * 1e9 / FOLDER_RATE_HZ) for i in range(len(stems)))


def _clock_ns(stem: str) -> int | None:
    """Return the time a name says: 1305031102.175304 (s) or 1403636579763555584 (ns)."""
    match = re.fullmatch(r"(\d+)(?:\.(\d{1,9}))?", stem)
    if match is None:
        return None
    whole, part = int(match[1]), match[2]
    if part is None:
        return whole if EARLIEST_CLOCK_S * 1e9 < whole < 2**63 else None
    if not EARLIEST_CLOCK_S < whole < 2**33:
        return None
    return whole * 1_000_000_000 + int(part.ljust(9, "0"))


def _numbered_ns(stem: str) -> int | None:
    match = _NUMBERED.fullmatch(stem)
    return (
        None if match is None else FIRST_STAMP_NS + round(int(match[1]) * 1e9 / NUMBERED_RATE_HZ)
    )


def load_K(file: Path) -> NDArray[np.float64] | None:
    """Read nine numbers as K, (3, 3), px; None where there is no such file.

    Raises:
        ValueError: they are not a camera's.
    """
    if not file.exists():
        return None
    try:
        K = np.array([float(word) for word in file.read_text().replace(",", " ").split()])
    except ValueError:
        K = np.empty(0)
    if K.size != 9 or not np.isfinite(K).all() or not is_intrinsics(K.reshape(3, 3)):
        raise ValueError(
            f"{file}: expected the 3 x 3 numbers fx 0 cx, 0 fy cy, 0 0 1 in px, got something "
            "else; mend it or remove it"
        )
    return K.reshape(3, 3)


def is_intrinsics(K: NDArray[np.float64]) -> bool:
    """Tell whether (3, 3) numbers are a pinhole camera's, px."""
    return bool(K[0, 0] > 0 and K[1, 1] > 0 and np.allclose(K[2], [0, 0, 1]))
