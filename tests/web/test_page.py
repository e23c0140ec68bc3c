"""The page as Streamlit's own test client sees it, with the embedded demo model behind it."""

import pytest

from baichuan2.settings import ChatSettings, SamplingSettings, WebSettings
from baichuan2.web.launch import SCRIPT, PageSettings, set_page_settings

testing = pytest.importorskip("streamlit.testing.v1")
QUESTION = "世界上第二高的山峰是哪座"
GREEDY = SamplingSettings(do_sample=False, max_new_tokens=64)


@pytest.fixture
def page():
    """A page for one user, drawn once, in Chinese."""

    def open_page(**settings):
        values = {"sampling": GREEDY, "web": WebSettings(language="zh")} | settings
        set_page_settings(PageSettings(**values))
        test = testing.AppTest.from_file(str(SCRIPT), default_timeout=120).run()
        assert not test.exception
        return test

    yield open_page
    set_page_settings(PageSettings())


def send(test, text):
    test.chat_input[0].set_value(text).run()
    assert not test.exception
    return test


def texts(test):
    """Who said what, as it stands on the page."""
    said = []
    for message in test.chat_message:
        parts = [element.value for element in message if element.type in ("markdown", "text", "code")]
        said.append((message.name, parts))
    return said


def test_a_question_is_answered(page):
    test = send(page(), QUESTION)
    assert texts(test)[0] == ("user", [QUESTION])
    name, (reply, *_) = texts(test)[1]
    assert name == "assistant"
    assert "8611" in reply
    assert "token/秒" in test.chat_message[1].caption[0].value


def test_system_text_and_first_values_come_from_the_settings(page):
    test = page(chat=ChatSettings(system="你是一个助手。"), sampling=SamplingSettings(temperature=0.5, top_k=7, seed=3))
    assert test.text_area(key="system").value == "你是一个助手。"
    assert (test.slider(key="temperature").value, test.slider(key="top_k").value) == (0.5, 7)
    assert test.number_input(key="seed").value == 3
