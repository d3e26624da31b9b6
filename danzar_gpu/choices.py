"""What people decide while the manager runs: kept, shown as such, undone on request."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from pydantic import ValidationError

from danzar_gpu.history import Choice, HistoryStore
from danzar_gpu.placement import Placement

if TYPE_CHECKING:
    from danzar_gpu.manager import GPUMemoryManager

RESERVATION = "main_llm_memory_reservation_gb"
VISION_DEVICE = "vision_device"
OFFLOAD = "offload:"


class Choices:
    """Overrides of the configuration, and models that were sent to the CPU by hand."""

    def __init__(
        self, manager: GPUMemoryManager, store: HistoryStore | None, wall: Callable[[], float]
    ) -> None:
        self._manager = manager
        self._store = store
        self._wall = wall
        self._made: dict[str, Choice] = {}

    @property
    def made(self) -> tuple[Choice, ...]:
        """What was chosen, oldest first."""
        return tuple(self._made.values())

    def recall(self, choices: Iterable[Choice]) -> None:
        """Take up what an earlier run was told; what no longer makes sense is left out."""
        for choice in choices:
            self._made[choice.key] = choice
            if choice.key.startswith(OFFLOAD):
                self._manager.offload(choice.key.removeprefix(OFFLOAD), self._words(choice))
        try:
            self.apply()
        except ValidationError:
            for key in (RESERVATION, VISION_DEVICE):
                self._made.pop(key, None)

    def reserve(self, size_gb: float | str, who: str) -> None:
        """Keep another amount free for the main LLM: GiB, or ``auto``. Raises ``ValueError``."""
        self._choose(RESERVATION, str(size_gb), who)
        unit = "" if size_gb == "auto" else "GB"
        self._manager.decided(f"{who} reserved {size_gb}{unit} for the main LLM")

    def prefer(self, device: str, who: str) -> None:
        """Let vision prefer another card: ``cuda:N``. Raises ``ValueError``."""
        known = [d.device for d in self._manager.get_all_devices_memory_info().values()]
        if device.startswith("cuda:") and device not in known:
            raise ValueError(f"there is no {device} here, only {', '.join(known) or 'the CPU'}")
        self._choose(VISION_DEVICE, device, who)
        self._manager.decided(f"{who} chose {device} for vision")

    def offload(self, name: str, who: str) -> None:
        """Send a model to the CPU until ``restore``."""
        choice = Choice(OFFLOAD + name, "cpu", who, self._wall())
        self._keep(choice)
        self._manager.decided(f"{who} sent {name} to the CPU")
        self._manager.offload(name, self._words(choice))

    def restore(self, name: str, who: str = "") -> list[Placement]:
        """Undo ``offload``; where the model goes now, or why it stays on the CPU."""
        self._forget(OFFLOAD + name)
        if who:
            self._manager.decided(f"{who} let {name} back on a card")
        return self._manager.restore(name)

    def reset(self, who: str = "") -> None:
        """Back to the configuration."""
        before = self.made
        if who:
            self._manager.decided(f"{who} went back to the configuration")
        for choice in before:
            if not choice.key.startswith(OFFLOAD):
                self._forget(choice.key)
        self.apply()
        for choice in before:
            if choice.key.startswith(OFFLOAD):
                self.restore(choice.key.removeprefix(OFFLOAD))

    def _choose(self, key: str, value: str, who: str) -> None:
        before = self._made.get(key)
        choice = Choice(key, value, who, self._wall())
        self._made[key] = choice
        try:
            self.apply()
        except ValidationError as error:
            self._made.pop(key)
            if before is not None:
                self._made[key] = before
            first = error.errors()[0]
            raise ValueError(f"{value!r} is no {key}: {first['msg']}") from None
        self._keep(choice)

    def apply(self) -> None:
        """Use the configuration with what was chosen on top. Raises ``ValidationError``."""
        changes: dict[str, object] = {
            c.key: c.value for c in self.made if not c.key.startswith(OFFLOAD)
        }
        self._manager.configure(**changes)

    def _keep(self, choice: Choice) -> None:
        self._made[choice.key] = choice
        if self._store is not None:
            self._store.choice(choice)

    def _forget(self, key: str) -> None:
        if self._made.pop(key, None) is not None and self._store is not None:
            self._store.forget_choice(key)

    @staticmethod
    def _words(choice: Choice) -> str:
        name = choice.key.removeprefix(OFFLOAD)
        return f"{choice.who} sent it there; `gpu restore {name}` brings it back"
