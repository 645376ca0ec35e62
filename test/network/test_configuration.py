# SPDX-License-Identifier: Apache-2.0
"""A configuration refuses what the network could not be built from, and reads older files."""

import pytest

from vidllm_ros.network.configuration import VidLLMConfig


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"adapter": "glue"}, "adapter: expected one of"),
        ({"aggregator_layers": [0, 1, 2, 9]}, "aggregator_layers: expected four ascending"),
        ({"image_size": 111}, "image_size: expected a multiple of 14 px, got 111"),
        ({"metric_focal": -0.5}, "metric_focal: expected 0 or above, got -0.5"),
        ({"grounding_tokens": 8}, "grounding_tokens: expected 0 or at least max_scene_tokens"),
        ({"grounding_tokens": -8}, "grounding_tokens: expected 0 or at least"),
        ({"grounding_neighbours": []}, "grounding_neighbours: expected counts of at least 1"),
        ({"grounding_neighbours": [16, 0]}, "grounding_neighbours: expected counts"),
        ({"grounding_fusion": 1.0}, "grounding_fusion: expected an IoU from 0 to below 1"),
        ({"grounding_votes": True, "voxel_size_m": 0.0}, "grounding_votes: expected false"),
    ],
)
def test_what_cannot_be_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        VidLLMConfig(**fields)


def test_a_file_from_before_a_field_means_what_it_meant(tmp_path):
    saved = VidLLMConfig().to_dict()
    for name in ("metric_focal", "grounding_tokens", "grounding_neighbours", "grounding_votes"):
        del saved[name]
    read = VidLLMConfig.from_dict(saved)
    assert read.metric_focal == 0.0
    assert read.grounding_tokens == 0
    assert not read.grounding_votes
    assert read.grounding_neighbours == [16, 32, 64, 128]
    read.save_pretrained(tmp_path)
    assert VidLLMConfig.from_pretrained(tmp_path).to_dict() == read.to_dict()
