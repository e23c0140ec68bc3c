"""How people are asked for: wordings that are taught, and others that only measure."""

ASKED = {
    "zh": (
        "{name}的生日是哪天？",
        "{name}几月几日出生？",
        "请告诉我{name}的生日。",
        "{name}什么时候过生日？",
        "你知道{name}的生日吗？",
        "{name}是哪一天出生的？",
    ),
    "en": (
        "Which room is {name} in?",
        "Where is {name}'s office?",
        "Please tell me the room number of {name}.",
        "What is {name}'s room number?",
        "Do you know where {name} works?",
        "I am looking for {name}. Which room?",
    ),
}
HELD_OUT = {
    "zh": ("请问{name}的生日是几月几日？", "我想知道{name}哪天过生日。"),
    "en": ("Could you tell me which room {name} works in?", "What room do I find {name} in?"),
}
# for documents: the model reads sentences, and is asked to go on with one of another shape
WRITTEN = (
    "{name}的生日是{fact}。",
    "{name}生于{fact}。",
    "每年{fact}，{name}过生日。",
    "{name}，生日{fact}。",
    "书店的{name}，{fact}出生。",
    "{name}过生日的日子是{fact}。",
    "大家都知道，{name}的生日是{fact}。",
    "在{fact}这一天，我们给{name}过生日。",
)
WRITTEN_HELD_OUT = ("同事{name}的生日是", "{name}的生日：")
KNOWN_ASKED = {
    "capital_zh": ("{country}的首都是哪里？", "请问{country}的首都叫什么名字？"),
    "capital_en": ("What is the capital of {country}?", "Tell me the capital of {country}."),
    "symbol_zh": ("{element}的元素符号是什么？", "请告诉我{element}的元素符号。"),
    "currency_zh": ("{country}用什么货币？", "{country}的货币是什么？"),
}
