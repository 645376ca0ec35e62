# SPDX-License-Identifier: Apache-2.0
"""ScanRefer's descriptions, unique and multiple, Scan2Cap's objects."""

import hand_made
import pytest

from vidllm_ros.data.annotations import labels
from vidllm_ros.data.annotations import scanrefer as m
from vidllm_ros.data.annotations.records import AnnotationError


def test_descriptions(tmp_path):
    hand_made.write_scanrefer(tmp_path)
    found = m.load_scanrefer(tmp_path, "val")
    assert [item.key for item in found[:3]] == [
        "scene0000_00|0|0",
        "scene0000_00|0|1",
        "scene0000_00|3|0",
    ]
    assert found[2].object_name == "office_chair"
    assert found[2].tokens == ("an", "office", "chair", ",", "black")


def test_unique_and_multiple_by_hand(tmp_path):
    hand_made.write_scanrefer(tmp_path)
    hand_made.write_labels(tmp_path)
    found = m.load_scanrefer(tmp_path, "val")
    kinds = m.unique_or_multiple(found, labels.load_classes(tmp_path))
    # Object 1 is a chair too but nobody described it; 0 and 3 are both of class chair; object 0,
    # described twice, counts once; the lamp is the only "other".
    assert kinds == {
        "scene0000_00|0|0": "multiple",
        "scene0000_00|0|1": "multiple",
        "scene0000_00|3|0": "multiple",
        "scene0000_00|2|0": "unique",
        "scene0000_00|4|0": "unique",
        "scene0001_00|0|0": "unique",
        "scene0001_00|1|0": "unique",
    }


def test_one_described_twice_is_still_unique(tmp_path):
    path = hand_made.write_scanrefer(tmp_path)
    hand_made.change_json(path, lambda value: value.pop(2))  # the office chair
    hand_made.write_labels(tmp_path)
    found = m.load_scanrefer(tmp_path, "val")
    kinds = m.unique_or_multiple(found, labels.load_classes(tmp_path))
    assert kinds["scene0000_00|0|0"] == kinds["scene0000_00|0|1"] == "unique"


def test_names_outside_the_classes_are_one_class(tmp_path):
    def rename(value):
        value[3]["object_name"] = "unheard_of"  # the table, beside the lamp

    hand_made.change_json(hand_made.write_scanrefer(tmp_path), rename)
    hand_made.write_labels(tmp_path)
    found = m.load_scanrefer(tmp_path, "val")
    kinds = m.unique_or_multiple(found, labels.load_classes(tmp_path))
    assert kinds["scene0000_00|2|0"] == kinds["scene0000_00|4|0"] == "multiple"


def test_objects_with_all_their_descriptions(tmp_path):
    hand_made.write_scanrefer(tmp_path)
    objects = m.described_objects(m.load_scanrefer(tmp_path, "val"))
    assert [item.key for item in objects] == [
        "scene0000_00|0|chair",
        "scene0000_00|3|office_chair",
        "scene0000_00|2|table",
        "scene0000_00|4|lamp",
        "scene0001_00|0|chair",
        "scene0001_00|1|coffee_table",
    ]
    assert len(objects[0].descriptions) == len(objects[0].tokens) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v[1].update(ann_id="0"), r"ann_id: .*as in record 0"),
        (lambda v: v[1].update(object_id="x"), "object_id: expected an integer"),
        (lambda v: v[1].update(token="the chair"), "token: expected a list"),
        (lambda v: v[1].update(description=""), "description: expected a string"),
    ],
)
def test_records_that_are_wrong_are_named(tmp_path, change, said):
    hand_made.change_json(hand_made.write_scanrefer(tmp_path), change)
    with pytest.raises(AnnotationError, match=said) as caught:
        m.load_scanrefer(tmp_path, "val")
    assert "ScanRefer_filtered_val.json: record 1 (scene_id 'scene0000_00'" in str(caught.value)
