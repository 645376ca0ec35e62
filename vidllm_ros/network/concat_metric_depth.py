# SPDX-License-Identifier: Apache-2.0
"""Metres for VGGT: any public metric-depth model of transformers, one frame at a time.

Depth Anything (its metric models), ZoeDepth, DepthPro and GLPN say metres; a model that says
relative depth is refused, for a scale fitted to it would mean nothing. Images are prepared and
depth is brought back to their size here where the library needs torchvision for it. Next:
scale_alignment.py, which fits VGGT to it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation

METRIC_TYPES = ("depth_anything", "zoedepth", "depth_pro", "glpn")
DEPTH_PRO_PX, DEPTH_PRO_LIMITS = 1536, (1e-4, 1e4)
ZOE_PADDING = 3


class MetricDepthModel:
    """A metric-depth model with what its images need; frames seen before are remembered.

    Weights stay in float32: the scale of everything hangs on them, and they are small beside the
    rest.

    Args:
        model: of `AutoModelForDepthEstimation`.
        processor: its image processor; None for DepthPro, whose preparation is in this file.
        side: of the square DepthPro sees, px.
    """

    def __init__(self, model: Any, processor: Any, side: int = DEPTH_PRO_PX) -> None:
        self.model, self.processor, self.side = model, processor, side
        self.kind = str(model.config.model_type)
        self._known: dict[int, tuple[NDArray[np.uint8], Tensor]] = {}

    @torch.inference_mode()
    def depth(self, images: NDArray[np.uint8]) -> Tensor:
        """Return z along the optical axis, (F, H, W), m, of images (F, H, W, 3), RGB."""
        return torch.stack([self._depth_of(image) for image in images])

    def depth_of_window(
        self, images: NDArray[np.uint8], stamps_ns: Sequence[int], frames: Sequence[int]
    ) -> Tensor:
        """Return the depth of some frames of a window, (F, H, W), m; a frame of an earlier window,
        by stamp and pixels, is not computed again.

        Args:
            images: of the window, (S, H, W, 3).
            stamps_ns: their names.
            frames: which of them.
        """
        found: list[Tensor] = []
        for index in frames:
            known = self._known.get(stamps_ns[index])
            if known is None or not np.array_equal(known[0], images[index]):
                depth = self.depth(images[index : index + 1])[0]
                known = (images[index].copy(), depth)
                self._known[stamps_ns[index]] = known
            found.append(known[1])
        newest = set(stamps_ns)
        self._known = {stamp: entry for stamp, entry in self._known.items() if stamp in newest}
        return torch.stack(found)

    def forget_frames(self) -> None:
        """Give back what is remembered of frames."""
        self._known.clear()

    def _depth_of(self, image: NDArray[np.uint8]) -> Tensor:
        pixels = self._prepared(image).to(self.model.device, self.model.dtype)
        output = self.model(pixel_values=pixels)
        size = image.shape[:2]
        depth = output.predicted_depth.float()[None]  # (1, 1, h, w)
        if self.kind == "depth_pro":
            return _depth_pro_metres(depth, output.field_of_view, size)
        if self.kind == "zoedepth" and self.processor.do_pad:
            depth = _without_padding(depth, size)
        return functional.interpolate(depth, size, mode="bicubic", align_corners=False)[0, 0]

    def _prepared(self, image: NDArray[np.uint8]) -> Tensor:
        if self.kind == "depth_pro":
            # DepthPro: [0, 1] to [-1, 1], then bilinearly to a square, without antialiasing.
            pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
            return functional.interpolate(pixels, (self.side, self.side), mode="bilinear")
        prepared: Tensor = self.processor(images=[image], return_tensors="pt")["pixel_values"]
        return prepared


def _depth_pro_metres(inverse: Tensor, fov_deg: Tensor | None, size: tuple[int, int]) -> Tensor:
    """Turn DepthPro's canonical inverse depth, (1, 1, h, w), into metres, (H, W).

    Canonical inverse depth is that of a camera whose focal length is its image's width; the
    predicted horizontal field of view undoes that. Source: Depth Pro (arXiv 2410.02073), Sec. 3.
    """
    if fov_deg is not None:
        half = 0.5 * torch.deg2rad(fov_deg.float().reshape(()))
        inverse = inverse * 2 * torch.tan(half)  # width / focal length
    inverse = functional.interpolate(inverse, size, mode="bilinear")[0, 0]
    return 1 / inverse.clamp(*DEPTH_PRO_LIMITS)


def _without_padding(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut off the mirrored border ZoeDepth's preparation adds, (1, 1, h, w)."""
    rows, columns = (int(np.sqrt(side / 2) * ZOE_PADDING) for side in size)
    whole = (size[0] + 2 * rows, size[1] + 2 * columns)
    depth = functional.interpolate(depth, whole, mode="bicubic", align_corners=False)
    return depth[..., rows : rows + size[0], columns : columns + size[1]]


def load_metric_depth(path: Path, device: torch.device | str = "cpu") -> MetricDepthModel:
    """Load a metric-depth model of transformers from a folder.

    Raises:
        ValueError: it is none, or says relative depth only.
    """
    kind = look_at_metric_depth(path)
    try:
        model = AutoModelForDepthEstimation.from_pretrained(
            path, local_files_only=True, dtype=torch.float32
        )
        processor, side = None, DEPTH_PRO_PX
        if kind == "depth_pro":
            side = _square_side(path)
        else:
            processor = AutoImageProcessor.from_pretrained(path, local_files_only=True)
    except (OSError, RuntimeError, ImportError, KeyError) as error:
        raise _not_depth(path, error) from error
    return MetricDepthModel(model.to(device).eval().requires_grad_(False), processor, side)


def look_at_metric_depth(path: Path) -> str:
    """Return which model a folder holds, without reading weights.

    Raises:
        ValueError: as `load_metric_depth`.
    """
    if not (path / "config.json").is_file():
        raise ValueError(
            f"metric_depth: expected a folder with config.json, got {path}; give the whole folder "
            "of a depth-estimation model of transformers"
        )
    try:
        config: Any = AutoConfig.from_pretrained(path, local_files_only=True)
    except (OSError, KeyError) as error:
        raise _not_depth(path, error) from error
    _require_metres(config, path)
    return str(config.model_type)


def _square_side(path: Path) -> int:
    """Return the side of the square DepthPro's release says its images become, px."""
    file = path / "preprocessor_config.json"
    if not file.is_file():
        return DEPTH_PRO_PX
    size = json.loads(file.read_text(encoding="utf-8")).get("size", {})
    if not isinstance(size, dict) or size.get("height") != size.get("width"):
        raise ValueError(f"metric_depth: expected a square size in {file}, got {size}")
    return int(size.get("height", DEPTH_PRO_PX))


def _not_depth(path: Path, error: Exception) -> ValueError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ValueError(
        f"metric_depth: expected a depth-estimation model of transformers in {path}, got: {first}"
    )


def _require_metres(config: Any, path: Path) -> None:
    kind = str(config.model_type)
    if kind not in METRIC_TYPES:
        raise ValueError(
            f"metric_depth: expected a model that says metres ({', '.join(METRIC_TYPES)}), got "
            f"{kind!r} in {path}"
        )
    if kind == "depth_anything" and config.depth_estimation_type != "metric":
        raise ValueError(
            f"metric_depth: expected a metric model of Depth Anything, got a "
            f"{config.depth_estimation_type} one in {path}; take one whose name says Metric"
        )
