# SPDX-License-Identifier: Apache-2.0
"""Pure functions over arrays: transforms, cameras, image resizing, boxes, point clouds.

Numpy in, numpy out; no state, no clock, no file but the cloud's PLY. Names, units and frames are
in docs/conventions.md. Start with transforms.py, then camera.py.
"""
