"""What ``danzar bench`` found out, and what follows from it. Pure: no clock, no worker."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from bot.settings import Settings

TITLES = {"yolo": "YOLO", "clip": "CLIP"}
COMFORTABLE = 0.8
"""Of each second the models should need no more than this, or frames are dropped in every scene
that is harder than the film."""
IDLE = 0.4
"""Below this there is room for a higher rate."""
SLOW_CAPTURE = 0.3
"""Of the time between two frames."""
SMALLER_IMAGE = 448


@dataclass(frozen=True, slots=True)
class ModelRun:
    """One model on one device. Memory in bytes."""

    model: str
    """``yolo`` or ``clip``."""
    name: str
    device: str
    backend: str
    milliseconds: float
    """Median of a frame that is looked at alone."""
    batched_milliseconds: float
    """The same when frames of a film come together."""
    cpu_seconds: float
    """Processor time that a frame takes, all cores together."""
    load_seconds: float
    card_bytes: int | None
    """What it takes on a card; ``None`` on the CPU."""
    notes: tuple[str, ...] = ()

    @property
    def frames_per_second(self) -> float:
        return 1000.0 / self.milliseconds if self.milliseconds else math.inf


@dataclass(frozen=True, slots=True)
class CaptureRun:
    """The configured source at its own pace."""

    source: str
    milliseconds: float
    gate_milliseconds: float
    frames_per_second: float
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Advice:
    """A key to change, and why; ``value`` as it is written in the file."""

    key: str
    value: str
    why: str


@dataclass(slots=True)
class Findings:
    """Everything that was measured; what could not be is in ``problems``."""

    cores: int
    threads: int
    poll_source: str
    poll_microseconds: float | None = None
    cards: int = 0
    models: list[ModelRun] = field(default_factory=list[ModelRun])
    capture: CaptureRun | None = None
    worker_bytes: int = 0
    destined: dict[str, str] = field(default_factory=dict[str, str])
    """Where the manager would put each model now."""
    reasons: dict[str, str] = field(default_factory=dict[str, str])
    problems: list[str] = field(default_factory=list[str])

    def of(self, model: str) -> ModelRun | None:
        """The run on the device where the model would live."""
        runs = [run for run in self.models if run.model == model]
        destined = self.destined.get(model, "cpu")
        return next((r for r in runs if r.device == destined), runs[0] if runs else None)

    def as_json(self, settings: Settings) -> dict[str, Any]:
        """For programs."""
        models = [
            {**asdict(r), "frames_per_second": round(r.frames_per_second, 1)} for r in self.models
        ]
        return {
            "cores": self.cores,
            "threads": self.threads,
            "poll": {
                "source": self.poll_source,
                "cards": self.cards,
                "microseconds": self.poll_microseconds,
            },
            "models": models,
            "capture": asdict(self.capture) if self.capture else None,
            "worker_bytes": self.worker_bytes,
            "destined": self.destined,
            "reasons": self.reasons,
            "busy": {k: round(v, 3) for k, v in shares(self, settings).items()},
            "limit": limit(self, settings),
            "advice": [asdict(a) for a in advise(self, settings)],
            "problems": self.problems,
        }


def rate(settings: Settings, model: str) -> float:
    """Frames a second that the model is asked for: it never sees more than are captured."""
    wished = settings.yolo if model == "yolo" else settings.clip
    return min(wished.processing_fps, settings.capture.fps)


def shares(findings: Findings, settings: Settings) -> dict[str, float]:
    """Of each second, what part each model works at the configured rate, were all frames new."""
    return {
        model: run.milliseconds / 1000 * rate(settings, model)
        for model in TITLES
        if (run := findings.of(model)) is not None
    }


def limit(findings: Findings, settings: Settings) -> str:
    """What limits the pipeline, in one sentence."""
    parts = shares(findings, settings)
    if not parts:
        return "No model could be measured."
    total = sum(parts.values())
    most = max(parts, key=lambda model: parts[model])
    run = findings.of(most)
    assert run is not None
    where = f"{TITLES[most]} on {run.device}"
    asked = f"{rate(settings, most):g} frames a second"
    if total > 1:
        return (
            f"{where} limits: at {asked} it would need {parts[most]:.0%} of each second, all "
            f"models {total:.0%}. Frames will be dropped; the newest wins."
        )
    return (
        f"Nothing is short: the models need {total:.0%} of each second in which every frame is "
        f"new, most of it {where} ({parts[most]:.0%} at {asked}). Frames that show nothing new "
        "cost next to nothing."
    )


def advise(findings: Findings, settings: Settings) -> list[Advice]:
    """Keys of the configuration that are worth changing, the weightiest first."""
    found: list[Advice] = []
    parts = shares(findings, settings)
    total = sum(parts.values())
    if total > COMFORTABLE:
        found += _with_less(findings, settings, parts, total)
    elif parts and total < IDLE:
        found += _with_more(findings, settings, total)
    found += _never_seen(settings)
    if (taken := findings.capture) is not None:
        period = 1000.0 / settings.capture.fps
        if taken.milliseconds > SLOW_CAPTURE * period:
            found.append(
                Advice(
                    "capture.fps",
                    _rounded(1000.0 * SLOW_CAPTURE / taken.milliseconds),
                    f"a frame of {taken.width} x {taken.height} takes {taken.milliseconds:.0f} ms "
                    f"to capture, {taken.milliseconds / period:.0%} of the time there is; a "
                    "smaller capture.region helps, too",
                )
            )
    return found


def _with_less(
    findings: Findings, settings: Settings, parts: dict[str, float], total: float
) -> list[Advice]:
    found: list[Advice] = []
    on_cpu = [m for m in parts if (run := findings.of(m)) is not None and run.device == "cpu"]
    if on_cpu and findings.threads * 2 <= findings.cores:
        found.append(
            Advice(
                "vision.cpu_budget",
                str(findings.threads * 2),
                f"the models have {findings.threads} of {findings.cores} cores; more make them "
                "quicker, if the game can spare them",
            )
        )
    most = max(parts, key=lambda model: parts[model])
    if most == "yolo" and (settings.yolo.image_size or 0) > SMALLER_IMAGE:
        size = settings.yolo.image_size or 0
        found.append(
            Advice(
                "yolo.image_size",
                str(SMALLER_IMAGE),
                f"about {(SMALLER_IMAGE / size) ** 2:.0%} of the work of {size}; small things "
                "are found less often",
            )
        )
    others = total - parts[most]
    room = max(COMFORTABLE - others, 0.1)
    run = findings.of(most)
    assert run is not None
    found.append(
        Advice(
            f"{most}.processing_fps",
            _rounded(room * 1000.0 / run.milliseconds),
            f"{TITLES[most]} takes {run.milliseconds:.0f} ms a frame on {run.device}; at "
            f"{rate(settings, most):g} a second all models together need {total:.0%} of the time",
        )
    )
    return found


def _with_more(findings: Findings, settings: Settings, total: float) -> list[Advice]:
    run = findings.of("yolo")
    if run is None:
        return []
    asked = rate(settings, "yolo")
    possible = (COMFORTABLE - total) * 1000.0 / run.milliseconds + asked
    # As fast as games change, and no card or core is kept busy for nothing.
    wished = min(possible / 2, 30.0)
    if wished < 2 * asked:
        return []
    key = "yolo.processing_fps" if settings.capture.fps > wished else "capture.fps"
    return [
        Advice(
            key,
            _rounded(wished),
            f"only if you want quicker answers: YOLO could look {possible:.0f} times a second "
            f"and is asked for {asked:g}"
            + ("" if key.startswith("yolo") else "; yolo.processing_fps must rise with it"),
        )
    ]


def _never_seen(settings: Settings) -> list[Advice]:
    """Rates above the capture's: they promise what can't be."""
    captured = settings.capture.fps
    return [
        Advice(
            f"{model}.processing_fps",
            f"{captured:g}",
            f"{TITLES[model]} is asked for {section.processing_fps:g} frames a second, but only "
            f"{captured:g} are captured; or raise capture.fps",
        )
        for model, section in (("yolo", settings.yolo), ("clip", settings.clip))
        if section.enabled and section.processing_fps > captured
    ]


def _rounded(value: float) -> str:
    """As a person would write a rate: 12, 3.5, 0.4."""
    if value >= 10:
        return str(math.floor(value))
    return f"{max(0.1, math.floor(value * 10) / 10):g}"
