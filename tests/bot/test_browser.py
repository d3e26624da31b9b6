"""The chat page in a real browser, against a really started demo."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, Locator, Page, expect, sync_playwright

from bot.cli.exits import Exit
from tests.bot.running import ADDRESS, Running, started_demo

pytestmark = pytest.mark.browser

ANSWER_MS = 30_000
CHROMIUM_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if found := shutil.which(name):
            return found
    reason = "no Chromium or Chrome is installed (Debian: apt install chromium)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One demo for all: the rendered scene, cooldowns are per person and short."""
    config = tmp_path_factory.mktemp("demo") / "demo.yaml"
    config.write_text("capture:\n  source: scene\n", encoding="utf-8")
    with started_demo(config) as demo:
        demo.wait_for(ADDRESS)
        yield demo
        demo.process.terminate()
        assert demo.process.wait(timeout=60) == Exit.OK
        assert "Traceback" not in demo.output


@pytest.fixture
def page(browser: Browser, demo: Running, request: pytest.FixtureRequest) -> Iterator[Page]:
    address = demo.wait_for(ADDRESS).group()
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(ANSWER_MS)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(address)
    conversation(page).locator("article").first.wait_for()
    yield page
    if folder := os.environ.get("DANZAR_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{request.node.name}.png")
    page.close()
    assert faults == []


def conversation(page: Page) -> Locator:
    return page.locator("#channel-message-list")


def until_ready(page: Page) -> None:
    """The page takes one action at a time, and one of its own right after it was opened."""
    for _ in range(ANSWER_MS // 50):
        if page.evaluate("window.simcordPreview.ready"):
            return
        page.wait_for_timeout(50)
    raise AssertionError("the page never became ready")


def ask(page: Page, text: str) -> Locator:
    """Type into the page and send; the message that comes after it: the answer."""
    before = last_id(page)
    type_in(page, text)
    for _ in range(ANSWER_MS // 100):
        ids: list[str] = messages_of(page).evaluate_all("all => all.map(x => x.dataset.messageId)")
        new = [number for number in ids if int(number) > before]
        if len(new) >= 2:
            return page.locator(f"article[data-message-id='{new[-1]}']")
        page.wait_for_timeout(100)
    raise AssertionError(f"{text!r} was not answered")


def test_gpu_status_is_answered(page: Page) -> None:
    answer = ask(page, "!gpu status")
    expect(answer).to_contain_text("🎯 GPU Memory Status (simulated):")
    expect(answer).to_contain_text("Device 0 (RTX 4070):")
    expect(answer).to_contain_text(re.compile(r"📊 Utilization: \d+\.\d%"))
    expect(answer).to_contain_text("💡 Recommendations:")
    answer.get_by_role("button", name="Refresh").click()
    expect(answer).to_contain_text("(edited)")


def test_gpu_vision_is_answered(page: Page) -> None:
    answer = ask(page, "!gpu vision")
    expect(answer).to_contain_text("👁️ Best Vision Device (simulated):")
    expect(answer).to_contain_text(re.compile(r"Device: (cuda:\d|cpu)"))
    expect(answer).to_contain_text("Reason: ")


def test_vision_look_shows_text_and_picture(page: Page, demo: Running) -> None:
    answer = look_until_seen(page)
    expect(answer).to_contain_text("Objects")
    expect(answer).to_contain_text("Insights")
    expect(answer).to_contain_text(re.compile(r"frame \d+ · scene 1280×720"))
    picture = answer.locator("img.embed-image")
    until_ready(page)  # its pixels have come
    expect(picture).to_be_in_viewport()
    size = picture.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert size == [1280, 720]


def look_until_seen(page: Page) -> Locator:
    """The worker needs some seconds until its first frame; until then it says so."""
    said = ""
    for _ in range(20):
        answer = ask(page, "!vision look")
        said = answer.inner_text()
        if "What I see" in said:
            return answer
        page.wait_for_timeout(3500)  # the cooldown: two looks in six seconds
    raise AssertionError(f"nothing was ever seen: {said}")


def test_a_slash_command_through_the_page(page: Page) -> None:
    until_ready(page)
    messages = conversation(page).locator("[data-message-id]")
    before = messages.count()
    box = page.locator("#channel-composer-input")
    box.click()
    box.press_sequentially("/vision status")
    page.get_by_text("Models, devices and frames").first.wait_for()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(messages).to_have_count(before + 1, timeout=ANSWER_MS)
    expect(messages.last).to_contain_text("👁️ Vision (simulated GPUs)")
    expect(messages.last).to_contain_text("captured")


def test_a_mistake_leaves_the_page_ready(page: Page) -> None:
    answer = ask(page, "!gpu nonsense")
    expect(answer).to_contain_text("There is no “nonsense” here.")
    expect(page.locator("#channel-composer-input")).to_have_value("")


def test_a_guest_may_look_but_not_control(page: Page) -> None:
    page.get_by_label("Viewing as").select_option(label="Guest")
    conversation(page).get_by_text("Danzar is here").wait_for()
    answer = ask(page, "!gpu monitor")
    expect(answer).to_contain_text("Manage Server")


def test_what_is_typed_at_the_terminal_appears_in_the_page(page: Page, demo: Running) -> None:
    demo.type("!about")
    expect(conversation(page)).to_contain_text("AGPL-3.0-or-later", timeout=ANSWER_MS)


def test_ending_the_session_in_the_page_ends_the_demo(browser: Browser, tmp_path: Path) -> None:
    config = tmp_path / "blind.yaml"
    config.write_text("vision:\n  autostart: false\n", encoding="utf-8")
    with started_demo(config) as demo:
        page = browser.new_page()
        page.goto(demo.wait_for(ADDRESS).group())
        conversation(page).get_by_text("Danzar is here").wait_for()
        until_ready(page)
        page.get_by_text("More", exact=True).click()
        page.get_by_role("button", name="End preview session").click()
        assert demo.process.wait(timeout=60) == Exit.OK
        assert "Traceback" not in demo.output
        page.close()


@dataclass(frozen=True)
class Asked:
    """A command as it is typed, and what its answer says."""

    name: str
    value: str
    says: str
    slash: str = ""
    """Its name as a slash command, where that differs."""
    confirm: str = ""
    """The button that has to be pressed."""
    then: str = ""


COMMANDS = (
    Asked("gpu status", "", "GPU Memory Status"),
    Asked("gpu vision", "", "Best Vision Device"),
    Asked("gpu processes", "", r"(?s)Who holds GPU memory.*Device 0"),
    Asked("gpu models", "", r"(?s)Models.*yolo.*clip.*Main LLM"),
    Asked("gpu profile", "", "What the models take"),
    Asked("gpu fit", "2.5", "Would it fit"),
    Asked("gpu history", "", "the last hour"),
    Asked("gpu dashboard start", "", "live panel"),
    Asked("gpu dashboard stop", "", "panel has ended"),
    Asked("gpu monitor", "", "monitoring is"),
    Asked("gpu log", "", "is in the log"),
    Asked("gpu offload", "clip", "clip", confirm="Offload", then="clip"),
    Asked("gpu restore", "clip", "clip"),
    Asked("gpu trim", "", "(?i)trim|gave|give"),
    Asked("gpu reserve", "6", "6", confirm="Reserve", then="6"),
    Asked("gpu prefer", "cuda:1", "cuda:1"),
    Asked("gpu reset", "", "Reset", confirm="Reset", then="(?i)config"),
    Asked("gpu reload", "", "configuration was read again"),
    Asked("gpu alerts status", "", "(?i)alert"),
    Asked("gpu alerts here", "", "Alerts come here"),
    Asked("gpu alerts level", "important", "From now on"),
    Asked("gpu alerts mute", "2h", "No new alerts until"),
    Asked("gpu alerts off", "", "No more alerts here"),
    Asked("vision status", "", r"(?s)Vision.*Frames"),
    Asked("vision look", "", "What I see"),
    Asked("vision timeline", "", "Lately"),
    Asked("vision classes", "", r"(?s)What YOLO looks for.*minimap"),
    Asked("vision ask", "is the boss near death?", r"(?s)\d+% “the boss is near death”.*guess"),
    Asked("vision concepts", "", r"(?s)What CLIP chooses from.*low health", "vision concepts show"),
    Asked("vision concepts set", "a boss; a shop", "2 phrases now: a boss; a shop"),
    Asked("vision concepts profile", "default", "13 phrases now"),
    Asked("vision concepts reset", "", "configuration's 13 phrases again"),
    Asked("vision watch", "low health", "(?s)low health.*(2 s|already)", "vision watch add"),
    Asked("vision watch list", "", "(?s)What I watch for here.*low health"),
    Asked("vision watch remove", "", "no more"),
    Asked("vision stop", "", "(?i)stopping|memory is free"),
    Asked("vision start", "", "(?i)starting|runs"),
    Asked("about", "", "AGPL-3.0-or-later"),
)


@pytest.mark.parametrize("way", ["prefix", "slash"])
def test_every_command_is_answered(page: Page, way: str) -> None:
    look_until_seen(page)
    wrong: list[str] = []
    number = 0
    for asked in COMMANDS:
        value = asked.value
        if asked.name == "vision watch remove":
            value = str(number)
        if asked.name == "vision start":
            wait_until_off(page)
        before = last_id(page)
        try:
            if way == "prefix":
                type_in(page, f"!{asked.name} {value}".rstrip())
            else:
                choose(page, asked.slash or asked.name, value)
            answer = wait_for_words(page, before, asked.says)
            if asked.confirm:
                until_ready(page)
                messages_of(page).last.get_by_role("button", name=asked.confirm).first.click()
                answer = wait_for_words(page, before, asked.then)
        except (AssertionError, Error) as error:
            wrong.append(f"{asked.name}: {error}")
            page.reload()  # whatever is half typed there
            conversation(page).locator("article").first.wait_for()
            continue
        if found := re.search(r"watch remove (\d+)|number (\d+)", answer):
            number = int(found[1] or found[2])
    assert wrong == []


def wait_until_off(page: Page) -> None:
    """The stop takes a moment, and the page does not show edits of what only one may see."""
    for _ in range(12):
        if "Off" in ask(page, "!vision status").inner_text():
            return
        page.wait_for_timeout(2500)  # the cooldown
    raise AssertionError("vision did not stop")


def messages_of(page: Page) -> Locator:
    return conversation(page).locator("article[data-message-id]")


def last_id(page: Page) -> int:
    return int(messages_of(page).last.get_attribute("data-message-id") or 0)


def type_in(page: Page, text: str) -> None:
    until_ready(page)
    box = page.locator("#channel-composer-input")
    box.fill(text)
    box.press("Enter")


def choose(page: Page, name: str, value: str) -> None:
    """A slash command: its name, the option that it asks for, and the button that sends it."""
    until_ready(page)
    box = page.locator("#channel-composer-input")
    box.click()
    box.press_sequentially(f"/{name}")
    page.locator(".command-popup").get_by_text(re.compile(rf"/?{name}$")).first.wait_for()
    page.keyboard.press("Enter")
    if value:
        page.keyboard.type(value)
        page.wait_for_timeout(300)  # its suggestions
    page.locator(".send-message:visible").click()


def wait_for_words(page: Page, before: int, pattern: str) -> str:
    """What is said after ``before``, once it holds the words; an edit counts, too."""
    said = ""
    for _ in range(ANSWER_MS // 100):
        told: list[list[str]] = messages_of(page).evaluate_all(
            "all => all.slice(-4).map(one => [one.dataset.messageId, one.innerText])"
        )
        # The question itself is no answer to it.
        said = "\n".join(
            text
            for number, text in told
            if int(number) > before and not re.match(r"You\b(?!\s+used)", text)
        )
        if re.search(pattern, said):
            return said
        page.wait_for_timeout(100)
    raise AssertionError(f"{pattern!r} never came: {said[:400]}")
