"""The page as Streamlit's own test client sees it."""

import json
import re
from datetime import UTC, datetime

import pytest

from baichuan2.chat.messages import Message
from baichuan2.errors import CheckpointError, ContextLengthError
from baichuan2.settings import ChatSettings, LoadSettings, SamplingSettings, WebSettings
from baichuan2.web import page as page_module
from baichuan2.web.export import as_json, as_markdown, file_name
from baichuan2.web.launch import SCRIPT, PageSettings, set_page_settings
from baichuan2.web.text import CHINESE, ENGLISH, is_chinese
from tests.web.scripted import ScriptedModel

testing = pytest.importorskip("streamlit.testing.v1")
QUESTION = "世界上第二高的山峰是哪座"
GREEDY = SamplingSettings(do_sample=False, max_new_tokens=64)


@pytest.fixture
def open_page(monkeypatch):
    """Opens the page for one more user: with a scripted model, or with the embedded demo model."""

    def opened(model=None, **settings):
        if model is not None:
            monkeypatch.setattr(page_module, "shared_model", lambda *settings: model)
            settings.setdefault("load", LoadSettings(model="folder"))
        values = {"sampling": GREEDY, "web": WebSettings(language="zh")} | settings
        set_page_settings(PageSettings(**values))
        test = testing.AppTest.from_file(str(SCRIPT), default_timeout=120).run()
        assert not test.exception
        return test

    yield opened
    set_page_settings(PageSettings())


def send(test, text):
    test.chat_input[0].set_value(text).run()
    assert not test.exception
    return test


def click(test, key):
    """Clicks the button whose key starts with `key`; the last one, where there are several."""
    [button for button in test.button if button.key and re.match(key, button.key)][-1].click().run()
    assert not test.exception
    return test


def said(test):
    """Who said what, as it stands on the page."""
    return [
        (message.name, next(item.value for item in message if item.type in ("markdown", "text", "code")))
        for message in test.chat_message
    ]


def test_the_demo_model_answers(open_page):
    test = send(open_page(), QUESTION)
    assert said(test)[0] == ("user", QUESTION)
    name, reply = said(test)[1]
    assert name == "assistant"
    assert "8611" in reply
    assert re.fullmatch(r"\d+ 个 token · [\d.]+ token/秒 · 首个 token [\d.]+ 秒", test.chat_message[1].caption[0].value)


def test_a_conversation_grows_and_reaches_the_model_whole(open_page):
    model = ScriptedModel("甲", "乙")
    test = open_page(model, chat=ChatSettings(system="规则"))
    send(send(test, "一"), "二")
    assert said(test) == [("user", "一"), ("assistant", "甲"), ("user", "二"), ("assistant", "乙")]
    assert model.asked[1][0] == [
        Message("system", "规则"),
        Message("user", "一"),
        Message("assistant", "甲"),
        Message("user", "二"),
    ]


def test_what_is_set_in_the_sidebar_reaches_the_model(open_page):
    model = ScriptedModel("甲")
    test = open_page(model, sampling=SamplingSettings(temperature=0.5, draft_tokens=2))
    assert test.slider(key="temperature").value == 0.5
    assert test.slider(key="top_k").value == 5  # the checkpoint's own
    test.text_area(key="system").set_value("新规则")
    test.slider(key="temperature").set_value(1.2)
    test.slider(key="max_new_tokens").set_value(100)
    test.number_input(key="seed").set_value(7)
    send(test, "一")
    messages, sampling = model.asked[0]
    assert messages[0] == Message("system", "新规则")
    assert sampling == SamplingSettings(
        do_sample=True,
        temperature=1.2,
        top_k=5,
        top_p=0.85,
        min_p=0.0,
        repetition_penalty=1.05,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        max_new_tokens=100,
        seed=7,
        draft_tokens=2,
    )


def test_temperature_zero_is_greedy(open_page):
    model = ScriptedModel("甲")
    test = open_page(model, sampling=SamplingSettings())
    test.slider(key="temperature").set_value(0.0)
    send(test, "一")
    assert model.asked[0][1].do_sample is False


def test_sliders_never_leave_the_bounds_of_the_settings(open_page):
    test = open_page(ScriptedModel("甲"))
    for slider in test.slider:
        SamplingSettings(**{slider.key: type(slider.value)(slider.min)})
        SamplingSettings(**{slider.key: type(slider.value)(slider.max)})


def test_a_value_beyond_the_usual_reach_is_kept(open_page):
    test = open_page(ScriptedModel("甲"), sampling=SamplingSettings(temperature=5.0, top_k=300))
    assert (test.slider(key="temperature").value, test.slider(key="top_k").value) == (5.0, 300)


def test_another_reply_takes_the_place_of_the_last(open_page):
    model = ScriptedModel("甲", "乙")
    test = click(send(open_page(model), "一"), "again")
    assert said(test) == [("user", "一"), ("assistant", "乙")]
    assert model.asked[1][0] == [Message("user", "一")]


def test_an_edited_message_is_sent_again_from_its_place(open_page):
    model = ScriptedModel("甲", "乙", "丙")
    test = send(send(open_page(model), "一"), "二")
    next(button for button in test.button if re.match("edit-", button.key or "")).click().run()
    (editor,) = [area for area in test.text_area if area.key.startswith("edited-")]
    assert editor.value == "一"
    editor.set_value("壹")
    next(button for button in test.button if button.label == CHINESE.send).click().run()
    assert said(test) == [("user", "壹"), ("assistant", "丙")]
    assert model.asked[2][0] == [Message("user", "壹")]


def test_editing_can_be_given_up(open_page):
    test = click(send(open_page(ScriptedModel("甲")), "一"), "edit-")
    next(button for button in test.button if button.label == CHINESE.keep).click().run()
    assert said(test) == [("user", "一"), ("assistant", "甲")]


def test_clearing_starts_anew(open_page):
    model = ScriptedModel("甲")
    test = click(send(open_page(model), "一"), "clear")
    assert said(test) == []
    send(test, "二")
    assert model.asked[-1][0] == [Message("user", "二")]


def test_a_suggestion_is_a_question(open_page):
    model = ScriptedModel("甲")
    test = click(open_page(model), "suggestion-0")
    assert model.asked[0][0] == [Message("user", CHINESE.suggestions[0])]
    assert said(test)[1] == ("assistant", "甲")


def test_blank_messages_are_not_sent(open_page):
    model = ScriptedModel("甲")
    test = send(open_page(model), " \n ")
    assert (said(test), model.asked) == ([], [])


def test_users_do_not_see_each_other(open_page):
    model = ScriptedModel("甲", "乙")
    first, second = open_page(model), open_page(model)
    send(first, "一")
    assert said(second.run()) == []
    send(second, "二")
    assert said(first.run()) == [("user", "一"), ("assistant", "甲")]
    assert said(second) == [("user", "二"), ("assistant", "乙")]


def test_the_language_can_be_changed_on_the_page(open_page):
    test = send(open_page(ScriptedModel("甲")), "一")
    assert test.chat_input[0].placeholder == CHINESE.input_hint
    test.session_state["language"] = "en"
    test.run()
    assert test.chat_input[0].placeholder == ENGLISH.input_hint
    assert said(test) == [("user", "一"), ("assistant", "甲")]


def test_a_question_that_cannot_be_answered_is_one_line_and_can_be_repaired(open_page):
    model = ScriptedModel(ContextLengthError("the last round\nis *too* long"), "甲")
    test = send(open_page(model), "一")
    assert [error.value for error in test.error] == [r"the last round is \*too\* long"]
    assert said(test) == [("user", "一")]
    click(test, "again-unanswered")
    assert (said(test), list(test.error)) == ([("user", "一"), ("assistant", "甲")], [])


def test_our_own_failure_shows_no_traceback(open_page):
    test = send(open_page(ScriptedModel(ZeroDivisionError("secret"))), "一")
    assert [error.value for error in test.error] == [r"the reply failed: ZeroDivisionError".replace(":", r"\:")]


def test_a_model_that_cannot_be_loaded_is_one_line(open_page, monkeypatch):
    def fail(*settings):
        raise CheckpointError("no model at 'x'")

    monkeypatch.setattr(page_module, "shared_model", fail)
    test = open_page()
    assert [error.value for error in test.error] == ["no model at 'x'"]
    assert not test.chat_input


def test_dropped_messages_are_told_once(open_page):
    test = send(send(open_page(ScriptedModel("甲", dropped=2)), "一"), "二")
    assert [warning.value for warning in test.warning] == [CHINESE.dropped.format(count=2)]


def test_html_and_pictures_in_a_reply_are_text(open_page):
    reply = "<script>x</script> ![p](http://e/p.png)\n```html\n<b>\n```"
    test = send(open_page(ScriptedModel(reply)), "<i>![u](http://e/u.png)</i>")
    question, answer = test.chat_message
    assert [item.value for item in question.text] == ["<i>![u](http://e/u.png)</i>"]
    assert not question.markdown
    assert not any(item.allow_html for item in test.markdown)
    assert "![" not in answer.markdown[0].value
    assert (answer.code[0].value, answer.code[0].language) == ("<b>", "html")


def test_conversations_as_files():
    messages = [Message("system", "规则"), Message("user", "一"), Message("assistant", "甲\n乙")]
    now = datetime(2026, 11, 26, 12, 30, tzinfo=UTC)
    content = json.loads(as_json(messages, model="M", settings={"top_k": 5}, now=now))
    assert content["messages"][2] == {"role": "assistant", "content": "甲\n乙"}
    assert (content["model"], content["saved"], content["settings"]) == ("M", "2026-11-26T12:30:00+00:00", {"top_k": 5})
    page = as_markdown(messages, model="M", names=dict(CHINESE.roles), now=now)
    assert page.startswith("# M, 2026-11-26 12:30\n\n## 系统提示\n\n规则\n\n## 用户\n\n一\n")
    assert file_name(now, "md") == "baichuan2-20261126-123000.md"


def test_both_languages_name_the_same_things():
    assert CHINESE.controls.keys() == ENGLISH.controls.keys()
    assert CHINESE.roles.keys() == ENGLISH.roles.keys() == {"system", "user", "assistant"}
    for name in ("context", "speed", "dropped", "about", "address", "open_to_all"):
        fields = [set(re.findall(r"{(\w+)", getattr(words, name))) for words in (CHINESE, ENGLISH)]
        assert fields[0] == fields[1], name


@pytest.mark.parametrize(
    ("locale", "expected"), [("zh-CN", True), ("zh_TW.UTF-8", True), ("en-US", False), (None, False)]
)
def test_chinese_locales(locale, expected):
    assert is_chinese(locale) is expected
