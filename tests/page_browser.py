"""The page in headless Chromium, for the tests marked "browser": pytest -m browser.

They need Debian's packages chromium and chromium-driver, and selenium. Where one is missing they are skipped, unless
GGUFPY_BROWSER=1 says that they must run.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from page_fake import FakeServer, Plan

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

T = TypeVar("T")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--force-prefers-reduced-motion", "--lang=en")
DESKTOP = (1280, 860)
PHONE = (390, 844)
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`);
});
window.failures = [];
addEventListener("error", (event) => window.failures.push(String(event.message)));
addEventListener("unhandledrejection", (event) => window.failures.push(String(event.reason)));
"""


def _missing(what: str) -> None:
    reason = f"{what} is missing: apt-get install chromium chromium-driver; pip install selenium"
    if os.environ.get("GGUFPY_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def chromium() -> Iterator[Chrome]:
    """A browser for the tests of a module."""
    try:
        from selenium import webdriver
    except ImportError:
        _missing("selenium")
        raise
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        _missing("chromium")
        raise AssertionError
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        chrome.set_script_timeout(30)
        chrome.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
        yield chrome
    finally:
        chrome.quit()


class Page:
    """The page of a fake server, as a person uses it. Each has a port, and so a storage, of its own."""

    def __init__(self, chrome: Chrome, plan: Plan) -> None:
        self.chrome = chrome
        self.plan = plan
        self.server = FakeServer(plan)
        self.address = self.server.address

    def open(self, anchor: str = "") -> None:
        """Opens the page and waits until it has asked for the models."""
        self.chrome.get(self.address + anchor)
        self.wait(lambda: self.js("return document.querySelector('#composer') !== null"))
        self.settled()

    def settled(self) -> None:
        """Waits until the list of models is there, or what is said in its place."""
        ready = "return !document.getElementById('model').disabled || !document.getElementById('notice').hidden"
        self.wait(lambda: self.js(ready))

    def reload(self) -> None:
        """The same page again."""
        self.chrome.refresh()
        self.settled()

    def size(self, width: int, height: int, touch: bool = False) -> None:
        """The size of what is seen, in CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.chrome.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": touch})

    def scheme(self, name: str) -> None:
        """`light` or `dark`, as the system would have it."""
        features = {"prefers-color-scheme": name, "prefers-reduced-motion": "reduce"}
        given = [{"name": feature, "value": value} for feature, value in features.items()]
        self.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": given})

    def js(self, script: str, *values: object) -> Any:
        """What a script returns."""
        return self.chrome.execute_script(script, *values)

    def module(self, name: str, script: str, *values: object) -> Any:
        """What an async function returns that gets a module of the page as `it` and values as `values`."""
        code = (
            f"const [values, done] = arguments; import(new URL('page/{name}', document.baseURI)).then(async (it) => {{"
            f"{script} }}).then((value) => done({{value}}), (error) => done({{error: String(error.stack ?? error)}}));"
        )
        answer = self.chrome.execute_async_script(code, list(values))
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def find(self, css: str) -> WebElement:
        """The first element, which must be there."""
        return self.chrome.find_element("css selector", css)

    def all(self, css: str) -> list[WebElement]:
        """Elements, in their order."""
        return self.chrome.find_elements("css selector", css)

    def texts(self, css: str) -> list[str]:
        """Texts of elements, as they are in the document."""
        return self.js("return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)", css)

    def button(self, name: str, within: str = "body") -> WebElement:
        """The first button with a name that is shown."""
        found = self.js(
            "return [...document.querySelectorAll(arguments[0])].find((each) => each.checkVisibility()"
            " && (each.getAttribute('aria-label') ?? each.textContent.trim()) === arguments[1])",
            f"{within} button",
            name,
        )
        assert found, f"no button {name!r} in {within}"
        return found

    def press(self, name: str, within: str = "body") -> None:
        """Clicks a button."""
        self.button(name, within).click()

    def keys(self, *keys: str) -> None:
        """Types into what has the focus."""
        self.chrome.switch_to.active_element.send_keys(*keys)

    def chord(self, *keys: str) -> None:
        """Presses keys together, the last one last."""
        from selenium.webdriver import ActionChains

        chain = ActionChains(self.chrome)
        for key in keys[:-1]:
            chain.key_down(key)
        chain.send_keys(keys[-1])
        for key in keys[:-1]:
            chain.key_up(key)
        chain.perform()

    def focused(self) -> str:
        """The name of what has the focus."""
        return self.chrome.switch_to.active_element.accessible_name

    def write(self, text: str) -> None:
        """Writes into the message box."""
        self.find("#message").send_keys(text)

    def say(self, text: str) -> None:
        """Sends a message and waits for the end of the answer, whatever it is."""
        self.write(text)
        self.find("#message").send_keys("\n")
        self.finished()

    def finished(self) -> None:
        """Waits until no answer is on its way."""
        self.wait(lambda: self.js("return document.getElementById('stop').hidden"))

    def answers(self) -> list[str]:
        """The texts of the answers that are shown."""
        return self.texts(".message.assistant .body > .prose")

    def wait(self, condition: Callable[[], T], seconds: float = 20) -> T:
        """What a condition gives once it holds."""
        end = time.monotonic() + seconds
        while True:
            value = condition()
            if value:
                return value
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.02)

    def wait_text(self, css: str, part: str) -> None:
        """Waits until an element says something."""
        end = time.monotonic() + 20
        while not any(part in text for text in self.texts(css)):
            assert time.monotonic() < end, f"{part!r} is not in {self.texts(css)}"
            time.sleep(0.02)

    def kept(self) -> list[dict[str, Any]]:
        """The conversations that the browser keeps."""
        script = "return (await it.Store.open(() => undefined)).all()"
        return self.module("store.js", script)

    def check(self) -> None:
        """Nothing broke the policy, no script failed, no other origin was asked."""
        assert self.js("return window.violations ?? []") == []
        assert self.js("return window.failures ?? []") == []
        severe = [each["message"] for each in self.chrome.get_log("browser") if each["level"] == "SEVERE"]
        assert [each for each in severe if "Failed to load resource" not in each and "net::ERR_" not in each] == []
        for entry in self.chrome.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                assert url.startswith((self.address, "data:", "blob:", "chrome", "about:")), url


@contextmanager
def opened(chrome: Chrome, plan: Plan | None = None) -> Iterator[Page]:
    """The page, open on a desktop; at the end nothing may have broken its rules."""
    page = Page(chrome, plan or Plan())
    try:
        for log in ("browser", "performance"):
            chrome.get_log(log)
        page.size(*DESKTOP)
        page.scheme("light")
        page.open()
        yield page
        page.check()
    finally:
        page.server.stop()
        chrome.get("about:blank")
