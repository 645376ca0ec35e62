# SPDX-License-Identifier: Apache-2.0
"""The concatenation baseline as a predictor: the paper's Table 5 rows "VGGT + LLaVA-3D".

It is measured as Vid-LLM is (predictor_vidllm.py), under the name its manifest gives it: which
language model, scaled to metres or not. Which of given boxes a phrase means, none, one or several,
is decided by the language model's own rule: its scores are no fit of each box. Only words are
asked of a question: the box that a robot would be told beside them costs another answer and is no
part of a score. Next: benchmark_run.py.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from vidllm_ros.evaluation.predictor import ScoredAabb
from vidllm_ros.evaluation.predictor_vidllm import MOST_BOXES, SeenScene, VidLLMPredictor
from vidllm_ros.network.concat_manifest import MANIFEST, read_manifest
from vidllm_ros.network.concatenation import Concatenation, locate_parts
from vidllm_ros.network.convert_files import weight_files

END_BYTES = 1 << 20


class ConcatenationPredictor(VidLLMPredictor):
    """Put a concatenation through benchmarks.

    Args:
        model: loaded.
        folder: of its manifest, for its name in reports.
    """

    def __init__(self, model: Concatenation, folder: Path) -> None:
        super().__init__(model, f"{model.title} {fingerprint(folder)}")
        self.concatenation = model
        self.proposal_rule = f"{model.talker.pick_rule}; at most {MOST_BOXES}"

    def answer(self, seen: SeenScene, question: str, situation: str = "") -> str:
        words = f"{situation} {question}".strip()
        return self.concatenation.talker.answer(seen.reconstruction.scene, words).text

    def _meant(self, seen: SeenScene, phrase: str) -> list[ScoredAabb]:
        """Return the proposals that the language model picks, best first."""
        picked = self.concatenation.talker.pick_boxes(
            seen.reconstruction.scene, self._given(seen), phrase
        )
        return [ScoredAabb(seen.view.proposals[index].aabb, score) for index, score in picked]


def fingerprint(folder: Path) -> str:
    """Return a short name of a concatenation: a change of its choices or weights is another run.

    Of weights the names, sizes and both ends are looked at: tens of gigabytes are not read.
    """
    digest = hashlib.sha256((folder / MANIFEST).read_bytes())
    for part, path in locate_parts(folder, read_manifest(folder)).items():
        if part == "tokenizer":
            continue
        for file in weight_files(path):
            size = file.stat().st_size
            digest.update(f"{part} {file.name} {size}".encode())
            with file.open("rb") as opened:
                digest.update(opened.read(END_BYTES))
                opened.seek(max(0, size - END_BYTES))
                digest.update(opened.read(END_BYTES))
    return digest.hexdigest()[:10]
