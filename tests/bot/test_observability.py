"""Health, metrics and what is deployed with them, asked for over HTTP as others ask."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from bot.cli import health_check
from bot.cli.exits import Exit
from bot.client import DanzarBot
from bot.context import AppContext
from bot.observability.health import Observability, observed
from bot.settings import ObservabilitySettings, Settings
from bot.vision.reports import PipelineCounts
from danzar_gpu import AdmissionRefused, Footprint
from tests.bot.doubles import ScriptedVision, frame_report, scripted_context
from tests.gpu_memory.rig import Card, ScriptedProbe, guide_rig, settle

ROOT = Path(__file__).parents[2]
ANY_PORT = Settings(observability=ObservabilitySettings(port=0))


def discord_client(*, online: bool = True, latency: float = 0.041) -> DanzarBot:
    """What is asked of a bot that is on Discord."""
    return cast(DanzarBot, SimpleNamespace(online=online, latency=latency))


@dataclass
class Watched:
    """A bot whose health can be asked for."""

    context: AppContext
    observability: Observability
    session: aiohttp.ClientSession

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        assert self.observability.url is not None
        async with self.session.get(self.observability.url + path, headers=headers) as response:
            return response.status, await response.text()

    async def checks(self, path: str = "/readyz") -> tuple[int, dict[str, Any]]:
        status, text = await self.get(path)
        return status, {check["name"]: check for check in json.loads(text)["checks"]}

    async def samples(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Values by metric and label values, in the order of the labels' names."""
        status, text = await self.get("/metrics")
        assert status == 200
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = tuple(value for _, value in sorted(sample.labels.items()))
                found.setdefault(sample.name, {})[key] = sample.value
        return found


def happened(counts: dict[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    """Without what is zero."""
    return {labels: count for labels, count in counts.items() if count}


@asynccontextmanager
async def watched(
    vision: ScriptedVision | None = None, probe: ScriptedProbe | None = None
) -> AsyncIterator[Watched]:
    async with (
        scripted_context(vision=vision, probe=probe, settings=ANY_PORT) as context,
        observed(context) as observability,
        aiohttp.ClientSession() as session,
    ):
        context.client = discord_client()
        yield Watched(context, observability, session)


async def test_a_bot_that_works_is_ready_and_says_why() -> None:
    async with watched() as w:
        status, checks = await w.checks()
        assert status == 200
        assert {name: check["words"] for name, check in checks.items()} == {
            "event loop": checks["event loop"]["words"],
            "gateway": "connected with Discord",
            "heartbeat": "Discord answered in 41 ms",
            "reading": "GPU memory was read 0 s ago",
            "vision": "vision is running",
            "storage": "what has to be kept is kept",
        }
        assert (await w.checks("/healthz"))[0] == 200


async def test_each_thing_that_fails_is_named_and_the_status_says_it() -> None:
    vision = ScriptedVision()
    probe = ScriptedProbe(*guide_rig())
    async with watched(vision, probe) as w:

        async def failing() -> dict[str, str]:
            status, checks = await w.checks()
            wrong = {name: c["words"] for name, c in checks.items() if not c["ok"]}
            assert status == (503 if wrong else 200)
            assert (await w.checks("/healthz"))[0] == 200, "nothing to start anew for"
            return wrong

        assert await failing() == {}
        w.context.client = discord_client(online=False, latency=float("inf"))
        assert await failing() == {
            "gateway": "not connected with Discord",
            "heartbeat": "Discord has not answered a heartbeat yet",
        }
        w.context.client = discord_client()
        vision.state, vision.state_reason = "failed", "vision is off after 5 failures"
        assert await failing() == {"vision": "vision is failed: vision is off after 5 failures"}
        # Switched off on purpose is well.
        vision.state, vision.state_reason = "off", "vision is off"
        assert await failing() == {}


async def test_an_old_reading_is_not_ready_unless_monitoring_is_off_by_choice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probe = ScriptedProbe(*guide_rig())
    async with watched(probe=probe) as w:
        manager = w.context.gpu_memory_manager
        probe.fault = "GPU is lost"
        manager.last_error = "GPU is lost"
        monkeypatch.setattr(type(manager), "reading_age", property(lambda _: 71.0))
        status, checks = await w.checks()
        assert (status, checks["reading"]["ok"]) == (503, False)
        assert checks["reading"]["words"] == "GPU memory was read 71 s ago: GPU is lost"
        manager.stop_monitoring()
        status, checks = await w.checks()
        assert (status, checks["reading"]["ok"]) == (200, True)
        assert "off by choice" in checks["reading"]["words"]


async def test_an_event_loop_that_stood_still_is_not_alive() -> None:
    async with watched() as w:
        w.observability.delay._recent.append(6.0)
        status, checks = await w.checks("/healthz")
        assert (status, checks["event loop"]["ok"]) == (503, False)
        assert "6000 ms" in checks["event loop"]["words"]


async def test_the_delay_of_the_event_loop_is_measured() -> None:
    async with watched() as w:
        await settle(lambda: bool(w.observability.delay._recent))
        assert (await w.samples())["danzar_event_loop_delay_seconds_count"][()] >= 1


async def test_metrics_tell_what_the_cards_hold() -> None:
    async with watched() as w:
        found = await w.samples()
        gib = 1 << 30
        free = found["danzar_gpu_memory_free_bytes"]
        assert free["RTX 4070", "cuda:0"] == pytest.approx(4.9 * gib)
        held = found["danzar_gpu_memory_held_bytes"]
        assert held["RTX 4070", "cuda:0", "llm"] == pytest.approx(6.2 * gib)
        assert held["RTX 4070", "cuda:0", "promised"] == pytest.approx(1.8 * gib)
        assert held["RTX 4070 Super", "cuda:1", "other"] == pytest.approx(2.1 * gib)
        assert found["danzar_llm_reservation_bytes"][()] == 8 * gib
        assert found["danzar_discord_heartbeat_seconds"][()] == pytest.approx(0.041)
        assert found["danzar_gpu_simulated"][()] == 0
        assert found["process_resident_memory_bytes"][()] > 1 << 20


async def test_metrics_count_decisions_by_their_reason() -> None:
    probe = ScriptedProbe(Card("RTX 4070", programs={"ollama": 7.5}), Card("RTX 4070 Super"))
    async with watched(probe=probe) as w:
        manager = w.context.gpu_memory_manager
        lease = await manager.acquire("yolo", Footprint.of_gb(1.0), holder="worker")
        with pytest.raises(AdmissionRefused):
            await manager.acquire("huge", Footprint.of_gb(40.0), policy="fail")
        manager.offload("yolo", "somebody wants it")
        lease.moved()
        manager.restore("yolo")
        lease.fell("CUDA out of memory", None)
        found = await w.samples()
        assert found["danzar_placements_total"] == {("cuda:1", "yolo"): 1}
        assert happened(found["danzar_refusals_total"]) == {("huge",): 1}
        assert happened(found["danzar_moves_total"]) == {
            ("yolo", "by hand"): 2,
            ("yolo", "failed"): 1,
        }
        assert found["danzar_lease_bytes"][("cpu", "yolo")] == 1 << 30
        assert found["danzar_queue_length"][()] == 0


async def test_what_never_happened_is_zero_so_that_the_first_time_is_an_increase() -> None:
    async with watched() as w:
        found = await w.samples()
        for model in w.context.vision.services:
            assert found["danzar_refusals_total"][(model,)] == 0
            assert found["danzar_out_of_memory_total"][(model,)] == 0
            for reason in ("pressure", "priority", "return", "by hand", "failed"):
                assert found["danzar_moves_total"][model, reason] == 0


async def test_the_checks_of_readiness_are_metrics_too() -> None:
    vision = ScriptedVision()
    async with watched(vision) as w:
        vision.state, vision.state_reason = "failed", "it crashed"
        w.context.client = discord_client(latency=float("nan"))
        status, checks = await w.checks()
        assert status == 503
        ours = {name: check["ok"] for name, check in checks.items() if name != "event loop"}
        assert ours["gateway"] and not ours["heartbeat"] and not ours["vision"]
        found = (await w.samples())["danzar_check_ok"]
        assert {name: bool(value) for (name,), value in found.items()} == ours


async def test_frames_are_counted_over_the_worker_s_restarts_and_stages_measured() -> None:
    vision = ScriptedVision()
    vision.counts = PipelineCounts(captured=10, analysed=5)
    async with watched(vision) as w:
        vision.see(frame_report(milliseconds={"yolo": 30.0, "total": 40.0}))
        # What the worker was asked a moment before it sent that report.
        vision.counts = PipelineCounts(captured=10, analysed=4)
        assert (await w.samples())["danzar_frames_total"][("analysed",)] == 5
        vision.counts, vision.worker_starts = PipelineCounts(captured=3, analysed=2), 2
        vision.see(frame_report(milliseconds={"yolo": 3.0, "total": 4.0}))
        found = await w.samples()
        assert found["danzar_frames_total"][("captured",)] == 13
        assert found["danzar_frames_total"][("analysed",)] == 7
        assert found["danzar_stage_seconds_count"][("yolo",)] == 2
        assert found["danzar_stage_seconds_sum"][("total",)] == pytest.approx(0.044)
        assert found["danzar_worker_starts_total"][()] == 2


async def test_a_name_in_a_browser_that_points_here_is_refused() -> None:
    async with watched() as w:
        assert (await w.get("/metrics", Host="localhost:1"))[0] == 200
        for name in ("evil.example", "evil.example:9477", "127.0.0.1.evil.example"):
            assert (await w.get("/metrics", Host=name))[0] == 403


async def test_a_taken_port_is_told_and_the_bot_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async with watched() as first:
        port = int((first.observability.url or "").rsplit(":", 1)[1])
        settings = Settings(observability=ObservabilitySettings(port=port))
        async with scripted_context(settings=settings) as context, observed(context) as second:
            assert second.url is None
        assert f"can't be served on 127.0.0.1, port {port}" in caplog.text
        assert "The bot goes on without" in caplog.text
        assert (await first.checks())[0] == 200


async def test_switched_off_nothing_listens() -> None:
    settings = Settings(observability=ObservabilitySettings(enabled=False))
    async with scripted_context(settings=settings) as context, observed(context) as found:
        assert found.url is None


def ask(config: Path, *, live: bool = False) -> int:
    return health_check.run(argparse.Namespace(live=live, json=False), config)


async def test_the_command_says_what_the_bot_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vision = ScriptedVision()
    config = tmp_path / "mine.yaml"
    async with watched(vision) as w:
        port = (w.observability.url or "").rsplit(":", 1)[1]
        text = f"observability: {{port: {port}, host: 0.0.0.0}}\n"
        await asyncio.to_thread(config.write_text, text)
        assert await asyncio.to_thread(ask, config) == Exit.OK
        assert "ok     gateway: connected with Discord\n" in capsys.readouterr().out
        vision.state, vision.state_reason = "failed", "it crashed"
        assert await asyncio.to_thread(ask, config) == Exit.FAILED
        assert "NOT OK vision: vision is failed: it crashed" in capsys.readouterr().out
        assert await asyncio.to_thread(lambda: ask(config, live=True)) == Exit.OK
    assert await asyncio.to_thread(ask, config) == Exit.FAILED
    assert f"No Danzar answers on 127.0.0.1, port {port}" in capsys.readouterr().err


def test_the_command_copes_with_a_file_that_was_refused_meanwhile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("nonsense: 1\n")
    asked: list[int] = []

    def answer(host: str, port: int, path: str) -> dict[str, Any]:
        asked.append(port)
        return {"ok": True, "checks": []}

    monkeypatch.setattr(health_check, "ask", answer)
    assert ask(config) == Exit.OK
    assert asked == [9477]
    assert "nonsense" in capsys.readouterr().err


# --- what is deployed with it ---------------------------------------------------------------


async def exported() -> set[str]:
    """The names of all series that a bot exports."""
    async with watched() as w:
        lease = await w.context.gpu_memory_manager.acquire("yolo", Footprint.of_gb(1.0))
        lease.fell("CUDA out of memory", None)
        cast(ScriptedVision, w.context.vision).see(frame_report())
        _, text = await w.get("/metrics")
    names = {match[1] for match in re.finditer(r"^# TYPE (\S+) \S+$", text, re.MULTILINE)}
    names |= {match[1] for match in re.finditer(r"^([a-z_]+)[{ ]", text, re.MULTILINE)}
    return names


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:danzar|process)_[a-z_]+\b", expression))


async def test_the_dashboard_asks_for_what_there_is() -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/danzar.json").read_text(encoding="utf-8"))
    expressions = [
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])
    ]
    assert len(expressions) > 12
    asked = set().union(*map(metrics_in, expressions))
    assert asked
    assert asked - await exported() == set()
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


async def test_the_alerts_ask_for_what_there_is_and_say_what_to_do() -> None:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8"))
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    known = await exported()
    for alert in alerts:
        assert metrics_in(alert["expr"]) <= known, alert["alert"]
        assert metrics_in(alert["expr"]) or "up{" in alert["expr"]
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["action"]


def test_every_alert_is_tried_by_the_rules_own_tests() -> None:
    folder = ROOT / "deploy/prometheus"
    rules = yaml.safe_load((folder / "alerts.yml").read_text(encoding="utf-8"))
    tried = (folder / "alerts_test.yml").read_text(encoding="utf-8")
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert rule["alert"] in tried


async def test_the_page_explains_every_metric_and_no_other() -> None:
    page = (ROOT / "docs/observability.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"^\| `(danzar_[a-z_]+)`", page, re.MULTILINE))
    families: set[str] = set()
    async with watched() as w:
        _, text = await w.get("/metrics")
        for family in text_string_to_metric_families(text):
            suffix = "_total" if family.type == "counter" else ""
            families.add(family.name + suffix)
    assert explained == {name for name in families if name.startswith("danzar_")}


def test_prometheus_asks_where_the_bot_listens() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text("utf-8"))
    [job] = config["scrape_configs"]
    port = Settings().observability.port
    assert [t.rsplit(":", 1)[1] for c in job["static_configs"] for t in c["targets"]] == [str(port)]
    assert config["rule_files"] == ["alerts.yml"]


def test_no_metric_comes_from_the_library_s_global_registry() -> None:
    from prometheus_client import REGISTRY

    assert not [m.name for m in REGISTRY.collect() if m.name.startswith("danzar")]


def test_statuses_that_do_not_get_better_are_left_out_of_restarts() -> None:
    page = (ROOT / "docs/observability.md").read_text(encoding="utf-8")
    again = dict(re.findall(r"^\| (\d+) \|.*\| (yes|no)? ?\|$", page, re.MULTILINE))
    assert {int(status) for status in again} == {int(status) for status in Exit}
    unit = (ROOT / "deploy/systemd/danzar.service").read_text(encoding="utf-8")
    [prevented] = re.findall(r"^RestartPreventExitStatus=(.*)$", unit, re.MULTILINE)
    assert prevented.split() == [status for status, word in again.items() if word == "no"]
