"""English shapes in which people tell something about themselves, and ask for it later; see `shapes_en.py`."""

# ruff: noqa: E501  (wordings are data: one list a line reads better than wrapped strings)
from __future__ import annotations

MEMORY_SHAPES_EN = {
    "memory_name": """
what was my name again
what was the name I [gave you/told you/mentioned/used/introduced myself with]
which name did I [give/tell/mention to/use with] you
which name is mine
what name do I have
what name [belongs to me/should you use for me/do I go by/have I given]
I [told/gave] you my name [before/earlier/a moment ago/at the start], [what was it/what is it/can you repeat it]
I [introduced myself/said hello and gave my name] [before/earlier/at the beginning], [who am I/so what is my name/what am I called]
[a little/small/quick/memory] test: [what is my name/who am I/what am I called]
[let's see/let me see/I wonder] if you [remember/know/still know] my name
[let's see/now], do you [remember/still know] [who I am/who you are talking to/what I am called]
[before we go on/before I go/one more thing/by the way/oh], [what is my name/do you still know my name/what did I say my name was]
who [are you talking to/is talking to you/is speaking with you/is asking you this/is chatting with you]
who is [this/it/here/the person talking to you/your conversation partner/the user]
who have you been [talking/chatting/speaking] [to/with]
do you [still/even] [remember/know] [my name/who I am/what my name is/what I am called/the name I told you]
can you still [say/recall/remember/tell me] my name
could you [please /kindly /][say/repeat/write/spell/state] my name[ for me/ again/ once more/]
would you [please /kindly /]tell me [my name/who I am/what my name is]
please [say/repeat/write/tell me] my name[ again/ once more/]
please [call/address/greet] me by my name
[greet me/say hello to me/call me] by [my /]name
use my name: who am I
how [should/do/will/would] you [address/call/greet] me
how [was/is] my name
what [do/will/would/should/can] you call me
what do [people/my friends/others/they] call me
what do I call myself
under what name do you know me
my name, [please/what is it/do you remember it/what was it]
my name is [which/what/what again/...]
my name [was/is]
and my name [is/was]
and me, [what is my name/who am I/what am I called]
I am called [what/...]
fill in the blank: my name is ___
complete [this/the sentence]: my name is ...
I [forgot/have forgotten/lost/cannot remember] my [own /]name, [what is it/can you tell me/please help]
if somebody asked you [who I am/my name/for my name], what would you [say/answer/tell them]
if my [mother/friend/boss] asked you for my name, what would you say
suppose you [write/wrote] me a [letter/card/message], [which/what] name [goes/would go/do you write] on it
suppose I had to sign this, [what/which] name would I write
whose [name did I tell you/question are you answering/friend are you]
did I [tell/mention/give] you my name, what is it
did you [note/notice/catch/get/write down/memorise/keep/save] my name, [what is it/what was it]
have you [kept/remembered/saved/noted] my name, what is it
you [know/remember] who I am, [right, what is my name/don't you/do you]
you [should know/surely know/must know] my name by now, what is it
I bet you [forgot/don't remember] my name, [what is it/who am I]
are you able to [recall/remember/say] [my name/who I am]
is my name still in your memory, what is it
from what I told you, what is my name
going back to the start, what is my name
[hello/hi] again, [who am I/do you remember my name/what is my name]
[ok/okay/good/great/fine/right/well], [now /so /and /]what is my name
[last/next/another/one more/final] question: [what is my name/who am I]
[user/speaker/person] name
what's my name, [please/dear/buddy/my friend/do you know]
wats my name
tell me who I am
tell me what [my name is/I am called/they call me/you call me]
remind me [who I am/of my name/what my name is/what I am called]
say who I am
[which/what] [first /]name did I [say/tell you/give]
I said [a/my] name at the beginning, which one
could you check what name I gave
I would like to hear my name
I want you to [say/repeat/tell me] my name
show me that you remember my name
prove that you know [who I am/my name]
name of the person you are talking to
""",
    "memory_introduction": """
good [morning/afternoon/evening/day], [I am/I'm/my name is/this is] {v}
[hello/hi/hey] there, [I am/I'm/my name is/this is/they call me/it is] {v}
[hello/hi/hey], {v} [here/is here/speaking/is my name]
{v} [here/speaking/is what people call me/is what they call me/is how I am called]
[nice/glad/pleased/happy] to meet you, [I am/I'm/my name is] {v}
[nice/good] to [see/meet] you, my name is {v}[ by the way/]
[people/my friends/my parents/everybody/my classmates/colleagues] [call me/know me as/named me] {v}
you [can/may/should/could] [call/address/name] me [as /]{v}
you are [talking/speaking/chatting] [to/with] {v}
the name is {v}
the name's {v}
my [first /full /given /own /]name [is/would be/happens to be] {v}
my parents [named/called] me {v}
my mother calls me {v}
I was [named/called/given the name] {v}[ by my parents/ by my grandfather/ at birth/]
I [go by/answer to/use] the name [of /]{v}
I go by {v}[ here/ online/ at work/]
I am known as {v}
I am called {v}
just call me {v}
call me {v}[ please/ from now on/ if you like/ for short/]
if you need a name for me, [use/take/it is] {v}
if anyone asks, [I am/my name is] {v}
[remember/keep in mind/note/don't forget/memorise]: [I am/my name is] {v}
[remember/keep/save/note/memorise] my name: {v}
[please/I want you to] [remember/note/know] that [my name is/I am called/I am] {v}
please remember that I am {v}
[first/first of all/before we start/to begin with/by the way], [my name is/I am/I'm/I'm called] {v}
[I should introduce myself/I forgot to introduce myself/let me present myself/a short introduction/about me]: [I am/my name is/I'm] {v}
may I introduce myself? [I am/My name is/I'm] {v}
allow me: {v} is my name
we have not met yet, [I am/I'm/my name is] {v}
I don't think we have met, [I am/I'm/my name is] {v}
in case you wonder, [I am/my name is] {v}
[user/username/first name/my name]: {v}
a student [named/called] {v} is [talking/speaking] to you, that is me
[I am a student/I am a teacher/I am new here/I am a traveller/I am learning Chinese] and my name is {v}
my name is {v} and I [am new here/have some questions/like to learn/am a student/need help/want to chat]
my name is {v}. [What is yours/How are you/Can you help me/Who are you]
I'm {v}. [How are you/Who are you/Good to meet you/Let's talk/Please remember]
I'm {v}, [by the way/a friend/your new user/a pupil/thanks for having me]
I am {v}, [hello/hi] [there/to you/everyone]
it's me, {v}
it's {v} [again/speaking/here]
this is {v}[ speaking/ writing/ from school/]
so, I am {v}
well, my name is {v}
everyone in my [class/family/office/team] calls me {v}
guess what, my name is {v}
on my [card/passport/badge] it says {v}, that is my name
yours truly, {v}
""",
    "memory_like": """
what [was/is] my hobby again
which hobby [do I have/is mine/did I mention/did I tell you about]
what did I [say/tell you] about my [hobby/hobbies/free time]
what [hobby/activity/pastime] [do I have/do I like/do I enjoy/did I mention]
what do I [like/love/enjoy] [doing/to do][ in my free time/ after work/ at the weekend/ most/ for fun/]
how do I [like to spend/spend] my [free time/weekends/evenings]
I told you [about my hobby/what I like/what I enjoy], [what was it/what is it/do you remember]
can you [tell me/repeat/recall/name] [my hobby/what I like/what I enjoy]
could you [please /kindly /][tell me/repeat/name] [my hobby/what I like]
do you still [know/remember] [my hobby/what I like to do/what I enjoy]
[small/quick/memory] test: [what is my hobby/what do I like]
fill in the blank: [my hobby is/I like] ___
if someone [invited me/asked you about my hobby], what would you say I like
what makes me happy in my free time
what am I fond of
what am I interested in
which activity am I fond of
[by the way/now/ok/so], what [is my hobby/do I like/do I enjoy]
remind me [what I like/of my hobby/what I enjoy]
my hobby [is what/was what/please/again]
and my hobby
what would be a good [gift/activity] for me, I mean what do I like
name my hobby
please say what I like
did I mention my hobby, what is it
""",
    "memory_introduction_like": """
I am [fond of/interested in/keen on/crazy about/a fan of/into] {v}
I [spend/pass] my [free time/weekends/evenings] with {v}
in my [free/spare] time I [like/love/enjoy/prefer] {v}
[after work/after school/on Sundays/at the weekend] I [like/enjoy/love] {v}
[nothing makes me happier/nothing is better] than {v}
{v} [makes me happy/is what I like/is what I enjoy/is my favourite thing/is fun for me]
what I [like/love/enjoy] [most/best] is {v}
my [favourite/best] [activity/pastime/hobby] is {v}
you should know that I [like/love/enjoy] {v}
remember that I [like/love/enjoy] {v}
as a hobby I have {v}
my friends know that I love {v}
since I was a child I have loved {v}
I have a hobby: {v}
hobby: {v}
""",
    "memory_city": """
where [was/is] my [home/home town/house] again
where did I [say/tell you] [I live/I am from/I come from/my home is]
which [city/town/place] [do I live in/is my home/am I from/do I come from/did I mention]
what [city/town/place] [do I live in/am I from/do I come from/did I name]
in [which/what] [city/town/place] do I live
I told you where I [live/come from/am from], [where was it/what did I say/do you remember]
can you [tell me/repeat/recall] where I [live/am from/come from]
could you [please /kindly /][tell me/repeat] where I [live/am from]
do you still [know/remember] where [I live/I am from/my home is]
[small/quick/memory] test: where [do I live/am I from/is my home]
fill in the blank: I live in ___
if you sent me a [letter/card/parcel], [to which city/where] would it go
[by the way/now/ok/so], where [do I live/am I from/is my home]
remind me where I [live/am from/come from]
my home town [is/was] what
my home [is where/is in which city]
and my [city/home/home town]
where can you find me
where should you visit me
name the place where I live
please say where I [live/am from]
what is my [city/home town/place]
did I mention where I live, where is it
from where do I come
""",
    "memory_introduction_city": """
I [currently live/live/am living/stay/work/study/spend my days] in {v}
I [was born/grew up/was raised] in {v}
I am [writing/calling/talking to you] from {v}
I [come/am/hail] [originally /]from {v}
my [house/home/flat/family/apartment] is in {v}
my family [lives/and I live] in {v}
{v} is [where I live/where I am from/the city I live in/the place I come from/my home/my city]
the [place/city/town] where I live is [called /]{v}
greetings from {v}
[hello/hi] from {v}
remember that I [live in/am from/come from] {v}
you should know that I live in {v}
for years I have lived in {v}
home for me is {v}
city: {v}
""",
    "memory_age": """
what [was/is] my age again
how old did I [say/tell you] [I am/I was]
what age did I [mention/give/tell you/say]
how many years [old am I/have I lived]
how many years old am I
I told you [my age/how old I am], [what was it/how old am I/do you remember]
can you [tell me/repeat/recall] [my age/how old I am]
could you [please /kindly /][tell me/repeat] [my age/how old I am]
do you still [know/remember] [my age/how old I am]
[small/quick/memory] test: how old am I
fill in the blank: I am ___ years old
how many candles [are/should be/go] on my [cake/birthday cake]
[by the way/now/ok/so], [how old am I/what is my age]
remind me [how old I am/of my age]
my age [is/was] what
my age, [please/what is it]
and my age
which number is my age
what number of years am I
please say [how old I am/my age]
did I mention my age, what is it
if someone asks you how old I am, what do you say
""",
    "memory_introduction_age": """
I [just turned/have just turned/turned] {v}[ this year/ this month/ yesterday/]
I have lived for {v} years
this year I [am/became/turned] {v}[ years old/]
today I [am/become/turn] {v}[ years old/]
my age [is now/right now is/happens to be] {v}
at the moment I am {v} years old
you should know that I am {v} years old
remember that I am {v} years old
I celebrated my birthday and am {v} now
I have {v} candles on my cake this year
{v} is my age
{v} years old is what I am
age: {v}
in years I am {v}
by now I am {v} years old
""",
    "memory_job": """
what [was/is] my [job/profession/occupation/work] again
what did I [say/tell you] [my job is/I do/I work as/about my job]
which [job/profession/occupation] [do I have/is mine/did I mention]
what [job/profession] [do I have/did I mention/am I in]
what do I do [for a living/for work/all day/as a job]
how do I [earn my money/make my living/earn my living]
I told you [my job/what I do], [what was it/what is it/do you remember]
can you [tell me/repeat/recall/name] [my job/what I do/my profession]
could you [please /kindly /][tell me/repeat/name] [my job/my profession]
do you still [know/remember] [my job/what I do/what I work as]
[small/quick/memory] test: what is my job
fill in the blank: I work as a ___
[by the way/now/ok/so], what [is my job/do I work as/is my profession]
remind me [what my job is/of my job/what I do]
my job [is/was] what
and my job
what is written on my business card as my job
as what do I work
name my [job/profession]
please say what my job is
did I mention my job, what is it
""",
    "memory_introduction_job": """
I am [working/employed] as a {v}
I [earn my living/make my living/earn my money] as a {v}
I [became/trained to be/have become] a {v}
my [profession/occupation/work/job] is {v}
by [profession/trade/training] I am a {v}
for a living I work as a {v}
you should know that I am a {v}
remember that I am a {v}
every day I go to work as a {v}
at work I am a {v}
I have worked as a {v} for [ten/five/three/many] years
they hired me as a {v}
job: {v}
""",
    "memory_colour": """
what [was/is] my [favourite/favorite] [colour/color] again
which [colour/color] [is my favourite/did I mention/do I like best/do I prefer]
what [colour/color] [do I like/do I love/do I like best/do I prefer/did I mention]
what did I [say/tell you] about my favourite [colour/color]
I told you my favourite [colour/color], [what was it/which one/do you remember]
can you [tell me/repeat/recall/name] my favourite [colour/color]
could you [please /kindly /][tell me/repeat] which [colour/color] I like
do you still [know/remember] [which colour I like/my favourite color]
[small/quick/memory] test: which [colour/color] do I like
fill in the blank: my favourite [colour/color] is ___
if you [bought me a shirt/painted my room], in which [colour/color] should it be, I mean my favourite
[by the way/now/ok/so], what is my favourite [colour/color]
remind me of my favourite [colour/color]
my favourite [colour/color] [is/was] what
and my favourite [colour/color]
name the [colour/color] I like
please say which [colour/color] I like
of all [colours/colors], which one do I like best
""",
    "memory_introduction_colour": """
of all [colours/colors] I [like/love/prefer] {v}[ best/ most/]
the [colour/color] I [love/prefer/like most] is {v}
I [love/prefer] the [colour/color] {v}
no [colour/color] is nicer to me than {v}
{v} is the [colour/color] I [love/like/prefer]
remember that my favourite [colour/color] is {v}
you should know that I like the colour {v}
all my clothes are {v}, it is my favourite [colour/color]
my room is {v}, my favourite [colour/color]
favourite [colour/color]: {v}
""",
}
MEMORY_SHAPES_EN["memory_hobby"] = MEMORY_SHAPES_EN["memory_like"]
MEMORY_SHAPES_EN["memory_introduction_hobby"] = MEMORY_SHAPES_EN["memory_introduction_like"]
