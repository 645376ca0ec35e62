# SPDX-License-Identifier: Apache-2.0
"""Every encoding is built by hand from one picture and must decode to it, padded and swapped."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vidllm_ros.ros.pixels import (
    ENCODINGS,
    RawImage,
    decode_compressed,
    decode_depth,
    decode_rgb,
)

H, W = 6, 8
RGB = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)


def raw(pixels: np.ndarray, encoding: str, pad: int = 0, big: bool = False) -> RawImage:
    """Lay pixels out as a message holds them, `pad` bytes of rubbish after each row."""
    order = pixels.dtype.newbyteorder(">" if big else "<")
    rows = pixels.astype(order).view(np.uint8).reshape(len(pixels), -1)
    padded = np.hstack([rows, np.full((len(rows), pad), 0xAB, np.uint8)])
    height, width = pixels.shape[:2]
    return RawImage(height, width, encoding, padded.shape[1], big, padded.tobytes())


COLOUR = {
    "rgb": lambda c: c,
    "bgr": lambda c: c[..., ::-1],
    "rgba": lambda c: np.dstack([c, np.full(c.shape[:2], 7, c.dtype)]),
    "bgra": lambda c: np.dstack([c[..., ::-1], np.full(c.shape[:2], 7, c.dtype)]),
}


@pytest.mark.parametrize("pad", [0, 5])
@pytest.mark.parametrize("name", COLOUR)
def test_colour_8_bit(name: str, pad: int) -> None:
    image = raw(np.ascontiguousarray(COLOUR[name](RGB)), f"{name}8", pad)
    np.testing.assert_array_equal(decode_rgb(image), RGB)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("name", COLOUR)
def test_colour_16_bit_in_either_byte_order(name: str, big: bool) -> None:
    wide = RGB.astype(np.uint16) * 257
    image = raw(np.ascontiguousarray(COLOUR[name](wide)), f"{name}16", pad=6, big=big)
    np.testing.assert_array_equal(decode_rgb(image), RGB)


GREY = [("mono8", False), ("mono16", False), ("mono16", True)]


@pytest.mark.parametrize(("encoding", "big"), GREY)
def test_grey(encoding: str, big: bool) -> None:
    grey = RGB[..., :1]
    pixels = grey if encoding == "mono8" else grey.astype(np.uint16) * 257
    expected = np.repeat(grey, 3, axis=2)
    np.testing.assert_array_equal(decode_rgb(raw(pixels, encoding, 2, big)), expected)


def test_16_bit_rounds_as_cv_bridge() -> None:
    values = np.array([[[0], [128], [129], [65535], [32767]]], np.uint16)
    expected = [0, 0, 1, 255, 127]  # round(v * 255 / 65535)
    assert decode_rgb(raw(values, "mono16"))[0, :, 0].tolist() == expected


ALIASES = [("8UC1", "mono8"), ("8UC3", "bgr8"), ("8UC4", "bgra8")]


@pytest.mark.parametrize(("alias", "name"), ALIASES)
def test_encodings_without_colour_space_are_opencvs(alias: str, name: str) -> None:
    channels = int(alias[-1])
    pixels = np.random.default_rng(1).integers(0, 256, (H, W, channels), np.uint8)
    np.testing.assert_array_equal(decode_rgb(raw(pixels, alias)), decode_rgb(raw(pixels, name)))


PATTERNS = {
    "bayer_rggb": [[0, 1], [1, 2]],
    "bayer_bggr": [[2, 1], [1, 0]],
    "bayer_gbrg": [[1, 2], [0, 1]],
    "bayer_grbg": [[1, 0], [2, 1]],
}


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", PATTERNS)
def test_bayer_gives_back_a_flat_colour(name: str, bits: int) -> None:
    colour = np.array([200, 90, 30])
    mosaic = np.tile(colour[np.array(PATTERNS[name])], (4, 4))[..., None]
    pixels = mosaic.astype(np.uint8) if bits == 8 else (mosaic * 257).astype(np.uint16)
    rgb = decode_rgb(raw(pixels, f"{name}{bits}", pad=4, big=bits == 16))
    inner = rgb[2:-2, 2:-2].astype(int)
    np.testing.assert_allclose(inner, np.broadcast_to(colour, (4, 4, 3)), atol=1)


@pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv"])
def test_yuv422_by_the_formula_of_bt601(encoding: str) -> None:
    y, u, v = 120, 90, 180
    pair = [u, y, v, y] if encoding in ("yuv422", "uyvy") else [y, u, y, v]
    pixels = np.tile(np.array(pair, np.uint8).reshape(1, 2, 2), (4, 3, 1))
    c, d, e = 1.164 * (y - 16), u - 128, v - 128
    expected = [c + 1.596 * e, c - 0.813 * e - 0.391 * d, c + 2.018 * d]
    rgb = decode_rgb(raw(pixels, encoding, pad=2))
    np.testing.assert_allclose(rgb[1, 1], expected, atol=1.5)
    assert rgb.shape == (4, 6, 3)


def test_every_listed_encoding_was_tested() -> None:
    tested = {f"{n}{b}" for n in [*COLOUR, *PATTERNS, "mono"] for b in (8, 16)}
    tested |= {"8UC1", "8UC3", "8UC4", "yuv422", "uyvy", "yuv422_yuy2", "yuyv"}
    assert tested == set(ENCODINGS)


GOOD = raw(RGB, "rgb8")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoding": "32FC3"}, r"encoding: expected one of .* got '32FC3'"),
        ({"encoding": "16UC1"}, "it is a depth encoding"),
        ({"encoding": ""}, "encoding: expected"),
        ({"height": 0, "data": b""}, "at least 1x1 pixels, got 8x0"),
        ({"width": 0, "step": 0, "data": b""}, "at least 1x1"),
        ({"step": 23}, "step: expected at least 24"),
        ({"data": GOOD.data[:-1]}, "torn"),
        ({"data": b""}, "torn"),
        ({"data": GOOD.data + b"1"}, "expected 144 bytes"),
        ({"encoding": "yuv422", "width": 7, "step": 24}, "even width"),
        ({"encoding": "bayer_rggb8", "height": 5, "step": 8, "data": bytes(40)}, "even width"),
    ],
)
def test_bad_images_say_what_is_wrong(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode_rgb(RawImage(**{**GOOD.__dict__, **change}))


def test_padding_of_the_last_row_may_be_missing() -> None:
    image = raw(RGB, "rgb8", pad=4)
    cut = RawImage(**{**image.__dict__, "data": image.data[:-4]})
    np.testing.assert_array_equal(decode_rgb(cut), RGB)


@pytest.mark.parametrize("big", [False, True])
def test_depth_in_metres_and_millimetres(big: bool) -> None:
    metres = np.array([[1.5, np.nan, np.inf, 0.0, -1.0]], np.float32)
    known = decode_depth(raw(metres[..., None], "32FC1", 3, big))
    np.testing.assert_array_equal(known, [[1.5, np.nan, np.nan, np.nan, np.nan]])
    millimetres = np.array([[1500, 0, 65535]], np.uint16)
    known = decode_depth(raw(millimetres[..., None], "16UC1", 3, big))
    np.testing.assert_allclose(known, [[1.5, np.nan, 65.535]])


@pytest.mark.parametrize(
    ("pixels", "encoding", "words"),
    [
        (np.full((2, 2, 1), np.nan, np.float32), "32FC1", "some finite"),
        (np.zeros((2, 2, 1), np.uint16), "16UC1", "some finite"),
        (RGB, "rgb8", "expected 32FC1"),
    ],
)
def test_bad_depth(pixels: np.ndarray, encoding: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode_depth(raw(pixels, encoding))


def test_png_is_exact_and_jpeg_close() -> None:
    smooth = cv2.resize(RGB, (64, 48), interpolation=cv2.INTER_CUBIC)
    bgr = np.ascontiguousarray(smooth[..., ::-1])
    png = cv2.imencode(".png", bgr)[1].tobytes()
    np.testing.assert_array_equal(decode_compressed("png", png), smooth)
    jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    error = np.abs(decode_compressed("rgb8; jpeg compressed bgr8", jpeg).astype(int) - smooth)
    assert error.mean() < 4
    padded = decode_compressed("jpeg", jpeg + bytes(8))  # some cameras pad
    assert padded.shape == smooth.shape


@pytest.mark.parametrize("keep", [0, 10, 200, -3])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_torn_streams_are_refused(suffix: str, keep: int) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (40, 40, 3), np.uint8)
    stream = cv2.imencode(suffix, noise)[1].tobytes()
    with pytest.raises(ValueError, match="data: "):
        decode_compressed("jpeg", stream[:keep])


@pytest.mark.parametrize("image_format", ["jpeg", "16UC1; compressedDepth png"])
def test_what_is_no_picture_is_refused(image_format: str) -> None:
    with pytest.raises(ValueError, match=r"expected a"):
        decode_compressed(image_format, b"this is a sentence and no picture at all")
