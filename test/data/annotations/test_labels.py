# SPDX-License-Identifier: Apache-2.0
"""Raw categories to ScanRefer's classes."""

import hand_made
import pytest

from vidllm_ros.data.annotations import labels as m
from vidllm_ros.data.annotations.records import AnnotationError


def test_classes(tmp_path):
    hand_made.write_labels(tmp_path)
    class_of = m.load_classes(tmp_path)
    assert class_of == {
        "chair": "chair",
        "office chair": "chair",
        "table": "table",
        "coffee table": "table",
        "lamp": "others",
    }
    assert m.class_of_name(class_of, "coffee_table") == "table"
    assert m.class_of_name(class_of, "unheard_of") == "others"
    assert len(m.CLASSES) == 17


def test_tables_that_are_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"scannetv2-labels\.combined\.tsv"):
        m.load_classes(tmp_path)
    path = hand_made.write_labels(tmp_path)
    path.write_text(path.read_text()[:-8])
    with pytest.raises(AnnotationError, match="line 6: nyu40class"):
        m.load_classes(tmp_path)
    path.write_text("raw_category\tcategory\n")
    with pytest.raises(AnnotationError, match="a column 'nyu40class'"):
        m.load_classes(tmp_path)
