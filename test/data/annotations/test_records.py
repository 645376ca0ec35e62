# SPDX-License-Identifier: Apache-2.0
"""Files and fields that are not what their format says."""

import re

import hand_made
import pytest

from vidllm_ros.data.annotations import records as m


@pytest.fixture
def entry(tmp_path):
    raw = {
        "text": "words",
        "blank": "  ",
        "count": 3,
        "digits": "34",
        "yes": True,
        "list": ["a", 1],
        "none": None,
        "nan": float("nan"),
    }
    return m.Entry(tmp_path / "file.json", "record 7 (id 'x')", raw)


def test_fields_as_they_should_be(entry):
    assert entry.text("text") == "words"
    assert entry.text("blank", may_be_empty=True) == "  "
    assert entry.integer("count") == 3
    assert entry.integer("digits") == 34
    assert entry.number("count") == 3.0
    assert entry.flag("yes") is True
    assert entry.one_of("text", ("words", "more")) == "words"


@pytest.mark.parametrize(
    ("method", "field", "said"),
    [
        ("text", "blank", "expected a string with words, got str '  '"),
        ("text", "gone", "expected a string with words, got no such field"),
        ("integer", "text", "expected an integer, got str 'words'"),
        ("integer", "yes", "expected an integer, got bool True"),
        ("number", "nan", "expected a finite number, got float nan"),
        ("texts", "list", "list[1]: expected a string, got int 1"),
        ("integers", "list", "list[0]: expected an integer, got str 'a'"),
        ("items", "none", "expected a list, got NoneType None"),
        ("flag", "count", "expected true or false, got int 3"),
        ("part", "text", "expected a record"),
    ],
)
def test_a_wrong_field_names_file_record_and_field(entry, method, field, said):
    with pytest.raises(m.AnnotationError) as caught:
        getattr(entry, method)(field)
    message = str(caught.value)
    assert message.startswith(f"{entry.path}: record 7 (id 'x'): {field}")
    assert said in message
    assert re.search(r"; .*(mend|download)", message)


def test_a_word_outside_the_list_is_refused(entry):
    with pytest.raises(m.AnnotationError, match="one of more, less, got str 'words'"):
        entry.one_of("text", ("more", "less"))


def test_truncated_json_names_line_and_column(tmp_path):
    path = hand_made.write_scanqa(tmp_path)
    whole = path.read_text()
    for keep in (len(whole) // 2, len(whole) - 1, 0):
        path.write_text(whole[:keep])
        with pytest.raises(m.AnnotationError, match="cut off or damaged") as caught:
            m.load_entries(path)
        assert f"{path}: line 1 column " in str(caught.value)
        assert f"{keep} characters in all" in str(caught.value)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(b'["\xff\xfe"]')
    with pytest.raises(m.AnnotationError, match="byte 2: expected UTF-8"):
        m.load_json(path)


def test_lists_that_are_none(tmp_path):
    path = hand_made.write_json(tmp_path / "a.json", {"questions": {}})
    with pytest.raises(m.AnnotationError, match="a list of records, got dict"):
        m.load_entries(path)
    with pytest.raises(m.AnnotationError, match="annotations: expected a list under this name"):
        m.load_entries(path, under="annotations")
    with pytest.raises(m.AnnotationError, match="an empty list"):
        m.load_entries(hand_made.write_json(path, []))
    with pytest.raises(m.AnnotationError, match=r"record 1: expected fields .* got int 3"):
        m.load_entries(hand_made.write_json(path, [{"a": 1}, 3]))


def test_rows_that_end_early_and_columns_that_miss(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,text\n1,one\n2\n")
    with pytest.raises(m.AnnotationError, match=r"row 3 \(id '2'\): text: expected a value"):
        m.load_rows(path, ("id", "text"), ("id",))
    with pytest.raises(m.AnnotationError, match="got none called more"):
        m.load_rows(path, ("id", "more"))
    path.write_text("id,text\n")
    with pytest.raises(m.AnnotationError, match="a header alone"):
        m.load_rows(path, ("id",))


def test_repeats_name_both_records(tmp_path):
    path = hand_made.write_json(tmp_path / "a.json", [{"id": "x"}, {"id": "y"}, {"id": "x"}])
    entries = m.load_entries(path, ("id",))
    with pytest.raises(m.AnnotationError, match=r"record 2 .*id: .*'x' as in record 0"):
        m.refuse_repeats(((entry.text("id"), entry) for entry in entries), "id")


def test_a_missing_file_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        m.find_published(tmp_path, "a.json", ("sub",))
    assert str(tmp_path / "a.json") in str(caught.value)
    assert str(tmp_path / "sub" / "a.json") in str(caught.value)
    (tmp_path / "sub").mkdir()
    hand_made.write_json(tmp_path / "sub" / "a.json", [])
    assert m.find_published(tmp_path, "a.json", ("sub",)) == tmp_path / "sub" / "a.json"
