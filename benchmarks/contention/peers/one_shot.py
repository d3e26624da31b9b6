"""Peers that choose a device once, when a model is loaded, and never again."""

from __future__ import annotations

from danzar_gpu.memory import GIB, DeviceMemory
from danzar_gpu.simulate import Desk, Job, PolicyBase

LAYERS = 12


class OneShot(PolicyBase):
    """Reads once, chooses once."""

    def asked(self, job: Job) -> None:
        snapshot = self.desk.read()
        devices = list(snapshot.devices) if snapshot is not None else []
        self.desk.place(job, self.choose(job, devices))

    def choose(self, job: Job, devices: list[DeviceMemory]) -> int | None:
        raise NotImplementedError

    def by_cuda_default(self, ordinal: int) -> int | None:
        """The slot of CUDA's device N where ``CUDA_DEVICE_ORDER`` is not set: fastest first."""
        cards = self.desk.trace.rig
        for index, card in enumerate(cards):
            if card.fastest_first == ordinal:
                return index
        return ordinal if ordinal < len(cards) else None


class GuideOriginal(OneShot):
    """The guide's first implementation, as its text describes it.

    Built for one process on a machine of its own. "Free" is the card's total less what this very
    process has reserved with torch, so other programs don't exist; the vision device first, the
    LLM's device only if 8 GB and the threshold would be left, any other, the CPU. Chosen once at
    load. It takes CUDA's default order for granted.
    """

    name = "guide"

    def choose(self, job: Job, devices: list[DeviceMemory]) -> int | None:
        config = self.desk.config
        own = self.desk.allocator(job.holder)
        threshold = config.cpu_fallback_threshold_gb * GIB
        size = config.main_llm_memory_reservation_gb
        reserved = (8.0 if size == "auto" else size) * GIB
        totals = {d.index: d.total_bytes for d in devices}
        order = [config.vision_index, config.main_llm_index, *sorted(totals)]
        for ordinal in order:
            index = self.by_cuda_default(ordinal)
            if index is None or index not in totals:
                continue
            free = totals[index] - own.get(index, 0)
            if ordinal == config.main_llm_index:
                free -= int(reserved)
            if free >= threshold:
                return index
        return None


class NvitopSelect(OneShot):
    """nvitop's ``select_devices(min_free_memory=need)``.

    Checked against nvitop/select.py at XuehaiPan/nvitop 0057872 (2025). Built to set
    ``CUDA_VISIBLE_DEVICES`` before a training starts. Cards with enough free memory, most free
    first, then most used, at last the higher index, to keep card 0 free. By UUID, so never crossed.
    """

    name = "nvitop"

    def choose(self, job: Job, devices: list[DeviceMemory]) -> int | None:
        enough = [d for d in devices if d.free_bytes >= job.need_bytes]
        best = max(enough, key=lambda d: (d.free_bytes, d.reserved_bytes, d.index), default=None)
        return best.index if best is not None else None


class GPUtilFirst(OneShot):
    """GPUtil's ``getFirstAvailable()`` with its defaults.

    Checked against GPUtil/GPUtil.py at anderskm/gputil 116088e (1.3.1-dev). Built for shared
    training machines: the first card by id with less than half of its memory (and of its load,
    taken as met here) in use; an error if there is none, which is the CPU here.
    """

    name = "gputil"

    def choose(self, job: Job, devices: list[DeviceMemory]) -> int | None:
        for device in sorted(devices, key=lambda d: d.index):
            if device.total_bytes and device.reserved_bytes / device.total_bytes < 0.5:
                return device.index
        return None


class AccelerateFill(OneShot):
    """accelerate's ``infer_auto_device_map`` in index order.

    Checked against src/accelerate/utils/modeling.py at huggingface/accelerate cdde654. Built to
    spread one large model over a machine of its own: devices are filled in CUDA's order up to
    the free memory that the driver reports. The first one keeps room for the largest layer, in
    case something is offloaded (a twelfth of the model is taken for that, as in a ViT-B's
    twelve equal blocks); on a machine with a single card ``get_balanced_memory`` takes only 90
    % of the free memory. What doesn't fit goes to the next device, at last to the CPU: in parts
    there, whole here.
    """

    name = "accelerate"

    def choose(self, job: Job, devices: list[DeviceMemory]) -> int | None:
        free = {d.index: d.free_bytes for d in devices}
        cards = len(self.desk.trace.rig)
        for ordinal in range(cards):
            index = self.by_cuda_default(ordinal)
            layer = job.need_bytes / LAYERS if ordinal == 0 else 0
            usable = free.get(index, 0) * (0.9 if cards == 1 else 1.0) if index is not None else 0
            if index in free and job.need_bytes + layer <= usable:
                return index
        return None


class RayFractions(PolicyBase):
    """Ray's fractional GPUs (``num_gpus=0.1``): bookkeeping alone, nobody reads the driver.

    Checked against src/ray/common/scheduling/resource_instance_set.cc at ray-project/ray 0678da2:
    a fraction goes to the instance with the least left that still has enough, the first at a tie.
    Built for clusters where everything runs through Ray. An actor declares a share of a card, here
    its expected size over the card's total; a fraction goes to the card with the least share left
    that still has enough. Actors wait for a share; here the CPU serves. With the LLM managed its
    reservation is an actor, too.
    """

    def __init__(self, managed: bool = False) -> None:
        self.managed = managed
        self.name = "ray (LLM managed)" if managed else "ray"

    def start(self, desk: Desk) -> None:
        super().start(desk)
        self._left = dict.fromkeys(range(len(desk.trace.rig)), 1.0)
        self._shares: dict[int, tuple[int, float]] = {}
        if self.managed:
            size = desk.config.main_llm_memory_reservation_gb
            index = desk.config.main_llm_index
            if index in self._left:
                reserved = 8.0 if size == "auto" else size
                self._left[index] -= min(1.0, reserved / desk.trace.rig[index].total_gb)

    def asked(self, job: Job) -> None:
        fitting: list[tuple[float, int, float]] = []
        for index, left in self._left.items():
            share = job.need_bytes / GIB / self.desk.trace.rig[index].total_gb
            if share <= left:
                fitting.append((left, index, share))
        if not fitting:
            self.desk.place(job, None)
            return
        _, index, share = min(fitting)
        self._left[index] -= share
        self._shares[job.key] = (index, share)
        self.desk.place(job, index)

    def ended(self, job: Job) -> None:
        if job.key in self._shares:
            index, share = self._shares.pop(job.key)
            self._left[index] += share
