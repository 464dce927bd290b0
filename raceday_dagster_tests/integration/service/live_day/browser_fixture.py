"""A headless Chromium of the machine, driven by the chromedriver beside it; never downloads anything."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from raceday_dagster_tests.waiting import wait_for

SHOWN_S = 40.0
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1500,1400",
)

Found = TypeVar("Found")


@dataclass(frozen=True)
class Browser:
    """One tab. What it shows is waited for, and kept as a picture in ``pictures``."""

    driver: Chrome
    pictures: Path

    def open(self, url: str) -> None:
        """Go there as if the address had been typed."""
        self.driver.get(url)

    def read_text(self) -> str:
        """What the page says to a reader."""
        try:
            return str(self.driver.find_element(By.TAG_NAME, "body").text)
        except StaleElementReferenceException:
            return ""  # the page is changing under us: ask again

    def wait_for_text(self, *wanted: str) -> str:
        """The page's text once all of ``wanted`` are in it."""

        def find_all() -> str | None:
            text = self.read_text()
            return text if all(part in text for part in wanted) else None

        return self.wait_until(find_all, lambda: f"not all of {wanted} are in: {self.read_text()}")

    def wait_until(self, find: Callable[[], Found | None], explain: Callable[[], str]) -> Found:
        """What ``find`` finds, asked again and again; without it, the failure leaves a picture."""
        try:
            return wait_for(find, SHOWN_S, explain)
        except AssertionError:
            self.take_picture("failed")
            raise

    def run_script(self, script: str, *arguments: Any) -> Any:
        """What the promise that the body ``script`` of an async function makes comes to."""
        done = "const done = arguments[arguments.length - 1]; const given = [...arguments];"
        return self.driver.execute_async_script(
            f"{done} (async (...arguments_) => {{ {script} }})(...given).then(done, error => done(String(error)))",
            *arguments,
        )

    def show_as(self, width: int, *, is_dark: bool = False) -> None:
        """A window so wide, a telephone's below 700 pixels, of a reader who likes it light or dark."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 700}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def take_picture(self, name: str) -> None:
        """A picture of the tab, for a person to look at."""
        self.driver.save_screenshot(str(self.pictures / f"{name}.png"))

    def read_errors(self) -> list[str]:
        """The errors on the console since the last time."""
        entries = self.driver.get_log("browser")  # type: ignore[no-untyped-call]  # selenium leaves it untyped
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]


@contextmanager
def open_browser(folder: Path, *options: str) -> Iterator[Browser]:
    """Chromium with a profile of its own in ``folder``, ended with everything it started.

    Skips the test where there is none.
    """
    chromium, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver_path is None:
        pytest.skip("no chromium and chromedriver on this machine: `make browser` installs them")
    chosen = ChromeOptions()
    chosen.binary_location = chromium
    for option in (*_OPTIONS, f"--user-data-dir={folder / 'profile'}", *options):
        chosen.add_argument(option)
    chosen.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=chosen, service=Service(executable_path=driver_path))
    try:
        driver.set_script_timeout(SHOWN_S)
        driver.set_page_load_timeout(SHOWN_S)
        yield Browser(driver, folder)
    finally:
        driver.quit()
