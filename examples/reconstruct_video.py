# SPDX-License-Identifier: Apache-2.0
"""A video becomes a metric point cloud: python examples/reconstruct_video.py clip.mp4 out.ply."""

import sys

from vidllm_ros.data.video import sample_uniform
from vidllm_ros.geometry.point_cloud import cloud_from_reconstruction, write_ply
from vidllm_ros.geometry.transforms import T_WORLD_OPTICAL_LEVEL
from vidllm_ros.network.checkpoint import load_vidllm

if __name__ == "__main__":
    film, ply = sys.argv[1:]
    model = load_vidllm("models/vidllm-nano")
    window = model.reconstruct(sample_uniform(film, 32))
    cloud = cloud_from_reconstruction(window, T_WORLD_OPTICAL_LEVEL, voxel_m=0.02)
    write_ply(ply, cloud)
    print(f"{len(cloud)} points, camera moved to {window.T_world_camera[-1, :3, 3].round(2)} m")
