"""A real Chromium without a window, driven as a person would: by keys, clicks and looking."""

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

# A phone, a tablet and a desk.
SIZES = {"phone": (390, 844), "tablet": (820, 1180), "desk": (1440, 900)}


class Browser:
    """A tab."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.inspect()

    def inspect(self, size: str | tuple[int, int] = "desk", *, dark: bool = False) -> None:
        """Be of another size, one of `SIZES` or of so many pixels, and light or dark."""
        width, height = SIZES[size] if isinstance(size, str) else size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def open(self, url: str) -> None:
        """Open a page anew, and forget what was complained of before."""
        self.driver.get("about:blank")
        self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        self.driver.get(url)

    def run(self, script: str, *arguments: object) -> Any:  # noqa: ANN401 - whatever the script returns
        """Return what a script returns."""
        return self.driver.execute_script(script, *arguments)

    def texts(self, selector: str) -> list[str]:
        """Return the texts of all elements that a selector finds, as they are shown."""
        result: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)", selector
        )
        return result

    def text(self, selector: str) -> str:
        """Return the text of the one element that a selector finds, with simple spaces."""
        (result,) = self.texts(selector)
        return re.sub(r"\s+", " ", result).strip()

    def click(self, selector: str) -> None:
        """Click on the first element that a selector finds."""
        self.driver.find_element("css selector", selector).click()

    def press(self, *keys: str) -> None:
        """Press keys one after the other, wherever the focus is."""
        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def wait(self, condition: str, seconds: float = 20) -> None:
        """Wait until a script returns what is true."""
        wait_until(lambda: bool(self.run(f"return {condition}")), condition, seconds)

    def console_errors(self) -> list[str]:
        """Return what the console says since the page was opened: errors, and what the policy forbade."""
        return [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def picture(self, path: Path, clip: Mapping[str, float] | None = None) -> None:
        """Take a picture of what is to be seen, or of the rectangle `clip` of it, with its `x` and `y`."""
        part = {"clip": {**clip, "scale": 1}} if clip is not None else {}
        result = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", **part})
        path.write_bytes(base64.b64decode(result["data"]))


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run Chromium; skip the test without it, and fail in CI."""
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
