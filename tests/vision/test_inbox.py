"""What waits between capture and analysis."""

import threading

import numpy as np

from bot.vision.frames import Frame
from bot.vision.reports import PipelineCounts
from bot.vision.worker.inbox import Captured, Inbox

IMAGE = np.zeros((4, 4, 3), np.uint8)


def captured(number: int) -> Captured:
    return Captured(Frame(IMAGE, 0.0, None, number), number, 0.0, {})


def numbers(batch: list[Captured]) -> list[int]:
    return [item.frame.sequence for item in batch]


def test_live_frames_do_not_wait_the_newest_wins() -> None:
    inbox = Inbox(1, live=True)
    for n in range(5):
        assert inbox.put(captured(n))
    assert numbers(inbox.take(4, 0)) == [4]
    assert inbox.counted(PipelineCounts()) == PipelineCounts(captured=5, dropped=4)


def test_a_stream_waits_for_as_many_as_fit_a_batch() -> None:
    inbox = Inbox(3, live=True)
    for n in range(5):
        inbox.put(captured(n))
    assert numbers(inbox.take(8, 0)) == [2, 3, 4]


def test_no_frame_of_a_file_is_lost_and_the_reader_waits() -> None:
    inbox = Inbox(2, live=False)
    reader = threading.Thread(target=lambda: [inbox.put(captured(n)) for n in range(7)])
    reader.start()
    seen: list[int] = []
    while len(seen) < 7:
        batch = inbox.take(2, 5)
        assert batch, "the reader gave up"
        seen += numbers(batch)
    reader.join(5)
    assert seen == list(range(7))
    assert inbox.counted(PipelineCounts()) == PipelineCounts(captured=7)


def test_a_closed_inbox_takes_nothing_in_but_gives_what_it_has() -> None:
    inbox = Inbox(4, live=False)
    inbox.put(captured(0))
    inbox.close()
    assert not inbox.put(captured(1))
    assert numbers(inbox.take(4, 0)) == [0]
    assert inbox.take(4, 5) == []
