"""Whole-sentence shapes of English questions, for conversations only (pre-training documents keep the older lists).

Keys are task names of `relations.py` (fields as in its rows; "q" is the quoted key) and "memory_..." names: after
"memory_" stands the name of a topic in `memory.py` for shapes that ask ("memory_city"), and "introduction" or
"introduction_TOPIC" for shapes that tell ("memory_introduction_city", field "v"). A trailing "!" marks an order, as in
`wording.py`; shapes of memory have no such mark. Shapes of word_zh_en and word_en_zh begin with a small letter,
because that is how `template_language` knows English.
"""

# ruff: noqa: E501  (wordings are data: one list a line reads better than wrapped strings)
from __future__ import annotations

from recipes.demo.corpus.shapes_en_memory import MEMORY_SHAPES_EN

_RELATIONS = {
    "capital_en": """
if I [travel/fly/go/move] to {en} and want to see the capital, which city [do I visit/should I pick/is it]
my [teacher/daughter/uncle/friend/sister] asked me [about/for] the capital of {en}. [What is it/What should I say/Which city is it]
I am [writing/doing/preparing] [a report/homework/a quiz/a poster] [on/about] {en} and [need/lack/am missing] its capital!
fill in the blank: the capital of {en} is ____!
complete [the sentence/this/the line]: the capital [city /]of {en} is [.../___/called ___]!
quiz [time/question/show]: [capital of {en}/name the capital of {en}/{en}, capital]!
[geography/school/exam/homework] question: [what is/name/give] the capital of {en}!
{short} [capital city/capital name/capital city name/country capital]
capital city {short}
the government of {en} [sits/meets/has its seat] in [which/what] city
{en} is a country. [Its capital is/What is its capital/And its capital/Which city is its capital]
[on/looking at] a map of {en}, which city [is marked as/has the star for/would be shown as] the capital
I [always/keep/often] [forget/forgetting/confuse] [the capital of {en}/what the capital of {en} is]. [Which city is it/Help/Can you remind me]
[my brother/somebody/a friend] [says/thinks/believes] {en} has no capital. [What is it really/Which city is it]
people in {en} [say/know] their capital is [which/what] city
[which/what] city would I [visit/see/find] if I went to the capital of {en}
[for ten points/for one point/final question/next question/last one]: [the capital of {en}/what is the capital of {en}]
A: where are you going? B: to the capital of {en}. A: [so to which city/which city is that]
[could/would] you be so kind as to [name/tell me/give me] the capital of {en}
I [would be grateful/would be happy/should be glad] if you could [tell me/name] the capital of {en}!
[the/a] president of {en} [usually works/lives] in the capital, [which is/called/named] what
[learning/studying/revising] [capitals/geography] today: {en} [has/goes with/belongs with] which capital
country: {en}. [Capital/Capital city]: ?!
country - {en}, capital -!
tell me, of all the cities in {en}, which one is the capital
among the cities of {en}, [which/which one] is [its/the] capital
{en}'s capital [city /]is [called what/named what/which one/what]
the city [that is/which is/chosen as] the capital of {en} is [called/named] what
[just/only] the capital of {en}[, nothing else/, that is all I need/, quickly]!
hm, {en}... [what was its capital/what was the capital/which city is the capital] again
[match/pair] the country with its capital: {en}!
my grandson wants to know [the capital of {en}/which city is the capital of {en}]!
[is there/does there exist] a capital in {en}, and what is it called
where [would/do] I find the capital of {en}, I mean which city
the embassy is in the capital of {en}. Which city [is that/do I go to/would that be]
we [landed/arrived/stayed] in the capital of {en} last year, [which city was that/what is it called]
[name of/name for] the capital of {en}
[say/write/spell/type] the [name of the /]capital of {en}[ for me/ here/]!
when people talk about the capital of {en}, which city do they mean
{en} - capital
as far as you know, what is {en}'s capital
[spain, japan, .../we did the others already,] now [the capital of/what about the capital of] {en}
capitol of {en}
wat is the capital of {en}
[teach/show] me the capital of {en}!
[it is for a crossword/I am doing a crossword]: capital of {en}!
[do you remember/do you recall/have you learnt] which city is {en}'s capital
""",
    "capital_of_en": """
I am [flying/travelling/going/driving] to {capen}, a capital. [Of which country/Which country is that/What country will I be in]
[which/what] country [am I in/would I be in/do I reach] if I am in its capital {capen}
fill in the blank: {capen} is the capital of ____!
complete [the sentence/this/the line]: {capen} is the capital [city /]of [.../___]!
{capen} [capital of/is capital of/is the capital of] [which country/what]
[quiz/geography/exam/homework] question: {capen} is the capital of [which/what] country
[name/say/write/give] the country that has {capen} as [its capital/capital city]!
my [teacher/son/friend/aunt] mentioned {capen}. [It is the capital of which country/Which country is it the capital of]
{capen} is a capital. [Of what country/Of which country/Whose/Whose capital is it]
I [know/read/heard] that {capen} is a capital, but [of which country/of what country/whose]
the government that sits in {capen} [governs/rules/belongs to] which country
[the capital is/capital:] {capen}. [The country is/Country/What is the country]
capital: {capen}. Country: ?!
capital - {capen}, country -!
if {capen} is the capital, [what/which] is the country
for which country [is/does] {capen} [the capital/serve as the capital]
[which/what] country do you [associate/link/connect] with the capital {capen}
[which/what] country chose {capen} [as its capital/for its capital]
[which/what] [country/nation/state] is governed from {capen}
[the people/citizens] of which country [call/have] {capen} [their capital/as their capital]
{capen}, [the capital of/capital of] [what/which country]
whose capital [city /]is {capen}
[to which/to what] country does the capital {capen} belong
the capital {capen} [belongs to/is found in/lies in] which country
[for ten points/last question/next question]: {capen} is the capital of [which/what] country
we are [learning/studying] capitals: {capen} [goes with/belongs to] which country
[match/pair] the capital with its country: {capen}!
I got a postcard from {capen}, the capital of... [which country/what country] was it
[my friend/a colleague/my cousin] lives in {capen}, [which country's capital is that/it is the capital of which country]
hm, {capen}... [which country's capital was that/the capital of which country was it]
[I would like/I want/I need] to know which country has {capen} as its capital!
[could/would] you [kindly /]tell me which country {capen} is the capital of
I [forgot/do not remember/am not sure] which country {capen} is the capital of!
{capen} is the capital city of [what/which] [nation/country/land]
[reverse question/the other way round]: the capital is {capen}, [what is the country/so which country is it]
on the map {capen} is marked as a capital. [Of what country/Which country's]
[capital city/capital] {capen}, [country name/which country]
of [which/what] [country/nation] is {capen} the capital[ city/]
[say/suppose] I am standing in {capen}: [which country's capital is this/I am in the capital of which country]
A: I was in {capen}. B: oh, the capital of... [which country/what country]
a country with {capen} as its capital: [which one/what is it/name it]
wich country has the capital {capen}
""",
    "continent_en": """
if I [travel/fly/sail/go] to {en}, [which/what] continent [do I land on/do I visit/am I on/will I be on]
fill in the blank: {en} is on the continent of ____!
complete [the sentence/this/the line]: {en} is in ___, which is a continent!
{short} continent
{short} which continent
continent of {short}
[quiz/geography/exam/homework] question: the continent of {en}[ is/]!
[name/say/write/give] the continent [where/on which] {en} [lies/is located/can be found]!
my [teacher/son/friend/aunt] asked which continent {en} is [in/on]. [What do I say/Can you help]
{en} is a country. [On which continent/On what continent/And its continent/What is its continent]
I [do not know/forgot/am not sure/never remember] [which continent {en} is in/on which continent {en} lies]!
[country/land]: {en}. Continent: ?!
country - {en}, continent -!
[which/what] part of the world is {en} in, I mean the continent
[Asia, Europe, Africa or America/Africa, Asia, Europe or another]: where [is/does] {en}[ located/ lie/]
[Europe/Asia/Africa/Oceania] or not? [Which continent is {en} in/What is the continent of {en}]
does {en} [lie/belong] in [Asia/Europe/Africa/South America], or on which continent
people from {en} live on [which/what] continent
on a world map, [which/what] continent [would I look at/should I search/do I look on] to find {en}
[find/show/locate] {en}: [which/what] continent is it on
{en} [lies/sits/can be found/is situated/is located] on [which/what] continent
{en} can be found on [which/what] continent
the country {en} [is part of/belongs to/lies in] [which/what] continent
[could/would] you [kindly /]tell me the continent of {en}
I [would like/want/need] to know the continent that {en} is on!
hm, {en}... [which continent was that/which continent is that on/that is on which continent]
we are [learning/studying/doing] the continents: where does {en} [go/belong]
[sort/put] {en} [into/under] the right continent!
[for ten points/last question/next question]: [the continent of {en}/which continent is {en} on]
[match/pair] the country with its continent: {en}!
of all [the /]continents, which one [has/contains/includes] {en}
[which/what] continent [contains/includes/is home to/would you say has] {en}
[my friend/my cousin/a colleague] moved to {en}, [which continent is that/on which continent is that]
A: I come from {en}. B: [which continent is that on/on which continent is that]
to [which/what] continent does {en} belong
[is it true that/am I right that] {en} is in [Europe/Asia/Africa]? [Which continent is it in/What is its continent]
the neighbours of {en} and {en} itself are on [which/what] continent
[say/write/type] the continent for {en}!
where in the world is {en}, [which/what] continent
we are planning a trip to {en}. What continent is that
in terms of continents, where is {en}
""",
    "symbol_en": """
fill in the blank: the [chemical /]symbol [of/for] {en} is ____!
complete [the sentence/this/the line]: in chemistry {en} is written [___/as ___]!
{en} [element symbol/chemical symbol/chemistry symbol/periodic table symbol]
chemical symbol {en}
[element/name]: {en}. [Symbol/Chemical symbol]: ?!
element - {en}, symbol -!
[quiz/chemistry/exam/homework] question: the symbol [of/for] {en}!
my [teacher/son/friend/tutor] asked [for/about] the symbol of {en}. [What is it/What should I write/Which letters]
I have a [chemistry/science] [test/exam/lesson] [tomorrow/today]: [what is the symbol of/how do I write the symbol for] {en}
[on/in] the periodic table, {en} [is shown as/is written as/appears as/is abbreviated] [what/which letters]
[on/in] the periodic table, [what/which] [letters stand/symbol stands] for {en}
[which/what] [letter or letters/letters/abbreviation] [does the element {en} have/do chemists use for {en}/mean {en}]
[how/with which letters] do chemists [write/abbreviate/note/denote] {en}
[how/in what way] is the element {en} [abbreviated/denoted/written] in chemistry
[name/say/write/give/show/type] the [chemical /]symbol [of/for] [the element /]{en}!
{en} is an element. [Its symbol is/What is its symbol/And its symbol/Which symbol does it have]
I [forgot/do not know/never remember/mix up] the symbol [of/for] {en}!
[could/would] you [kindly /]tell me [the symbol of {en}/how {en} is written in formulas]
in a [formula/chemical formula/chemical equation], [how do I write/what stands for/which letters stand for] {en}
abbreviation [of/for] [the element /]{en} in chemistry
what [abbreviation/short form/sign/letter code] [is used for/does chemistry use for] {en}
the element {en} [has the symbol/is given the symbol/uses the symbol] [what/which]
the symbol that [stands for/means/represents] {en} is [what/which]
[which/what] symbol [should I/do I/must I] [write/use/put] for {en}
[for ten points/last question/next question]: [the symbol of {en}/what is the symbol for {en}]
[match/pair] the element with its symbol: {en}!
hm, {en}... [what was its symbol/what was the symbol/which letters was it] again
if I want to write {en} [in short/as a symbol/with its symbol], what do I [write/put]
we are [learning/studying/revising] the elements, [now {en}/today {en}]: its symbol
A: this is {en}. B: and its symbol in chemistry
I [want/need/would like] to [know/learn/write] the symbol [of/for] {en}!
[the letters/letters] for {en} in the periodic table
for the element {en}, what is the symbol
there is a box for {en} in the periodic table. [What letters are in it/Which symbol is in it]
[which/what] symbol [belongs to/goes with] [the element /]{en}
[translate/turn] {en} into its chemical symbol!
symbol please: {en}!
the bottle contains {en}. Which [chemical /]symbol [should be on the label/is on it]
wat is the symbol for {en}
what do the chemists call {en} in symbols
""",
    "idiom_en": """
I [read/saw/heard/found] {q} in a [book/story/film/newspaper]. [What does it mean/What is its meaning in English/Please explain it in English]
my [Chinese friend/teacher/classmate/grandmother/boss] [said/used/wrote] {q}. [What does that mean/What did they mean/What is the meaning]
{q} [English meaning/meaning in English/meaning/in English/English translation/idiom meaning]
meaning of {q}
fill in the blank: {q} means ____!
complete [the sentence/this/the line]: the idiom {q} means ...!
[idiom/Chinese idiom/phrase]: {q}. [Meaning/English/Meaning in English]: ?!
[quiz/exam/homework] question: what [does/is meant by] {q}[ mean/]
[how/in what words] would you [explain/describe] {q} to [a foreigner/an English speaker/a child/a friend]
[explain/describe/tell] [to me/me] what {q} means in [simple /]English!
if someone says {q}, what [do they mean/are they saying/does it mean]
when [do/would] people say {q}, what does it mean
I am [learning/studying] Chinese and do not understand {q}!
I am [learning/studying] Chinese [idioms/sayings]. [Today/Now] it is {q}. [What does it mean/Its meaning]
[could/would] you [kindly /]explain {q}[ in English/ to me/]
[could/would] you [kindly /]tell me [what {q} means/the meaning of {q}] in English
what is [meant by/the sense of/the idea of/the message of/the idea behind] {q}
what idea does {q} [express/convey/carry/describe]
the four characters {q} [mean/stand for] what
the four characters {q}: what do they mean [together/in English/as an idiom]
the [Chinese /]idiom {q} [means/says/expresses/describes] what
in English, {q} [means/is/would be] what
in English, please: {q}!
[put/turn/render] {q} into English!
the English for {q}
I [do not know/forgot/never understood/am not sure] what {q} means!
I [want/need/would like] to [know/understand/learn] [what {q} means/the meaning of {q}]!
[any idea/any clue/do you know/do you understand] what {q} means
[give/write/say/state] the [English /]meaning of {q}!
[for ten points/last question/next question]: the meaning of {q}
what does the [Chinese /]proverb {q} [mean/say/tell us]
what does it mean to [say/write] {q}
what does it mean when [someone/a Chinese person/my friend] says {q}
{q}: what is that supposed to mean
{q}, what is that in English
A: {q}. B: [sorry, what does that mean/I do not speak Chinese, what is that in English]
can {q} be [explained/said/put] in English
[define/interpret/paraphrase] [the idiom /]{q}[ in English/]!
help me [understand/translate/explain] {q}[ in English/]!
what is the English [explanation/definition/equivalent] of {q}
I need the [English /]meaning of the idiom {q} for my [homework/essay/class]!
someone wrote {q} on my card. What does it say in English
""",
    "word_zh_en": """
what do English speakers [say for/call] {q}
what do [you/people/the English] [call/say for] {q} in English
which English word [means/stands for/is used for/translates] {q}
which word means {q} in English
in English, {q} is [called what/what/which word]
in English what is {q}
the English [word/translation/name/term] [for/of] {q} is [what/which word]
the English for {q}
fill in the blank: {q} in English is ____!
complete [the sentence/this/the line]: {q} means ___ in English!
write {q} in English!
say {q} in English!
give me the English [word /]for {q}!
tell me the English [word/name/translation] [for/of] {q}!
tell me how to say {q} in English!
turn {q} into English!
put {q} into English!
from Chinese [to/into] English: {q}!
vocabulary test: the English [word /]for {q}!
my [teacher/child/daughter/friend] asked me the English for {q}. [What is it/What should I say]
could you [kindly /]translate {q} into English
could you tell me what {q} is in English
would you tell me the English word for {q}
can you say {q} in English
can you translate the [Chinese /]word {q} [for me/into English]
do you know the English [word /]for {q}
do you know what {q} is in English
how is {q} [said/called/translated/written/expressed] in English
how would [you/an Englishman/I] say {q} in English
how should I translate {q} into English
how do you spell {q} in English
how do I [say/write] the [Chinese /]word {q} in English
i am learning English. [What is/How do I say] {q}[ in English/]
i want to [say/write] {q} in English. [How/What is the word/Which word]
i forgot the English word for {q}!
i need the English [word /]for {q}!
if I want to say {q} in English, [which word do I use/what do I say]
there is a Chinese word, {q}. What is it in English
what English word [means/corresponds to/matches] {q}
what is the English translation of {q}
what is the English name [of/for] {q}
what's the English [word/name] for {q}
translate the [Chinese /]word {q} into English!
please translate {q} to English!
next word: {q}, in English!
one word only: {q} in English!
english for {q}
english word for {q}
""",
    "word_en_zh": """
what do Chinese speakers [say for/call] {q}
what do [you/people/the Chinese] [call/say for] {q} in Chinese
which Chinese word [means/stands for/is used for/translates] {q}
which word means {q} in Chinese
in Chinese, {q} is [called what/what/which word]
in Chinese what is {q}
the Chinese [word/translation/name/term] [for/of] {q} is [what/which word]
the Chinese for {q}
fill in the blank: {q} in Chinese is ____!
complete [the sentence/this/the line]: {q} is called ___ in Chinese!
write {q} in Chinese[ characters/]!
say {q} in Chinese!
give me the Chinese [word /]for {q}!
tell me the Chinese [word/name/translation] [for/of] {q}!
tell me how to say {q} in Chinese!
turn {q} into Chinese!
put {q} into Chinese!
from English [to/into] Chinese: {q}!
vocabulary test: the Chinese [word /]for {q}!
my [teacher/child/daughter/friend] asked me the Chinese for {q}. [What is it/What should I say]
could you [kindly /]translate {q} into Chinese
could you tell me what {q} is in Chinese
would you tell me the Chinese word for {q}
can you say {q} in Chinese
can you translate the [English /]word {q} into Chinese
do you know the Chinese [word /]for {q}
do you know what {q} is in Chinese
how is {q} [said/called/translated/written/expressed] in Chinese
how would [you/a Chinese person/I] say {q} in Chinese
how should I translate {q} into Chinese
how do I write {q} in Chinese characters
how do I [say/write] the [English /]word {q} in Chinese
i am learning Chinese. [What is/How do I say] {q}[ in Chinese/]
i want to [say/write] {q} in Chinese. [How/What is the word/Which word]
i forgot the Chinese word for {q}!
i need the Chinese [word /]for {q}!
if I want to say {q} in Chinese, [which word do I use/what do I say]
there is an English word, {q}. What is it in Chinese
what Chinese word [means/corresponds to/matches] {q}
what is the Chinese translation of {q}
what is the Chinese name [of/for] {q}
what's the Chinese [word/name] for {q}
translate the [English /]word {q} into Chinese!
please translate {q} to Chinese!
next word: {q}, in Chinese!
one word only: {q} in Chinese!
chinese for {q}
chinese word for {q}
""",
}

SHAPES_EN: dict[str, tuple[str, ...]] = {
    name: tuple(text.strip().splitlines()) for name, text in {**_RELATIONS, **MEMORY_SHAPES_EN}.items()
}
