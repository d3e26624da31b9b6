"""A reading in the guide's words: one place for chat, console and log. Pure text, no markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from danzar_gpu.memory import DeviceMemory

STATUS_TITLE = "🎯 GPU Memory Status"
RECOMMENDATIONS_TITLE = "💡 Recommendations:"
VISION_TITLE = "👁️ Best Vision Device"
NO_DEVICES = "No GPU device was found: vision runs on the CPU."

STALE_AFTER_SECONDS = 5.0
"""A reading older than this is never shown without its age."""


def titled(title: str, simulated: bool) -> str:
    """The heading of a reading: a simulated one says so wherever it is shown."""
    return f"{title} (simulated):" if simulated else f"{title}:"


def device_lines(device: DeviceMemory) -> list[str]:
    """The five figures of one device, without indentation."""
    return [
        f"📊 Allocated: {device.allocated_gb:.1f}GB",
        f"📊 Reserved: {device.reserved_gb:.1f}GB",
        f"📊 Free: {device.free_gb:.1f}GB",
        f"📊 Total: {device.total_gb:.1f}GB",
        f"📊 Utilization: {device.utilization_percent:.1f}%",
    ]


def bullets(lines: Iterable[str]) -> list[str]:
    """Each line as an item of a list."""
    return [f"• {line}" for line in lines]


def age_text(seconds: float) -> str:
    """How old a reading is: ``0.4 s``, ``45 s``, ``12 min``, ``3 h``."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"


def stale_note(devices: Sequence[DeviceMemory]) -> str | None:
    """A sentence when the oldest of the readings is no longer fresh, else ``None``."""
    oldest = max((device.age_seconds for device in devices), default=0.0)
    if oldest <= STALE_AFTER_SECONDS:
        return None
    return f"⚠️ This reading is {age_text(oldest)} old."


def status_text(
    devices: Sequence[DeviceMemory],
    recommendations: Sequence[str],
    simulated: bool,
    note: str | None = None,
) -> str:
    """What ``!gpu status`` shows, as plain text; ``note`` is a warning put above the figures."""
    blocks = [titled(STATUS_TITLE, simulated)]
    if note:
        blocks.append(note)
    blocks.extend(
        "\n".join([f"{device.label}:", *(f"  {line}" for line in device_lines(device))])
        for device in devices
    )
    if not devices:
        blocks.append(NO_DEVICES)
    if recommendations:
        items = (f"  {line}" for line in bullets(recommendations))
        blocks.append("\n".join([RECOMMENDATIONS_TITLE, *items]))
    return "\n\n".join(blocks)


def device_text(device: str | None) -> str:
    """The chosen device; ``None`` is a refusal."""
    return device or "none"


def vision_text(device: str | None, reason: str, simulated: bool = False) -> str:
    """What ``!gpu vision`` shows, as plain text."""
    lines = [titled(VISION_TITLE, simulated), f"Device: {device_text(device)}", f"Reason: {reason}"]
    return "\n".join(lines)
