# SPDX-License-Identifier: Apache-2.0
"""Ask about a video: python examples/ask_a_video.py clip.mp4 "what color is the chair?"."""

import sys

from vidllm_ros.data.video import sample_uniform
from vidllm_ros.network.checkpoint import load_vidllm

if __name__ == "__main__":
    film, *questions = sys.argv[1:]
    model = load_vidllm("models/vidllm-nano")
    window = model.reconstruct(sample_uniform(film, 32))
    for question in questions:
        answer = model.answer(window.scene, question)
        print(f"{question} -> {answer.text} ({answer.confidence:.2f})")
        for box in answer.boxes:  # metres, in the first camera's optical frame
            print(f"  {box.label} at {box.center.round(2)}, size {box.size.round(2)}")
