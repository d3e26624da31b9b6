"""Where models go: the guide's order, the issue's arithmetic, and what must hold for any rig."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danzar_gpu.config import GPUMemoryConfig
from danzar_gpu.ledger import Footprint, HolderMemory, Ledger, Request
from danzar_gpu.memory import GIB, MemorySnapshot
from danzar_gpu.placement import NO_DEVICE, place
from danzar_gpu.rebalance import rebalance
from danzar_gpu.room import can_use, rooms
from tests.gpu_memory.rig import Card, gb, guide_rig

ANYTHING = Request("vision", Footprint())


def snapshot(*cards: Card, now: float = 0.0) -> MemorySnapshot:
    return MemorySnapshot(now, "scripted", tuple(c.device(i, now) for i, c in enumerate(cards)))


def config(**keys: object) -> GPUMemoryConfig:
    return GPUMemoryConfig.model_validate(keys)


def test_the_guides_example_chooses_the_vision_card_in_the_guides_words() -> None:
    found = place(ANYTHING, snapshot(*guide_rig()), Ledger(), config(), 0)
    assert (found.device, found.reason) == (
        "cuda:1",
        "Device 1 (RTX 4070 Super) available with 9.9GB free",
    )


def test_the_llms_card_serves_when_only_the_rest_of_its_promise_is_kept_free() -> None:
    llm = Card("RTX 4070", programs={"ollama": 7.5}, driver=0.2)  # 4.3 free, 0.5 promised
    full = Card("RTX 4070 Super", programs={"game.exe": 11.5})
    found = place(ANYTHING, snapshot(llm, full), Ledger(), config(), 0)
    assert found.device == "cuda:0"
    assert found.reason == (
        "Device 0 (RTX 4070) available with 4.3GB free, 3.8GB of it beyond what is promised"
    )


def test_an_unknown_holder_does_not_shrink_the_llms_promise() -> None:
    stranger = Card("RTX 4070", programs={"mystery": 7.5}, driver=0.2)
    full = Card("RTX 4070 Super", programs={"game.exe": 11.5})
    found = place(ANYTHING, snapshot(stranger, full), Ledger(), config(), 0)
    assert found.device == "cpu"
    assert found.reason.startswith(NO_DEVICE)
    assert "Device 0 reserved for main LLM" in found.reason


@pytest.mark.parametrize(("game", "device"), [(2.7, "cuda:0"), (2.9, "cpu")])
def test_the_llms_card_is_left_alone_when_less_than_the_threshold_would_be_left(
    game: float, device: str
) -> None:
    # 12 - 7.5 - game free, 0.5 of it promised: 1.3 or 1.1 minus driver's 0.2.
    llm = Card("RTX 4070", programs={"llama-server": 7.5, "game.exe": game}, driver=0.2)
    full = Card("RTX 4070 Super", programs={"obs64.exe": 11.2})
    assert place(ANYTHING, snapshot(llm, full), Ledger(), config(), 0).device == device


def test_without_the_cpu_it_is_a_refusal_that_says_so() -> None:
    full = (Card("A", programs={"x": 11.9}), Card("B", programs={"y": 11.9}))
    found = place(ANYTHING, snapshot(*full), Ledger(), config(fallback_to_cpu=False), 0)
    assert found.device is None
    assert found.reason.startswith(NO_DEVICE)
    assert found.reason.endswith("fallback_to_cpu is off")


def test_no_reading_means_the_cpu() -> None:
    assert place(ANYTHING, None, Ledger(), config(), 0).device == "cpu"
    assert place(ANYTHING, snapshot(), Ledger(), config(), 0).device == "cpu"


def test_an_old_reading_admits_nothing_to_a_card() -> None:
    reading = snapshot(*guide_rig())
    assert place(ANYTHING, reading, Ledger(), config(), now=10).device == "cuda:1"
    stale = place(ANYTHING, reading, Ledger(), config(), now=500)
    assert stale.device == "cpu"
    assert "500 s old" in stale.reason


def test_among_other_cards_the_faster_wins_and_a_near_tie_does_not_choose_the_slow_one() -> None:
    busy = {"x": 11.9}
    rig = (
        Card("LLM", programs=busy),
        Card("vision", programs=busy),
        Card("slow", programs={"x": 2.0}, capability=(7, 5)),
        Card("fast", programs={"x": 2.0 + 12 / 1024}, capability=(8, 9)),
    )
    assert place(ANYTHING, snapshot(*rig), Ledger(), config(), 0).device == "cuda:3"


def test_a_refusal_on_the_llms_card_adds_up() -> None:
    need = Request("yolo", Footprint.of_gb(1.5), predicted=Footprint.of_gb(1.5))
    full = (Card("A", programs={"ollama": 11.0}), Card("B", programs={"x": 11.9}))
    late = (Card("A", programs={"x": 3.0}), Card("B", programs={"x": 11.9}))
    loaded = place(need, snapshot(*full), Ledger(), config(), 0).reason
    assert "Device 0 reserved for main LLM (1.0GB free, 2.0GB needed)" in loaded
    unloaded = place(need, snapshot(*late), Ledger(), config(), 0).reason
    assert "(9.0GB free, 8.0GB still promised to it, 2.0GB needed)" in unloaded


def test_of_one_generation_the_card_with_more_cores_wins_over_the_better_fit() -> None:
    busy = {"x": 11.9}
    rig = (
        Card("LLM", programs=busy),
        Card("vision", programs=busy),
        Card("slow", programs={"x": 6.0}, cores=3072),
        Card("fast", total=24.0, programs={"x": 6.0}, cores=16384),
        Card("unknown", programs={"x": 6.0}),
    )
    assert place(ANYTHING, snapshot(*rig), Ledger(), config(), 0).device == "cuda:3"


def test_visions_limit_is_the_smaller_of_both_keys() -> None:
    both = snapshot(*guide_rig())
    need = Request("big", Footprint.of_gb(1.9))
    assert place(need, both, Ledger(), config(), 0).device == "cuda:1"
    by_size = place(need, both, Ledger(), config(vision_memory_limit_gb=1.5), 0)
    by_share = place(need, both, Ledger(), config(gpu_memory_fraction=0.1), 0)
    assert by_size.device == by_share.device == "cpu"
    assert "vision's limit of 1.5GB" in by_size.reason
    assert "vision's limit of 1.2GB" in by_share.reason


def test_what_is_leased_but_not_allocated_is_not_handed_out_twice() -> None:
    cards = (Card("LLM", programs={"x": 11.5}), Card("vision", programs={"game.exe": 9.8}))
    reading = snapshot(*cards)
    ledger = Ledger()
    first = Request("yolo", Footprint.of_gb(1.0), "worker")
    found = place(first, reading, ledger, config(), 0)
    assert found.device == "cuda:1"
    ledger.grant(first, found.uuid, "cuda:1", "", 0)
    assert place(Request("clip", Footprint.of_gb(0.8)), reading, ledger, config(), 0).device == (
        "cpu"
    )


def test_a_context_is_counted_once_for_a_process_and_a_card() -> None:
    reading = snapshot(*guide_rig())
    ledger = Ledger()
    need = Footprint(weights_bytes=gb(0.5), context_bytes=gb(0.4))
    for name in ("yolo", "clip"):
        ledger.grant(Request(name, need, "worker"), "GPU-1", "cuda:1", "", 0)
    assert ledger.leased_bytes("GPU-1") == gb(0.5) * 2 + gb(0.4)
    ledger.grant(Request("other", need, "another"), "GPU-1", "cuda:1", "", 0)
    assert ledger.leased_bytes("GPU-1") == gb(0.5) * 3 + gb(0.4) * 2
    assert rooms(reading, ledger, config(), 0)[1].pending == ledger.leased_bytes("GPU-1")


def test_what_the_worker_already_holds_is_not_pending_any_more() -> None:
    vision = Card("vision", programs={}, ours={77: gb(0.6)})
    ledger = Ledger()
    ledger.grant(Request("yolo", Footprint.of_gb(1.0), "worker"), "GPU-1", "cuda:1", "", 0)
    ledger.set_holder("worker", HolderMemory(77, {}))
    reading = snapshot(Card("LLM"), vision)
    assert rooms(reading, ledger, config(), 0)[1].pending == gb(1.0) - gb(0.6)


def test_a_more_important_model_names_whom_it_displaces() -> None:
    reading = snapshot(
        Card("LLM", programs={"x": 11}), Card("vision", programs={}, ours={7: gb(1.5)})
    )
    ledger = Ledger()
    ledger.set_holder("w", HolderMemory(7, {}))
    clip = ledger.grant(Request("clip", Footprint.of_gb(1.5), "w", 10), "GPU-1", "cuda:1", "", 0)
    found = place(Request("yolo", Footprint.of_gb(1.0), "w", 20), reading, ledger, config(), 0)
    assert found.device == "cuda:1"
    assert found.evictions == (clip.lease_id,)
    assert "after clip left" in found.reason
    equal = place(Request("yolo", Footprint.of_gb(1.0), "w", 10), reading, ledger, config(), 0)
    assert equal.device == "cpu"


def test_what_was_measured_before_counts_and_is_shown_beside_the_prediction() -> None:
    tight = snapshot(Card("LLM", programs={"x": 11.5}), Card("vision", programs={"game.exe": 9.9}))
    measured, predicted = Footprint(gb(1.5)), Footprint(gb(1.1))
    found = place(Request("clip", measured, predicted=predicted), tight, Ledger(), config(), 0)
    assert found.device == "cuda:1"
    assert found.reason.endswith("; it took 1.50GB before (1.10GB predicted)")
    # A mere prediction of the same size needs a margin: 30 %, the headroom included.
    large = config(vision_memory_limit_gb=8)
    roomy = snapshot(Card("LLM", programs={"x": 11.5}), Card("vision", programs={"game.exe": 8.4}))
    for known, device in ((Footprint(gb(2)), "cuda:1"), (None, "cpu")):
        request = Request("sam", Footprint(gb(3)), predicted=known)
        assert place(request, roomy, Ledger(), large, 0).device == device


def test_can_use_says_what_the_guide_says_of_the_llms_card() -> None:
    reading = snapshot(Card("RTX 4070", programs={}), Card("RTX 4070 Super"))
    held = rooms(reading, Ledger(), config(main_llm_memory_reservation_gb=11.5), 0)
    usable, reason = can_use(held[0], config())
    assert not usable
    assert reason.startswith("Device 0 reserved for main LLM")
    assert can_use(held[1], config())[0]


sizes = st.floats(0, 12).map(lambda size: round(size, 2))
cards = st.builds(
    lambda total, llm, game, known: Card(
        "card",
        total,
        {"ollama": min(llm, total), "game.exe": min(game, max(0.0, total - llm))},
        names_known=known,
    ),
    st.sampled_from([8.0, 12.0, 24.0]),
    sizes,
    sizes,
    st.booleans(),
)
requests = st.lists(
    st.builds(
        lambda name, need, context, priority: Request(
            name, Footprint(gb(need), 0, gb(context)), "worker", priority
        ),
        st.sampled_from(["yolo", "clip", "ocr"]),
        st.floats(0.05, 3),
        st.sampled_from([0.0, 0.4]),
        st.integers(0, 30),
    ),
    max_size=8,
)


@given(st.lists(cards, min_size=1, max_size=4), requests, st.floats(0, 12))
def test_nothing_is_promised_that_is_not_there(
    rig: list[Card], wanted: list[Request], reservation: float
) -> None:
    """Whatever is asked in whatever order: leases stay within free, less what is promised."""
    settings = config(main_llm_memory_reservation_gb=reservation)
    reading = snapshot(*rig)
    ledger = Ledger()
    for request in wanted:
        found = place(request, reading, ledger, settings, 0, may_evict=False)
        assert found.reason
        ledger.grant(request, found.uuid, found.device or "cpu", found.reason, 0)
    for room in rooms(reading, ledger, settings, 0).values():
        if room.vision_leased:
            assert room.available >= settings.headroom_gb * GIB
            assert room.vision_leased <= room.vision_limit


@given(
    st.lists(st.floats(0.2, 4), min_size=2, max_size=5),
    st.floats(1, 9),
    st.lists(st.floats(0, 9), min_size=2, max_size=2),
)
def test_who_makes_room_for_a_more_important_one_goes_where_all_of_them_fit(
    small: list[float], large: float, gaps: list[float]
) -> None:
    settings, now = config(vision_memory_limit_gb=9, main_llm_memory_reservation_gb=0), 1000.0
    rig = [Card("card", 24, {"game.exe": 24 - gap}) for gap in gaps]
    # They were here before the large one, which had the room that something has taken since.
    rig.insert(1, Card("card", 24, {"game.exe": max(0.0, 24 - sum(small) - 0.5)}))
    ledger = Ledger()
    for n, size in enumerate(small):
        request = Request(f"small {n}", Footprint(gb(size)), "worker", 0)
        ledger.grant(request, "GPU-1", "cuda:1", "", 0)
    waits = ledger.grant(Request("large", Footprint(gb(large)), "worker", 9), None, "cpu", "", 0)
    waits.better_since = waits.roomy_since = 0.0
    reading = snapshot(*rig, now=now)
    for move in rebalance(reading, ledger, settings, now).moves:
        record, target = ledger.get(move.lease_id), move.placement
        assert record is not None
        ledger.begin_move(record, target.uuid, target.device or "none", "", now=now, forced=False)
    for index in (0, 2):
        room = rooms(reading, ledger, settings, now)[index]
        assert not room.vision_leased or room.available >= settings.headroom_gb * GIB


@given(st.lists(cards, min_size=2, max_size=4), requests, cards)
def test_pressure_moves_just_enough_and_then_is_quiet(
    rig: list[Card], wanted: list[Request], after: Card
) -> None:
    """One pass of moves relieves a card, or empties it; a second pass asks for nothing more."""
    settings = config()
    ledger = Ledger()
    for request in wanted:
        found = place(request, snapshot(*rig), ledger, settings, 0, may_evict=False)
        ledger.grant(request, found.uuid, found.device or "cpu", found.reason, 0)
    rig[1] = after
    reading = snapshot(*rig)
    for move in rebalance(reading, ledger, settings, 0).moves:
        record = ledger.get(move.lease_id)
        assert record is not None
        target = move.placement
        ledger.begin_move(
            record, target.uuid, target.device or "none", target.reason, now=0, forced=True
        )
        ledger.land(record, 0)
    for room in rooms(reading, ledger, settings, 0).values():
        relieved = room.available >= settings.pressure_gb * GIB
        assert relieved or not room.vision_leased or room.doubtful
    assert rebalance(reading, ledger, settings, 0).moves == ()
