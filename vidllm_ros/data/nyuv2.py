# SPDX-License-Identifier: Apache-2.0
"""NYU Depth v2's 654 test images, from either of the two forms in which people keep them.

As BTS extracted them: `nyudepthv2_test_files_with_gt.txt`, a line an image (colour, depth, focal
length), with colour as JPEG and depth as 16 bit PNG in mm; or the published
`nyu_depth_v2_labeled.mat` (HDF5, needs h5py) with `splits.mat`. Both give raw, not in-painted
depth, and a black frame around the colour image. Next: evaluation/benchmark_nyuv2.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from vidllm_ros.data.published_files import find_file, read_colour, read_lines

LIST_NAME = "nyudepthv2_test_files_with_gt.txt"
MAT_NAME = "nyu_depth_v2_labeled.mat"
SPLITS_NAME = "splits.mat"
MM_PER_M = 1000.0
SIZE = (480, 640)
# Of the registered images; BTS blackens what lies outside before it stores them.
SEEN_ROWS, SEEN_COLUMNS = slice(7, 474), slice(7, 632)
MAT_FOCAL_PX = 518.8579


@dataclass(frozen=True)
class NyuImage:
    """A test image and where its depth is.

    Attributes:
        name: as in the list, or "labeled/00045" (the published number minus one).
        focal_px: of the colour camera.
    """

    name: str
    focal_px: float


class NyuTestSet:
    """The test images of a folder, read one by one.

    Raises:
        FileNotFoundError: neither form is there, or a listed file is not.
        ValueError: a line of the list is not of its form, or names an image twice.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._paths: dict[str, tuple[Path, Path]] = {}
        self._places: dict[str, int] = {}
        self._mat: Any = None
        listed = [self.folder / LIST_NAME, self.folder / "official_splits" / LIST_NAME]
        found = next((path for path in listed if path.is_file()), None)
        if found is not None:
            self.images = self._read_list(found)
        elif (self.folder / MAT_NAME).is_file():
            self.images = self._read_mat(self.folder / MAT_NAME)
        else:
            raise FileNotFoundError(
                f"{self.folder}: expected {LIST_NAME} beside the extracted images, or {MAT_NAME} "
                f"and {SPLITS_NAME}; see docs/evaluation.md for the layout"
            )

    def _read_list(self, file: Path) -> tuple[NyuImage, ...]:
        images: list[NyuImage] = []
        for number, line in read_lines(file):
            words = line.split()
            try:
                colour, depth, focal = words[0], words[1], float(words[2])
            except (IndexError, ValueError):
                raise ValueError(
                    f"{file}, line {number}: expected colour, depth and focal length, got "
                    f"{line!r}; copy the list again"
                ) from None
            if depth == "None":
                continue  # BTS writes it where a depth image is missing
            if colour in self._paths:
                raise ValueError(f"{file}, line {number}: {colour} is listed twice; mend the list")
            where = f"{file}, line {number}"
            self._paths[colour] = (
                find_file(self._roots(file), colour.lstrip("/"), where),
                find_file(self._roots(file), depth.lstrip("/"), where),
            )
            images.append(NyuImage(colour, focal))
        if not images:
            raise ValueError(f"{file}: expected a line an image, got none; copy the list again")
        return tuple(images)

    def _roots(self, file: Path) -> tuple[Path, ...]:
        tail = ("test", "official_splits/test")
        return (file.parent, *(self.folder / name for name in ("", *tail)))

    def _read_mat(self, file: Path) -> tuple[NyuImage, ...]:
        try:
            import h5py
        except ImportError:
            raise ImportError(
                f"{file}: it is HDF5; pip install h5py==3.16.0, or use BTS's files"
            ) from None
        splits = find_file((self.folder,), SPLITS_NAME, str(file))
        try:
            chosen = loadmat(splits)["testNdxs"].ravel().astype(int)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"{splits}: expected field testNdxs, got {error}; copy it") from error
        try:
            self._mat = h5py.File(file, "r")
            count = len(self._mat["images"])
            rows = len(self._mat["rawDepths"])
        except (OSError, KeyError) as error:
            raise ValueError(
                f"{file}: expected HDF5 with images and rawDepths, got {error}; copy it again"
            ) from error
        if rows != count or not chosen.size or chosen.min() < 1 or chosen.max() > count:
            raise ValueError(
                f"{splits}, testNdxs: expected numbers from 1 to {min(rows, count)}, got "
                f"{chosen.min() if chosen.size else 'none'} to "
                f"{chosen.max() if chosen.size else 'none'}; the files do not belong together"
            )
        images = []
        for place in chosen - 1:
            name = f"labeled/{place:05d}"
            self._places[name] = int(place)
            images.append(NyuImage(name, MAT_FOCAL_PX))
        return tuple(images)

    def colour(self, name: str) -> NDArray[np.uint8]:
        """Read an image, RGB, (480, 640, 3), uint8; black outside the registered part.

        Raises:
            ValueError: the file is torn, or of another size.
        """
        if name in self._paths:
            image = read_colour(self._paths[name][0])
            where = str(self._paths[name][0])
        else:
            where = f"{MAT_NAME}, images[{self._places[name]}]"
            whole = np.asarray(self._mat["images"][self._places[name]]).T  # (480, 640, 3)
            image = np.zeros_like(whole)
            image[SEEN_ROWS, SEEN_COLUMNS] = whole[SEEN_ROWS, SEEN_COLUMNS]
        if image.shape != (*SIZE, 3):
            raise ValueError(f"{where}: expected {SIZE} px, got {image.shape[:2]}; copy it again")
        return np.ascontiguousarray(image, np.uint8)

    def depth(self, name: str) -> NDArray[np.float32]:
        """Read the raw depth, (480, 640), m; 0 where there is no reading.

        Raises:
            ValueError: the file is torn, of another size or kind, or holds NaN or negative depth.
        """
        if name in self._paths:
            file = self._paths[name][1]
            where = str(file)
            data = np.frombuffer(file.read_bytes(), np.uint8)
            coded = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
            if coded is None or coded.dtype != np.uint16:
                found = "no image" if coded is None else f"{coded.dtype} {coded.shape}"
                raise ValueError(f"{where}: expected 16 bit depth in mm, got {found}; copy it")
            depth = np.asarray(coded / MM_PER_M, np.float32)
        else:
            where = f"{MAT_NAME}, rawDepths[{self._places[name]}]"
            depth = np.asarray(self._mat["rawDepths"][self._places[name]], np.float32).T
        if depth.shape != SIZE:
            raise ValueError(f"{where}: expected {SIZE} px, got {depth.shape}; copy it again")
        if not np.isfinite(depth).all() or (depth < 0).any():
            bad = int((~np.isfinite(depth) | (depth < 0)).sum())
            raise ValueError(f"{where}: expected depth >= 0 m, got {bad} other values; copy it")
        return depth
