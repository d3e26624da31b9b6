"""What the bot process and the vision worker say to each other: small typed messages.

On the wire an envelope is two lengths (big-endian, 4 bytes each), JSON, then an optional blob
(a JPEG). JSON, not pickle: a worker that went wrong can send nonsense but not code.
Nothing here imports torch or numpy.
"""

from __future__ import annotations

import struct
from typing import Annotated, Any, BinaryIO, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from bot.settings import CaptureSettings
from bot.vision.reports import FrameReport, PipelineCounts

HEADER = struct.Struct(">II")
MAX_MESSAGE_BYTES = 64 << 20

ModelName = Literal["yolo", "clip"]


class ProtocolError(Exception):
    """The other side sent something that is no message of ours."""


class Message(BaseModel):
    # Built when the first message is sent: the bot answers before that.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


# --- what messages are made of -------------------------------------------------------------


class Destination(Message):
    """Where a model shall live, as the manager decided."""

    device: str
    """``cuda:N`` or ``cpu``."""
    uuid: str | None = None
    """The card that the bot process means by ``cuda:N``."""
    card: str = ""
    """Its name, for people."""
    simulated: bool = False
    """The rig is scripted: the card may not exist, and the CPU does the work."""
    may_rehearse: bool = False
    """If torch can use no card at all, the CPU may work under this card's name."""
    limit_bytes: int | None = None
    """Hard cap for this process on the card."""


class Computing(Message):
    """What shall compute, and where what it needs is kept."""

    backend: Literal["auto", "torch", "openvino"] = "torch"
    """On the CPU; a card is always torch's."""
    precision: Literal["fastest", "f32"] = "fastest"
    """OpenVINO's: the fastest that agrees with torch, or single."""
    cuda_graphs: bool = True
    cache_folder: str | None = None
    """For converted models and embeddings of phrases; ``None``: nothing is kept."""


class YoloSpec(Message):
    """A YOLO checkpoint and what is asked of it."""

    kind: Literal["yolo"] = "yolo"
    path: str
    sha256: str | None = None
    """The file is refused when it hashes to something else; ``None``: not pinned."""
    classes: tuple[str, ...]
    confidence_threshold: float
    iou_threshold: float
    max_detections: int
    batch_size: int
    image_size: int | None = None
    computing: Computing = Computing()


class ClipSpec(Message):
    """A folder with an open_clip model and what is asked of it."""

    kind: Literal["clip"] = "clip"
    folder: str
    sha256: str | None = None
    concepts: tuple[str, ...]
    confidence_threshold: float
    max_insights: int
    batch_size: int
    computing: Computing = Computing()


class Held(Message):
    """What this process has on one card, where it has a CUDA context; in bytes."""

    index: int
    reserved_bytes: int
    active_bytes: int
    inactive_split_bytes: int = 0
    """Free pieces of blocks that are in use: what fragmentation keeps from the driver."""
    context_bytes: int = 0
    """What its CUDA context took when it was made; 0: not known."""


# --- requests: bot -> worker ---------------------------------------------------------------


class LoadModel(Message):
    kind: Literal["load_model"] = "load_model"
    spec: Annotated[YoloSpec | ClipSpec, Field(discriminator="kind")]
    destination: Destination
    may_fall_to_cpu: bool = True
    """Whether the model goes on on the CPU when the card runs out of memory."""


class MoveModel(Message):
    kind: Literal["move_model"] = "move_model"
    model: ModelName
    destination: Destination


class ParkModel(Message):
    """Give the card's memory back but keep the host copy: ``MoveModel`` restores it.

    The first new picture is told, once, with ``Wanted``. The newest one is looked at when the model
    is back; a film waits, so that each of its pictures is seen. Answered with ``Parked``.
    """

    kind: Literal["park_model"] = "park_model"
    model: ModelName


class UnloadModel(Message):
    kind: Literal["unload_model"] = "unload_model"
    model: ModelName


class SetConcepts(Message):
    kind: Literal["set_concepts"] = "set_concepts"
    concepts: tuple[str, ...]


class ScorePhrases(Message):
    """How well each phrase fits the newest frame, against a neutral background."""

    kind: Literal["score_phrases"] = "score_phrases"
    phrases: Annotated[tuple[str, ...], Field(min_length=1, max_length=64)]
    background: Annotated[tuple[str, ...], Field(min_length=1, max_length=64)]


class StartCapture(Message):
    kind: Literal["start_capture"] = "start_capture"
    capture: CaptureSettings
    yolo_fps: float
    clip_fps: float
    every_frame: bool = False
    """Files are not paced, none of their frames is dropped, and YOLO sees each one."""
    retry: bool = True
    """Whether a source that fails or ends is opened again."""
    held: bool = False
    """The source is opened, but frames are taken only after ``ReleaseCapture``."""


class ReleaseCapture(Message):
    kind: Literal["release_capture"] = "release_capture"


class StopCapture(Message):
    kind: Literal["stop_capture"] = "stop_capture"


class TakePicture(Message):
    kind: Literal["take_picture"] = "take_picture"


class Ping(Message):
    kind: Literal["ping"] = "ping"


class CallOff(Message):
    """Keep off the card that a model is on its way to: what is not there yet stays in host memory.

    The request that sent it there is refused as ``called_off``; a model that was being loaded is
    parked then.
    """

    kind: Literal["call_off"] = "call_off"
    model: ModelName


class Trim(Message):
    """Return the allocator's unused blocks to the driver; answered with a ``Pong``."""

    kind: Literal["trim"] = "trim"


class Consumed(Message):
    """So many reports were dealt with: the worker may run that much further ahead."""

    kind: Literal["consumed"] = "consumed"
    reports: int


class Shutdown(Message):
    kind: Literal["shutdown"] = "shutdown"


Request = Annotated[
    LoadModel
    | MoveModel
    | ParkModel
    | UnloadModel
    | CallOff
    | SetConcepts
    | ScorePhrases
    | StartCapture
    | ReleaseCapture
    | StopCapture
    | TakePicture
    | Ping
    | Trim
    | Consumed
    | Shutdown,
    Field(discriminator="kind"),
]


# --- answers: worker -> bot, one for each request --------------------------------------------


class Done(Message):
    kind: Literal["done"] = "done"


class Refused(Message):
    """It was not done; what happened and what to do, in words for people."""

    kind: Literal["refused"] = "refused"
    what: str
    remedy: str = ""
    about: Literal["model", "place", "process", "memory", "called_off", "other"] = "other"
    """``place``, ``process`` and ``memory``: another device may do; ``process``: another worker."""
    needed_bytes: int | None = None
    """For ``memory``: what the model would have taken at its peak, as far as it is known."""

    @property
    def words(self) -> str:
        return f"{self.what}; {self.remedy}" if self.remedy else self.what


class Placed(Message):
    """A model is loaded or moved, and was tried there."""

    kind: Literal["placed"] = "placed"
    device: str
    """As people read it: ``cuda:1``, ``cpu``, ``cuda:1 (simulated; really on the CPU)``."""
    on_card: bool
    weights_bytes: int
    activations_bytes: int | None = None
    """Peak beyond the weights during the trial; ``None`` on the CPU."""
    seconds: float = 0.0
    """From the request to the model at work there, without waiting for a batch in flight."""
    backend: str = ""
    """What computes, and in which precision, as people read it: ``OpenVINO f32``."""
    notes: tuple[str, ...] = ()
    """Warnings for people: classes that the model does not know."""
    stay: int = 0
    """Another number each time that a model comes somewhere."""


class Parked(Message):
    """The card's memory went back; the host copy stays."""

    kind: Literal["parked"] = "parked"
    seconds: float


class Picture(Message):
    """The newest report; its annotated JPEG is the blob. ``report`` is ``None`` before any."""

    kind: Literal["picture"] = "picture"
    report: FrameReport | None


class Scored(Message):
    """Log-odds in the order of the phrases, and the report of the frame that they are about."""

    kind: Literal["scored"] = "scored"
    log_odds: tuple[float, ...]
    report: FrameReport
    device: str
    milliseconds: float


class Pong(Message):
    kind: Literal["pong"] = "pong"
    busy_seconds: float
    """How long the models have been at one batch; 0 while they wait."""
    counts: PipelineCounts
    held: tuple[Held, ...] = ()
    resident_bytes: int = 0


# --- events: worker -> bot, unasked ----------------------------------------------------------


class Hello(Message):
    kind: Literal["hello"] = "hello"
    pid: int


class Reported(Message):
    kind: Literal["reported"] = "reported"
    report: FrameReport
    counts: PipelineCounts


class SourceOpened(Message):
    kind: Literal["source_opened"] = "source_opened"
    description: str


class SourceTrouble(Message):
    """No frames at present, or none that show anything; the worker goes on trying."""

    kind: Literal["source_trouble"] = "source_trouble"
    words: str


class SourceEnded(Message):
    """No more frames will come. ``failed`` tells the end of a file from a failure."""

    kind: Literal["source_ended"] = "source_ended"
    words: str
    failed: bool


class Progress(Message):
    kind: Literal["progress"] = "progress"
    model: ModelName
    text: str
    fraction: float


class ModelFell(Message):
    """The card ran out of memory: the model goes on on the CPU, or was unloaded."""

    kind: Literal["model_fell"] = "model_fell"
    model: ModelName
    stay: int = 0
    """Which stay that ended, as ``Placed`` had it: the model may have been sent on since."""
    device: str | None
    needed_bytes: int | None = None
    """What the model would have taken at its peak, weights included, as far as it is known."""
    words: str


class Wanted(Message):
    """A parked model is due: a new picture is there."""

    kind: Literal["wanted"] = "wanted"
    model: ModelName


class ModelBroke(Message):
    """A model failed on several batches in a row and was unloaded."""

    kind: Literal["model_broke"] = "model_broke"
    model: ModelName
    stay: int = 0
    """As in ``ModelFell``."""
    words: str


class Logged(Message):
    kind: Literal["logged"] = "logged"
    level: int
    text: str


class Dying(Message):
    """The process ends itself: its CUDA context can't be trusted any more."""

    kind: Literal["dying"] = "dying"
    words: str


Reply = Annotated[
    Done
    | Refused
    | Placed
    | Parked
    | Picture
    | Scored
    | Pong
    | Hello
    | Reported
    | SourceOpened
    | SourceTrouble
    | SourceEnded
    | Progress
    | ModelFell
    | Wanted
    | ModelBroke
    | Logged
    | Dying,
    Field(discriminator="kind"),
]


class RequestEnvelope(Message):
    id: int
    body: Request


class ReplyEnvelope(Message):
    id: int | None
    """The request that is answered; ``None`` for an event."""
    body: Reply


_REQUEST = TypeAdapter(RequestEnvelope)
_REPLY = TypeAdapter(ReplyEnvelope)


def encode(envelope: RequestEnvelope | ReplyEnvelope, blob: bytes = b"") -> bytes:
    """The envelope as it goes over the wire."""
    body = envelope.model_dump_json().encode()
    return HEADER.pack(len(body), len(blob)) + body + blob


def lengths(header: bytes) -> tuple[int, int]:
    """Lengths of JSON and blob. Raises ``ProtocolError`` when they are out of bounds."""
    body, blob = HEADER.unpack(header)
    if body + blob > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"a message of {body + blob} bytes")
    return body, blob


def decode_request(body: bytes) -> RequestEnvelope:
    """Raises ``ProtocolError``."""
    return _decode(_REQUEST, body)


def decode_reply(body: bytes) -> ReplyEnvelope:
    """Raises ``ProtocolError``."""
    return _decode(_REPLY, body)


def _decode(adapter: TypeAdapter[Any], body: bytes) -> Any:
    try:
        return adapter.validate_json(body)
    except ValidationError as error:
        raise ProtocolError(str(error)) from None


class Channel(Protocol):
    """The worker's end of the line."""

    def receive(self) -> RequestEnvelope | None:
        """The next request; blocks; ``None`` when the other side is gone."""
        ...

    def send(self, envelope: ReplyEnvelope, blob: bytes = b"") -> None:
        """Raises ``OSError`` when the other side is gone."""
        ...


def read_request(pipe: BinaryIO) -> RequestEnvelope | None:
    """The next request from a pipe, ``None`` at its end. Raises ``ProtocolError``."""
    header = pipe.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    body, blob = lengths(header)
    content = pipe.read(body + blob)
    if len(content) < body + blob:
        return None
    return decode_request(content[:body])
