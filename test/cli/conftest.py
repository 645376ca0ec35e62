# SPDX-License-Identifier: Apache-2.0
"""A checkpoint small enough for tests, its weights random; the hand-made data sets importable."""

import sys
from pathlib import Path

import pytest
import torch

from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.text_packing import build_tokenizer
from vidllm_ros.network.vidllm import VidLLM

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), *(str(HERE.parent / at) for at in ("data", "data/annotations"))]


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    config = VidLLMConfig(
        encoder={"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2},
        encoder_layers=(0, 1, 2, 3),
        image_size=56,
        adapter_heads=2,
        aggregator_heads=2,
        camera_heads=2,
        dense_features=8,
        dense_channels=(8, 8, 8, 8),
        metric_features=8,
        metric_channels=(8, 8, 8, 8),
        grounding_dim=16,
        grounding_heads=2,
        grounding_queries=8,
        label_vocabulary=("chair", "table"),
        language={
            "model_type": "llama",
            "vocab_size": 320,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
    )
    model = VidLLM(config)
    texts = ["what color is the chair? brown", "is there a table? yes no", "how many? two"]
    model.language.attach_tokenizer(build_tokenizer(texts * 20, 320))
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save_pretrained(folder)
    return folder
