"""What Prometheus is told. ``docs/observability.md`` says what each metric means.

Counters and histograms are fed as things happen; everything that simply is, is looked up when
somebody asks. Labels have few values: cards, models, reasons; never names of processes or people.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bot.context import AppContext
from bot.identity import version
from bot.observability.readiness import readiness
from bot.vision.reports import FrameReport
from danzar_gpu.admission import Cause
from danzar_gpu.history import Event
from danzar_gpu.memory import DeviceMemory

CONTENT_TYPE = CONTENT_TYPE_LATEST
STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
DELAY_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
FRAME_OUTCOMES = ("captured", "analysed", "unchanged", "dropped")
MOVE_REASONS = (*get_args(Cause), "failed")
VISION_STATES = ("off", "starting", "running", "failed")


class Metrics:
    """Everything that is counted about one running bot, in a registry of its own."""

    def __init__(self, context: AppContext) -> None:
        self._context = context
        # A second series for each counter, of which nobody asks anything.
        disable_created_metrics()
        self.registry = CollectorRegistry()
        self._placements = Counter(
            "danzar_placements",
            "Models that were given a device",
            ("model", "device"),
            registry=self.registry,
        )
        self._refusals = Counter(
            "danzar_refusals", "Models that were refused", ("model",), registry=self.registry
        )
        self._moves = Counter(
            "danzar_moves",
            "Models that were told to move: pressure, priority, return, by hand, failed",
            ("model", "reason"),
            registry=self.registry,
        )
        self._stages = Histogram(
            "danzar_stage_seconds",
            "Time a frame took in a stage: capture, gate, yolo, clip, total",
            ("stage",),
            buckets=STAGE_BUCKETS,
            registry=self.registry,
        )
        self._delay = Histogram(
            "danzar_event_loop_delay_seconds",
            "How much later than asked the bot's event loop woke up",
            buckets=DELAY_BUCKETS,
            registry=self.registry,
        )
        self._frames = Counter(
            "danzar_frames", "What became of the frames", ("outcome",), registry=self.registry
        )
        self._worker = 0
        self._counted = dict.fromkeys(FRAME_OUTCOMES, 0)
        # From zero on: of a series that begins with its first event, Prometheus sees no increase.
        for model in context.vision.services:
            self._refusals.labels(model)
            for reason in MOVE_REASONS:
                self._moves.labels(model, reason)
        ProcessCollector(registry=self.registry)
        self.registry.register(Now(context))
        context.gpu_memory_manager.on_event(self._happened)
        self._unsubscribe = context.vision.subscribe(self._seen)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        self._count_frames()
        return generate_latest(self.registry)

    def close(self) -> None:
        """Hear no more of vision."""
        self._unsubscribe()

    def late(self, seconds: float) -> None:
        """The event loop was so late."""
        self._delay.observe(seconds)

    def _happened(self, event: Event) -> None:
        facts = {name: str(value) for name, value in event.facts.items()}
        model = facts.get("model", "")
        match event.kind:
            case "placed":
                self._placements.labels(model, facts.get("device", "")).inc()
            case "refused":
                self._refusals.labels(model).inc()
            case "revoked" | "move-failed":
                self._moves.labels(model, facts.get("cause", "")).inc()
            case _:
                pass

    def _seen(self, report: FrameReport) -> None:
        for stage, milliseconds in report.milliseconds.items():
            self._stages.labels(stage).observe(milliseconds / 1e3)
        self._count_frames()

    def _count_frames(self) -> None:
        """Add what grew. A new worker counts from zero; within one an answer that is a moment
        older than the last report may come after it."""
        vision = self._context.vision
        if vision.worker_starts != self._worker:
            self._worker = vision.worker_starts
            self._counted = dict.fromkeys(FRAME_OUTCOMES, 0)
        for outcome, old in self._counted.items():
            new = max(old, getattr(vision.counts, outcome))
            self._frames.labels(outcome).inc(new - old)
            self._counted[outcome] = new


class Now(Collector):
    """What simply is, looked up at each question."""

    def __init__(self, context: AppContext) -> None:
        self._context = context

    def collect(self) -> Iterator[Metric]:
        yield from self._cards()
        yield from self._readings()
        yield from self._leases()
        yield from self._vision()
        yield from self._program()

    def _cards(self) -> Iterator[Metric]:
        manager = self._context.gpu_memory_manager
        labels = ("device", "card")
        sizes = {
            "total": "Memory of a card",
            "free": "Memory that the driver calls free",
            "reserved": "Memory that is not free",
            "allocated": "Memory that processes have in use",
        }
        devices = tuple(manager.get_all_devices_memory_info().values())
        for kind, words in sizes.items():
            family = GaugeMetricFamily(f"danzar_gpu_memory_{kind}_bytes", words, labels=labels)
            for device in devices:
                family.add_metric(_names(device), getattr(device, f"{kind}_bytes"))
            yield family
        holders = GaugeMetricFamily(
            "danzar_gpu_memory_held_bytes",
            "Memory by who holds it: llm, vision, other; promised is free but kept for the LLM",
            labels=(*labels, "holder"),
        )
        for index, shares in manager.shares().items():
            device = next((d for d in devices if d.index == index), None)
            if device is not None:
                held = {
                    "llm": shares.llm,
                    "vision": shares.ours,
                    "other": shares.other,
                    "promised": shares.promised,
                }
                for holder, size in held.items():
                    holders.add_metric([*_names(device), holder], size)
        yield holders
        for name, words, field in (
            ("danzar_gpu_utilization_percent", "How busy a card is", "gpu_utilization_percent"),
            ("danzar_gpu_temperature_celsius", "Temperature of a card", "temperature_c"),
            ("danzar_gpu_power_watts", "Power that a card draws", "power_w"),
        ):
            family = GaugeMetricFamily(name, words, labels=labels)
            for device in devices:
                value = getattr(device, field)
                if value is not None:
                    family.add_metric(_names(device), value)
            yield family
        yield GaugeMetricFamily(
            "danzar_llm_reservation_bytes",
            "Memory kept for the main LLM in all: configured, chosen in chat or learned",
            manager.reservation_bytes,
        )

    def _readings(self) -> Iterator[Metric]:
        manager = self._context.gpu_memory_manager
        age = manager.reading_age
        yield GaugeMetricFamily(
            "danzar_gpu_reading_age_seconds",
            "Age of the newest reading; NaN before the first",
            math.nan if age is None else age,
        )
        yield CounterMetricFamily(
            "danzar_gpu_reading_failures",
            "Readings of GPU memory that failed",
            manager.failed_readings,
        )
        yield GaugeMetricFamily(
            "danzar_gpu_simulated",
            "1 if the cards are a scripted rig",
            manager.source == "simulated",
        )
        yield GaugeMetricFamily(
            "danzar_monitoring_enabled", "1 if the poller runs", manager.monitoring_enabled
        )

    def _leases(self) -> Iterator[Metric]:
        manager = self._context.gpu_memory_manager
        leases = GaugeMetricFamily(
            "danzar_lease_bytes",
            "What each model was granted on its device, without the CUDA context that ours share",
            labels=("model", "device"),
        )
        granted: dict[tuple[str, str], int] = {}
        for lease in manager.leases:
            key = (lease.name, lease.device)
            granted[key] = granted.get(key, 0) + lease.need.model_bytes
        for key, size in granted.items():
            leases.add_metric(key, size)
        yield leases
        yield GaugeMetricFamily(
            "danzar_queue_length", "Models that wait for a card", len(manager.waiting)
        )
        fell = CounterMetricFamily(
            "danzar_out_of_memory", "Models that ran out of memory on a card", labels=("model",)
        )
        models = dict.fromkeys([*self._context.vision.services, *manager.out_of_memory])
        for model in models:
            fell.add_metric((model,), manager.out_of_memory[model])
        yield fell

    def _vision(self) -> Iterator[Metric]:
        vision = self._context.vision
        states = GaugeMetricFamily(
            "danzar_vision_state", "1 for the state that vision is in", labels=("state",)
        )
        for state in VISION_STATES:
            states.add_metric((state,), vision.state == state)
        yield states
        yield CounterMetricFamily(
            "danzar_worker_starts", "Vision workers that were brought up", vision.worker_starts
        )
        running = GaugeMetricFamily(
            "danzar_model_running", "1 if a model looks at frames", labels=("model",)
        )
        for name, status in vision.services.items():
            running.add_metric((name,), status.state == "running")
        yield running

    def _program(self) -> Iterator[Metric]:
        context = self._context
        client = context.client
        checks = GaugeMetricFamily(
            "danzar_check_ok", "1 for each check of /readyz that holds", labels=("check",)
        )
        for check in readiness(context):
            checks.add_metric((check.name,), check.ok)
        yield checks
        yield GaugeMetricFamily(
            "danzar_discord_ready",
            "1 if the bot is connected and has its servers",
            client is not None and client.online,
        )
        yield GaugeMetricFamily(
            "danzar_discord_heartbeat_seconds",
            "Time until Discord answered the last heartbeat; NaN without one",
            math.nan if client is None else client.latency,
        )
        yield GaugeMetricFamily(
            "danzar_storage_ok",
            "0 if the data folder can't be written and history lives in memory",
            context.gpu_memory_manager.storage_trouble is None,
        )
        yield GaugeMetricFamily(
            "danzar_tasks", "Tasks on the bot's event loop", len(asyncio.all_tasks())
        )
        yield GaugeMetricFamily(
            "danzar_threads", "Threads of the bot's process", threading.active_count()
        )
        info = GaugeMetricFamily("danzar_info", "Which Danzar this is", labels=("version", "demo"))
        info.add_metric((version(), str(context.demo).lower()), 1)
        yield info


def _names(device: DeviceMemory) -> list[str]:
    return [device.device, device.name]
