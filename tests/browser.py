"""Runs a headless Chromium, which tests control by keys and clicks."""

import base64
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from servers import require_tool
from support import wait_until

__all__ = ["SIZES", "Browser", "Keys", "chromium"]

# Screen sizes in CSS pixels.
SIZES = {"narrow": (320, 568), "phone": (390, 844), "tablet": (820, 1180), "desk": (1440, 900)}


class Browser:
    """A browser tab."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.inspect()

    def inspect(self, size: str | tuple[int, int] = "desk", *, dark: bool = False) -> None:
        """Set the viewport to one of `SIZES` or to a width and height in pixels, and set a light or dark scheme."""
        width, height = SIZES[size] if isinstance(size, str) else size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def open(self, url: str) -> None:
        """Load a page anew, and discard earlier console messages."""
        self.driver.get("about:blank")
        self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        self.driver.get(url)

    def run(self, script: str, *arguments: object) -> Any:  # noqa: ANN401 - any value that a script returns
        """Run a script and return its result."""
        return self.driver.execute_script(script, *arguments)

    def texts(self, selector: str) -> list[str]:
        """Return the texts of all elements that match a CSS selector, as displayed."""
        result: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)", selector
        )
        return result

    def text(self, selector: str) -> str:
        """Return the text of the only element that matches a CSS selector, with whitespace collapsed."""
        (result,) = self.texts(selector)
        return re.sub(r"\s+", " ", result).strip()

    def click(self, selector: str) -> None:
        """Click the first element that matches a CSS selector."""
        self.driver.find_element("css selector", selector).click()

    def press(self, *keys: str) -> None:
        """Press keys one after the other, on the focused element."""
        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def wait(self, condition: str, seconds: float = 20) -> None:
        """Wait until a JavaScript expression is true, for at most `seconds`."""
        wait_until(lambda: bool(self.run(f"return {condition}")), condition, seconds)

    def console_errors(self) -> list[str]:
        """Return the console messages since the page was opened: errors and content security policy violations."""
        return [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def picture(self, path: Path, clip: Mapping[str, float] | None = None) -> None:
        """Write a screenshot of the viewport, or of the rectangle `clip` within it."""
        part = {"clip": {**clip, "scale": 1}} if clip is not None else {}
        captured = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", **part})
        path.write_bytes(base64.b64decode(captured["data"]))


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run Chromium. Without it, skip the test, or fail it in CI."""
    options = webdriver.ChromeOptions()
    options.binary_location = require_tool("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(require_tool("chromedriver")))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
