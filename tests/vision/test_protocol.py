"""Messages survive the wire, and nonsense is refused."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.settings import CaptureSettings
from bot.vision.reports import Detection, FrameReport, Insight, PipelineCounts
from bot.vision.worker.protocol import (
    HEADER,
    ProtocolError,
    ReplyEnvelope,
    Reported,
    RequestEnvelope,
    StartCapture,
    decode_reply,
    encode,
    lengths,
    read_request,
)

numbers = st.floats(0, 1e5, allow_nan=False)


@given(
    labels=st.lists(st.tuples(st.text(max_size=20), numbers), max_size=5),
    said=st.lists(st.text(max_size=30), max_size=3),
    blob=st.binary(max_size=100),
    media=st.none() | numbers,
)
def test_a_report_arrives_as_it_was_sent(
    labels: list[tuple[str, float]], said: list[str], blob: bytes, media: float | None
) -> None:
    report = FrameReport(
        sequence=3,
        captured_at=1.5,
        source="scene",
        width=10,
        height=20,
        devices={"yolo": "cpu"},
        detections=tuple(Detection(t, 0.5, (0.0, n, n, 1.0)) for t, n in labels),
        insights=tuple(Insight(text, 0.25) for text in said),
        milliseconds={"total": 1.25},
        media_seconds=media,
    )
    envelope = ReplyEnvelope(id=None, body=Reported(report=report, counts=PipelineCounts(1, 2)))
    data = encode(envelope, blob)
    body, tail = lengths(data[: HEADER.size])
    assert decode_reply(data[HEADER.size : HEADER.size + body]) == envelope
    assert data[HEADER.size + body :] == blob
    assert tail == len(blob)


def test_requests_come_one_after_another_and_then_the_end() -> None:
    order = StartCapture(
        capture=CaptureSettings(source="region", region=(1, 2, 30, 40)), yolo_fps=5, clip_fps=1
    )
    envelopes = [RequestEnvelope(id=n, body=order) for n in range(3)]
    pipe = io.BytesIO(b"".join(encode(e) for e in envelopes))
    assert [read_request(pipe) for _ in range(4)] == [*envelopes, None]


def test_a_request_that_breaks_off_is_the_end() -> None:
    data = encode(
        RequestEnvelope(id=1, body=StartCapture(capture=CaptureSettings(), yolo_fps=5, clip_fps=1))
    )
    assert read_request(io.BytesIO(data[:-3])) is None


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"null", b'{"id": 1, "body": {"kind": "rm -rf"}}', b"\xff\xfe", b'{"id": null}'],
)
def test_nonsense_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_reply(body)


def test_a_huge_message_is_refused_before_it_is_read() -> None:
    with pytest.raises(ProtocolError):
        lengths(HEADER.pack(2**31, 2**31))
