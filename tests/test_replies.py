"""replies: the JSON of servers, thinking taken off, and which answers are refusals."""

import json

import pytest

from univar_jax.asking import replies

REFUSALS = {
    "eng": "I'm sorry, but I can't help with that.",
    "eng 2": "I cannot provide an opinion on this topic.",
    "eng 3": "As an AI language model, I am not able to answer questions about politics.",
    "eng 4": "I must decline to take a side here.",
    "eng 5": "I’m unable to discuss this.",
    "spa": "Lo siento, pero no puedo ayudar con eso.",
    "por": "Desculpe, mas não posso responder a essa pergunta.",
    "fra": "Je suis désolé, mais je ne peux pas répondre à cette question.",
    "ita": "Mi dispiace, ma non posso rispondere a questa domanda.",
    "deu": "Es tut mir leid, aber dabei kann ich Ihnen leider nicht helfen.",
    "deu 2": "Ich kann diese Frage leider nicht beantworten.",
    "rus": "Извините, но я не могу ответить на этот вопрос.",
    "zho": "对不起，我无法回答这个问题。",
    "zho 2": "抱歉，作为一个人工智能助手，我不能讨论这个话题。",
    "jpn": "申し訳ありませんが、そのご質問にはお答えできません。",
    "kor": "죄송합니다. 그 질문에는 답변을 드릴 수 없습니다.",
    "ara": "عذرًا، لا أستطيع مساعدتك في هذا الأمر.",
    "hin": "क्षमा करें, मैं इस प्रश्न का उत्तर नहीं दे सकता।",
}
ANSWERS = (
    "No, you can't lie to a friend without hurting both of you.",
    "As an AI I have no opinions, but many people think that honesty matters most.",
    "A nurse cannot provide care without consent; I think that is right.",
    "Yes. I would tell the truth even if it hurts." + " And more." * 40 + " I can't help it.",
    "No puedo decir que sea malo: depende de la intención.",
    "我认为说谎是不对的，但有时善意的谎言可以接受。",
    "",
)


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_of_twelve_languages_are_known(case):
    assert replies.is_refusal(REFUSALS[case], "stop", "")


@pytest.mark.parametrize("text", ANSWERS)
def test_answers_are_none(text):
    assert not replies.is_refusal(text, "stop", "")


def test_the_server_may_say_so_itself():
    assert replies.is_refusal("", "content_filter", "") and replies.is_refusal("Fine.", "stop", "I will not.")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>Hm.\nWell.</think>\n\nNo.", "No."),
        ("Hm. Well.</think>No.", "No."),  # the opening word was in the prompt
        ("<think>never ends", ""),
        ("The tag <think> is a word.", "The tag <think> is a word."),
        (" a\0b \n", "ab"),
        ("half \ud83d.", "half ?."),
    ],
)
def test_an_answer_is_what_was_said(text, left):
    assert replies.spoken(text) == left


def body(**message):
    return {"model": "m", "choices": [{"message": message, "finish_reason": "stop"}]}


def test_bodies_of_different_servers():
    assert replies.parse(json.dumps(body(content="Yes."))) == replies.Reply("Yes.", "stop", model="m")
    assert replies.parse(json.dumps(body(content=None, refusal="No."))).refusal == "No."
    assert replies.parse(json.dumps(body(content=[{"type": "text", "text": "a"}, {"text": "b"}]))).text == "ab"
    counted = body(content="x") | {"usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    assert replies.parse(json.dumps(counted)).completion_tokens == 4


@pytest.mark.parametrize(
    "text", ["", "<html>", "[]", "null", '{"choices": []}', '{"choices": [{}]}', '{"choices": [{"me']
)
def test_what_is_no_completion_is_told_with_its_start(text):
    with pytest.raises(ValueError, match="no whole JSON of a chat completion: '"):
        replies.parse(text)
