# SPDX-License-Identifier: Apache-2.0
"""A network small enough for tests, with a tokenizer and frames to look at."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.text_packing import build_tokenizer
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.structures import Frames

sys.path.insert(0, str(Path(__file__).parent))
from public_models import home, llava_3d, llava_hf, llava_original, vggt  # noqa: F401

TINY = {
    "encoder": {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2},
    "encoder_layers": (0, 1, 2, 3),
    "image_size": 56,
    "adapter_heads": 2,
    "bridge_tokens": 4,
    "aggregator_heads": 2,
    "camera_heads": 2,
    "dense_features": 8,
    "dense_channels": (8, 8, 8, 8),
    "metric_features": 8,
    "metric_channels": (8, 8, 8, 8),
    "metric_bins": 16,
    "metric_embedding": 8,
    "max_scene_tokens": 48,
    "grounding_dim": 16,
    "grounding_heads": 2,
    "grounding_queries": 8,
    "label_vocabulary": ("chair", "table", "lamp"),
    "language": {
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
}


@pytest.fixture(scope="session")
def tiny_fields():
    return TINY


@pytest.fixture
def build_tiny(tiny_fields):
    def build(**changes):
        torch.manual_seed(0)
        model = VidLLM(VidLLMConfig(**{**tiny_fields, **changes}))
        texts = ["What colour is the chair? brown", "a table beside the lamp", "two"]
        model.language.attach_tokenizer(build_tokenizer(texts, 320))
        return model.eval()

    return build


@pytest.fixture
def frames():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (5, 60, 80, 3), dtype=np.uint8)
    return Frames(images, tuple(range(100, 105)), "left_optical_frame")
