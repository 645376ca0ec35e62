# SPDX-License-Identifier: Apache-2.0
"""Words in rows are the words packed side by side: each in one row, no segment torn."""

import pytest
import torch

from vidllm_ros.network.word_rows import word_rows


def segments(*texts):
    longest = max(sum(lengths) for lengths in texts)
    ids = torch.full((len(texts), longest), -1)
    for b, lengths in enumerate(texts):
        said = [number for number, length in enumerate(lengths) for _ in range(length)]
        ids[b, : len(said)] = torch.tensor(said, dtype=torch.long)
    return ids


@pytest.mark.parametrize("row_tokens", [1, 7, 10, 1000])
def test_every_word_has_one_place_and_no_segment_is_torn(row_tokens):
    ids = segments([3, 4, 4, 2, 9, 1], [5], [])
    rows = word_rows(ids, row_tokens)
    assert rows.places.shape == rows.real.shape == (3, len(rows), max(row_tokens, 9))
    owners = rows.parted(ids).masked_fill(~rows.real.flatten(0, 1), -1).unflatten(0, (3, -1))
    for b, lengths in enumerate([[3, 4, 4, 2, 9, 1], [5], []]):
        held = [row[row >= 0].tolist() for row in owners[b]]
        assert [number for row in held for number in row] == ids[b][ids[b] >= 0].tolist()
        for number, length in enumerate(lengths):
            assert [row.count(number) for row in held if number in row] == [length]


def test_rows_are_filled():
    rows = word_rows(segments([3, 4, 4, 2, 9, 1], [5]), 10)
    assert rows.real.sum(-1).tolist() == [[7, 6, 10], [5, 0, 0]]


def test_what_was_parted_is_joined_again():
    ids = segments([3, 4, 4, 2, 9, 1], [5, 6], [2])
    features = torch.randn(*ids.shape, 6)
    joined = (rows := word_rows(ids, 10)).joined(rows.parted(features))
    assert torch.equal(joined[ids >= 0], features[ids >= 0])
    moved = rows.to("meta")
    assert all(value.is_meta for value in vars(moved).values())
    assert [value.shape for value in vars(moved).values()] == [
        v.shape for v in vars(rows).values()
    ]
