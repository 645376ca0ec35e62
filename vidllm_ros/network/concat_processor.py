# SPDX-License-Identifier: Apache-2.0
"""The processor of a vision-language model, with or without torchvision.

transformers prepares images by PIL where torchvision is missing, but has no such way for videos,
so the processors of families that take both (Qwen-VL, LLaVA-OneVision, InternVL, SmolVLM) cannot
be made at all there. A window is shown as still images, so theirs are put together here without
the half for videos. Next: concat_vlm.py, which shows the images.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

VIDEOS = "video_processor"


class NoVideos:
    """Stands where a processor keeps what prepares its videos; every setting of it is unset."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)

    def __call__(self, *args: Any, **settings: Any) -> None:
        raise TypeError("videos: expected still images, got a video; give its frames one by one")


class _StillsOnly:
    """Mixed into a processor: takes `NoVideos` where it wants what prepares its videos."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        if argument_name == VIDEOS and isinstance(argument, NoVideos):
            return NoVideos
        return super().check_argument_for_proper_class(argument_name, argument)  # type: ignore[misc]

    def to_dict(self) -> dict[str, Any]:
        settings: dict[str, Any] = super().to_dict()  # type: ignore[misc]
        return {name: value for name, value in settings.items() if name != VIDEOS}


def load_processor(path: Path, config: Any) -> Any:
    """Load a model's processor; without torchvision one of still images alone.

    Args:
        path: folder of the model.
        config: of the model, as transformers reads it.

    Raises:
        Exception: of nearly any kind; the library's own.
    """
    kind: Any = PROCESSOR_MAPPING.get(type(config), None)
    takes_videos = kind is not None and VIDEOS in kind.get_attributes()
    if find_spec("torchvision") is not None or not takes_videos:
        return AutoProcessor.from_pretrained(path, local_files_only=True)
    makers: dict[str, Any] = {"image_processor": AutoImageProcessor, "tokenizer": AutoTokenizer}
    wanted = kind.get_attributes()
    foreign = [name for name in wanted if name not in (*makers, VIDEOS)]
    if foreign:
        raise ImportError(f"torchvision is wanted, for it takes {', '.join(foreign)} too")
    parts = [
        NoVideos() if name == VIDEOS else makers[name].from_pretrained(path, local_files_only=True)
        for name in wanted
    ]
    settings, _ = kind.get_processor_dict(path, local_files_only=True)
    stills: Any = type(kind.__name__, (_StillsOnly, kind), {})
    return stills.from_args_and_dict(parts, settings)
