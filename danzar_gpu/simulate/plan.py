"""A schedule made with the whole future in hand, by the configuration's own rules.

It knows when every program comes and goes, how much everything really takes, and how long the
driver keeps memory back. It leaves a card just before somebody else needs the memory and is back as
soon as that is over. It keeps the same promises as the product: the LLM's outstanding reservation,
vision's limit, the headroom and the threshold on entering a card (with room for what is expected of
a model, and for its surprise), the pressure mark while staying, the dwell before a card that just
got room, no return to a card within a minute, and no room for a model that a more important one can
use.

It is no proven optimum. Each model's way over cards and time is optimal for what the models before
it left over (dynamic programming over the stretches between events); several orders of equally
important models, and likings for one card or another where both are as good, are tried, and the
best is kept.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from dataclasses import dataclass

from danzar_gpu.learning import PeakRecorder
from danzar_gpu.memory import GIB
from danzar_gpu.room import SURPRISE_SHARE, configured_reservation
from danzar_gpu.simulate.engine import LEAVE_SECONDS, THRASH_SECONDS, grown_gb, growth_times
from danzar_gpu.simulate.trace import Model, Program, Trace
from danzar_gpu.simulate.world import HOUR_SECONDS

SLACK_SECONDS = 0.05
MOVE_PENALTY_SECONDS = 0.5
"""So that it doesn't move for nothing."""
LIKING = 1e-4
"""So much more a second on a card is worth that a model likes better in one of the tries."""
TRIES = 24
EMPTY = -(1 << 60)

Likings = dict[int, dict[int, float]]
"""What a second on a card is worth beyond 1, by model key and card."""


@dataclass(frozen=True, slots=True)
class Stop:
    """From ``at`` on a model is on ``device`` (``None``: the CPU)."""

    at: float
    device: int | None


@dataclass(slots=True)
class _Card:
    """One card's arithmetic over the stretches of time."""

    available: list[int]
    """Beyond all that is not ours and the LLM's promise."""
    plain: list[int]
    """The same without looking ahead."""
    limit: int
    context: int
    tail: float
    """Seconds from leaving until the memory is really there for others."""
    held: list[dict[str, int]]
    """What the plan has put there so far, by holder, without contexts."""
    entering: list[int]
    """Bytes that must stay free in a stretch because a planned model enters the card there."""
    expected: list[int]
    """Bytes beyond what is held that are expected of a model that enters there."""

    def ours(self, position: int) -> int:
        held = self.held[position]
        return sum(held.values()) + self.context * len(held)

    def models(self, position: int) -> int:
        """Without contexts: what vision's limit counts."""
        return sum(self.held[position].values())

    def with_model(self, position: int, holder: str, size: int) -> int:
        held = self.held[position]
        return self.ours(position) + size + (0 if holder in held else self.context)


class Plan:
    """Where each model is at which time."""

    def __init__(self, trace: Trace, closed: frozenset[int] = frozenset()) -> None:
        """``closed`` names cards that are not used at all."""
        self._trace = trace
        self._closed = closed
        self._config = trace.gpu_memory
        self._end = trace.end
        self._points = self._breakpoints()
        self._base = [self._availability(index) for index in range(len(trace.rig))]
        self.stops: dict[int, list[Stop]] = self._best()

    def _best(self) -> dict[int, list[Stop]]:
        wanted = [
            (key, model) for key, model in enumerate(self._trace.models) if model.plays(self._end)
        ]
        orders = [
            sorted(wanted, key=lambda item: item[1].at),
            sorted(wanted, key=lambda item: item[1].peak_gb),
            sorted(wanted, key=lambda item: -item[1].peak_gb),
            sorted(wanted, key=lambda item: -(self._until(item[1]) - item[1].at)),
        ]
        chance = random.Random(1)
        seen: set[tuple[int, ...]] = set()
        best: tuple[float, dict[int, list[Stop]]] = (-1.0, {})
        tries = 0 if len(wanted) < 2 else min(TRIES, 900 // len(wanted))
        for attempt in range(len(orders) + tries):
            likings: Likings = {}
            if attempt < len(orders):
                order = list(orders[attempt])
            else:
                order = list(wanted)
                chance.shuffle(order)
                if attempt % 3:
                    likings = {key: self._likings(chance) for key, _ in wanted}
            order.sort(key=lambda item: -item[1].priority)  # stable: within equals as it was
            keys = tuple(key for key, _ in order)
            if not likings and keys in seen:
                continue
            seen.add(keys)
            found = self._schedule(order, likings)
            if found[0] > best[0]:
                best = found
        return best[1]

    def _likings(self, chance: random.Random) -> dict[int, float]:
        return {index: LIKING * chance.random() for index in range(len(self._trace.rig))}

    def _schedule(
        self, order: list[tuple[int, Model]], likings: Likings
    ) -> tuple[float, dict[int, list[Stop]]]:
        cards = [
            _Card(
                available=base[0],
                plain=base[1],
                limit=self._config.vision_limit_bytes(int(card.total_gb * GIB)),
                context=int(card.context_gb * GIB),
                tail=_tail(card.release_lag),
                held=[{} for _ in base[0]],
                entering=[0] * len(base[0]),
                expected=[0] * len(base[0]),
            )
            for card, base in zip(self._trace.rig, self._base, strict=True)
        ]
        total = 0.0
        stops: dict[int, list[Stop]] = {}
        for key, model in order:
            way = self._way(model, cards, likings.get(key, {}))
            self._not_too_soon(way, model, cards)
            total += self._occupy(way, model, cards)
            stops[key] = self._stops(way, model)
        return total, stops

    # One model

    def _until(self, model: Model | Program) -> float:
        return min(self._end, self._end if model.until is None else model.until)

    def _span(self, model: Model) -> tuple[int, int]:
        return bisect_left(self._points, model.at), bisect_left(self._points, self._until(model))

    def _size(self, model: Model, position: int) -> int:
        age = self._points[position] - model.at
        life = (self._end if model.until is None else model.until) - model.at
        return int((model.peak_gb + grown_gb(model.growth, age, life)) * GIB) + 1

    def _way(self, model: Model, cards: list[_Card], liking: dict[int, float]) -> list[int | None]:
        """The card for each stretch of its life that gives the most seconds on cards."""
        first, last = self._span(model)
        sizes = [self._size(model, position) for position in range(first, last)]
        open_to = [self._access(model, card, first, sizes) for card in cards]
        places: list[int | None] = [None, *range(len(cards))]
        cost = {
            place: MOVE_PENALTY_SECONDS
            + (model.move_seconds + LEAVE_SECONDS if place is not None else 0)
            for place in places
        }
        value: dict[int | None, float] = {}
        before: list[dict[int | None, int | None]] = []
        for position in range(first, last):
            seconds = self._points[position + 1] - self._points[position]
            best = max(value, key=lambda p: value[p]) if value else None
            now: dict[int | None, float] = {}
            came: dict[int | None, int | None] = {}
            for place in places:
                gain = 0.0
                may_enter = True
                if place is not None:
                    may_stay, may_enter = open_to[place][position - first]
                    if not may_stay:
                        continue
                    gain = seconds * (1.0 + liking.get(place, 0.0))
                if position == first:
                    if may_enter:
                        now[place], came[place] = gain, place
                    continue
                options: list[tuple[float, int | None]] = []
                if place in value:
                    options.append((value[place], place))
                if may_enter and best != place and best in value:
                    options.append((value[best] - cost[place], best))
                if options:
                    got, origin = max(options, key=lambda o: o[0])
                    now[place], came[place] = got + gain, origin
            value = now
            before.append(came)
        way: list[int | None] = []
        place = max(value, key=lambda p: value[p]) if value else None
        for came in reversed(before):
            way.append(place)
            place = came[place]
        way.reverse()
        return way

    def _access(
        self, model: Model, card: _Card, first: int, sizes: list[int]
    ) -> list[tuple[bool, bool]]:
        """For each stretch of its life: whether it may be on a card, and whether it may come."""
        config = self._config
        floor = int(config.pressure_gb * GIB)
        expected = int(model.need_gb * GIB)
        headroom = max(int(config.headroom_gb * GIB), int(SURPRISE_SHARE * expected))
        threshold = int(config.cpu_fallback_threshold_gb * GIB)
        dwell = config.return_dwell_seconds
        found: list[tuple[bool, bool]] = []
        room_since: float | None = None
        for offset, size in enumerate(sizes):
            position = first + offset
            at = self._points[position]
            models = card.models(position) + size
            room = card.available[position] - card.with_model(position, model.holder, size)
            # Should it leave at the end of this stretch, its memory goes a little later.
            until = self._points[position + 1] + card.tail
            after = position + 1
            while after < len(card.held) and self._points[after] < until:
                models = max(models, card.models(after) + size)
                there = card.with_model(after, model.holder, size)
                room = min(room, card.plain[after] - there)
                after += 1
            models += card.expected[position]
            may_stay = room >= max(floor, card.entering[position]) and models <= card.limit
            more = max(0, expected - size)
            has_room = (
                may_stay
                and room - more >= headroom
                and models + more <= card.limit
                and card.available[position] - card.ours(position) >= threshold
            )
            if not has_room:
                room_since = None
            elif room_since is None:
                room_since = at if offset else -dwell
            may_enter = room_since is not None and at - room_since >= dwell - 1e-6
            found.append((may_stay, may_enter))
        return found

    def _not_too_soon(self, way: list[int | None], model: Model, cards: list[_Card]) -> None:
        """No return to a card within a minute: the CPU until then."""
        first, _ = self._span(model)
        left: dict[int, float] = {}
        present: int | None = way[0] if way else None
        for offset, place in enumerate(way):
            at = self._points[first + offset]
            if place != present:
                if present is not None:
                    left[present] = at + LEAVE_SECONDS
                if (
                    place is not None
                    and at + model.move_seconds < left.get(place, -1e9) + THRASH_SECONDS
                ):
                    way[offset] = place = None
                present = place

    def _occupy(self, way: list[int | None], model: Model, cards: list[_Card]) -> float:
        """Write its way into the cards' books; the seconds on cards."""
        first, _ = self._span(model)
        seconds = 0.0
        for offset, place in enumerate(way):
            if place is None:
                continue
            position = first + offset
            card = cards[place]
            seconds += self._points[position + 1] - self._points[position]
            size = self._size(model, position)
            if offset == 0 or way[offset - 1] != place:
                config = self._config
                threshold = int(config.cpu_fallback_threshold_gb * GIB) - size
                more = max(0, int(model.need_gb * GIB) - size)
                headroom = int(config.headroom_gb * GIB) + more
                card.entering[position] = max(card.entering[position], headroom, threshold)
                card.expected[position] = max(card.expected[position], more)
            leaves = offset + 1 == len(way) or way[offset + 1] != place
            until = self._points[position + 1] + (card.tail if leaves else 0.0)
            stop = min(bisect_left(self._points, until), len(card.held))
            for n in range(position, max(position + 1, stop)):
                held = card.held[n]
                held[model.holder] = held.get(model.holder, 0) + size
        return seconds

    def _stops(self, way: list[int | None], model: Model) -> list[Stop]:
        first, _ = self._span(model)
        stops: list[Stop] = []
        for offset, place in enumerate(way):
            if not stops or stops[-1].device != place:
                stops.append(Stop(self._points[first + offset], place))
        return stops

    # The cards without us

    def _availability(self, index: int) -> tuple[list[int], list[int]]:
        """For each stretch the least that is there until a model that leaves at its end left,
        and what is there in the stretch itself."""
        card = self._trace.rig[index]
        tail = _tail(card.release_lag)
        count = len(self._points) - 1
        other = [0] * count
        llm, held = [0] * count, [0] * count
        lost = [False] * count
        for program in self._trace.foreign:
            if program.device != index or program.at >= self._end:
                continue
            life = (self._end if program.until is None else program.until) - program.at
            until = self._until(program)
            for n in range(bisect_left(self._points, program.at), count):
                at = self._points[n]
                if at >= until + card.release_lag:
                    break
                grown = grown_gb(program.growth, min(at, until) - program.at, life)
                size = int((program.gb + grown) * GIB)
                if program.llm:
                    llm[n] += size  # on its way back it is no reason to leave either
                    held[n] += size if at < until else 0
                else:
                    other[n] += size
        for fault in self._trace.sensor:
            if fault.kind == "lost" and fault.device in (None, index):
                until = self._end if fault.until is None else fault.until
                for n in range(bisect_left(self._points, fault.at), count):
                    if self._points[n] >= until:
                        break
                    lost[n] = True
        promised = self._promised(index, held)
        total = int((card.total_gb - card.driver_gb) * GIB)
        plain = [
            EMPTY
            if lost[n] or index in self._closed
            else total - other[n] - max(llm[n], promised[n])
            for n in range(count)
        ]
        ahead: list[int] = []
        for n in range(count):
            stop = bisect_left(self._points, self._points[n + 1] + tail)
            ahead.append(min(plain[n : max(n + 1, min(stop, count))]))
        return ahead, plain

    def _promised(self, index: int, held: list[int]) -> list[int]:
        """The LLM's reservation in each stretch, as ``World.reservation`` has it by what it holds
        there."""
        config = self._config
        if index != config.main_llm_index:
            return [0] * len(held)
        if config.main_llm_memory_reservation_gb != "auto":
            return [configured_reservation(config)] * len(held)
        peaks, total = PeakRecorder(), int(self._trace.rig[index].total_gb * GIB)
        promised: list[int] = []
        for at, size in zip(self._points, held, strict=False):
            peaks.add(at, size)
            promised.append(peaks.reservation(config, total).size_bytes)
        return promised

    def _breakpoints(self) -> list[float]:
        trace = self._trace
        tails = {_tail(card.release_lag) for card in trace.rig}
        lags = {card.release_lag for card in trace.rig}
        waits = (0.0, self._config.return_dwell_seconds)
        points: set[float] = {0.0, self._end}
        if self._config.main_llm_memory_reservation_gb == "auto":
            points |= set(range(0, int(self._end), HOUR_SECONDS))
        arrivals: set[float] = set()
        for program in trace.foreign:
            life = (self._end if program.until is None else program.until) - program.at
            arrivals |= {program.at, *growth_times(program.growth, program.at, life)}
            if program.until is not None:
                arrivals.add(program.until)  # the LLM's end raises its promise again
                points |= {program.until + lag + wait for lag in lags for wait in waits}
        for fault in trace.sensor:
            if fault.kind == "lost":
                arrivals.add(fault.at)
                points.add(fault.until if fault.until is not None else self._end)
        for model in trace.models:
            life = (self._end if model.until is None else model.until) - model.at
            until = self._until(model)
            points |= {model.at, until, *(until + t + wait for t in tails for wait in waits)}
            points |= set(growth_times(model.growth, model.at, life))
        for at in arrivals:
            points.add(at)
            for tail in tails:
                points |= {at - tail, at - tail + THRASH_SECONDS + 1.0}
        return sorted(p for p in points if 0.0 <= p <= self._end)


def _tail(release_lag: float) -> float:
    return LEAVE_SECONDS + release_lag + SLACK_SECONDS
