"""Who takes whose place on a card: the important, then the many; and nobody twice in a row."""

from __future__ import annotations

from danzar_gpu.admission import Admission
from danzar_gpu.config import GPUMemoryConfig
from danzar_gpu.ledger import Footprint, HolderMemory, LeaseRecord, Request
from danzar_gpu.memory import MemorySnapshot
from tests.gpu_memory.rig import Card, gb

FULL = {"trainer": 11.8}


class Desk:
    """Admission in front of cards that a test rewrites; whoever is told to move moves at once."""

    def __init__(self, *cards: Card, **config: object) -> None:
        self.cards = cards
        self.now = 0.0
        self.moves: list[str] = []
        self.told: list[LeaseRecord] = []
        self.may_move = True
        """Whether monitoring is on."""
        self.fails = False
        """Whether whoever is told to move finds no room there."""
        self.admission = Admission(
            GPUMemoryConfig.model_validate(config), lambda *_: None, self.told.append
        )
        self.look()

    def look(self) -> None:
        devices = tuple(card.device(i, self.now) for i, card in enumerate(self.cards))
        snapshot = MemorySnapshot(self.now, "scripted", devices, self.now)
        self.admission.observe(snapshot, self.now, may_move=self.may_move)
        for record in self.told:
            self.moves.append(f"{record.request.name} to {record.target_device}")
            if self.fails:
                self.admission.move_failed(record, "out of memory", self.now)
            else:
                self.admission.landed(record, self.now)
        self.told.clear()

    def ask(self, name: str, size: float, priority: int) -> None:
        self.look()
        need = Footprint(gb(size))
        request = Request(name, need, "worker", priority, predicted=need)
        self.admission.ask(request, "cpu", self.now, lambda _: None)

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1.0
            self.look()

    def where(self) -> dict[str, str]:
        return {r.request.name: r.device for r in self.admission.ledger}


def test_a_more_important_model_takes_the_place_of_another_once_only_one_card_is_left() -> None:
    vision = Card("vision")
    desk = Desk(Card("LLM", programs=FULL), vision, Card("third"))
    desk.ask("clip", 1.5, 10)
    vision.programs = FULL
    desk.wait(2)
    assert desk.where() == {"clip": "cuda:2"}
    vision.programs = {}
    desk.ask("yolo", 1.0, 20)
    assert desk.where()["yolo"] == "cuda:1"
    vision.programs = FULL
    desk.wait(2)
    assert desk.where() == {"clip": "cuda:2", "yolo": "cpu"}
    desk.wait(30)
    assert desk.where() == {"clip": "cpu", "yolo": "cuda:2"}
    desk.wait(600)
    assert desk.moves == ["clip to cuda:2", "yolo to cpu", "clip to cpu", "yolo to cuda:2"]


def test_of_equally_important_models_two_small_ones_replace_a_large_one() -> None:
    desk = Desk(Card("LLM", programs=FULL), Card("vision"))
    desk.ask("large", 1.6, 5)
    desk.ask("small", 0.7, 5)
    desk.ask("tiny", 0.5, 0)
    assert desk.where() == {"large": "cuda:1", "small": "cpu", "tiny": "cpu"}
    desk.wait(120)
    assert desk.where() == {"large": "cpu", "small": "cuda:1", "tiny": "cuda:1"}
    assert len(desk.moves) == 3
    desk.wait(1200)
    assert len(desk.moves) == 3


def test_one_small_model_does_not_replace_an_equally_important_large_one() -> None:
    desk = Desk(Card("LLM", programs=FULL), Card("vision"))
    desk.ask("large", 1.6, 5)
    desk.ask("small", 0.7, 5)
    desk.wait(300)
    assert desk.where() == {"large": "cuda:1", "small": "cpu"}
    assert desk.moves == []


def test_the_contexts_of_other_cards_do_not_make_a_model_too_large_for_visions_limit() -> None:
    desk = Desk(Card("LLM", programs=FULL), Card("vision"))
    need = Footprint(gb(1.9), context_bytes=gb(0.6))
    desk.admission.ask(Request("clip", need, "worker"), "cpu", 0.0, lambda _: None)
    assert desk.where() == {"clip": "cuda:1"}
    room = desk.admission.rooms(0.0)[1]
    assert room.vision_leased == gb(1.9)
    assert room.pending == need.total_bytes


def test_a_surprise_is_the_newcomers_not_that_of_a_model_that_was_measured() -> None:
    vision = Card("vision")
    desk = Desk(Card("LLM", programs=FULL), vision)
    desk.ask("depth", 0.9, 0)
    [depth] = desk.admission.ledger
    desk.admission.measured(depth, Footprint(gb(0.9)), desk.now)
    desk.ask("ocr", 0.7, 20)
    vision.ours = {7: gb(0.9 + 1.05)}
    desk.admission.holder_memory("worker", HolderMemory(7, {1: (gb(1.95), gb(1.95))}))
    desk.wait(5)
    sizes = {r.request.name: r.request.need.model_bytes for r in desk.admission.ledger}
    assert sizes == {"depth": gb(0.9), "ocr": gb(1.05)}
    assert desk.where() == {"depth": "cuda:1", "ocr": "cuda:1"}


def test_a_model_moves_over_before_a_less_important_one_falls_to_the_cpu() -> None:
    llm, vision = Card("LLM"), Card("vision")
    desk = Desk(llm, vision, main_llm_memory_reservation_gb=10, vision_memory_limit_gb=6)
    desk.ask("depth", 3.0, 0)
    desk.ask("yolo", 0.6, 20)
    assert desk.where() == {"depth": "cuda:1", "yolo": "cuda:1"}
    desk.wait(20)
    vision.programs = {"game.exe": 8.3}
    desk.wait(2)
    # The other card has room for the small one alone, and that is enough.
    assert desk.moves == ["yolo to cuda:0"]


def test_two_that_make_room_together_do_not_go_where_there_is_room_for_one() -> None:
    llm, third = Card("LLM", 24, programs={"ollama": 19}), Card("third", 24)
    desk = Desk(
        *(llm, Card("vision", 24), third),
        main_llm_memory_reservation_gb=20,
        vision_memory_limit_gb=8,
    )
    desk.ask("depth", 2.3, 4)
    desk.ask("seg", 2.5, 4)
    desk.ask("yolo", 1.2, 20)
    third_only = {"depth": "cuda:1", "seg": "cuda:1", "yolo": "cuda:1", "sam": "cuda:2"}
    desk.ask("sam", 4.8, 6)
    assert desk.where() == third_only
    third.programs = {"train.py": 23}
    desk.wait(2)
    assert desk.where()["sam"] == "cpu"
    desk.wait(60)
    # Beyond the promise the LLM's card has 4 GB: for either of them, not for both.
    assert desk.where() == {"depth": "cpu", "seg": "cuda:0", "yolo": "cuda:1", "sam": "cuda:1"}


def test_of_equals_the_largest_leaves_a_card_that_is_short() -> None:
    vision = Card("vision")
    desk = Desk(Card("LLM", programs=FULL), vision)
    for name, size in (("small", 0.5), ("large", 1.2)):
        desk.ask(name, size, 5)
    desk.wait(20)
    vision.programs = {"game.exe": 10.4}
    desk.wait(2)
    assert desk.moves == ["large to cpu"]


def test_room_that_comes_and_goes_is_used_each_time_after_the_same_wait() -> None:
    vision = Card("vision")
    desk = Desk(Card("LLM", programs=FULL), vision)
    desk.ask("yolo", 1.0, 0)
    for _ in range(5):
        desk.wait(20)
        vision.programs = FULL
        desk.wait(60)
        vision.programs = {}
        desk.wait(20)
        assert desk.where() == {"yolo": "cuda:1"}
    assert len(desk.moves) == 10


def test_a_move_that_fails_is_no_second_expulsion_from_the_card_it_began_on() -> None:
    llm, vision = Card("LLM"), Card("vision")
    desk = Desk(llm, vision, main_llm_memory_reservation_gb=8)
    desk.ask("yolo", 1.0, 0)
    desk.now += 5
    vision.programs = FULL
    desk.fails = True
    desk.look()
    assert desk.moves == ["yolo to cuda:0"]
    assert desk.where() == {"yolo": "cpu"}
    desk.fails = False
    vision.programs = FULL
    desk.wait(60)
    assert desk.where() == {"yolo": "cuda:0"}
    vision.programs = {}
    desk.wait(100)
    assert desk.where() == {"yolo": "cuda:1"}


def test_a_model_on_the_llms_card_leaves_it_only_for_a_card_that_was_calm_for_long() -> None:
    llm, vision = Card("LLM"), Card("vision")
    desk = Desk(llm, vision, main_llm_memory_reservation_gb=8)
    desk.ask("yolo", 1.0, 0)
    for _ in range(5):
        desk.wait(80)
        vision.programs = FULL
        desk.wait(20)
        vision.programs = {}
    # A return would end on the CPU, for the LLM's card was left a moment before.
    assert desk.moves == ["yolo to cuda:0"]
    desk.wait(80)
    assert desk.moves == ["yolo to cuda:0"]
    desk.wait(20)
    assert desk.moves == ["yolo to cuda:0", "yolo to cuda:1"]


def test_of_two_newcomers_the_later_surprise_is_not_that_of_the_one_that_surprised_before() -> None:
    vision = Card("vision")
    desk = Desk(Card("LLM", programs=FULL), vision, vision_memory_limit_gb=6)
    held = 0.0
    for name, asked, took in (("sam", 1.5, 2.25), ("ocr", 1.0, 1.5)):
        desk.ask(name, asked, 0)
        held += took
        vision.ours = {7: gb(held)}
        desk.admission.holder_memory("worker", HolderMemory(7, {1: (gb(held), gb(held))}))
        desk.wait(1)
    sizes = {r.request.name: r.request.need.model_bytes for r in desk.admission.ledger}
    assert sizes == {"sam": gb(2.25), "ocr": gb(1.5)}


def test_what_another_model_brings_along_is_not_taken_for_growth() -> None:
    llm, vision = Card("LLM", programs=FULL), Card("vision")
    desk = Desk(llm, vision, vision_memory_limit_gb=4)
    desk.ask("clip", 0.6, 5)
    desk.wait(20)
    vision.ours = {7: gb(0.6)}
    vision.programs = {"game.exe": 9.5}
    desk.ask("depth", 3.0, 5)
    assert desk.where() == {"clip": "cuda:1", "depth": "cpu"}
    vision.programs = {}
    depth = next(r for r in desk.admission.ledger if r.request.name == "depth")
    while not depth.moving:
        desk.now += 1.0
        devices = tuple(card.device(i, desk.now) for i, card in enumerate(desk.cards))
        desk.admission.observe(MemorySnapshot(desk.now, "scripted", devices, desk.now), desk.now)
    # Its weights are there, its word is not.
    desk.told.clear()
    vision.ours = {7: gb(3.6)}
    desk.admission.holder_memory("worker", HolderMemory(7, {1: (gb(3.6), gb(3.6))}))
    desk.wait(2)
    sizes = {r.request.name: r.request.need.model_bytes for r in desk.admission.ledger}
    assert sizes == {"clip": gb(0.6), "depth": gb(3.0)}


class Counter:
    """Who waits for a card, and who was served, in that order; the CPU is not allowed."""

    def __init__(self, *cards: Card, **config: object) -> None:
        self.desk = Desk(*cards, fallback_to_cpu=False, **config)
        self.served: list[str] = []

    def ask(self, name: str, size: float, priority: int) -> None:
        need = Footprint(gb(size))
        self.desk.admission.ask(
            Request(name, need, name, priority, predicted=need),
            "wait",
            self.desk.now,
            lambda ticket: self.served.append(ticket.request.name),
        )

    def release(self) -> None:
        for record in self.desk.admission.ledger:
            self.desk.admission.release(record, self.desk.now)

    def on_cards(self) -> set[str]:
        return {r.request.name for r in self.desk.admission.ledger if r.uuid is not None}


def test_whoever_others_made_room_for_is_not_held_up_by_the_first_in_the_queue() -> None:
    counter = Counter(Card("card"), main_llm_memory_reservation_gb=8.6)
    counter.ask("old", 1.9, 1)
    counter.ask("small", 0.8, 2)  # for whom the old one leaves
    counter.ask("large", 1.9, 3)
    assert counter.served == ["old"]
    counter.release()
    # The large one stands before it, and what it lacks is just what is kept for the small one.
    counter.desk.wait(5)
    assert counter.served == ["old", "small"]
    counter.release()
    counter.desk.wait(5)
    assert counter.served == ["old", "small", "large"]


def small_on(card: Card) -> Counter:
    """A game keeps a large model from a card, and a less important one is there."""
    counter = Counter(card, main_llm_memory_reservation_gb=0, vision_memory_limit_gb=6)
    counter.ask("large", 3.5, 9)
    counter.ask("small", 0.3, 1)
    counter.desk.wait(1)
    return counter


def test_nobody_waits_for_one_whom_only_other_programs_keep_from_a_card() -> None:
    card = Card("card", programs={"game.exe": 9.0})
    counter = small_on(card)
    assert counter.served == ["small"]
    # Now it is our model that is in its way: nobody else comes before it, and it comes in its
    # place, though not at once.
    card.programs = {"game.exe": 7.8}
    counter.desk.look()
    counter.ask("tiny", 0.1, 1)
    counter.desk.wait(2)
    assert counter.on_cards() == {"small"}
    counter.desk.wait(30)
    assert counter.on_cards() == {"large"}
    assert counter.desk.moves == ["small to none"]


def test_what_was_vacated_and_taken_by_another_program_is_kept_for_nobody() -> None:
    card = Card("card", programs={"game.exe": 8.0})
    counter = Counter(card, main_llm_memory_reservation_gb=0, vision_memory_limit_gb=6)
    counter.ask("old", 3.0, 1)
    counter.ask("new", 3.1, 9)
    card.programs = {"game.exe": 10.2}
    counter.desk.wait(1)
    assert counter.on_cards() == set()
    counter.ask("small", 0.6, 1)
    counter.desk.wait(5)
    assert counter.served == ["old"], "all that is free is kept for the new one"
    counter.desk.wait(10)
    assert counter.served == ["old", "small"]


def test_without_the_cpu_the_more_important_of_two_that_had_to_leave_comes_back() -> None:
    card = Card("card")
    counter = Counter(card, main_llm_memory_reservation_gb=0, vision_memory_limit_gb=6)
    counter.ask("yolo", 3.0, 20)
    counter.ask("clip", 1.0, 10)
    counter.desk.wait(20)
    assert counter.on_cards() == {"yolo", "clip"}
    card.programs = {"game.exe": 11.8}
    counter.desk.wait(2)
    assert counter.on_cards() == set()
    # Room for the less important one alone, then for one of them, whichever it is.
    card.programs = {"game.exe": 10.0}
    counter.desk.wait(120)
    assert counter.on_cards() == {"clip"}
    card.programs = {"game.exe": 8.0}
    counter.desk.wait(200)
    assert counter.on_cards() == {"yolo"}


def test_several_move_over_for_one_that_no_card_has_room_for() -> None:
    vision, third = Card("vision"), Card("third", programs={"train.py": 9.5})
    llm = Card("LLM", programs={"train.py": 10.0})
    desk = Desk(llm, vision, third, main_llm_memory_reservation_gb=0, vision_memory_limit_gb=6)
    desk.ask("clip", 1.2, 5)
    desk.ask("ocr", 1.0, 5)
    assert desk.where() == {"clip": "cuda:1", "ocr": "cuda:1"}
    vision.programs = {"game.exe": 8.0}
    desk.ask("large", 2.9, 5)
    assert desk.where()["large"] == "cpu"
    desk.wait(60)
    # Each of them leaves too little, and no other card has room for both.
    assert desk.where() == {"clip": "cuda:0", "ocr": "cuda:2", "large": "cuda:1"}
    desk.wait(600)
    assert len(desk.moves) == 3


def test_the_room_that_one_makes_is_not_another_ones_who_asks_meanwhile() -> None:
    for priority in (10, 20, 30):
        card = Card("card")
        counter = Counter(card, main_llm_memory_reservation_gb=0, vision_memory_limit_gb=6)
        counter.ask("important", 3.0, 30)
        counter.ask("small", 1.0, 10)
        counter.desk.wait(20)
        card.programs = {"game.exe": 11.8}
        counter.desk.wait(2)
        card.programs = {"game.exe": 10.0}
        counter.desk.wait(120)
        assert counter.on_cards() == {"small"}
        counter.ask("late", 2.9, priority)
        card.programs = {"game.exe": 8.4}
        before = len(counter.desk.moves)
        counter.desk.wait(600)
        assert counter.on_cards() == {"important"}, priority
        assert counter.desk.moves[before:] == ["small to none", "important to cuda:0"]


def test_one_that_only_a_more_important_one_keeps_from_a_card_holds_up_nobody() -> None:
    card = Card("card")
    counter = Counter(card, main_llm_memory_reservation_gb=0, vision_memory_limit_gb=8)
    counter.ask("top", 6.0, 20)
    counter.ask("middle", 4.0, 10)
    counter.ask("small", 0.5, 5)
    counter.desk.wait(1)
    assert counter.on_cards() == {"top", "small"}
    top = next(r for r in counter.desk.admission.ledger if r.request.name == "top")
    counter.desk.admission.release(top, counter.desk.now)
    counter.desk.wait(30)
    assert counter.on_cards() == {"middle", "small"}


def test_of_equals_the_first_displaces_and_the_second_waits_for_it() -> None:
    counter = Counter(
        *(Card("card"), Card("full", programs={"game.exe": 11.9})),
        main_llm_memory_reservation_gb=0,
        vision_memory_limit_gb=4,
        vision_device="cuda:0",
    )
    counter.ask("old", 3.5, 1)
    counter.desk.wait(20)
    for name in ("first", "second"):
        counter.ask(name, 3.4, 9)
    counter.desk.wait(30)
    assert counter.served == ["old", "first"]
    assert counter.on_cards() == {"first"}


def test_nobody_is_sent_away_while_monitoring_is_off() -> None:
    card = Card("card", programs={"game.exe": 9.0})
    counter = small_on(card)
    card.programs = {"game.exe": 7.8}
    counter.desk.may_move = False
    counter.desk.wait(60)
    assert counter.on_cards() == {"small"}
    counter.desk.may_move = True
    counter.desk.wait(2)
    assert counter.on_cards() == {"large"}


def test_what_was_vacated_for_a_lease_and_taken_by_another_program_is_kept_for_nobody() -> None:
    card = Card("card")
    desk = Desk(card, main_llm_memory_reservation_gb=0, vision_memory_limit_gb=6)
    desk.ask("important", 3.0, 30)
    desk.ask("small", 1.0, 10)
    desk.wait(20)
    card.programs = {"game.exe": 11.8}
    desk.wait(2)
    card.programs = {"game.exe": 10.0}
    desk.wait(120)
    card.programs = {"game.exe": 8.4}
    while desk.where()["small"] == "cuda:0":
        desk.wait(1)
    card.programs = {"game.exe": 9.9}
    desk.may_move = False
    desk.wait(5)
    desk.ask("late", 1.0, 0)
    assert desk.where()["late"] == "cpu", "it is kept for the important one"
    desk.wait(10)
    desk.ask("later", 1.0, 0)
    assert desk.where() == {"important": "cpu", "small": "cpu", "late": "cpu", "later": "cuda:0"}


def test_cards_are_read_more_often_while_models_are_on_them() -> None:
    desk = Desk(Card("LLM", programs=FULL), Card("vision"), memory_check_interval=30)
    desk.wait(60)
    assert desk.admission.interval(desk.now) == 30
    desk.ask("clip", 0.6, 10)
    desk.wait(60)
    assert desk.where() == {"clip": "cuda:1"}
    assert desk.admission.interval(desk.now) == 5
    desk.admission.use(desk.admission.config.model_copy(update={"memory_check_interval": 3.0}))
    desk.wait(20)
    assert desk.admission.interval(desk.now) == 3


def test_whoever_is_refused_hears_for_whom_the_room_is_kept() -> None:
    card = Card("card", programs={"game.exe": 6.0})
    counter = Counter(card, main_llm_memory_reservation_gb=0, vision_memory_limit_gb=8)
    admission, now = counter.desk.admission, counter.desk.now
    counter.ask("there", 3.0, 5)
    counter.ask("huge", 7.9, 9)  # the game is in its way, ours are not
    counter.ask("next", 4.5, 5)
    need = Footprint(gb(0.3))
    ticket = admission.ask(
        Request("late", need, "late", 1, predicted=need), "fail", now, lambda _: None
    )
    assert counter.served == ["there"]
    assert ticket.refused is not None
    assert ticket.refused.reason == "next waits for the room on cuda:0"
