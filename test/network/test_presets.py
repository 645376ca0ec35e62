# SPDX-License-Identifier: Apache-2.0
"""The paper's sizes hold together and survive overriding."""

from __future__ import annotations

from vidllm_ros.network.presets import paper_config


def test_paper_sizes() -> None:
    config = paper_config()
    assert (config.width, config.patch_size, config.image_size) == (1024, 14, 518)
    assert config.encoder_config().num_hidden_layers == config.aggregator_depth == 24
    assert config.aggregator_layers == [4, 11, 17, 23]
    assert config.bridge_tokens == 16
    language = config.language_config()
    assert (language.model_type, language.hidden_size, language.vocab_size) == (
        "llama",
        4096,
        32064,
    )
    assert config.max_scene_tokens < language.max_position_embeddings


def test_overrides_win() -> None:
    config = paper_config(bridge_tokens=8, point_head=False)
    assert (config.bridge_tokens, config.point_head) == (8, False)
    assert paper_config().bridge_tokens == 16
