"""Peers that put models out of a card to make room for others.

All three move a model back when it is used again, which for vision is the next frame; here it asks
again a minute later, which is kinder to them than their own way: two models that don't fit
together would change places with every frame.
"""

from __future__ import annotations

from itertools import combinations

from danzar_gpu.memory import GIB
from danzar_gpu.simulate import Desk, Job, PolicyBase

AGAIN_SECONDS = 60.0


class Swapping(PolicyBase):
    """What the three have in common."""

    base_name = ""

    def __init__(self, managed: bool = False) -> None:
        self.managed = managed
        self.name = f"{self.base_name} (LLM managed)" if managed else self.base_name

    def start(self, desk: Desk) -> None:
        super().start(desk)
        self._used: dict[int, float] = {}
        """When each model was last used, by key."""
        self._llm = 0

    def free(self, index: int) -> int | None:
        """What the driver says is free on a card; ``None`` if it says nothing."""
        snapshot = self.desk.read()
        device = snapshot.device(index) if snapshot is not None else None
        return device.free_bytes if device is not None else None

    def on(self, index: int) -> list[Job]:
        """Models that are on a card."""
        return [j for j in self.desk.jobs if j.device == index and j.state == "running"]

    def put_out(self, job: Job) -> None:
        """Off the card; it asks again when it is used."""
        self.desk.place(job, None)
        self.desk.call_at(self.desk.now + AGAIN_SECONDS, lambda: self.again(job))

    def again(self, job: Job) -> None:
        if job in self.desk.jobs and job.device is None and not job.moving:
            self.asked(job)

    def ended(self, job: Job) -> None:
        self._used.pop(job.key, None)


class OllamaScheduler(Swapping):
    """Ollama's scheduler.

    Checked against server/sched.go at ollama/ollama 09f1587, and against later versions for the
    80 % and the 75 %, which are not in that one. Built for LLM runners behind one server. A
    model goes to the card with the most free memory if it fits there (into 80 % of that, as
    soon as another runner is loaded), where free is the lesser of what the driver reports and
    of the total less what the scheduler's own runners were estimated at. If it fits nowhere
    idle runners are unloaded, the one with the shortest keep-alive (here: the one used longest
    ago) first; after each the scheduler polls every 250 ms until 75 % of the runner's size is
    free again, 5 seconds at most, and tries anew. What fits nowhere then runs on the CPU: in
    part there, whole here.
    """

    base_name = "ollama"
    fit = 0.8
    poll_seconds = 0.25
    recovered = 0.75
    patience_seconds = 5.0

    def start(self, desk: Desk) -> None:
        super().start(desk)
        self._placed: dict[int, int] = {}
        """Runners by key and card, from the decision on."""

    def asked(self, job: Job) -> None:
        self._used[job.key] = self.desk.now
        index = self._best(job.need_bytes)
        if index is not None:
            self._placed[job.key] = index
            self.desk.place(job, index)
            return
        idle = [j for j in self.desk.jobs if j.device is not None and j.state == "running"]
        idle = [j for j in idle if j is not job]
        if not idle:
            if job.state == "waiting":
                self.desk.place(job, None)
            return
        victim = min(idle, key=lambda j: self._used.get(j.key, 0.0))
        self._expire(victim, lambda: self._retry(job))

    def _retry(self, job: Job) -> None:
        if job in self.desk.jobs and job.state in ("waiting", "running") and job.device is None:
            self.asked(job)

    def _expire(self, victim: Job, then) -> None:  # pyright: ignore[reportMissingParameterType]
        index = victim.device
        before = self.free(index) if index is not None else None
        self._placed.pop(victim.key, None)
        self.put_out(victim)
        give_up = self.desk.now + self.patience_seconds

        def poll() -> None:
            now = self.free(index) if index is not None else None
            back = (now or 0) - (before or 0)
            if back >= self.recovered * victim.need_bytes or self.desk.now >= give_up:
                then()
            else:
                self.desk.call_at(self.desk.now + self.poll_seconds, poll)

        self.desk.call_at(self.desk.now + self.poll_seconds, poll)

    def _best(self, size: int) -> int | None:
        snapshot = self.desk.read()
        jobs = {j.key: j for j in self.desk.jobs}
        found: list[tuple[int, int]] = []
        share = self.fit if self._placed else 1.0
        for device in snapshot.devices if snapshot is not None else ():
            accounted = sum(
                jobs[key].need_bytes
                for key, index in self._placed.items()
                if index == device.index and key in jobs
            )
            if self.managed and device.index == self.desk.config.main_llm_index:
                accounted += self._llm
            free = min(device.free_bytes, max(0, device.total_bytes - accounted))
            if size <= share * free:
                found.append((free, device.index))
        return max(found)[1] if found else None

    def failed(self, job: Job, why: str) -> None:
        self._placed.pop(job.key, None)

    def ended(self, job: Job) -> None:
        super().ended(job)
        self._placed.pop(job.key, None)

    def llm_asks(self, index: int, size_bytes: int) -> None:
        if not self.managed:
            return
        self._llm += size_bytes
        free = self.free(index)
        for victim in sorted(self.on(index), key=lambda j: self._used.get(j.key, 0.0)):
            if free is None or free >= size_bytes:
                break
            free += victim.need_bytes
            self._placed.pop(victim.key, None)
            self.put_out(victim)


class ComfyUI(Swapping):
    """ComfyUI's model management.

    Checked against comfy/model_management.py at Comfy-Org/ComfyUI 02b2b38 (``free_memory`` and
    ``load_models_gpu``, without its newer dynamic loading). Built for one workflow on one card of
    its own: the configured one, here vision's. Before a model is loaded others are unloaded until
    1.1 times its size, 400 MiB (its reserve on Linux) and 0.8 GiB for inference are free, of wholly
    loaded ones the smallest first; what doesn't fit whole is loaded in part and streamed, which
    counts as the CPU here. It asks the driver, but only when it loads.
    """

    base_name = "comfyui"
    extra = int(0.8 * GIB) + (400 << 20)

    def asked(self, job: Job) -> None:
        index = self.desk.config.vision_index
        free = self.free(index)
        if free is None:
            self._stay(job)
            return
        wanted = int(1.1 * job.need_bytes) + self.extra
        waits = False
        for victim in sorted(self.on(index), key=lambda j: j.need_bytes):
            if free >= wanted:
                break
            free += victim.need_bytes
            waits = True
            self.put_out(victim)
        if free - self.extra < job.need_bytes:
            self._stay(job)
        elif waits:
            self.desk.call_at(self.desk.now + 1.0, lambda: self._load(job, index))
        else:
            self._load(job, index)

    def _load(self, job: Job, index: int) -> None:
        if job in self.desk.jobs:
            self.desk.place(job, index)

    def _stay(self, job: Job) -> None:
        if job.state == "waiting":
            self.desk.place(job, None)
        self.desk.call_at(self.desk.now + AGAIN_SECONDS, lambda: self.again(job))

    def llm_asks(self, index: int, size_bytes: int) -> None:
        if not self.managed or index != self.desk.config.vision_index:
            return
        free = self.free(index) or 0
        for victim in sorted(self.on(index), key=lambda j: j.need_bytes):
            if free >= int(1.1 * size_bytes) + self.extra:
                break
            free += victim.need_bytes
            self.put_out(victim)


class DiffusersComponents(Swapping):
    """diffusers' components manager with automatic offload.

    Checked against src/diffusers/modular_pipelines/components_manager.py at
    huggingface/diffusers 0750134 (2026), without its retry after an out-of-memory error in a
    forward pass. Built for the parts of one pipeline on one card: the one given to it, here
    vision's. If a part and a reserve of 3 GB don't fit into what is free, the smallest set of
    other parts that makes up for it is offloaded (all of them if none does), and the part is
    moved there in any case.
    """

    base_name = "diffusers"
    reserve = 3 * 10**9

    def asked(self, job: Job) -> None:
        index = self.desk.config.vision_index
        free = self.free(index)
        if free is None:
            self.desk.place(job, index)
            return
        victims = self._smallest(self.on(index), job.need_bytes + self.reserve - free)
        for victim in victims:
            self.put_out(victim)
        if victims:
            self.desk.call_at(self.desk.now + 1.0, lambda: self._load(job, index))
        else:
            self._load(job, index)

    def _load(self, job: Job, index: int) -> None:
        if job in self.desk.jobs:
            self.desk.place(job, index)

    @staticmethod
    def _smallest(jobs: list[Job], missing: int) -> list[Job]:
        if missing <= 0:
            return []
        sets = [list(chosen) for n in range(1, len(jobs) + 1) for chosen in combinations(jobs, n)]
        enough = [s for s in sets if sum(j.need_bytes for j in s) >= missing]
        return min(enough, key=lambda s: sum(j.need_bytes for j in s), default=list(jobs))

    def llm_asks(self, index: int, size_bytes: int) -> None:
        if not self.managed or index != self.desk.config.vision_index:
            return
        free = self.free(index) or 0
        for victim in self._smallest(self.on(index), size_bytes + self.reserve - free):
            self.put_out(victim)
