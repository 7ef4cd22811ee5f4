"""The pages in a real browser: they open, answer the mouse, play, sort, and request nothing."""

import json
import os
import shutil

import pytest

from experiments.common.course import Course
from experiments.common.search_report import write_report
from experiments.common.transcripts import changed_transcripts
from experiments.summary import table, write_page
from tests.helpers.results import make_result, make_utterances

playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    # Where the workflow runs a browser is always there: its absence is a failure.
    pytest.mark.skipif(
        CHROMIUM is None and "GITHUB_ACTIONS" not in os.environ, reason="needs a Chromium: apt-get install chromium"
    ),
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        found = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield found
        found.close()


@pytest.fixture
def open_page(browser):
    """Opens a file. At the end, nothing but the file and what is in it has been requested, and there was no error."""
    page = browser.new_page(viewport={"width": 1000, "height": 1200})
    requested, errors = [], []
    page.on("request", lambda request: requested.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    opened = []

    def open_file(path):
        opened.append(path.as_uri())
        page.goto(path.as_uri())
        return page

    yield open_file
    assert [url for url in requested if not url.startswith("data:")] == opened
    assert errors == []
    page.close()


def hover(page, chart, x, y):
    """Move the mouse to a point that is given as shares of the plotting area, and return the text of the tip."""
    area = page.locator(f"#{chart} .u-over")
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    tip = page.locator(f"#{chart} .tip")
    return tip.inner_text() if tip.is_visible() else None


@pytest.fixture
def report(tmp_path):
    result = make_result()
    write_report(tmp_path, result, Course(), transcripts=changed_transcripts(result, make_utterances()))
    return tmp_path / "report.html"


def test_the_mouse_shows_ranks(open_page, report):
    page = open_page(report)
    assert page.locator("#wers canvas").count() == page.locator("#learning canvas").count() == 1
    # The smallest model is at the left edge, and has the highest WER: of an axis that ends a tenth above it.
    shown = hover(page, "wers", 0, 0.1)
    assert shown.startswith("evaluation 1 of 3")
    assert "WER 11.56 %" in shown
    assert "output 10" in shown
    assert hover(page, "wers", 0.5, 0.02) is None
    # The first reward is the lowest.
    assert hover(page, "learning", 0, 0.9).startswith("evaluation 1")


def test_sound_plays(open_page, report):
    page = open_page(report)
    assert page.locator("audio").count() == 2
    played = page.evaluate(
        """async () => {
            const sound = document.querySelector("audio");
            await sound.play();
            await new Promise((resolve) => sound.addEventListener("timeupdate", resolve, {once: true}));
            return sound.duration;
        }"""
    )
    assert played == pytest.approx(3, abs=0.2)


def test_requests_are_refused(browser, report):
    page = browser.new_page()
    page.goto(report.as_uri())
    refused = page.evaluate(
        """async () => {
            const refused = [];
            addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
            await fetch("http://127.0.0.1:9/").catch(() => null);
            document.body.append(Object.assign(new Image(), {src: "http://127.0.0.1:9/a.png"}));
            document.body.append(Object.assign(document.createElement("script"), {textContent: "window.ran = true"}));
            await new Promise((resolve) => setTimeout(resolve, 100));
            return [refused.sort(), window.ran];
        }"""
    )
    assert refused == [["connect-src", "img-src", "script-src-elem"], None]
    page.close()


def test_runs_are_compared(open_page, tmp_path):
    for name, size, wer in ("first", 0.5, 0.09), ("second", 0.4, 0.1):
        (tmp_path / name).mkdir()
        measured = {"wer_before": 0.05, "wer_after": wer}
        record = {"size_ratio": size, "sets": {"test": measured}, "evaluations": 9, "rewards": {"proxy": -size}}
        (tmp_path / name / "best.json").write_text(json.dumps(record))
    (tmp_path / "first" / "report.html").touch()
    page = open_page(write_page(tmp_path, table(tmp_path)))
    # The smaller one is at the left edge, a tenth below the top.
    assert hover(page, "sizes", 0, 0.1).split("\n")[0] == "second"
    assert [link.get_attribute("href") for link in page.locator("a").all()] == ["first/report.html"]
    names = page.locator("tbody td:first-child")
    assert names.all_inner_texts() == ["original", "first", "second"]
    head = page.locator("th", has_text="size ratio")
    head.click()
    assert names.all_inner_texts() == ["second", "first", "original"]
    head.click()
    assert names.all_inner_texts() == ["original", "first", "second"]
    # What has no value comes last, either way.
    page.locator("th", has_text="evaluations").click()
    assert names.all_inner_texts()[-1] == "original"
