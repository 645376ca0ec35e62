# SPDX-License-Identifier: Apache-2.0
"""Whose boxes: the rule by which a model takes none or several of given ones is in the report."""

from vidllm_ros.cli.evaluate_boxes import with_rule
from vidllm_ros.evaluation.predictor_vidllm import VidLLMPredictor


class Ruleless:
    """Another's model, which says nothing of its rule."""


def test_the_rule_stands_beside_given_proposals_of_multi3drefer_alone():
    ours = VidLLMPredictor(model=None)
    given = "chosen among given proposals"
    told = with_rule(given, "multi3drefer", ours)
    assert told == f"{given}; of them those that fit the phrase by 0.5 or more, at most 8"
    mixed = "mixed: given proposals in 1 of 2 scenes, elsewhere its own"
    assert with_rule(mixed, "multi3drefer", ours).startswith(f"{mixed}; of them those")
    for name, route, model in (
        ("scanrefer", given, ours),
        ("multi3drefer", "the model's own", ours),
        ("multi3drefer", given, Ruleless()),
        ("scanqa", None, ours),
    ):
        assert with_rule(route, name, model) == route
