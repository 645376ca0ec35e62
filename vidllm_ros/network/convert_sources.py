# SPDX-License-Identifier: Apache-2.0
"""Public checkpoints that were found, looked at by name and shape, and how they are spoken of.

Next: convert_plan.py, which decides what of them goes where.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vidllm_ros.network.convert import Shape
from vidllm_ros.network.convert_files import TensorFiles, read_config
from vidllm_ros.network.convert_hub import Located

SOURCES = ("vggt", "dinov2", "clip", "llava", "llava_3d", "language_model")


@dataclass(frozen=True)
class Source:
    """A public checkpoint that was found and looked at.

    Attributes:
        option: one of `SOURCES`.
        located: where it is, and its licence.
        files: its tensors.
        config: its config.json, where it has one.
    """

    option: str
    located: Located
    files: TensorFiles
    config: dict[str, Any] | None

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: stored.shape for name, stored in self.files.tensors.items()}


def open_source(option: str, located: Located) -> Source:
    """Look at a checkpoint's names and shapes.

    Raises:
        FileNotFoundError, ValueError: there are no weights, or a file is damaged.
    """
    files, config = TensorFiles(located.path), read_config(located.path)
    return Source(option, located, files, config)


def first_of(sources: Mapping[str, Source], order: tuple[str, ...], suits: Any) -> str | None:
    return next((o for o in order if o in sources and suits(sources[o])), None)


def speaks(source: Source) -> bool:
    """Whether a checkpoint holds a language model, not LLaVA's small parts alone."""
    return source.option == "language_model" or any(
        "layers.0.input_layernorm" in name for name in source.shapes
    )


def has_target(source: Source, target: Any) -> bool:
    return any(target(name) is not None for name in source.shapes)


def blaming(option: str, function: Any, *arguments: Any) -> Any:
    """Call, and say which source a ValueError is about; of a pair return the report."""
    try:
        result = function(*arguments)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error
    return result[1] if isinstance(result, tuple) else result
