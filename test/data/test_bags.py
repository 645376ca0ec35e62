# SPDX-License-Identifier: Apache-2.0
"""A rosbag2: both storages, raw and compressed, the choice of the topic, K, stamps, torn bags."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from vidllm_ros.data.bags import COMPRESSED, IMAGE, Bag
from vidllm_ros.data.image_messages import rgb_from_message
from vidllm_ros.data.video import count_frames, iterate_frames, sample_uniform
from vidllm_ros.geometry.camera import scale_K

STORE = get_typestore(Stores.ROS2_JAZZY)
HEIGHT, WIDTH = 32, 48
START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 100_000_000
K = (40.0, 0.0, 23.5, 0.0, 41.0, 15.5, 0.0, 0.0, 1.0)
P = (39.0, 0.0, 23.0, 0.0, 0.0, 39.5, 15.0, 0.0, 0.0, 0.0, 1.0, 0.0)
FRAME = "camera_color_optical_frame"


def message_type(name: str) -> Any:
    return STORE.types[name]


def header(stamp_ns: int, frame_id: str = FRAME) -> Any:
    time = message_type("builtin_interfaces/msg/Time")(stamp_ns // 10**9, stamp_ns % 10**9)
    return message_type("std_msgs/msg/Header")(time, frame_id)


def picture(index: int) -> np.ndarray:
    """RGB whose red grows with the index, green is 100, blue 200, left half darker."""
    rgb = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    rgb[:] = (10 * index, 100, 200)
    rgb[:, : WIDTH // 2] //= 2
    return rgb


def raw_image(stamp_ns: int, pixels: np.ndarray, encoding: str, padding: int = 0) -> Any:
    height, width = pixels.shape[:2]
    lines = np.ascontiguousarray(pixels).view(np.uint8).reshape(height, -1)
    data = np.pad(lines, ((0, 0), (0, padding)), constant_values=77)
    return message_type(IMAGE)(
        header(stamp_ns), height, width, encoding, 0, data.shape[1], data.ravel()
    )


def compressed_image(stamp_ns: int, rgb: np.ndarray, suffix: str = ".png") -> Any:
    coded = cv2.imencode(suffix, rgb[..., ::-1])[1]
    return message_type(COMPRESSED)(header(stamp_ns), suffix[1:], coded.ravel())


def camera_info(frame_id: str = FRAME, height: int = HEIGHT, width: int = WIDTH, k=K) -> Any:
    roi = message_type("sensor_msgs/msg/RegionOfInterest")(0, 0, 0, 0, False)
    return message_type("sensor_msgs/msg/CameraInfo")(
        header(START_NS, frame_id), height, width, "plumb_bob", np.zeros(5), np.array(k),
        np.eye(3).ravel(), np.array(P), 0, 0, roi,
    )  # fmt: skip


@dataclass
class Recorded:
    """Topics of a bag to write: name -> messages, one every PERIOD_NS."""

    topics: dict[str, Sequence[Any]]
    storage: StoragePlugin = StoragePlugin.SQLITE3
    mode: CompressionMode = CompressionMode.NONE
    received_ns: int = START_NS
    options: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> Path:
        writer = Writer(path, version=9, storage_plugin=self.storage)
        if self.mode is not CompressionMode.NONE:
            writer.set_compression(self.mode, CompressionFormat.ZSTD)
        with writer:
            for topic, messages in self.topics.items():
                kind = messages[0].__msgtype__
                connection = writer.add_connection(topic, kind, typestore=STORE)
                for index, message in enumerate(messages):
                    raw = STORE.serialize_cdr(message, kind)
                    writer.write(connection, self.received_ns + index * PERIOD_NS, raw)
        return path


def raw_images(count: int = 6) -> list[Any]:
    return [raw_image(START_NS + i * PERIOD_NS, picture(i), "rgb8") for i in range(count)]


def compressed_images(count: int = 6) -> list[Any]:
    return [compressed_image(START_NS + i * PERIOD_NS, picture(i)) for i in range(count)]


@pytest.mark.parametrize("storage", [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
@pytest.mark.parametrize("make", [raw_images, compressed_images])
def test_both_storages_raw_and_compressed(tmp_path: Path, storage: StoragePlugin, make) -> None:
    topic = "/camera/image_raw" + ("/compressed" if make is compressed_images else "")
    topics = {topic: make(), "/camera/camera_info": [camera_info()]}
    # received late: the header's stamps count
    path = Recorded(topics, storage, received_ns=START_NS + 10**9).write(tmp_path / "bag")
    frames = list(iterate_frames(path))
    assert count_frames(path) == len(frames) == 6
    for i, frame in enumerate(frames):
        assert frame.stamp_ns == START_NS + i * PERIOD_NS
        assert frame.frame_id == FRAME
        assert frame.rgb.dtype == np.uint8
        np.testing.assert_array_equal(frame.rgb, picture(i))
        assert frame.K is not None
        assert frame.K.ravel().tolist() == list(K)
    film = sample_uniform(path, 3)
    assert film.stamps_ns == tuple(START_NS + i * PERIOD_NS for i in (0, 2, 5))
    assert film.frame_id == FRAME
    np.testing.assert_array_equal(film.images[1], picture(2))
    assert film.K is not None
    assert film.K.shape == (3, 3, 3)


@pytest.mark.parametrize(
    ("storage", "mode"),
    [
        (StoragePlugin.SQLITE3, CompressionMode.FILE),
        (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
        (StoragePlugin.MCAP, CompressionMode.STORAGE),
    ],
)
def test_compressed_storage(tmp_path: Path, storage: StoragePlugin, mode: CompressionMode) -> None:
    path = Recorded({"/image": raw_images()}, storage, mode).write(tmp_path / "bag")
    np.testing.assert_array_equal(sample_uniform(path, 6).images[5], picture(5))


@pytest.mark.parametrize("storage", [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
def test_one_storage_file_or_a_folder_without_metadata(
    tmp_path: Path, storage: StoragePlugin
) -> None:
    path = Recorded({"/image": raw_images()}, storage).write(tmp_path / "bag")
    file = next(entry for entry in path.iterdir() if entry.suffix in (".db3", ".mcap"))
    assert len(sample_uniform(file, 32)) == 6
    (path / "metadata.yaml").unlink()
    assert len(sample_uniform(path, 32)) == 6


def test_frames_may_be_read_on_in_another_thread(tmp_path: Path) -> None:
    frames = iterate_frames(Recorded({"/image": raw_images()}).write(tmp_path / "bag"))
    assert len(list(islice(frames, 2))) == 2
    rest: list[int] = []
    thread = threading.Thread(target=lambda: rest.extend(f.stamp_ns for f in frames))
    thread.start()
    thread.join(10)
    assert rest == [START_NS + i * PERIOD_NS for i in range(2, 6)]


def test_depth_and_compressed_twin_do_not_count_as_topics(tmp_path: Path) -> None:
    depth = [raw_image(START_NS, np.full((HEIGHT, WIDTH), 900, np.uint16), "16UC1")]
    topics = {
        "/camera/color/image_raw": raw_images(2),
        "/camera/color/image_raw/compressed": compressed_images(2),
        "/camera/range/image_raw": depth,
        "/camera/aligned_depth/image_raw/compressed": compressed_images(1),
        "/camera/color/camera_info": [camera_info()],
        "/camera/range/camera_info": [camera_info(k=(1.0, 0, 1, 0, 1, 1, 0, 0, 1))],
    }
    bag = Bag(Recorded(topics).write(tmp_path / "bag"))
    assert bag.topic == "/camera/color/image_raw"
    assert bag.calibration is not None
    assert bag.calibration.K.ravel().tolist() == list(K)


def test_of_several_cameras_one_must_be_named(tmp_path: Path) -> None:
    topics = {"/left/image_raw": raw_images(2), "/right/image_raw": raw_images(3)}
    path = Recorded(topics).write(tmp_path / "bag")
    with pytest.raises(ValueError, match=r"got 2: /left/image_raw, /right/image_raw; choose"):
        iterate_frames(path)
    assert len(sample_uniform(path, 9, topic="/right/image_raw")) == 3
    with pytest.raises(ValueError, match=r"topic: expected an image topic .* got /up"):
        sample_uniform(path, 9, topic="/up")


def test_bag_without_images_lists_what_it_has(tmp_path: Path) -> None:
    path = Recorded({"/camera_info": [camera_info()]}).write(tmp_path / "bag")
    with pytest.raises(
        ValueError, match=r"bag: expected an image topic, got .*/camera_info \(sensor"
    ):
        iterate_frames(path)


def test_depth_asked_for_by_name_is_refused(tmp_path: Path) -> None:
    depth = [raw_image(START_NS, np.full((HEIGHT, WIDTH), 900, np.uint16), "16UC1")]
    path = Recorded({"/depth": depth}).write(tmp_path / "bag")
    with pytest.raises(ValueError, match="expected an image topic"):
        iterate_frames(path)
    with pytest.raises(ValueError, match=r"bag, /depth at .* expected colour, got depth"):
        sample_uniform(path, 1, topic="/depth")


def test_rectified_images_use_the_projection_matrix(tmp_path: Path) -> None:
    topics = {"/camera/image_rect_color": raw_images(1), "/camera/camera_info": [camera_info()]}
    film = sample_uniform(Recorded(topics).write(tmp_path / "bag"), 1)
    assert film.K is not None
    assert film.K[0].tolist() == [[39, 0, 23], [0, 39.5, 15], [0, 0, 1]]


def test_calibration_of_another_resolution_is_scaled_or_dropped(tmp_path: Path) -> None:
    double = camera_info(height=2 * HEIGHT, width=2 * WIDTH)
    film = sample_uniform(
        Recorded({"/c/image": raw_images(1), "/c/camera_info": [double]}).write(tmp_path / "a"), 1
    )
    assert film.K is not None
    np.testing.assert_allclose(film.K[0], scale_K(np.reshape(K, (3, 3)), 0.5, 0.5))
    square = camera_info(height=WIDTH, width=WIDTH)
    film = sample_uniform(
        Recorded({"/c/image": raw_images(1), "/c/camera_info": [square]}).write(tmp_path / "b"), 1
    )
    assert film.K is None


@pytest.mark.parametrize(
    ("info", "has_K"),
    [
        (camera_info(), True),
        (camera_info(frame_id="another_camera"), False),
        (camera_info(k=(0.0,) * 9), False),
    ],
)
def test_camera_info_elsewhere_counts_if_it_is_of_this_frame(
    tmp_path: Path, info: Any, has_K: bool
) -> None:
    topics = {"/camera/image_raw": raw_images(1), "/calibration": [info]}
    film = sample_uniform(Recorded(topics).write(tmp_path / "bag"), 1)
    assert (film.K is not None) == has_K


def test_unset_stamps_fall_back_to_the_time_of_receipt(tmp_path: Path) -> None:
    images = [raw_image(0, picture(i), "rgb8") for i in range(3)]
    film = sample_uniform(Recorded({"/image": images}).write(tmp_path / "bag"), 9)
    assert film.stamps_ns == tuple(START_NS + i * PERIOD_NS for i in range(3))


def test_frames_not_newer_than_the_last_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    order = (0, 1, 1, 3, 2, 4)
    images = [raw_image(START_NS + i * PERIOD_NS, picture(i), "rgb8") for i in order]
    path = Recorded({"/image": images}).write(tmp_path / "bag")
    with caplog.at_level(logging.WARNING):
        stamps = [frame.stamp_ns for frame in iterate_frames(path)]
    assert stamps == [START_NS + i * PERIOD_NS for i in (0, 1, 3, 4)]
    assert "2 messages on /image left out" in caplog.text
    assert len(sample_uniform(path, 6)) == 4
    film = sample_uniform(path, 3)
    assert film.stamps_ns[0] == START_NS
    assert film.stamps_ns[-1] == START_NS + 4 * PERIOD_NS


def test_images_that_change_size_are_refused_where_one_array_is_wanted(tmp_path: Path) -> None:
    images = raw_images(2)
    images[1] = raw_image(START_NS + PERIOD_NS, picture(1)[:, :20], "rgb8")
    path = Recorded({"/image": images}).write(tmp_path / "bag")
    assert [frame.rgb.shape[1] for frame in iterate_frames(path)] == [WIDTH, 20]
    with pytest.raises(ValueError, match="expected images of one size, got 48 x 32 and then 20"):
        sample_uniform(path, 2)


@pytest.mark.parametrize("storage", [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.6])
def test_a_torn_bag_is_one_sentence(tmp_path: Path, storage: StoragePlugin, kept: float) -> None:
    path = Recorded({"/image": raw_images()}, storage).write(tmp_path / "bag")
    file = next(entry for entry in path.iterdir() if entry.suffix in (".db3", ".mcap"))
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * kept)])
    for torn in (path, file):
        with pytest.raises(ValueError, match="expected an intact rosbag2") as caught:
            sample_uniform(torn, 6)
        assert str(torn) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "words", "rosbag2_bagfile_information: {version: 5}"])
def test_bad_metadata_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "metadata.yaml").write_text(text)
    with pytest.raises(ValueError, match="expected an intact rosbag2"):
        iterate_frames(tmp_path)


def test_a_message_with_too_few_bytes_is_named(tmp_path: Path) -> None:
    message = raw_image(START_NS, picture(0), "rgb8")
    message.data = message.data[:-5]
    path = Recorded({"/image": [message]}).write(tmp_path / "bag")
    with pytest.raises(ValueError, match=r"/image at .* got 48 x 32 px of rgb8 in 4603 bytes"):
        sample_uniform(path, 1)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "code"),
    [
        ("rgb8", None),
        ("bgr8", cv2.COLOR_RGB2BGR),
        ("8UC3", cv2.COLOR_RGB2BGR),
        ("rgba8", cv2.COLOR_RGB2RGBA),
        ("bgra8", cv2.COLOR_RGB2BGRA),
    ],
)
def test_colour_encodings_keep_every_pixel(encoding: str, code: int | None, padding: int) -> None:
    rgb = np.random.default_rng(1).integers(0, 255, (16, 18, 3)).astype(np.uint8)
    pixels = rgb if code is None else cv2.cvtColor(rgb, code)
    message = raw_image(START_NS, pixels, encoding, padding)
    np.testing.assert_array_equal(rgb_from_message(message, IMAGE, "x"), rgb)


def test_grey_and_sixteen_bits_and_the_other_byte_order() -> None:
    grey = np.random.default_rng(2).integers(0, 255, (16, 18)).astype(np.uint8)
    shown = rgb_from_message(raw_image(1, grey, "mono8"), IMAGE, "x")
    np.testing.assert_array_equal(shown, np.repeat(grey[..., None], 3, -1))
    wide = np.repeat(grey[..., None], 3, -1).astype(np.uint16) * 256 + 7
    narrow = (wide * (255 / 65535)).astype(np.uint8)
    message = raw_image(1, wide, "rgb16")
    np.testing.assert_array_equal(rgb_from_message(message, IMAGE, "x"), narrow)
    message = raw_image(1, wide.byteswap(), "rgb16")
    message.is_bigendian = 1
    np.testing.assert_array_equal(rgb_from_message(message, IMAGE, "x"), narrow)


def test_nv12_rows_of_colour_are_not_rows_of_the_image() -> None:
    data = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)  # no chroma
    data[:HEIGHT] = 126  # (126 - 16) * 255 / 219 = 128
    message = raw_image(1, data, "nv12")
    message.height = HEIGHT
    shown = rgb_from_message(message, IMAGE, "x")
    assert shown.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(shown.astype(int) - 128).max() <= 2


def test_an_unknown_encoding_is_named() -> None:
    message = raw_image(1, picture(0), "rgb8")
    message.encoding = "tomato"
    with pytest.raises(ValueError, match=r"x: expected an image, got .* tomato"):
        rgb_from_message(message, IMAGE, "x")
