"""Each source gives the frames it has, in order, and says in words why it gives none."""

from __future__ import annotations

import errno
import http.server
import os
import re
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from bot.settings import CaptureSettings
from bot.vision import frames
from bot.vision.frames import Frame, FrameSource, SourceError
from bot.vision.sources import container, open_source, video
from bot.vision.sources.images import load_image
from bot.vision.sources.stream import StreamSource
from tests.vision.screen import Screen


def capture(**changes: object) -> CaptureSettings:
    return CaptureSettings.model_validate(changes)


def take_all(source: FrameSource, most: int = 1000) -> list[Frame]:
    found: list[Frame] = []
    while len(found) < most and (frame := source.grab()) is not None:
        found.append(frame)
    source.close()
    return found


def square_left(image: np.ndarray) -> int:
    """Where the wandering square of the test film begins."""
    red = image[80, :, 2].astype(int) - image[80, :, 0]
    return int(np.argmax(red > 80))


def test_a_video_gives_each_frame_once_and_in_order(video_file: Path) -> None:
    found = take_all(open_source(capture(source="video", path=str(video_file))))
    assert len(found) == 12
    assert [f.sequence for f in found] == list(range(12))
    assert [f.media_seconds for f in found] == pytest.approx([n / 10 for n in range(12)])
    places = [square_left(f.image) for f in found]
    assert places == sorted(places)
    assert places[0] < 10
    assert places[-1] > 250
    assert found[0].image.shape == (176, 320, 3)
    assert found[0].image.dtype == np.uint8


def test_a_frame_of_a_video_outlives_its_film(video_file: Path) -> None:
    """Colours are made when somebody asks, from whichever thread, and once."""
    early = take_all(open_source(capture(source="video", path=str(video_file))))[5]
    late = take_all(open_source(capture(source="video", path=str(video_file))))[5]
    assert early.size == (176, 320)
    assert np.array_equal(early.image, late.image)
    with ThreadPoolExecutor(8) as threads:
        images = list(threads.map(lambda _: late.image, range(50)))
    assert all(image is images[0] for image in images)


def test_a_video_skips_to_the_time_that_is_asked_for(video_file: Path) -> None:
    source = open_source(capture(source="video", path=str(video_file)))
    frame = source.grab(0.65)
    source.close()
    assert frame is not None
    assert frame.media_seconds == pytest.approx(0.7)
    assert frame.sequence == 7


def test_a_looping_video_starts_again_and_its_time_goes_on(video_file: Path) -> None:
    source = open_source(capture(source="video", path=str(video_file), loop=True))
    found = take_all(source, 30)
    assert [f.sequence for f in found] == list(range(30))
    # The first frame of the next round comes a frame's time after the last one.
    assert [f.media_seconds for f in found] == pytest.approx([n / 10 for n in range(30)])
    assert square_left(found[12].image) == square_left(found[0].image)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no video file .*film.mp4; "),
        (b"nonsense" * 99, "the file film.mp4 can't be opened: Invalid data found when [a-z ]*; "),
    ],
)
def test_what_is_no_video_is_refused_in_words(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "film.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=words) as caught:
        open_source(capture(source="video", path=str(path)))
    assert caught.value.remedy


def test_what_is_no_file_is_called_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is a folder, not a video file"):
        open_source(capture(source="video", path=str(tmp_path)))
    with pytest.raises(SourceError, match=f"^{os.devnull} is a device or a pipe, not a video file"):
        open_source(capture(source="video", path=os.devnull))
    words = "there is no" if sys.platform == "win32" else "can't be reached: File name too long"
    with pytest.raises(SourceError, match=words):
        open_source(capture(source="images", path="x" * 300))


def test_a_folder_that_may_not_be_read_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(_: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "iterdir", forbidden)
    with pytest.raises(
        SourceError, match=f"the folder {re.escape(str(tmp_path))} can't be read: Permission"
    ):
        open_source(capture(source="images", path=str(tmp_path)))


def test_images_come_as_people_count(tmp_path: Path) -> None:
    for n in (10, 9, 1):
        Image.new("RGB", (40, 30), (n, 0, 200)).save(tmp_path / f"shot{n}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    found = take_all(open_source(capture(source="images", path=str(tmp_path), fps=2)))
    assert [int(f.image[0, 0, 2]) for f in found] == [1, 9, 10]
    assert [f.media_seconds for f in found] == [0.0, 0.5, 1.0]
    assert int(found[0].image[0, 0, 0]) == 200, "frames are BGR"


def test_a_damaged_image_costs_itself_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    Image.new("RGB", (40, 30)).save(tmp_path / "c.png")
    found = take_all(open_source(capture(source="images", path=str(tmp_path))))
    assert [f.sequence for f in found] == [0, 1]
    assert "b.png" in caplog.text


def test_a_picture_is_measured_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "huge.png"
    Image.new("1", (4000, 3000)).save(path)
    monkeypatch.setattr(frames, "MAX_PIXELS", 1_000_000)
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(SourceError, match="too many"):
        load_image(path)


def test_a_video_is_measured_before_it_is_decoded(
    video_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "MAX_PIXELS", 1000)
    with pytest.raises(SourceError, match="too many"):
        open_source(capture(source="video", path=str(video_file)))


def test_a_video_that_grows_under_way_is_not_decoded_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = tmp_path / "film.mjpeg"
    with film.open("wb") as file:
        for size in ((64, 48), (64, 48), (640, 480), (64, 48)):
            Image.new("RGB", size).save(file, "JPEG")
    sizes: list[int] = []
    took = frames.Decoded
    monkeypatch.setattr(video, "Decoded", lambda f: (sizes.append(f.width), took(f))[1])
    monkeypatch.setattr(container, "MAX_PIXELS", 100 * 100)
    source = open_source(capture(source="video", path=str(film)))
    with pytest.raises(SourceError, match="can't be read further"):
        take_all(source)
    source.close()
    assert sizes == [64, 64], "the large one never came out of the decoder"


@pytest.mark.parametrize("source", ["images", "folder"])
def test_a_folder_without_pictures_is_refused(tmp_path: Path, source: str) -> None:
    path = tmp_path if source == "images" else tmp_path / "missing"
    with pytest.raises(SourceError, match=r"no picture|no folder"):
        open_source(capture(source="images", path=str(path)))


@pytest.fixture
def served(video_file: Path) -> Iterator[str]:
    """The test film on a local web server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = partial(Quiet, directory=str(video_file.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://user:secret@127.0.0.1:{server.server_port}/{video_file.name}?token=secret"
        server.shutdown()
        thread.join()


def test_a_stream_is_read_and_its_password_is_never_shown(served: str) -> None:
    source = open_source(capture(source="stream", url=served))
    assert "secret" not in source.description
    assert "127.0.0.1" in source.description
    found = take_all(source)
    assert 1 <= len(found) <= 12
    assert found[0].image.shape == (176, 320, 3)


def test_a_stream_that_does_not_answer_is_told_without_its_password() -> None:
    with pytest.raises(SourceError) as caught:
        StreamSource("http://user:secret@127.0.0.1:9/live?key=secret", timeout=2).open()
    assert "secret" not in str(caught.value)
    assert "can't be opened" in str(caught.value)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "concat:a|b", "no address", "data:video"])
def test_only_network_addresses_are_streams(url: str) -> None:
    with pytest.raises(ValidationError, match="url"):
        capture(source="stream", url=url)
    # What came past the settings is refused here, too.
    with pytest.raises(SourceError, match="no kind of stream"):
        StreamSource(url).open()


def test_the_rendered_scene_has_no_end_and_moves() -> None:
    source = open_source(capture(source="scene", fps=2))
    found = take_all(source, 4)
    assert [f.media_seconds for f in found] == [0.0, 0.5, 1.0, 1.5]
    assert found[0].image.shape == (720, 1280, 3)
    assert not np.array_equal(found[0].image, found[3].image)


def test_the_screen_is_what_is_on_it(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", screen.display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    picture = np.random.default_rng(2).integers(0, 256, (480, 640, 3), np.uint8)
    screen.show(picture)
    source = open_source(capture(source="screen"))
    first = source.grab()
    assert first is not None
    assert np.array_equal(first.image, picture)
    assert source.description == "screen 1 (640 x 480)"

    screen.show(np.zeros((50, 60, 3), np.uint8), left=10, top=20)
    second = source.grab()
    source.close()

    assert second is not None
    assert not second.image[20:70, 10:70].any()
    assert np.array_equal(first.image, picture), "an old frame keeps its pixels"


def test_a_region_is_that_part_of_the_screen(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", screen.display)
    picture = np.random.default_rng(3).integers(0, 256, (480, 640, 3), np.uint8)
    screen.show(picture)
    source = open_source(capture(source="region", region=[100, 50, 200, 120]))
    frame = source.grab()
    source.close()
    assert frame is not None
    assert source.name == "region"
    assert np.array_equal(frame.image, picture[50:170, 100:300])


def test_what_is_not_on_the_desktop_is_refused(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", screen.display)
    with pytest.raises(SourceError, match=r"not on the desktop \(640 x 480\)"):
        open_source(capture(source="region", region=[600, 0, 100, 100]))
    with pytest.raises(SourceError, match="no monitor 7"):
        open_source(capture(source="screen", monitor=7))


def test_auto_takes_the_screen(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", screen.display)
    source = open_source(capture(source="auto"))
    source.close()
    assert source.name == "screen"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows always has a screen")
@pytest.mark.parametrize("display", [None, ":4095"])
def test_auto_without_a_screen_takes_the_scene_and_says_why(
    monkeypatch: pytest.MonkeyPatch, display: str | None
) -> None:
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    if display:
        monkeypatch.setenv("DISPLAY", display)
    source = open_source(capture(source="auto"))
    source.close()
    assert source.name == "scene"
    assert ("DISPLAY is not set" if display is None else "screen :4095") in source.description


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no Wayland")
def test_wayland_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    with pytest.raises(SourceError, match="Wayland"):
        open_source(capture(source="screen"))


def test_capture_converts_colours_like_opencv(tmp_path: Path) -> None:
    picture = np.random.default_rng(4).integers(0, 256, (20, 30, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    assert np.array_equal(load_image(tmp_path / "a.png"), picture)
