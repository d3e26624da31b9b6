"""The configuration file as typed objects: read once, validated whole, passed down.

Unknown keys and bad values are refused with file, line, key and what was expected.
``docs/configuration.md`` is made from these models (``python -m bot.settings_docs``).
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bot import cores
from bot.remote_capture.address import DEFAULT_PORT, parse_address
from bot.settings_contradictions import contradictions
from bot.settings_problems import problems_of
from bot.text_file import Unreadable, read_text
from bot.yaml_document import MAX_BYTES, DocumentError, Problem, read
from danzar_gpu.config import CudaDevice, GPUMemoryConfig
from danzar_gpu.file_errors import why
from danzar_gpu.plural import counted

DEFAULT_PATH = Path("config/vision_config.yaml")
MAX_SHOWN = 20
"""Problems that one refusal lists."""
MAX_TOKEN_FILE = 4096
LARGEST_SIDE = 16384
"""Pixels: more than any screen, and few enough that a frame fits into memory."""
MOST_THREADS = 4
"""Of vision on the CPU unless somebody asks for more: a game misses the cores."""

GAME_CONCEPTS = (
    "exploring the world",
    "fighting enemies",
    "a boss fight",
    "low health",
    "an inventory screen",
    "a shop screen",
    "a dialogue with a character",
    "a world map",
    "a main menu",
    "a pause menu",
    "a loading screen",
    "a victory screen",
    "a game over screen",
)
"""The default profile's phrases: those that the shipped CLIP was trained to tell apart."""

Phrase = Annotated[str, Field(min_length=1, max_length=200)]
Place = Annotated[
    str, Field(max_length=1024, pattern=r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*$")
]
"""A path or a name: something printable that is not blank."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CaptureSettings(Section):
    """Where frames come from."""

    source: Literal["auto", "screen", "region", "video", "stream", "images", "scene", "remote"] = (
        Field(
            default="auto",
            title="Frame source",
            description=(
                "`auto` takes the screen if there is one, else the rendered scene; `video` a file, "
                "`stream` a network address, `images` a folder, `remote` what `danzar capture` "
                "sends."
            ),
        )
    )
    fps: float = Field(
        default=5.0,
        gt=0,
        le=120,
        title="Frames per second",
        description="How often a frame is taken.",
    )
    monitor: int = Field(
        default=1,
        ge=0,
        le=16,
        title="Monitor",
        description="1 is the first screen, 0 all together.",
    )
    region: tuple[int, int, int, int] | None = Field(
        default=None,
        title="Region",
        description="left, top, width, height in pixels, for `source: region`.",
    )
    path: Place | None = Field(
        default=None, title="Path", description="The video file or the folder of images."
    )
    url: Annotated[str, Field(pattern=r"(?i)^(rtsps?|rtmps?|udp|rtp|https?)://\S+$")] | None = (
        Field(
            default=None,
            title="Address",
            description="The stream: rtsp, rtmp, udp, rtp, http(s).",
        )
    )
    loop: bool = Field(
        default=False, title="Loop", description="Start a file or folder again at its end."
    )
    listen: str = Field(
        default=f"127.0.0.1:{DEFAULT_PORT}",
        title="Listen at",
        description=(
            "For `source: remote`, where `danzar capture` is awaited. It must know the secret in "
            "`DANZAR_CAPTURE_SECRET` or the file that `DANZAR_CAPTURE_SECRET_FILE` names."
        ),
    )

    @model_validator(mode="after")
    def _complete(self) -> CaptureSettings:
        needs = {"region": self.region, "video": self.path, "images": self.path, "stream": self.url}
        if self.source in needs and needs[self.source] is None:
            key = {"region": "region", "stream": "url"}.get(self.source, "path")
            raise ValueError(f"source: {self.source} needs capture.{key}")
        return self

    @field_validator("url")
    @classmethod
    def _port(cls, url: str | None) -> str | None:
        try:
            _ = urlsplit(url).port if url is not None else None
        except ValueError:
            raise ValueError("the address must have a port from 0 to 65535, or none") from None
        return url

    @field_validator("listen")
    @classmethod
    def _address(cls, listen: str) -> str:
        parse_address(listen)
        return listen

    @field_validator("region")
    @classmethod
    def _positive(cls, region: tuple[int, int, int, int] | None) -> Any:
        if region is None:
            return None
        left, top, width, height = region
        if not (16 <= width <= LARGEST_SIDE and 16 <= height <= LARGEST_SIDE):
            raise ValueError(
                f"a region is at least 16 x 16 pixels and at most {LARGEST_SIDE} on a side"
            )
        # A screen left of the first one, or above it, has negative coordinates.
        if max(abs(left), abs(top)) > 4 * LARGEST_SIDE:
            raise ValueError("left and top lie beyond any screen")
        return region


class ClipSettings(Section):
    """CLIP names what goes on as the likeliest of a list of phrases."""

    enabled: bool = Field(default=True, title="Enabled", description="Whether CLIP runs.")
    processing_fps: float = Field(
        default=1.0, gt=0, le=120, title="Rate", description="Frames a second that CLIP looks at."
    )
    model_name: Place = Field(
        default="ViT-B/32",
        title="Model",
        description="open_clip's name; the shipped `clip-tiny` serves until it was pulled.",
    )
    model_path: Place = Field(
        default="models/clip-tiny",
        title="Shipped model",
        description="Folder of the fallback model.",
    )
    device: CudaDevice | Literal["cpu"] = Field(
        default="cuda:1", title="Device", description="A wish: the GPU memory manager decides."
    )
    confidence_threshold: float = Field(
        default=0.3, ge=0, le=1, title="Threshold", description="Least probability of an insight."
    )
    max_insights: int = Field(
        default=10, ge=1, le=100, title="Insights", description="At most so many insights a frame."
    )
    batch_size: int = Field(
        default=4, ge=1, le=64, title="Batch", description="Most frames that are taken together."
    )
    profile: Phrase = Field(
        default="default", title="Game profile", description="Which list of `profiles` is in use."
    )
    profiles: dict[Phrase, Annotated[tuple[Phrase, ...], Field(max_length=256)]] = Field(
        default={"default": GAME_CONCEPTS},
        max_length=100,
        title="Profiles",
        description="Per game the phrases that CLIP chooses from.",
    )

    @model_validator(mode="after")
    def _profile_exists(self) -> ClipSettings:
        if self.profile not in self.profiles:
            known = ", ".join(sorted(self.profiles)) or "none"
            raise ValueError(f"profile {self.profile!r} is not among the profiles ({known})")
        if len(self.profiles[self.profile]) < 2:
            raise ValueError(f"profile {self.profile!r} needs at least two phrases to choose from")
        return self

    @property
    def concepts(self) -> tuple[str, ...]:
        """The phrases of the profile in use."""
        return self.profiles[self.profile]


class YoloSettings(Section):
    """YOLO finds objects and draws boxes round them."""

    enabled: bool = Field(default=True, title="Enabled", description="Whether YOLO runs.")
    model_path: Place = Field(
        default="models/yolo-nano.pt", title="Model", description="An ultralytics checkpoint."
    )
    confidence_threshold: float = Field(
        default=0.5, ge=0, le=1, title="Threshold", description="Least confidence of a detection."
    )
    device: CudaDevice | Literal["cpu"] = Field(
        default="cuda:1", title="Device", description="A wish: the GPU memory manager decides."
    )
    classes: tuple[Phrase, ...] = Field(
        default=("health_bar", "minimap", "boss", "player", "enemy"),
        min_length=1,
        max_length=1000,
        title="Classes",
        description="Which of the model's classes are reported.",
    )
    processing_fps: float = Field(
        default=5.0, gt=0, le=120, title="Rate", description="Frames a second that YOLO looks at."
    )
    image_size: int | None = Field(
        default=None,
        ge=64,
        le=2048,
        multiple_of=32,
        title="Image size",
        description="Longer side in pixels after scaling; unset, what the model was trained at.",
    )
    iou_threshold: float = Field(
        default=0.45,
        gt=0,
        le=1,
        title="Overlap",
        description=(
            "Of two boxes of a class that overlap by more than this (intersection over union) "
            "the surer one is kept."
        ),
    )
    max_detections: int = Field(
        default=100, ge=1, le=1000, title="Detections", description="At most so many boxes a frame."
    )
    batch_size: int = Field(
        default=4, ge=1, le=64, title="Batch", description="Most frames that are taken together."
    )


class VisionSettings(Section):
    """How vision runs as a whole, and what it may show."""

    autostart: bool = Field(
        default=True, title="Start with the bot", description="Whether vision starts by itself."
    )
    share_frames: bool = Field(
        default=False,
        title="Share frames",
        description="Whether `!vision look` may post the picture: a screen is private.",
    )
    share_channels: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        default=(),
        max_length=1000,
        title="Share in",
        description=(
            "Ids of the channels where pictures may be posted although `share_frames` is off; "
            "their threads count, too. (Discord: right click, Copy Channel ID.)"
        ),
    )
    cpu_budget: int | None = Field(
        default=None,
        ge=1,
        le=256,
        title="CPU budget",
        description=(
            "Cores that vision may use on the CPU; unset, half of what this process may use "
            "(a container's share counts), at most 4: the game comes first."
        ),
    )
    backend: Literal["auto", "openvino", "torch"] = Field(
        default="auto",
        title="Backend",
        description=(
            "What computes on the CPU. `auto` and `openvino` take OpenVINO, which is faster and "
            "needs a quarter of the memory, and torch where that fails: models are converted "
            "once, compared with torch, and kept in the data folder. A card is always torch's."
        ),
    )
    cuda_graphs: bool = Field(
        default=True,
        title="CUDA graphs",
        description="Whether a card replays a model's kernels as one launch.",
    )
    load_timeout_seconds: float = Field(
        default=180.0,
        gt=0,
        le=3600,
        title="Load limit",
        description="A model that takes longer failed.",
    )
    hang_timeout_seconds: float = Field(
        default=20.0,
        gt=0,
        le=600,
        title="Hang limit",
        description="A silent worker is replaced after it.",
    )
    worker_memory_limit_gb: float = Field(
        default=8.0,
        ge=0,
        le=1024,
        title="Worker memory limit",
        description=(
            "A worker that holds more GiB of main memory is replaced; 0: never. (The shipped "
            "models take about 1, CUDA's libraries a few more.)"
        ),
    )
    idle_release_seconds: float = Field(
        default=300.0,
        ge=0,
        le=86400,
        title="Idle release",
        description=(
            "A model that saw no new picture for so long gives its card's memory back and returns "
            "with the next one; 0: never. (Five minutes: nobody plays then, and coming back is "
            "one copy.)"
        ),
    )

    @property
    def threads(self) -> int:
        """Cores that the models have on the CPU; a part of the machine's if nothing is set."""
        return self.cpu_budget or max(1, min(MOST_THREADS, cores.usable() // 2))

    def may_share_in(self, channel: object) -> bool:
        """Whether a frame may be posted in a channel, or a thread of it."""
        ids = {getattr(channel, "id", None), getattr(channel, "parent_id", None)}
        return self.share_frames or not ids.isdisjoint(self.share_channels)


class PerformanceSettings(Section):
    """Shares."""

    gpu_memory_fraction: float = Field(
        default=0.3,
        gt=0,
        le=1,
        title="GPU memory share",
        description="Vision's share of a card's memory, besides `vision_memory_limit_gb`.",
    )


class DiscordSettings(Section):
    """How the bot appears on Discord. The token is never here: `DISCORD_TOKEN(_FILE)`."""

    prefix: str = Field(
        default="!",
        max_length=8,
        pattern=r"^[^\x00-\x20\x7f][^\x00-\x1f\x7f]*$",
        title="Prefix",
        description="Starts a text command.",
    )
    control_permission: Literal["administrator", "manage_guild", "manage_channels", "everyone"] = (
        Field(
            default="manage_guild",
            title="Who may control",
            description="Permission that `!gpu monitor`, `!gpu log` and `!vision start` ask for.",
        )
    )
    control_role: Place | None = Field(
        default=None, title="Control role", description="Members of this role may control, too."
    )


class LoggingSettings(Section):
    """What is written to the console."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", title="Level", description="The least severity that is printed."
    )
    format: Literal["text", "json"] = Field(
        default="text",
        title="Format",
        description="`text` for people; `json` for programs, one object a line with all figures.",
    )


class ObservabilitySettings(Section):
    """Health and metrics over HTTP, for a container's health check and for Prometheus."""

    enabled: bool = Field(
        default=True,
        title="Enabled",
        description="Whether `/healthz`, `/readyz` and `/metrics` are served.",
    )
    host: Annotated[str, Field(max_length=253, pattern=r"^[A-Za-z0-9.:_-]+$")] = Field(
        default="127.0.0.1",
        title="Host",
        description=(
            "The address to listen on. The default is for this machine alone; with another one "
            "whoever reaches it can read which programs hold GPU memory."
        ),
    )
    port: int = Field(
        default=9477,
        ge=0,
        le=65535,
        title="Port",
        description="The port to listen on; 0 takes any that is free, and the log says which.",
    )


class DataSettings(Section):
    """What Danzar keeps on disk."""

    folder: Place = Field(
        default="data",
        title="Folder",
        description=(
            "Where history, learned footprints, converted models and what chats chose are kept, "
            "relative to the folder in which Danzar was started. The demo on a simulated rig keeps "
            "converted models alone."
        ),
    )


class Settings(Section):
    """The whole file."""

    gpu_memory: GPUMemoryConfig = Field(default_factory=GPUMemoryConfig, title="GPU memory")
    capture: CaptureSettings = Field(default_factory=CaptureSettings, title="Capture")
    clip: ClipSettings = Field(default_factory=ClipSettings, title="CLIP")
    yolo: YoloSettings = Field(default_factory=YoloSettings, title="YOLO")
    vision: VisionSettings = Field(default_factory=VisionSettings, title="Vision")
    performance: PerformanceSettings = Field(
        default_factory=PerformanceSettings, title="Performance"
    )
    discord: DiscordSettings = Field(default_factory=DiscordSettings, title="Discord")
    data: DataSettings = Field(default_factory=DataSettings, title="Data")
    logging: LoggingSettings = Field(default_factory=LoggingSettings, title="Logging")
    observability: ObservabilitySettings = Field(
        default_factory=ObservabilitySettings, title="Observability"
    )

    @model_validator(mode="after")
    def _one_fraction(self) -> Settings:
        # The guide keeps the share under `performance`, the manager wants it with its limits.
        if "gpu_memory_fraction" not in self.gpu_memory.model_fields_set:
            merged = self.gpu_memory.model_copy(
                update={"gpu_memory_fraction": self.performance.gpu_memory_fraction}
            )
            object.__setattr__(self, "gpu_memory", merged)
        return self


class SettingsError(Exception):
    """The file was refused; ``problems`` says why, line by line."""

    def __init__(self, path: Path | str, problems: list[Problem]) -> None:
        self.path = path
        self.problems = problems
        super().__init__("\n".join(self._lines()))

    def _lines(self) -> list[str]:
        shown = [f"{self._place(p)}: {p.message}" for p in self.problems[:MAX_SHOWN]]
        if more := len(self.problems) - len(shown):
            shown.append(f"{self.path}: and {counted(more, 'more problem')}")
        return shown

    def _place(self, problem: Problem) -> str:
        if problem.line is None and not problem.key:
            return str(self.path)  # the file is not there: it has no lines
        return f"{self.path}:{problem.line or 1}{': ' if problem.key else ''}{problem.key}"


def load(path: Path | str = DEFAULT_PATH) -> Settings:
    """Read and validate ``path``. A missing default file means the defaults.

    Raises:
        SettingsError: the file can't be read, isn't YAML, or holds unknown keys or bad values.
    """
    path = Path(path)
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SettingsError(path, [Problem(None, "", "is a device or a pipe, not a file")])
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        if path == DEFAULT_PATH:
            return Settings()
        raise SettingsError(path, [Problem(None, "", "there is no such file")]) from None
    except OSError as error:
        words = f"can't be read: {why(error, path)}"
        raise SettingsError(path, [Problem(None, "", words)]) from None
    return parse(raw, path)


def _without_waiting(path: str, flags: int) -> int:
    # To open a pipe waits for whoever writes into it, and holds up every later reload.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def parse(raw: bytes | str, path: Path | str = "configuration") -> Settings:
    """Validate YAML text; ``path`` only names it in errors. Raises ``SettingsError``."""
    try:
        document = read(raw)
    except DocumentError as error:
        raise SettingsError(path, error.problems) from None
    if document.data is None:
        return Settings()
    if not isinstance(document.data, dict):
        raise SettingsError(
            path, [Problem(1, "", "must be a mapping of sections such as gpu_memory: and yolo:")]
        )
    # An empty section ("clip:" with all below it commented out) means that section's defaults.
    data = {
        k: {} if v is None and k in Settings.model_fields else v for k, v in document.data.items()
    }
    try:
        # As JSON, because there strict means what a person expects: a list may become a tuple and
        # 1 may become 1.0, but neither `true` nor "1" is a number.
        settings = Settings.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        found = problems_of(error, Settings, document.lines, most=MAX_SHOWN)
        raise SettingsError(path, found) from None
    if found := contradictions(settings, document.lines):
        raise SettingsError(path, found)
    return settings


class TokenError(Exception):
    """There is no usable token; the message says how to give one."""


def discord_token(environment: Mapping[str, str] = os.environ) -> str | None:
    """The bot's token from ``DISCORD_TOKEN`` or the file named by ``DISCORD_TOKEN_FILE``.

    Raises:
        TokenError: the file can't be read or is empty. The token itself is never in a message.
    """
    if token := environment.get("DISCORD_TOKEN", "").strip():
        return _one_word(token, "DISCORD_TOKEN")
    if name := environment.get("DISCORD_TOKEN_FILE", "").strip():
        source = f"DISCORD_TOKEN_FILE={name}"
        try:
            token = read_text(Path(name), MAX_TOKEN_FILE).strip()
        except Unreadable as error:
            raise TokenError(f"{source} {error}") from None
        if not token:
            raise TokenError(f"{source} is empty")
        return _one_word(token, source)
    return None


def _one_word(token: str, source: str) -> str:
    # A token goes into an HTTP header: a line end or a space there is never part of it.
    if token.split() != [token] or not token.isascii() or not token.isprintable():
        raise TokenError(f"{source} holds something else than one token: it has no spaces or lines")
    return token
