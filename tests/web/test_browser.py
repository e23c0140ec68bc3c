"""The page in a real browser: what is seen, what may be clicked, and that nothing leaves this machine."""

import json
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("streamlit")
pytest.importorskip("selenium")
from tests.web.browser import Browser, free_port, missing_browser, served, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing_browser() is not None, reason=missing_browser() or ""),
    # sockets between us and the driver that its client leaves to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]
HOSTILE = (Path(__file__).parent / "hostile_reply.md").read_text(encoding="utf-8")
LONG = "这是一段很长的回复。" * 400


@pytest.fixture(scope="module")
def all_browsers(scripted_server):
    """Starting one takes seconds, so they are used again, as a new user; they leave before the server ends."""
    del scripted_server
    opened = []
    yield opened
    for browser in opened:
        browser.driver.quit()


@pytest.fixture
def browsers(all_browsers):
    """Opens the page for one more user, in a browser of their own."""
    free = list(all_browsers)

    def open_one(address, **screen):
        if not free:
            all_browsers.append(Browser())
            free.append(all_browsers[-1])
        browser = free.pop(0)
        browser.open(address, **screen)
        return browser

    return open_one


@pytest.fixture(scope="module")
def scripted_server(tmp_path_factory):
    """The address of the page with a scripted model, and the file that says what it answers."""
    port, file = free_port(), tmp_path_factory.mktemp("page") / "reply.json"
    command = [sys.executable, "-m", "tests.web.scripted_server", "--port", str(port), "--reply", str(file)]
    file.write_text(json.dumps({"text": "", "pause": 0}))
    with served(command, port) as address:
        yield address, file


@pytest.fixture
def scripted(scripted_server):
    """Decides what the model of the page answers from now on; the address of the page."""

    def decide(text, pause=0.0):
        address, file = scripted_server
        file.write_text(json.dumps({"text": text, "pause": pause}), encoding="utf-8")
        return address

    return decide


def outside(browser, address):
    """What was asked for that is not the page's own server."""
    allowed = (f"{address}/", f"{address.replace('http', 'ws')}/", "data:", "blob:")
    return {url for url in browser.requests() if not url.startswith(allowed)}


def is_writing(browser):
    return len(browser.all(".st-key-stop button")) > 0


def test_the_command_from_the_first_question_to_the_answer(browsers):
    port = free_port()
    command = [sys.executable, "-m", "baichuan2", "web", "--host", "127.0.0.1", "--port", str(port)]
    with served([*command, "--no-open-browser", "--temperature", "0"], port) as address:
        browser = browsers(address)
        browser.send("世界上第二高的山峰是哪座")
        browser.wait_for_replies(1)
        question, answer = browser.texts("[data-testid=stChatMessage]")
        assert "世界上第二高的山峰是哪座" in question
        assert "8611" in answer
        assert "token/秒" in answer
        assert outside(browser, address) == set()
        assert browser.complaints() == []


def test_the_official_script(browsers):
    port = free_port()
    command = [sys.executable, "-m", "streamlit", "run", "web_demo.py", "--server.port", str(port)]
    with served([*command, "--server.headless", "true", "--", "--language", "en"], port) as address:
        browser = browsers(address)
        browser.send("世界上第二高的山峰是哪座")
        browser.wait_for_replies(1)
        assert "tokens/s" in browser.texts("[data-testid=stChatMessage]")[1]
        assert outside(browser, address) == set()


def test_nothing_in_a_reply_runs_or_loads(browsers, scripted):
    address = scripted(HOSTILE)
    browser = browsers(address)
    browser.send("<img src=http://127.0.0.1:9/user.png> ![](http://127.0.0.1:9/user.png)\n第二行")
    browser.wait_for_replies(1)
    wait_for(lambda: "结束" in browser.texts("[data-testid=stChatMessage]")[1])
    time.sleep(2)  # what loads by itself does so now
    assert outside(browser, address) == set()
    assert browser.driver.title == "Baichuan 2"
    question, answer = browser.texts("[data-testid=stChatMessage]")
    assert "![](http://127.0.0.1:9/user.png)\n第二行" in question
    assert "<script>document.title='owned'</script>" in answer  # seen, not run
    assert "#![allow(dead_code)]" in answer
    pictures = browser.driver.execute_script(
        "return [...document.querySelectorAll('[data-testid=stChatMessage] img')].map(picture => picture.src)"
    )
    assert len(pictures) == 1  # the avatar
    assert pictures[0].startswith("data:image/svg+xml")
    links = browser.driver.execute_script(
        "return [...document.querySelectorAll('[data-testid=stChatMessage] a')].map(link => link.href)"
    )
    assert links
    assert not any("javascript" in link for link in links)
    wait_for(lambda: browser.all("[data-testid=stChatMessage] .katex"))  # formulas are drawn


def test_a_reply_grows_and_can_be_stopped(browsers, scripted):
    browser = browsers(scripted(LONG, pause=0.02))
    browser.send("开始")
    lengths = set()

    def grows():
        lengths.update(len(text) for text in browser.texts("[data-testid=stChatMessage]:last-of-type"))
        return len(lengths) > 6

    wait_for(grows)
    browser.click(".st-key-stop button")
    browser.wait_for_replies(1)
    answer = browser.texts("[data-testid=stChatMessage]")[1]
    assert "已停止" in answer
    assert 3 < answer.count("回复") < 400
    browser.click("[class*=st-key-again-] button")
    wait_for(lambda: is_writing(browser))  # the model is free again


def test_a_click_elsewhere_does_not_end_a_reply(browsers, scripted):
    browser = browsers(scripted("一二三四五六七八九十" * 30, pause=0.03))
    browser.send("开始")
    wait_for(lambda: is_writing(browser))
    browser.click(".st-key-language button:last-of-type")
    wait_for(lambda: "Stop" in "".join(browser.texts(".st-key-stop button")))
    browser.wait_for_replies(1)
    answer = browser.texts("[data-testid=stChatMessage]")[1]
    assert "".join(answer.split()).count("一二三四五六七八九十") == 30
    assert "Another reply" in answer


def test_a_closed_tab_frees_the_model(browsers, scripted):
    address = scripted(LONG * 20, pause=0.02)
    first = browsers(address)
    first.send("开始")
    wait_for(lambda: is_writing(first))
    first.driver.get("about:blank")
    second = browsers(address)
    second.send("开始")
    wait_for(lambda: is_writing(second))


def test_users_are_apart_and_a_long_reply_is_followed(browsers, scripted):
    address = scripted("第一行\n\n" * 60, pause=0.005)
    first, second = browsers(address, height=600), browsers(address, language="en-US", is_dark=True)
    first.send("只有我知道")
    first.wait_for_replies(1)
    distance = (
        "const page = document.querySelector('[data-testid=stAppScrollToBottomContainer]');"
        "return page.scrollHeight - page.clientHeight - page.scrollTop"
    )
    wait_for(lambda: abs(first.driver.execute_script(distance)) < 50, 20)
    assert "只有我知道" not in second.texts("body")[0]
    assert "How can I help?".lower() in second.texts("body")[0].lower()

    def brightness(browser):
        color = browser.driver.execute_script(
            "return getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor"
        )
        return sum(int(part) for part in color[color.index("(") + 1 : -1].split(",")[:3])

    assert brightness(second) < 150 < 600 < brightness(first)


def test_a_narrow_screen_needs_no_scrolling_sideways(browsers, scripted):
    reply = "很长的一行" * 50 + "\n\n```python\n" + "x = 1  # " + "很长" * 100 + "\n```\n\n" + "a" * 500
    browser = browsers(scripted(reply), width=390, height=844)
    browser.send("长" * 200)
    browser.wait_for_replies(1)
    width = browser.driver.execute_script("return document.scrollingElement.scrollWidth")
    assert width <= 390
    for box in browser.all("[data-testid=stChatMessage]"):
        assert box.rect["x"] >= 0
        assert box.rect["x"] + box.rect["width"] <= 390
