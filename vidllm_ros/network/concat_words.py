# SPDX-License-Identifier: Apache-2.0
"""What the concatenation's language models are asked, where prompts.py has no such sentence.

LLaVA-3D's question and caption are `prompts.VICUNA`; how it is asked for a box, and all that a
vision-language model without 3D tokens is told, is ours. Strings only. Next: concat_llava3d.py,
concat_vlm.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vidllm_ros import prompts
from vidllm_ros.structures import GroundedBox

Float64 = NDArray[np.float64]

_BOX_FORM = "[x, y, z, dx, dy, dz]: its centre and full edges in metres"
_LEAD = r"(?:(?:it is|they are|the answer is|answer:?)\s+)?(?:(?:number|object|box)s?\s*)?#?"
_CHOICE = re.compile(_LEAD + r"(\d+)\s*\.?", re.IGNORECASE)
_CHOICES = re.compile(_LEAD + r"(\d+(?:\s*(?:,\s*and\s|,|\band\s)\s*\d+)*)\s*\.?", re.IGNORECASE)

LLAVA_BOX = "\nWhat is the 3D bounding box of {phrase}? Answer with " + _BOX_FORM + ". ASSISTANT:"

VLM_FRAME = (
    "Image {number}. The camera is at {camera}. Points seen in it, left to right, row by row from "
    "the top, each (x, y, z): {points}"
)
VLM_INTRO = (
    "These images are from one video of a room. Positions are metric: x and y along the floor, z "
    "up, the floor at 0, in metres."
)
VLM_ANSWER = "{question}\nAnswer the question using one word or one phrase."
VLM_BOX = (
    "Where is {phrase}? Answer with "
    + _BOX_FORM
    + ", in the coordinates of the points above, one "
    "box for each that fits. Answer none if it is not to be seen."
)
VLM_CAPTION = "Describe the object at {box} ({form}) in one sentence."
VLM_CHOICE = (
    "Objects, each as " + _BOX_FORM + ":\n{boxes}\nWhich of them is this: {phrase}? Answer with "
    "its number alone."
)
VLM_PICK = (
    "Objects, each as " + _BOX_FORM + ":\n{boxes}\nWhich of them fit this: {phrase}? There may be "
    "none, one or several. Answer with their numbers alone, separated by commas, or with none."
)


def llava_box_prompt(phrase: str) -> str:
    """Return what LLaVA-3D's answer with a box follows."""
    return LLAVA_BOX.format(phrase=prompts.clean_text(phrase))


def frame_words(number: int, camera: Float64, points: Float64, valid: NDArray[np.bool_]) -> str:
    """Say where an image was taken and where what it shows is.

    Args:
        number: of the image, from 1.
        camera: its place in the room, (3,), m.
        points: a grid of what it shows, (h, w, 3), m.
        valid: which of them are known, (h, w).
    """
    rows = [
        " ".join(_place(p) if ok else "(unknown)" for p, ok in zip(row, good, strict=True))
        for row, good in zip(points, valid, strict=True)
    ]
    return VLM_FRAME.format(number=number, camera=_place(camera), points="; ".join(rows))


def vlm_box_prompt(phrase: str) -> str:
    """Return the question a vision-language model answers with boxes."""
    return VLM_BOX.format(phrase=prompts.clean_text(phrase))


def vlm_caption_prompt(box: GroundedBox) -> str:
    """Return the question for what stands in a box of the room."""
    return VLM_CAPTION.format(box=_box(box), form=_BOX_FORM)


def vlm_choice_prompt(boxes: Sequence[GroundedBox], phrase: str) -> str:
    """Return the question which of some boxes of the room a phrase means; they count from 1."""
    return VLM_CHOICE.format(boxes=_listed(boxes), phrase=prompts.clean_text(phrase))


def vlm_pick_prompt(boxes: Sequence[GroundedBox], phrase: str) -> str:
    """Return the question which of some boxes a phrase fits: none, one or several, from 1."""
    return VLM_PICK.format(boxes=_listed(boxes), phrase=prompts.clean_text(phrase))


def read_choice(text: str, count: int) -> int | None:
    """Return which of `count` boxes a text names, from 0; None where it names none.

    A number alone is read, with "Number" or "It is number" before it: one that stands in a
    sentence ("none of the 3 fits") names nothing.
    """
    found = _CHOICE.fullmatch(text.strip())
    number = int(found.group(1)) if found else 0
    return number - 1 if 1 <= number <= count else None


def read_choices(text: str, count: int) -> tuple[int, ...]:
    """Return which of `count` boxes a list of numbers names, from 0, each once, in its order.

    Anything else names none; numbers that no box has are passed over.
    """
    found = _CHOICES.fullmatch(text.strip())
    numbers = [int(number) for number in re.findall(r"\d+", found.group(1))] if found else []
    return tuple(dict.fromkeys(number - 1 for number in numbers if 1 <= number <= count))


def _listed(boxes: Sequence[GroundedBox]) -> str:
    return "\n".join(f"{number}. {_box(box)}" for number, box in enumerate(boxes, start=1))


def _box(box: GroundedBox) -> str:
    return prompts.format_box(box.center.tolist(), box.size.tolist())


def _place(point: Float64) -> str:
    return "(" + ", ".join(f"{round(float(value), 1) + 0.0:.1f}" for value in point) + ")"
