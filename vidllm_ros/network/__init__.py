# SPDX-License-Identifier: Apache-2.0
"""The network of Vid-LLM, one box of the paper's figure a file; knows no clock, topic or file.

Read in the order data flows: encoder -> cross_task_adapter -> aggregator -> camera_head,
dense_head -> metric_depth -> scale_alignment -> patches3d -> language -> grounding, joined by
vidllm. `layers` holds what several of them share, `convert` brings public weights into these
names. No ROS is needed.
"""
