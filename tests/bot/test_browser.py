"""The chat page in a real browser, against a really started demo."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from bot.exits import Exit
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
    conversation(page).get_by_text("Danzar is here").wait_for()
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
    until_ready(page)
    messages = conversation(page).locator("[data-message-id]")
    before = messages.count()
    box = page.locator("#channel-composer-input")
    box.fill(text)
    box.press("Enter")
    expect(messages).to_have_count(before + 2, timeout=ANSWER_MS)
    return messages.last


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
