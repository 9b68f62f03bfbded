"""Report in a real browser: no errors, both colour schemes, keyboard only."""

from pathlib import Path
from typing import Any

import pytest
from report_files import HOSTILE, example, inspection

from nmt.report.inspector_page import render_inspection
from nmt.report.page import render
from nmt.report.runs import read_runs


@pytest.fixture
def page(browser: Any, here: Path, make_run: Any) -> Any:
    """Browser showing a page with all sections and hostile text."""
    runs = read_runs([Path("runs/tiny"), make_run("other")])
    Path("page.html").write_text(render(runs, [[example()], []]), encoding="utf-8")
    browser.get((here / "page.html").as_uri())
    return browser


def test_page_loads_nothing_and_logs_no_error(page: Any) -> None:
    """Safe by default (nmt/README.md, Guarantees)."""
    assert page.get_log("browser") == []
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert page.title == "nmt report: tiny, other"
    assert HOSTILE in page.find_element("tag name", "body").get_attribute("textContent")


def contrast(page: Any, css: str) -> float:
    """Return the contrast ratio of an element's text and background (WCAG 2)."""
    script = """
    const rgb = text => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
      .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    let element = document.querySelector(arguments[0]);
    const ink = getComputedStyle(element);
    const front = light(rgb(element instanceof SVGElement ? ink.fill : ink.color));
    while (element && rgb(getComputedStyle(element).backgroundColor)[3] === 0)
      element = element.parentElement;
    const back = light(rgb(getComputedStyle(element).backgroundColor));
    return (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    """
    return float(page.execute_script(script, css))


@pytest.mark.parametrize(("scheme", "paper"), [("light", 255), ("dark", 20)])
def test_contrast_is_sufficient_in_both_colour_schemes(scheme: str, paper: int, page: Any) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    colour = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert colour.startswith(f"rgb({paper},")
    for css in ("h1", "td", "caption", "thead th", "a", ".note", "summary", ".chart text",
                ".heat text", "footer", "code"):  # fmt: skip
        assert contrast(page, css) >= 4.5, css


def test_all_controls_work_with_the_keyboard(page: Any) -> None:
    from selenium.webdriver import ActionChains, Keys

    page.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    expected = page.execute_script(
        "return document.querySelectorAll('a, summary, [tabindex=\"0\"]').length"
        " - document.querySelectorAll('details:not([open]) [tabindex=\"0\"]').length"
    )
    seen = []
    for _ in range(expected):
        ActionChains(page).send_keys(Keys.TAB).perform()
        focused = page.switch_to.active_element
        outline = page.execute_script("return getComputedStyle(arguments[0]).outlineStyle", focused)
        assert outline == "solid"
        assert focused.rect["width"] > 0
        seen.append(focused)
    assert len({each.id for each in seen}) == expected
    assert seen[0].get_attribute("textContent") == "Skip to the report"
    summary = next(each for each in seen if each.tag_name == "summary")
    page.execute_script("arguments[0].focus()", summary)
    ActionChains(page).send_keys(Keys.ENTER).perform()
    assert page.execute_script("return arguments[0].parentElement.open", summary)


@pytest.mark.parametrize("width", [1280, 400])
def test_page_is_not_wider_than_the_window(width: int, page: Any) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False},
    )
    assert page.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 400)])
def test_inspector_page_is_readable(scheme: str, width: int, browser: Any, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(render_inspection(inspection()), encoding="utf-8")
    browser.get((tmp_path / "page.html").as_uri())
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.title == "nmt inspect: runs/tiny"
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    for css in (".piece", ".gates text", "li", "figure h3"):
        assert contrast(browser, css) >= 4.5, css
    [fill] = {each.value_of_css_property("fill") for each in browser.find_elements(
        "css selector", ".hover")}  # fmt: skip
    assert fill == "rgba(0, 0, 0, 0)"
