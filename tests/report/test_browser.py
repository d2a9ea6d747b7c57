"""The report in a real browser: Chromium without a window, driven by Selenium (`make test-browser`)."""

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

import journals
from olivine.report import html_of, last_run
from olivine.workflow.events import RunDone

selenium = pytest.importorskip("selenium", reason="Selenium is not installed: make test-browser")
from selenium import webdriver  # noqa: E402
from selenium.webdriver import ActionChains  # noqa: E402
from selenium.webdriver.chrome.options import Options  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
AXE = Path(os.environ.get("AXE", "axe.min.js"))
WIDTHS = (320, 390, 768, 1280)

if CHROMIUM is None or DRIVER is None:
    pytest.skip("no chromium and chromedriver here", allow_module_level=True)

EVIL = "<script>window.broken = 1</script><img src=x onerror='window.broken = 2'>"


@pytest.fixture(scope="module")
def browser():
    """One Chromium for all tests, which may reach no network."""
    options = Options()
    options.binary_location = CHROMIUM
    flags = (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    )
    for flag in flags:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Reports as files, by name."""
    folder = tmp_path_factory.mktemp("reports")
    events = {
        "plain": [journals.ordinary(folder, r=8), journals.ordinary(folder, missed=("the loss is too high",))],
        "search": [journals.ordinary(folder, n_trials=60)],
        "thousand": [journals.ordinary(folder, n_trials=1000)],
        "evil": [hostile(folder)],
        "failed": [journals.failing(folder)],
        "smaller": [smaller(folder)],
    }
    runs = {}
    for name, histories in events.items():
        for place, history in enumerate(histories):
            journals.write(folder / name, history, run=f"{name}{place}", start=journals.START + 1e5 * place)
        runs[name] = last_run(folder / name)
    pages = {name: html_of([run]) for name, run in runs.items()} | {
        "several": html_of([runs["plain"], runs["search"]]),
        "unlike": html_of([runs["plain"], runs["smaller"]]),
    }
    for name, html in pages.items():
        (folder / f"{name}.html").write_text(html, encoding="utf-8")
    return {name: (folder / f"{name}.html").as_uri() for name in pages}


def hostile(folder):
    """A run whose rows, names and warnings are markup."""
    for event in journals.ordinary(folder, warning=EVIL, n_trials=5, name=EVIL):
        yield journals.sampled((EVIL,), EVIL) if event.kind == "samples" else event


def smaller(folder):
    """A run of another config, with keys as long as they get, whose result is half as large."""
    arguments = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
    for event in journals.ordinary(folder, training_args=arguments):
        if isinstance(event, RunDone):
            halved = [{**row, "size_bytes": (row["size_bytes"] or 0) // 2} for row in event.scores]
            yield replace(event, scores=halved)
        else:
            yield event


def opened(browser, address, width=1280, scheme="light"):
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get_log("browser")
    browser.get(address)
    return browser


NAMES = ("plain", "search", "thousand", "evil", "failed", "several", "unlike")


@pytest.mark.parametrize("name", NAMES)
def test_page_loads_nothing_and_says_nothing_on_the_console(name, browser, pages):
    opened(browser, pages[name])
    assert browser.get_log("browser") == []
    resources = browser.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
    assert resources == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["plain", "search", "several", "unlike"])
def test_page_fits_its_window(name, width, browser, pages):
    opened(browser, pages[name], width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def sticks_out(browser, inner, outer):
    """The texts of inner elements that reach over the right edge of the outer one around them."""
    assert browser.find_elements(By.CSS_SELECTOR, inner)
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].filter(one => "
        "one.getBoundingClientRect().right > one.closest(arguments[1]).getBoundingClientRect().right + 0.5"
        ").map(one => one.textContent)",
        inner,
        outer,
    )


def too_wide(browser, inner):
    """The texts of elements that are wider than their boxes."""
    assert browser.find_elements(By.CSS_SELECTOR, inner)
    wide = "[...document.querySelectorAll(arguments[0])].filter(one => one.scrollWidth > one.clientWidth)"
    return browser.execute_script(f"return {wide}.map(one => one.textContent)", inner)


@pytest.mark.parametrize("width", [*WIDTHS, 884])
def test_large_numbers_fit_their_boxes(width, browser, pages):
    opened(browser, pages["search"], width)
    assert too_wide(browser, ".figures strong") == []


@pytest.mark.parametrize("width", WIDTHS)
def test_what_differs_and_the_figures_are_seen_without_scrolling(width, browser, pages):
    opened(browser, pages["unlike"], width)
    assert sticks_out(browser, ".pairs td", "section") == []
    opened(browser, pages["plain"], width)
    assert too_wide(browser, ".figures strong") == []
    assert sticks_out(browser, ".figures div", ".figures") == []


def test_table_of_several_runs_fits_a_desk(browser, pages):
    opened(browser, pages["unlike"])
    assert sticks_out(browser, ".runs td", "section") == []


def ink(browser):
    """How many pixels of the curve's canvas are drawn on."""
    return browser.execute_script(
        "const c = document.querySelector('.curve canvas');"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "let n = 0; for (let i = 3; i < d.length; i += 4) if (d[i]) n++; return n"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_curves_are_drawn_and_drawn_again_in_another_width(scheme, browser, pages):
    opened(browser, pages["plain"], 1280, scheme)
    assert len(browser.find_elements(By.CSS_SELECTOR, ".curve canvas")) == 1
    wide = ink(browser)
    assert wide > 1000
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    )
    deadline = time.monotonic() + 10
    while browser.execute_script("return document.querySelector('.curve canvas').clientWidth") > 390:
        assert time.monotonic() < deadline
    assert len(browser.find_elements(By.CSS_SELECTOR, ".curve canvas")) == 1
    assert ink(browser) > 500


def test_pointing_at_a_trial_tells_it_and_a_click_opens_its_row(browser, pages):
    opened(browser, pages["search"])
    assert len(browser.find_elements(By.CSS_SELECTOR, "svg.scatter .dot")) == 60 - 60 // 17
    dot, tip = browser.find_element(By.CSS_SELECTOR, ".dot.chosen"), browser.find_element(By.ID, "tip")
    assert not tip.is_displayed()
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", dot)
    ActionChains(browser).move_to_element(dot).perform()
    assert tip.is_displayed()
    assert "label accuracy" in tip.text
    assert "quantize" in tip.text
    row = browser.find_element(By.ID, dot.get_attribute("data-target"))
    assert not row.is_displayed()
    dot.click()
    assert row.is_displayed()
    assert browser.switch_to.active_element == row
    assert "chosen" in row.text


def test_trials_are_reached_by_keyboard_alone(browser, pages):
    opened(browser, pages["search"])
    dots = browser.find_elements(By.CSS_SELECTOR, "svg.scatter .dot")
    reachable = [dot for dot in dots if dot.get_attribute("tabindex") == "0"]
    assert 1 <= len(reachable) < len(dots)
    reachable[0].send_keys(Keys.ARROW_RIGHT)
    after = browser.switch_to.active_element
    assert after in dots
    assert after != reachable[0]
    assert browser.find_element(By.ID, "tip").text == after.get_attribute("aria-label")
    after.send_keys(Keys.ENTER)
    assert browser.switch_to.active_element.get_attribute("id") == after.get_attribute("data-target")


def test_text_that_is_markup_is_shown_and_does_nothing(browser, pages):
    opened(browser, pages["evil"])
    assert browser.execute_script("return window.broken") is None
    assert browser.find_elements(By.TAG_NAME, "img") == []
    assert EVIL in browser.find_element(By.CSS_SELECTOR, "#verdict .warnings").text
    prompt = browser.find_element(By.CSS_SELECTOR, "#samples .prompt")
    assert prompt.get_attribute("textContent") == EVIL


def test_script_that_is_not_the_pages_own_is_refused(browser, pages, tmp_path):
    """Even markup that got past the escaping would do nothing."""
    opened(browser, pages["plain"])
    html = browser.page_source.replace("</main>", "<script>window.broken = 3</script></main>")
    (tmp_path / "page.html").write_text(f"<!doctype html>{html}", encoding="utf-8")
    opened(browser, (tmp_path / "page.html").as_uri())
    assert browser.execute_script("return window.broken") is None
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


def test_what_is_folded_is_printed(browser, pages):
    opened(browser, pages["plain"])
    browser.execute_cdp_cmd("Page.printToPDF", {})
    opened(browser, pages["plain"])
    folded = "return [...document.querySelectorAll('details')].filter(one => !one.open).length"
    assert browser.execute_script(folded) > 0
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script(folded) == 0
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script(folded) > 0


@pytest.mark.skipif(not AXE.is_file(), reason="no axe-core: name its axe.min.js as AXE, as make test-browser does")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["plain", "search", "failed", "several"])
def test_axe_finds_nothing_serious(name, scheme, browser, pages):
    opened(browser, pages[name], 1280, scheme)
    browser.execute_script("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    browser.execute_script(AXE.read_text(encoding="utf-8"))
    result = browser.execute_async_script("axe.run(document).then(arguments[arguments.length - 1])")
    faults = [
        (one["id"], one["impact"], [node["html"][:200] for node in one["nodes"][:3]]) for one in result["violations"]
    ]
    assert faults == []
    assert len(result["passes"]) > 10
