"""A headless Chromium that looks at the page, with a log of everything that it asked the network for."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

ROOT = Path(__file__).parents[2]
Value = TypeVar("Value")
SECONDS = 90.0  # for anything that the page does; a busy machine is slow, not wrong


def missing_browser() -> str | None:
    """Why there is no browser to test with, or None."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"needs {' and '.join(missing)} (Debian: chromium, chromium-driver)" if missing else None


def free_port() -> int:
    """A port on which nobody listens right now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def served(command: list[str], port: int) -> Iterator[str]:
    """The address of a server that `command` starts, once it answers; it is ended afterwards."""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONFAULTHANDLER": "1"},
    ) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(lambda: process.poll() is not None or _answers(address))
            assert process.poll() is None, process.stdout and process.stdout.read()
            yield address
        finally:
            process.terminate()
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGABRT)  # the fault handler tells what each thread was doing
                output, _ = process.communicate(timeout=30)
                raise AssertionError(f"the server does not end:\n{output[-20_000:]}") from None


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/_stcore/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def wait_for(look: Callable[[], Value], seconds: float = SECONDS) -> Value:
    """What `look` gives once it gives something."""
    deadline = time.monotonic() + seconds
    while not (value := look()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return value


class Browser:
    """One window on the page of one user."""

    def __init__(self) -> None:
        options = webdriver.ChromeOptions()
        # --no-sandbox: as root, in containers, Chromium does not start with it
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        self.asked_for: set[str] = set()

    def open(
        self, address: str, *, language: str = "zh-CN", width: int = 1280, height: int = 900, is_dark: bool = False
    ) -> None:
        """Opens the page as a new user with such a screen, and waits until one can write."""
        agent = self.driver.execute_script("return navigator.userAgent")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        for command, arguments in (
            ("Emulation.setUserAgentOverride", {"userAgent": agent, "acceptLanguage": language}),
            ("Emulation.setEmulatedMedia", {"features": [scheme]}),
            ("Emulation.setDeviceMetricsOverride", size),
        ):
            self.driver.execute_cdp_cmd(command, arguments)
        self.driver.get("about:blank")
        self.requests()
        self.complaints()
        self.asked_for.clear()
        self.driver.get(address)
        wait_for(lambda: self.all("[data-testid=stChatInputTextArea]"))

    def all(self, selector: str) -> list[WebElement]:
        """Every element of that selector."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """What stands in them, read at one moment."""
        script = "return [...document.querySelectorAll(arguments[0])].map(element => element.innerText)"
        found: list[str] = self.driver.execute_script(script, selector)
        return found

    def click(self, selector: str) -> None:
        """Clicks the last such element, which the page may be drawing anew."""
        script = "const all = document.querySelectorAll(arguments[0]); all.length && all[all.length - 1].click(); "
        wait_for(lambda: self.driver.execute_script(script + "return all.length", selector))

    def send(self, text: str) -> None:
        """Writes a message, line by line, and sends it."""
        field = self.all("[data-testid=stChatInputTextArea]")[0]
        for number, line in enumerate(text.split("\n")):
            field.send_keys(*([Keys.SHIFT, Keys.ENTER, Keys.NULL] if number else []), line)
        field.send_keys(Keys.ENTER)

    def wait_for_replies(self, count: int) -> None:
        """Waits until so many replies stand there, and none is being written."""
        idle = "[data-testid=stApp][data-test-script-state=notRunning]"
        wait_for(lambda: len(self.all("[data-testid=stPopover]")) == count and self.all(idle))

    def requests(self) -> set[str]:
        """Every address that the page has asked for so far."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.asked_for.add(message["params"]["request"]["url"])
            elif message["method"] == "Network.webSocketCreated":
                self.asked_for.add(message["params"]["url"])
        return self.asked_for

    def complaints(self) -> list[str]:
        """Errors on the browser's console."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
