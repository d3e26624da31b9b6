"""``python -m tools.screenshots``: the pictures of README and docs, from the running demo.

Starts ``danzar demo`` with the rendered scene on the simulated rig, types the commands into its
chat page in Chromium as a person would, and writes ``docs/images/*.png``. Each picture is of what
was really answered; a command that isn't answered ends the run with what was there instead.

``--to FOLDER`` writes them elsewhere, to look at, with those that the docs do without; ``--width``
makes the page as narrow as a phone.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Error, Locator, Page, expect, sync_playwright

from cogs.texts import ALERT_TITLES, PANEL_TITLE
from tests.bot.running import ADDRESS, ROOT, started_demo

IMAGES = ROOT / "docs" / "images"
ANSWER_MS = 60_000
SEEN_SECONDS = 240.0
HISTORY_SECONDS = 45.0
"""Before this a picture of the past would be empty."""
ALERT_SECONDS = 60.0
MARGIN = 8
SEEN = r"(?s)What I see.*(boss|enemy|player).*Insights.*%"
"""A look that has something to show."""
WIDE = ".embed, .embed-image, [class*='embed']"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CONFIG = """\
capture:
  source: scene
gpu_memory:
  memory_check_interval: 1
  high_utilization_percent: {percent}
"""


class NoPicture(Exception):
    """A picture could not be taken; says what was there instead."""


class Chat:
    """The demo's page with a person at it."""

    def __init__(self, page: Page, config: Path, folder: Path) -> None:
        self.page = page
        self.config = config
        self.folder = folder
        self.messages = page.locator("#channel-message-list article[data-message-id]")

    def until_ready(self) -> None:
        """The page takes one action at a time."""
        # Polled from here: the page's security policy forbids Playwright's own way.
        deadline = time.monotonic() + ANSWER_MS / 1000
        while not self.page.evaluate("window.simcordPreview?.ready"):
            if time.monotonic() > deadline:
                raise NoPicture("the page is busy and never became ready")
            self.page.wait_for_timeout(50)

    def ask(self, text: str) -> Locator:
        """Type and send; the message that comes after it."""
        self.until_ready()
        before = self.messages.last.get_attribute("data-message-id")
        box = self.page.locator("#channel-composer-input")
        box.fill(text)
        box.press("Enter")
        deadline = time.monotonic() + ANSWER_MS / 1000
        while time.monotonic() < deadline:
            ids = [m.get_attribute("data-message-id") for m in self.messages.all()]
            after = ids[ids.index(before) + 1 :] if before in ids else ids
            if len(after) >= 2:
                return self.page.locator(f"article[data-message-id='{after[-1]}']")
            self.page.wait_for_timeout(200)
        raise NoPicture(f"{text!r} was not answered")

    def ask_until(self, text: str, words: str, *, seconds: float = SEEN_SECONDS) -> Locator:
        """Ask again, at the cooldown's pace, until the answer holds ``words``."""
        deadline = time.monotonic() + seconds
        while True:
            answer = self.ask(text)
            if re.search(words, said := answer.inner_text()):
                return answer
            if time.monotonic() > deadline:
                raise NoPicture(f"{text!r} never said {words!r} but: {said[:300]}")
            self.page.wait_for_timeout(4000)

    def picture(self, name: str, answer: Locator) -> None:
        """Write one message as ``<name>.png``, once its pictures have loaded."""
        self.until_ready()
        for image in answer.locator("img.embed-image").all():
            expect(image).to_have_js_property("complete", True, timeout=ANSWER_MS)
        self.save(name, self.crop(answer, answer))

    def save(self, name: str, picture: Image.Image) -> None:
        if self.folder == IMAGES and name in UNUSED:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}.png"
        picture.save(path, optimize=True)
        print(f"{path}: {path.stat().st_size / 1024:.0f} KiB", flush=True)

    def press(self, message: Locator, button: str) -> None:
        self.until_ready()
        message.get_by_role("button", name=button).first.click()

    def shown(self, words: str) -> Locator:
        """The newest message with these words, once there is one."""
        found = self.messages.filter(has_text=re.compile(words)).last
        found.wait_for(timeout=ALERT_SECONDS * 1000)
        return found

    def warn_above(self, percent: int) -> None:
        """Change the configuration's threshold and have it read again."""
        self.config.write_text(CONFIG.format(percent=percent), encoding="utf-8")
        self.ask_until("!gpu reload", "high_utilization_percent", seconds=30)

    def question_of(self, answer: Locator) -> Locator:
        """The message before an answer."""
        ids = [m.get_attribute("data-message-id") for m in self.messages.all()]
        before = ids[ids.index(answer.get_attribute("data-message-id")) - 1]
        return self.page.locator(f"article[data-message-id='{before}']")

    def crop(self, first: Locator, last: Locator) -> Image.Image:
        """What the page shows from one message to another, without what is around them."""
        self.page.locator("#channel-composer-input").blur()
        self.page.mouse.move(0, 0)
        last.scroll_into_view_if_needed()
        self.page.wait_for_timeout(600)
        above, below = first.bounding_box(), last.bounding_box()
        composer = self.page.locator("#channel-composer-input").bounding_box()
        if above is None or below is None or composer is None:
            raise NoPicture("a message is gone")
        wide = [e.bounding_box() for m in (first, last) for e in m.locator(WIDE).all()]
        right = max((b["x"] + b["width"] for b in wide if b is not None), default=700.0)
        bottom = min(below["y"] + below["height"], composer["y"] - 1)
        shot = self.page.screenshot(
            animations="disabled",
            clip={
                "x": above["x"],
                "y": above["y"],
                "width": min(right + 2 * MARGIN, above["x"] + above["width"]) - above["x"],
                "height": bottom - above["y"],
            },
        )
        return Image.open(io.BytesIO(shot)).convert("RGB")


def status(chat: Chat) -> None:
    chat.picture("status", chat.ask_until("!gpu status", "Utilization"))


def panel(chat: Chat) -> None:
    chat.ask_until("!gpu dashboard", "live panel")
    chat.page.wait_for_timeout(12_000)  # its first edit
    chat.picture("panel", chat.messages.filter(has_text=PANEL_TITLE).last)


def history(chat: Chat) -> None:
    answer = chat.ask_until("!gpu history 15m", "(?i)simulated", seconds=60)
    chat.picture("history", answer)


def processes(chat: Chat) -> None:
    chat.picture("processes", chat.ask_until("!gpu processes", "(?i)simulated"))


def models(chat: Chat) -> None:
    chat.ask_until("!vision status", r"(?s)YOLO.*running.*CLIP.*running")
    chat.picture("models", chat.ask_until("!gpu models", "(?i)simulated"))


def look(chat: Chat) -> None:
    chat.picture("look", chat.ask_until("!vision look", SEEN))


def ask(chat: Chat) -> None:
    chat.picture("ask", chat.ask_until('!vision ask "is the player fighting a boss?"', "“"))


def timeline(chat: Chat) -> None:
    chat.picture("timeline", chat.ask_until("!vision timeline", "%"))


def demo(chat: Chat) -> None:
    """Three questions and their answers, in two columns: one is too long for a README."""
    answer = chat.ask_until("!gpu status", "Utilization")
    left = chat.crop(chat.question_of(answer), answer)
    vision = chat.ask_until("!gpu vision", "Reason")
    seen = chat.ask_until("!vision look", SEEN)
    right = chat.crop(chat.question_of(vision), seen)
    gap = 4 * MARGIN
    size = (left.width + gap + right.width, max(left.height, right.height))
    both = Image.new("RGB", size, left.getpixel((0, left.height - 1)))
    both.paste(left, (0, 0))
    both.paste(right, (left.width + gap, 0))
    chat.save("demo", both)


def fit(chat: Chat) -> None:
    chat.picture("fit", chat.ask_until("!gpu fit 2.5", "(?i)simulated"))


def profile(chat: Chat) -> None:
    chat.ask_until("!vision status", r"(?s)YOLO.*running.*CLIP.*running")
    chat.picture("profile", chat.ask_until("!gpu profile", "frames"))


def offload(chat: Chat) -> None:
    question = chat.ask_until("!gpu offload clip", "Offload")
    chat.press(question, "Offload")
    chat.picture("offload", chat.shown("clip to the CPU"))


def watch(chat: Chat) -> None:
    """What appears in the scene by itself, and the list."""
    chat.ask_until("!vision watch player", "player")
    chat.picture("sighting", chat.shown("There since|Gone since"))
    chat.picture("watch", chat.ask_until("!vision watch list", "player"))


def alert(chat: Chat) -> None:
    """A threshold below what the rig has in use raises one, the old threshold ends it."""
    title = ALERT_TITLES["pressure"]
    chat.ask_until("!gpu alerts here", "Alerts come here")
    chat.warn_above(50)
    chat.shown(title)
    chat.page.wait_for_timeout(20_000)  # its developments
    chat.picture("alert", chat.shown(title))
    chat.picture("alerts", chat.ask_until("!gpu alerts", "Wrong now"))
    chat.warn_above(99)
    chat.picture("alert-over", chat.shown(f"Over: {title}"))


def answer_of(command: str, words: str) -> Callable[[Chat], None]:
    """A picture of a plain answer, by the command's last word."""
    name = command.rpartition(" ")[2].strip("!")
    return lambda chat: chat.picture(name, chat.ask_until(command, words))


PICTURES: dict[str, Callable[[Chat], None]] = {
    "look": look,
    "ask": ask,
    "models": models,
    "status": status,
    "processes": processes,
    "panel": panel,
    "demo": demo,
    "fit": fit,
    "profile": profile,
    "timeline": timeline,
    "watch": watch,
    "alert": alert,
    "history": history,
}
TO_LOOK_AT: dict[str, Callable[[Chat], None]] = {
    "help": answer_of("!help", "What I can do"),
    "about": answer_of("!about", "AGPL"),
    "classes": answer_of("!vision classes", "YOLO"),
    "concepts": answer_of("!vision concepts", "CLIP"),
    "vision": answer_of("!gpu vision", "Reason"),
    "trim": answer_of("!gpu trim", "Before"),
    "offload": offload,
    "reset": answer_of("!gpu reset", "chat"),
}
"""Not in the docs, but worth a look before a release."""
UNUSED = ("alerts", "alert-over", "watch")
"""What comes along with others, and is not in the docs either."""


EVERY = {**PICTURES, **TO_LOOK_AT}


def chromium() -> str:
    for name in CHROMIUM:
        if found := shutil.which(name):
            return found
    raise NoPicture("no Chromium or Chrome is installed (Debian: apt install chromium)")


def take(names: list[str], to: Path, width: int) -> list[str]:
    """Take these pictures; what went wrong, in words."""
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "screenshots.yaml"
        config.write_text(CONFIG.format(percent=90), encoding="utf-8")
        with started_demo(config) as running, sync_playwright() as playwright:
            address = running.wait_for(ADDRESS).group()
            started = time.monotonic()
            browser = playwright.chromium.launch(
                executable_path=chromium(),
                args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
            )
            page = browser.new_page(
                viewport={"width": width, "height": 1300},
                device_scale_factor=1.5,
                color_scheme="dark",
            )
            page.set_default_timeout(ANSWER_MS)
            page.goto(address)
            page.locator("#channel-message-list").get_by_text("Danzar is here").wait_for()
            chat = Chat(page, config, to)
            for name in names:
                if name == "history":
                    left = HISTORY_SECONDS - (time.monotonic() - started)
                    page.wait_for_timeout(max(0.0, left) * 1000)
                try:
                    EVERY[name](chat)
                except (NoPicture, Error, AssertionError) as error:
                    failures.append(f"{name}: {error}")
                page.wait_for_timeout(3000)  # the cooldowns
            browser.close()
            running.process.terminate()
            running.process.wait(timeout=60)
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools.screenshots", description=__doc__)
    parser.add_argument("pictures", nargs="*", choices=[*EVERY, []], help="all, if none")
    parser.add_argument("--to", type=Path, default=IMAGES, help="a folder to look at")
    parser.add_argument("--width", type=int, default=900, help="of the page, in CSS pixels")
    args = parser.parse_args()
    usual = PICTURES if args.to == IMAGES else EVERY
    names = args.pictures or list(usual)
    try:
        failures = take([name for name in EVERY if name in names], args.to, args.width)
    except NoPicture as error:
        failures = [str(error)]
    for failure in failures:
        print(f"no picture of {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
