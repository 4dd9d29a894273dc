"""Pages in a real browser: any console message, error or request fails the test."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WIDTHS_AND_THEMES = [(1400, "light"), (390, "dark")]


def page_data(path: Path) -> dict:
    """Return the JSON in a page."""
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(), re.DOTALL)[1])


@contextmanager
def open_page(browser, path: Path, width: int = 1400, theme: str = "light") -> Iterator:
    """Open a file; at the end assert that it made no request and nothing was reported."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=theme, reduced_motion="reduce"
    )
    page, reports, requests = context.new_page(), [], []
    page.on("console", lambda message: reports.append(message.text))
    page.on("pageerror", lambda error: reports.append(str(error)))
    page.on("dialog", lambda dialog: (reports.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: requests.append(request.url))
    url = path.absolute().as_uri()
    try:
        page.goto(url)
        yield page
        _check(page, url, width, reports, requests)
    finally:
        context.close()


def _check(page, url: str, width: int, reports: list[str], requests: list[str]) -> None:
    assert reports == []
    assert [each for each in requests if not each.startswith("data:")] == [url]
    assert page.evaluate("document.documentElement.scrollWidth") == width  # no scrolling sideways


def image_labels(page, selector: str) -> list[str]:
    """Return the descriptions of the images in an element."""
    tiles = page.locator(f"{selector} .tile").all()
    return [tile.get_attribute("aria-label") for tile in tiles]


def shown_pixels(page, selector: str) -> list[list[int]]:
    """Return the pixels of the first image in an element as the browser draws them, 28 x 28."""
    return page.evaluate(
        """async (selector) => {
            const tile = document.querySelector(selector + ' .tile');
            const style = getComputedStyle(tile);
            const image = new Image();
            image.src = style.backgroundImage.slice(5, -2);
            await image.decode();
            const size = parseFloat(style.width);
            const scale = image.width / parseFloat(style.backgroundSize);
            const [x, y] = style.backgroundPosition.split(' ').map((each) => -parseFloat(each));
            const canvas = new OffscreenCanvas(size * scale, size * scale);
            const context = canvas.getContext('2d');
            context.drawImage(image, -x * scale, -y * scale);
            const {data, width} = context.getImageData(0, 0, canvas.width, canvas.height);
            const rows = [];
            for (let row = 0; row < canvas.height; row++) {
                const red = (_, column) => data[4 * (row * width + column)];
                rows.push(Array.from({length: width}, red));
            }
            return rows;
        }""",
        selector,
    )
