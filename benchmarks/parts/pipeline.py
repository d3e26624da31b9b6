"""The worker's way through 1080p film against `YOLO.predict(stream=True)` and an open_clip loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.measuring import Spread, Subject, interleaved, ratio
from benchmarks.our_worker import CPU, NotComparable, OurWorker, our_worker
from benchmarks.process import Subject as Program
from benchmarks.process import subject
from benchmarks.results import Bar, Result, Table, Target, shown
from benchmarks.runs import Run
from bot.settings import Settings
from bot.vision.model_files import locate
from bot.vision.worker.priority import NICENESS
from bot.vision.worker.protocol import Destination

PLAIN = "benchmarks.subjects.plain_vision"
SAMPLE_SECONDS = 2.0
"""So long a film is played again: a processor that was idle is slow for some tenths of a second,
which would be most of a film that takes no longer."""
TITLES = {"yolo": "YOLO", "clip": "CLIP", "both": "both"}


@dataclass(frozen=True, slots=True)
class Models:
    """A pair of models to measure with."""

    title: str
    yolo: Path
    clip: Path

    def settings(self, folder: Path) -> Settings:
        """What is converted is kept below ``folder``."""
        return Settings.model_validate(
            {
                "data": {"folder": str(folder / "data")},
                "capture": {"fps": 10},
                "yolo": {"model_path": str(self.yolo)},
                # The folder is taken as it is: nothing of that name was ever pulled.
                "clip": {"model_name": "benchmark", "model_path": str(self.clip)},
            }
        )

    def arguments(self, which: str) -> list[str]:
        yolo = ["--yolo", str(self.yolo)] if which != "clip" else []
        return yolo + (["--clip", str(self.clip)] if which != "yolo" else [])


def shipped() -> Models:
    """The models in the repository."""
    return Models("shipped", locate("models/yolo-nano.pt"), locate("models/clip-tiny"))


def well_known(folder: Path) -> Models:
    """The architectures that most people know, with random weights."""
    return Models("YOLOv8n, ViT-B/32", folder / "yolov8n.pt", folder / "ViT-B-32")


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table."""

    models: str
    which: str
    batch: int
    film: str
    mode: str
    """``default``, ``equal`` threads, or ``f32``: default threads where bf16 is the default."""

    @property
    def threads(self) -> str:
        return "equal" if self.mode == "equal" else "default"

    @property
    def words(self) -> str:
        together = "one by one" if self.batch == 1 else f"batches of {self.batch}"
        precision = ", f32" if self.mode == "f32" else ""
        return f"{self.models}, {TITLES[self.which]}, {together}, {self.film}{precision}"


@dataclass(frozen=True, slots=True)
class Row:
    """A case and what came of it, in milliseconds a frame."""

    case: Case
    ours: Spread
    peer: Spread
    times: Spread
    backend: str
    our_threads: int
    peer_threads: int


def again(play: Callable[[], Awaitable[tuple[float, int]]]) -> Subject:
    """Milliseconds a frame of a film that is played, as (seconds, frames), until it was enough."""

    async def once() -> float:
        seconds, frames = 0.0, 0
        while seconds < SAMPLE_SECONDS:
            took, played = await play()
            seconds, frames = seconds + took, frames + played
        return 1000 * seconds / frames

    return once


def cases(which: str, quick: bool) -> list[tuple[int, str]]:
    """(batch, film) for a group; a quick run leaves batches out."""
    both_films = [(1, "moving"), (1, "still")] if which == "both" else [(1, "moving")]
    return both_films if quick else [*both_films, (4, "moving")]


@dataclass(slots=True)
class Group:
    """The same models in several processes: ours and plain ones, at default and equal threads."""

    models: Models
    which: str
    destination: Destination
    ours: dict[str, OurWorker] = field(default_factory=dict[str, OurWorker])
    plain: dict[str, Program] = field(default_factory=dict[str, Program])
    threads: dict[str, int] = field(default_factory=dict[str, int])
    peer_threads: dict[str, int] = field(default_factory=dict[str, int])

    def our_pass(self, threads: str, film: Path) -> Subject:
        async def play() -> tuple[float, int]:
            played = await self.ours[threads].play(film)
            looked = {name: played.looked(name) for name in self.names}
            if film.stem == "moving" and any(n < played.frames for n in looked.values()):
                raise NotComparable(f"of {played.frames} frames only {looked} were computed")
            return played.seconds, played.frames

        return again(play)

    def plain_pass(self, name: str, film: Path, batch: int) -> Subject:
        async def play() -> tuple[float, int]:
            answer = await self.plain[name].ask({"film": str(film), "batch": batch})
            self.peer_threads[name] = answer["threads"]
            return answer["seconds"], answer["frames"]

        return again(play)

    @property
    def names(self) -> Sequence[str]:
        return ("yolo", "clip") if self.which == "both" else (self.which,)

    def peer(self, mode: str) -> str:
        """Which plain process a mode of ours is compared with."""
        return "default" if mode == "f32" else mode


async def measure(run: Run) -> Result:
    """Every case of both pairs of models, on the CPU."""
    rows, export = await rows_on(run, CPU, ("default", "equal"))
    result = Result("Pipeline on the CPU", tables=[table(rows)], bars=bars(rows))
    result.notes.append(
        "Milliseconds a frame of a 1080p H.264 film, decoding included, every frame through "
        "every model. *default*: what each takes when nobody configured anything; *equal*: "
        f"{run.threads} threads each. All processes have the same niceness. *still*: each "
        "picture stays for ten frames."
    )
    bf16 = describe().has_bf16
    if bf16:
        result.notes.append(
            "This processor has bf16, so Danzar takes it; the rows in f32 show what it does "
            "where there is none."
        )
    result.targets += targets(rows, bf16=bf16)
    if export is not None:
        spread, backend = export
        result.targets.append(
            Target.at_least(
                f"YOLO against `predict` on the same backend ({backend}) and threads",
                1.0,
                spread,
            )
        )
    return result


async def rows_on(
    run: Run,
    destination: Destination,
    thread_modes: Sequence[str],
    chosen: Sequence[tuple[Models, str]] = (),
) -> tuple[list[Row], tuple[Spread, str] | None]:
    """All rows, or those of the chosen groups, and YOLOv8n against `predict` on our backend."""
    folder = await run.films()
    groups = list(chosen) or [(shipped(), "both")]
    if not (chosen or run.quick):
        pairs = (shipped(), well_known(await run.models()))
        groups = [(pair, which) for pair in pairs for which in ("yolo", "clip", "both")]
    rows: list[Row] = []
    same: tuple[Spread, str] | None = None
    for done, (models, which) in enumerate(groups):

        def tell(
            share: float, words: str, *, done: int = done, who: str = f"{models.title}, {which}"
        ) -> None:
            run.tell((done + share) / len(groups), f"{who}: {words}")

        async with AsyncExitStack() as stack:
            group = await _open(stack, run, models, which, destination, thread_modes, tell)
            rows += [row async for row in _rows(group, run, folder, tell)]
            if which == "yolo" and models.title != "shipped" and destination.device == "cpu":
                same = await _same_backend(group, run, folder)
    return rows, same


async def _open(
    stack: AsyncExitStack,
    run: Run,
    models: Models,
    which: str,
    destination: Destination,
    thread_modes: Sequence[str],
    tell: Callable[[float, str], None],
) -> Group:
    """Start all processes of a group; one after another, so that none disturbs the other."""
    group = Group(models, which, destination)
    if which == "both" and destination.device == "cpu" and describe().has_bf16:
        tell(0.0, "starting (f32)")
        group.threads["f32"] = Settings().vision.threads
        group.ours["f32"] = await stack.enter_async_context(
            our_worker(models.settings(run.folder), group.names, group.threads["f32"], "f32")
        )
    for mode in thread_modes:
        tell(0.0, f"starting ({mode} threads)")
        count = Settings().vision.threads if mode == "default" else run.threads
        group.ours[mode] = await stack.enter_async_context(
            our_worker(models.settings(run.folder), group.names, count)
        )
        group.threads[mode] = count
        wished = 0 if mode == "default" else run.threads
        group.plain[mode] = await stack.enter_async_context(plain(group, run, wished))
    if which == "yolo" and destination.device == "cpu":
        group.plain["export"] = await stack.enter_async_context(
            plain(group, run, run.threads, "--openvino")
        )
    return group


def plain(group: Group, run: Run, threads: int, *more: str) -> AbstractAsyncContextManager[Program]:
    """A process with what a person would write; as niced as our worker."""
    return subject(
        PLAIN,
        *group.models.arguments(group.which),
        *("--threads", str(threads)),
        *("--nice", str(NICENESS)),
        *("--device", group.destination.device),
        *("--warm", str(run.folder / "moving.mp4")),
        *more,
    )


async def _rows(
    group: Group, run: Run, folder: Path, tell: Callable[[float, str], None]
) -> AsyncIterator[Row]:
    chosen = cases(group.which, run.quick)
    loaded = 0
    for number_, (batch, film) in enumerate(chosen):
        if batch != loaded:
            for worker in group.ours.values():
                await worker.load(batch, group.destination)
            for worker in group.ours.values():
                # Once through, so that caches are as warm as the peer's.
                await worker.play(folder / "moving.mp4")
            loaded = batch
        path = folder / f"{film}.mp4"
        subjects: dict[str, Subject] = {}
        # What f32 costs is told by one case.
        modes = [m for m in group.ours if m != "f32" or (batch, film) == (1, "moving")]
        for mode in modes:
            subjects[f"ours {mode}"] = group.our_pass(mode, path)
            peer = group.peer(mode)
            subjects[f"plain {peer}"] = group.plain_pass(peer, path, batch)
        share = number_ / len(chosen)
        words = f"{film}, batch {batch}"
        samples = await interleaved(
            subjects, run.rounds, lambda name, s=share, w=words: tell(s, f"{w}, {name}")
        )
        for mode in modes:
            ours, peer = samples[f"ours {mode}"], samples[f"plain {group.peer(mode)}"]
            yield Row(
                Case(group.models.title, group.which, batch, film, mode),
                Spread.of(ours),
                Spread.of(peer),
                ratio(peer, ours),
                group.ours[mode].backend,
                group.threads[mode],
                group.peer_threads[group.peer(mode)],
            )


async def _same_backend(group: Group, run: Run, folder: Path) -> tuple[Spread, str]:
    """Ours against `predict`, both on what computes in our worker, one frame at a time."""
    film = folder / "moving.mp4"
    await group.ours["equal"].load(1, group.destination)
    backend = group.ours["equal"].backend
    peer = "export" if "openvino" in backend.lower() else "equal"
    await group.ours["equal"].play(film)
    samples = await interleaved(
        {"ours": group.our_pass("equal", film), "peer": group.plain_pass(peer, film, 1)},
        run.rounds,
    )
    return ratio(samples["peer"], samples["ours"]), backend


def table(rows: Sequence[Row]) -> Table:
    """All rows for people."""
    headers = ("models", "what", "film", "threads", "Danzar", "plain", "ratio", "computed by")
    return Table(
        "Milliseconds a frame",
        headers,
        [
            (
                row.case.models,
                TITLES[row.case.which]
                + ("" if row.case.batch == 1 else f", batches of {row.case.batch}"),
                row.case.film,
                f"{row.case.threads} ({row.our_threads} and {row.peer_threads})",
                shown(row.ours),
                shown(row.peer),
                shown(row.times, "x"),
                row.backend,
            )
            for row in rows
        ],
    )


def bars(rows: Sequence[Row]) -> list[Bar]:
    """Rows at defaults for the chart."""
    return [Bar(row.case.words, row.times) for row in rows if row.case.threads == "default"]


def targets(rows: Sequence[Row], *, bf16: bool) -> list[Target]:
    """What issue 4 wants of both models, at defaults, on the architectures people know."""
    found: list[Target] = []
    both = "Both models on every 1080p frame on the CPU"
    for row in rows:
        case = row.case
        if case.which != "both" or case.batch != 1 or case.threads != "default":
            continue
        if case.film == "still":
            what = f"A screen that is still for 9 frames of 10 ({case.models})"
            found.append(Target.at_least(what, 8.0, row.times))
        else:
            wanted = 3.5 if "bf16" in row.backend else 2.0
            found.append(
                Target.at_least(f"{both} ({case.models}; {row.backend})", wanted, row.times)
            )
    if not bf16:
        why = "not measured: this processor has no bf16"
        found.append(Target.unknown(f"{both}, in bf16", "at least 3.5x", why))
    return found
