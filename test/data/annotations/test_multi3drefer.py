# SPDX-License-Identifier: Apache-2.0
"""Multi3DRefer's file."""

import hand_made
import pytest

from vidllm_ros.data.annotations import multi3drefer as m
from vidllm_ros.data.annotations.records import AnnotationError


def test_phrases(tmp_path):
    hand_made.write_multi3drefer(tmp_path)
    found = m.load_multi3drefer(tmp_path, "val")
    assert [item.eval_type for item in found] == list(m.TARGETS_OF_TYPE)
    assert found[4].object_ids == (0, 1, 3)
    assert found[4].key == "scene0000_00|4"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v[4].update(object_ids=[1]), "at least 2 target"),
        (lambda v: v[4].update(eval_type="zt_w_d"), r"object_ids: expected 0 target.*'zt_w_d'"),
        (lambda v: v[4].update(eval_type="many"), "eval_type: expected one of zt_wo_d"),
        (lambda v: v[4].update(object_ids=[1, 1]), "every target once"),
        (lambda v: v[4].update(object_ids=["1", "2"]), r"object_ids\[0\]: expected an integer"),
        (lambda v: v[4].update(ann_id=0), "as in record 0"),
    ],
)
def test_records_that_are_wrong_are_named(tmp_path, change, said):
    hand_made.change_json(hand_made.write_multi3drefer(tmp_path), change)
    with pytest.raises(AnnotationError, match=said) as caught:
        m.load_multi3drefer(tmp_path, "val")
    assert "record 4" in str(caught.value)
