"""A film of the rendered game on disk, to measure with: ``python -m bot.vision.film_file PATH``.

Run in a process of its own: it imports numpy, OpenCV and PyAV.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SIZE = (1920, 1080)
FPS = 10
FRAMES = 24
STEP_SECONDS = 0.3
"""From one picture to the next: no two of them are alike."""
PLAY_SECONDS = 20.0
"""The rendered film begins with menus."""
SEED = 7


def write_moving(path: Path, frames: int = FRAMES, fps: int = FPS) -> None:
    """So many frames, each another moment of play."""
    from bot.vision.scene import Film

    film = Film(SEED, SIZE)
    moments = (PLAY_SECONDS + n * STEP_SECONDS for n in range(frames))
    write(path, (film.at(moment).image for moment in moments), fps)


def write(path: Path, images: Iterable[Any], fps: int = FPS) -> None:
    """H.264, as a recorder writes it; images are RGB."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=fps)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18", "preset": "veryfast"}
        for image in images:
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


if __name__ == "__main__":
    write_moving(Path(sys.argv[1]))
