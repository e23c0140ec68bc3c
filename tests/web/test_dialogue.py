"""The conversation behind the page: asking, answering, going back."""

from baichuan2.chat.messages import Message
from baichuan2.web.dialogue import Dialogue


def dialogue_of(*texts):
    dialogue = Dialogue()
    for number, text in enumerate(texts):
        if number % 2 == 0:
            dialogue.ask(text)
        else:
            dialogue.answer(text, "stop")
    return dialogue


def test_messages_in_order_the_system_text_first():
    dialogue = dialogue_of("一", "二", "三")
    assert dialogue.messages("规则") == [
        Message("system", "规则"),
        Message("user", "一"),
        Message("assistant", "二"),
        Message("user", "三"),
    ]
    assert dialogue.messages(" \n")[0] == Message("user", "一")
    assert dialogue.waits_for_reply


def test_a_reply_without_a_word_leaves_no_trace():
    dialogue = dialogue_of("一")
    dialogue.answer("", "cancelled")
    dialogue.answer("", "failed")
    assert [turn.text for turn in dialogue.turns] == ["一"]
    dialogue.answer("", "stop")  # the model chose to say nothing
    assert not dialogue.waits_for_reply


def test_a_message_that_never_got_a_reply_is_not_shown_to_the_model():
    dialogue = dialogue_of("一")
    dialogue.ask("二")
    dialogue.ask("三")
    assert [turn.text for turn in dialogue.turns] == ["一", "二", "三"]
    assert dialogue.messages() == [Message("user", "三")]


def test_editing_forgets_what_came_after():
    dialogue = dialogue_of("一", "二", "三", "四")
    old = dialogue.turns[2].number
    dialogue.edit(old, "叁")
    assert [turn.text for turn in dialogue.turns] == ["一", "二", "叁"]
    assert dialogue.turns[2].number != old
    assert dialogue.waits_for_reply


def test_taking_back_a_reply():
    dialogue = dialogue_of("一", "二")
    dialogue.take_back_reply()
    assert dialogue.waits_for_reply
    dialogue.take_back_reply()
    assert [turn.text for turn in dialogue.turns] == ["一"]


def test_numbers_are_never_used_twice():
    dialogue = dialogue_of("一", "二", "三")
    numbers = {turn.number for turn in dialogue.turns}
    dialogue.clear()
    dialogue.ask("四")
    assert dialogue.turns[0].number not in numbers
