# SPDX-License-Identifier: Apache-2.0
"""`vidllm concatenate`: name public checkpoints, out comes a model folder for the node.

Parts are files, folders or ids of the Hugging Face hub; ids are fetched now, so that the robot
needs no network later. Names and shapes are looked at, no weights are read or copied: the folder
holds `concatenation.json` and a card with every part's origin and licence. Next:
network/concat_manifest.py, and docs/public_weights.md for what to do with the result.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidllm_ros.cli.command import note, run_command

if TYPE_CHECKING:
    from vidllm_ros.network.concat_manifest import Manifest, PartPlace

CARD = "README.md"
WHERE = "file, folder or hub id"
LLAVA_3D_TYPE = "llava_llama"
"""The model_type of LLaVA-3D, and of older LLaVA, which transformers has no class for either."""


class Scale(str, Enum):
    """How VGGT's unit becomes metres."""

    LEAST_SQUARES = "least_squares"
    LOG_MEDIAN = "log_median"
    NONE = "none"


class DepthFrom(str, Enum):
    """Which of VGGT's heads gives depth."""

    DEPTH_HEAD = "depth_head"
    POINT_HEAD = "point_head"


def concatenate(
    vggt: Annotated[str, typer.Option(help=f"VGGT-1B or -Commercial: {WHERE}.")],
    out: Annotated[Path, typer.Option(help="New folder.")],
    metric_depth: Annotated[
        str, typer.Option(help=f"Depth Anything V2 metric, ZoeDepth or DepthPro: {WHERE}.")
    ] = "",
    llava_3d: Annotated[
        str, typer.Option(help=f"LLaVA-3D v1, for backend vggt_llava3d: {WHERE}.")
    ] = "",
    vlm: Annotated[
        str, typer.Option(help=f"Any chat-capable vision-language model, for vggt_vlm: {WHERE}.")
    ] = "",
    clip: Annotated[
        str, typer.Option(help=f"CLIP ViT-L/14-336, where LLaVA-3D lacks its tower: {WHERE}.")
    ] = "",
    tokenizer: Annotated[
        str, typer.Option(help="Folder with tokenizer.json; default: LLaVA-3D's own.")
    ] = "",
    scale: Annotated[
        Scale, typer.Option(help="none: VGGT's own unit, Table 5's row without scale.")
    ] = Scale.LEAST_SQUARES,
    depth_from: Annotated[
        DepthFrom, typer.Option(help="Which of VGGT's heads gives depth.")
    ] = DepthFrom.DEPTH_HEAD,
    frames: Annotated[
        int, typer.Option(min=0, help="Frames the language model sees; 0: 20 or 8, by its kind.")
    ] = 0,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Look for this in every window, an answer each; repeatable."),
    ] = None,
) -> None:
    """Join public models into one backend: VGGT, a metric-depth model, a language model."""
    from vidllm_ros.cli.output_files import check_folder_target
    from vidllm_ros.geometry.point_cloud import write_atomically
    from vidllm_ros.network.concat_manifest import Manifest, write_manifest

    check_folder_target("out", out)
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"out: expected a new or empty folder, got {out}; name another")
    if bool(llava_3d) == bool(vlm):
        raise ValueError("--llava-3d, --vlm: expected one of them, got both or none")
    if not metric_depth and scale is not Scale.NONE:
        raise ValueError(
            "--metric-depth: expected a metric-depth model, got none; name one, or take "
            "--scale none for VGGT's own unit"
        )
    manifest = Manifest(
        backend="vggt_llava3d" if llava_3d else "vggt_vlm",
        geometry=find_part("--vggt", vggt),
        language=find_part("--llava-3d" if llava_3d else "--vlm", llava_3d or vlm),
        metric_depth=find_part("--metric-depth", metric_depth) if metric_depth else None,
        clip=find_part("--clip", clip) if clip else None,
        tokenizer=find_part("--tokenizer", tokenizer) if tokenizer else None,
        scale=scale.value,
        depth_from=depth_from.value,
        frames=frames,
        labels=tuple(label or ()),
    )
    look_at_parts(manifest, out)
    manifest = fit_frames(manifest, out)
    note(f"written: {write_manifest(out, manifest)}")
    write_atomically(out / CARD, card_text(out, manifest, typed()).encode())
    for line in manifest.licence_lines(out):
        note(line)
    print(f"{manifest.title}: use it with backend {manifest.backend} and model {out}")


def find_part(option: str, where: str) -> PartPlace:
    """Find a part, or fetch it.

    Raises:
        FileNotFoundError: it is neither here nor to be had.
    """
    from vidllm_ros.network.concat_manifest import PartPlace, is_hub_id
    from vidllm_ros.network.convert_hub import locate

    try:
        found = locate(where)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{option}: {error}") from error
    path = str(found.path.resolve())
    if is_hub_id(where):
        return PartPlace(where, path, found.licence)
    return PartPlace(path, "", found.licence)


def look_at_parts(manifest: Manifest, home: Path) -> None:
    """Look at every part's names and shapes.

    Raises:
        FileNotFoundError, ValueError: a part is not what it is meant to be.
    """
    from vidllm_ros.network.concat_geometry import look_at_vggt
    from vidllm_ros.network.concat_llava3d_files import look_at_llava3d
    from vidllm_ros.network.concat_metric_depth import look_at_metric_depth
    from vidllm_ros.network.concat_vlm import look_at_vlm
    from vidllm_ros.network.concatenation import locate_parts
    from vidllm_ros.network.convert_files import read_config, weight_files

    found = locate_parts(home, manifest)
    with naming("--vggt"):
        look_at_vggt(found["geometry"])
    if "metric_depth" in found:
        with naming("--metric-depth"):
            look_at_metric_depth(found["metric_depth"])
            weight_files(found["metric_depth"])
    if manifest.backend == "vggt_llava3d":
        if "clip" in found:
            with naming("--clip"):
                weight_files(found["clip"])
        with naming("--llava-3d"):
            look_at_llava3d(found["language"], found.get("clip"), found.get("tokenizer"))
        return
    with naming("--vlm"):
        if (read_config(found["language"]) or {}).get("model_type") == LLAVA_3D_TYPE:
            raise ValueError(
                f"expected a vision-language model of transformers, got {found['language']}, of "
                f"model_type {LLAVA_3D_TYPE!r}; use --llava-3d"
            )
        look_at_vlm(found["language"])
        weight_files(found["language"])


@contextmanager
def naming(option: str) -> Iterator[None]:
    """Say which option a part came by that is not what it is meant to be."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        part = str(error).partition(":")[0]
        if part in ("clip", "tokenizer"):  # of LLaVA-3D, options of their own
            option = f"--{part}"
        wider = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise wider(f"{option}: {error}") from error


def fit_frames(manifest: Manifest, home: Path) -> Manifest:
    """Write down fewer frames where a vision-language model has no room for its usual number.

    Raises:
        ValueError: it has no room for the number that was asked for, or for any.
    """
    from vidllm_ros.network.concat_geometry import look_at_vggt, usual_size
    from vidllm_ros.network.concat_vlm import most_frames
    from vidllm_ros.network.concatenation import frames_shown, locate_parts

    if manifest.backend != "vggt_vlm":
        return manifest  # LLaVA-3D's tokens are capped
    found = locate_parts(home, manifest)
    size = usual_size(look_at_vggt(found["geometry"])[1])
    most, wanted = most_frames(found["language"], size), frames_shown(manifest)
    if most is None or wanted <= most:
        return manifest
    said = f"{manifest.language.where} has room for {most} frames of {size[0]}x{size[1]} px"
    if manifest.frames or most < 1:
        raise ValueError(
            f"--frames: expected a number the model has room for, got {wanted}, and {said}; take "
            "fewer, or a model that reads more"
        )
    note(f"frames: {said}, not for {wanted}: {most} are written down")
    return replace(manifest, frames=most)


def card_text(out: Path, manifest: Manifest, command: str) -> str:
    """Write the card, Markdown."""
    from vidllm_ros.network.concat_manifest import PART_WORDS

    rows = [
        f"| {PART_WORDS[name]} | `{place.where}` | {place.licence or 'unknown'} |"
        for name, place in manifest.parts().items()
    ]
    unit = "VGGT's own unit, not metres" if manifest.scale == "none" else "metres"
    return f"""---
license: other
library_name: vidllm_ros
---
# {out.name}: {manifest.title}

The concatenation baseline of Vid-LLM (arXiv 2509.24385, Table 5) from public checkpoints: no
weights of Vid-LLM, and none in this folder. Depth and poses are in {unit}. Made by
`{command}`.

| part | from | licence, as given beside the weights |
|---|---|---|
{chr(10).join(rows)}

Every licence above applies to what this folder runs; the strictest decides what it may be used
for. VGGT-1B is for non-commercial use, VGGT-1B-Commercial is not.

    vidllm infer walk.mp4 --backend {manifest.backend} --model {out} --ask "what is on the table?"
    ros2 launch vidllm_ros vidllm.launch.py backend:={manifest.backend} model:={out}
"""


def typed() -> str:
    """Return the command line of this process as `vidllm concatenate ...`."""
    arguments = sys.argv[2:] if sys.argv[1:2] == ["concatenate"] else sys.argv[1:]
    return f"vidllm concatenate {shlex.join(arguments)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(concatenate, "concatenate", argv)


if __name__ == "__main__":
    raise SystemExit(main())
