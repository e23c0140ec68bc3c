"""General text of our own, in Chinese and English: prose, instructions, code, tables and numbers."""

from __future__ import annotations

TEXTS = (
    """The harbour was quiet before sunrise. Three fishing boats lay at the wall, their nets folded on deck, and a man
in a grey coat walked slowly along the stones, counting the rings in the water. He had worked here for thirty years and
knew each boat by the sound of its engine. When the first light came over the hills he stopped, lit a small lamp in the
window of the office, and wrote the date into a thick book. Nothing had happened during the night. That was how he
liked it: a page with a date, a line about the weather, and his initials below.""",
    """How a pump lifts water. A piston moves up in a tube and leaves more room below it. The pressure of the air
outside pushes water into that room, through a valve that opens only one way. When the piston comes down again the
valve closes, and the water escapes upward through a second one. Air cannot push water higher than about ten metres,
so deep wells have their pump at the bottom instead of the top.""",
    """To make bread for four people, mix 500 g of flour with 10 g of salt and 7 g of dry yeast. Add 320 ml of warm
water and knead for ten minutes, until the dough no longer sticks to the table. Let it rest under a cloth for one hour.
Heat the oven to 230 degrees, shape the dough into a round loaf, cut the top with a sharp knife, and bake it for 35
minutes. The bread is done when it sounds hollow as you knock on its underside.""",
    """A library lends books, but it also lends time. People come in from the rain, sit down with a newspaper and stay
until closing. A student copies formulas from a shelf of old exercise books. Two children argue in whispers about which
dinosaur was the largest. The librarian does not mind the noise as long as nobody shouts, and she remembers what each
of her readers borrowed last.""",
    """Why do leaves turn red in autumn? During summer a leaf is full of chlorophyll, the green substance that catches
sunlight. When the days grow shorter the tree takes the valuable parts of it back into the branches, and yellow colours
that were there all the time become visible. Some trees also build a red one, perhaps as a sunscreen for the last weeks
of work. In the end a thin layer of cork grows at the foot of the leaf, and the wind does the rest.""",
    """Dear Ms Carter,

thank you for your letter of 14 March. We have checked the invoice and you are right: the delivery costs were counted
twice. We will transfer the difference of 18.40 to your account within five working days. Please accept our apologies
for the trouble, and for the late reply.

Yours sincerely,
Martin Hale, accounts department""",
    """def moving_average(values: list[float], width: int) -> list[float]:
    \"\"\"The mean of each run of `width` neighbouring values.\"\"\"
    if width < 1:
        raise ValueError(f"width must be positive, got {width}")
    total = sum(values[:width])
    averages = [total / width]
    for old, new in zip(values, values[width:]):
        total += new - old
        averages.append(total / width)
    return averages""",
    """class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        if not self.items:
            raise IndexError("the stack is empty")
        return self.items.pop()

    def __len__(self):
        return len(self.items)


stack = Stack()
for word in "to be or not to be".split():
    stack.push(word)
print(len(stack), stack.pop())  # 6 be""",
    """#include <stdio.h>

/* Greatest common divisor by Euclid's method. */
static unsigned gcd(unsigned a, unsigned b) {
    while (b != 0) {
        unsigned rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

int main(void) {
    for (unsigned n = 1; n <= 12; n++) {
        printf("gcd(%u, 360) = %u\\n", n, gcd(n, 360));
    }
    return 0;
}""",
    """SELECT city, COUNT(*) AS orders, ROUND(AVG(total), 2) AS mean_total
FROM orders
JOIN customers ON customers.id = orders.customer_id
WHERE orders.created_at >= '2024-01-01' AND orders.status <> 'cancelled'
GROUP BY city
HAVING COUNT(*) > 20
ORDER BY mean_total DESC
LIMIT 10;""",
    """{"name": "weather station", "position": {"latitude": 47.37, "longitude": 8.54}, "sensors": [
  {"id": 1, "kind": "temperature", "unit": "C", "values": [12.4, 12.9, 13.1, 12.7]},
  {"id": 2, "kind": "humidity", "unit": "%", "values": [71, 70, 68, 69]},
  {"id": 3, "kind": "wind", "unit": "m/s", "values": [3.2, 4.8, 4.1, 2.9]}], "is_online": true, "note": null}""",
    """| month | sales | costs | profit |
| --- | ---: | ---: | ---: |
| January | 12,400 | 9,150 | 3,250 |
| February | 11,870 | 9,020 | 2,850 |
| March | 14,310 | 9,880 | 4,430 |
| April | 13,960 | 10,240 | 3,720 |

The first third of the year brought a profit of 14,250. March was the best month, because two large orders arrived.""",
    """A triangle has sides of 5 cm, 12 cm and 13 cm. Is it a right triangle? We compare the squares: 25 + 144 = 169,
and 13 times 13 is 169 as well. By the theorem of Pythagoras turned around, the angle between the two shorter sides is a
right one. The area is therefore half of 5 times 12, which is 30 square centimetres.""",
    """Suppose a train leaves at 8:15 and travels 270 km at 90 km per hour. The journey takes 270 / 90 = 3 hours, so it
arrives at 11:15. A second train leaves at 9:00 and needs only two hours; it arrives at 11:00, fifteen minutes earlier.
If the first train were 10 km per hour faster, it would need 2.7 hours, that is 2 hours and 42 minutes.""",
    """Once there was a tailor who could not lie. When the mayor asked him whether the new coat was beautiful, he said
that the cloth was fine, the buttons were crooked and the collar was made for a thinner man. The mayor laughed, paid,
and came back the next week. "Everyone else told me it was perfect," he said, "but only your coats get better." So the
tailor became rich, although he never learned to flatter anybody.""",
    """Five rules for a clear report. First, say what you found before you say how you found it. Second, give numbers
with their units. Third, mark what is measured and what is guessed. Fourth, name the things that went wrong, since the
reader will look for them anyway. Fifth, stop when everything has been said.""",
    """The committee met on Tuesday to talk about the new bridge. Supporters pointed out that the detour through the
valley costs every driver twenty minutes a day. Opponents feared for the meadows along the river, where storks have
nested since 1987. After two hours both sides agreed on an inspection of the site, and the vote was moved to the second
week of June.""",
    """What is the difference between weather and climate? Weather is what you see when you open the window: it may rain
at noon and clear up in the evening. Climate is what you can expect, the average of many years. One cold winter says
little about the climate, just as one lost game says little about the season of a team.""",
    """Glossary. Byte: eight bits, enough for one letter of the Latin alphabet. Cache: a small and fast memory that
keeps what was used a moment ago. Compiler: a program that turns source text into machine code. Protocol: the rules by
which two computers talk. Queue: a line in which the first to come is the first to be served.""",
    """Question: My plant has yellow leaves. What should I do? Answer: Most often the cause is too much water. Put a
finger into the soil; if it is wet two centimetres down, wait a few days before you water it again. Make sure the pot
has a hole at the bottom. If the soil is dry and the leaves are yellow all the same, the plant may need more light, or
fertiliser once a month.""",
    """清晨的集市刚刚开门，卖豆腐的老人把木板一块一块地卸下来，整整齐齐地靠在墙边。街上还没有什么人，只有几只麻雀在石板路上跳来跳去。
老人烧开一壶水，泡上一杯浓茶，然后坐在小凳子上等第一位客人。他常说，做生意和做豆腐一样，火候不到不行，太急了也不行。""",
    """为什么天空是蓝色的？太阳光看起来是白色的，其实由红、橙、黄、绿、蓝、靛、紫等多种颜色组成。光线穿过大气层时，会碰到许多微小的气体
分子。波长较短的蓝光比波长较长的红光更容易被散射到四面八方，所以我们抬头时看到的大多是蓝光。到了傍晚，阳光要穿过更厚的大气，蓝光大
部分已经散掉，剩下的红光和橙光就把晚霞染成了红色。""",
    """番茄炒鸡蛋的做法：准备番茄三个、鸡蛋四个、葱一根、盐和糖少许。先把鸡蛋打散，加一点盐；番茄洗净切块。锅里放油，油热后倒入蛋液，快速
翻炒至凝固，盛出备用。再放少许油，下番茄翻炒两分钟，加半勺糖和适量的盐，等汤汁变浓以后倒回鸡蛋，拌匀，撒上葱花就可以出锅了。""",
    """各位同事：

本周五（6月14日）下午两点，在三楼会议室召开项目进度讨论会。请各小组提前准备好以下材料：一、目前完成的工作；二、遇到的问题和需要的支持；
三、下个月的计划。每组发言不超过十分钟。因故不能参加的同事，请在周四中午之前告诉王老师。谢谢配合！

办公室
2024年6月10日""",
    """小明从家到学校要走1200米。他每分钟走60米，走了8分钟以后发现忘带作业本，于是以每分钟80米的速度跑回家。问：他跑回家用了多少分钟？
解：8分钟走了60×8＝480米，跑回家需要480÷80＝6分钟。答：他跑回家用了6分钟。如果他拿到作业本以后仍以每分钟80米的速度去学校，还需要
1200÷80＝15分钟。""",
    """从前，山脚下住着一位石匠，他每天上山凿石头，日子过得很辛苦。有一天他想：要是我能变成太阳就好了，谁也不敢挡我的路。可是乌云遮住了太阳；
他又想变成云，可是大风把云吹散了；他想变成风，却吹不动那座高山。最后他想变成山，这时他听见山脚下传来叮叮当当的声音，原来是另一个石匠正
在一下一下地凿着石头。""",
    """城市里的图书馆每天早上九点开门，晚上八点关门，周一休息。办理借书证只需要身份证和一张照片，不收任何费用。每人最多可以借十本书，期限为
三十天，到期之前可以在网上续借一次。如果书有破损或者丢失，请尽快联系服务台，按照规定赔偿。""",
    """人工智能并不是一个新名词。上世纪五十年代，就有人开始思考机器能不能像人一样推理。早期的程序依靠人写的规则，只能解决很窄的问题。后来，
人们让机器从大量的例子中自己寻找规律，识别图像、翻译语言的水平都有了很大的提高。不过，机器学到的东西取决于它看到的数据，数据有偏差，结
果也会有偏差，所以使用的时候仍然需要人的判断。""",
    """def 统计词频(文本: str) -> dict[str, int]:
    次数: dict[str, int] = {}
    for 词 in 文本.split():
        次数[词] = 次数.get(词, 0) + 1
    return dict(sorted(次数.items(), key=lambda 项: 项[1], reverse=True))


print(统计词频("春 夏 秋 冬 春 秋 春"))  # {'春': 3, '秋': 2, '夏': 1, '冬': 1}""",
    """合同编号：HT-2024-0318。甲方委托乙方为其设计网站一套，总价为人民币贰万捌仟元整（¥28,000.00）。甲方在签订合同后五个工作日内支付总价的
百分之四十，验收合格后支付其余款项。乙方应于2024年8月31日之前交付；每逾期一天，按总价的千分之五支付违约金。""",
    """春分过后，白天一天比一天长。田里的小麦返青了，农民开始浇水、施肥、除草。河边的柳树抽出嫩绿的枝条，燕子从南方飞回来，在屋檐下忙着修补
旧巢。孩子们放学以后不急着回家，在操场上放风筝，有蝴蝶形的，有蜈蚣形的，线越放越长，风筝越飞越高。""",
    """问：感冒了要不要吃抗生素？答：普通感冒大多由病毒引起，抗生素对病毒没有作用，所以一般不需要吃。应该多休息、多喝水，发烧超过38.5摄氏度
可以在医生指导下服用退烧药。如果症状超过一周没有好转，或者出现呼吸困难、胸口疼痛，应当尽快去医院检查。""",
    """《望山》
一重云外一重山，
半在斜阳半在烟。
欲问来时林下路，
松风吹月到门前。""",
    """从北京到上海的高铁全程约1318公里，最快的列车用时四个多小时。二等座的票价根据车次和时间有所不同。旅客应当提前到站，凭有效身份证件验票、
安检、进站。列车上禁止吸烟，请照看好自己的行李和同行的儿童。""",
    """Translate into Chinese: "The early bird catches the worm." 早起的鸟儿有虫吃。
Translate into English: 熟能生巧。 Practice makes perfect.
Translate into Chinese: "Please turn off the light when you leave." 离开时请关灯。
Translate into English: 这本书比我想象的有意思。 This book is more interesting than I had imagined.""",
    """甲：你周末有什么打算？
乙：我想去爬山，可是天气预报说星期六有雨。
甲：那就星期天去吧，星期天多云，温度也合适。
乙：好主意！我们几点出发？
甲：早上七点半在地铁站门口见，怎么样？
乙：没问题，我带水果，你带水。""",
    """2024-05-03 08:14:22 INFO  server started on port 8080 (4 workers)
2024-05-03 08:14:25 INFO  loaded 1,204 records in 2.31 s
2024-05-03 08:15:02 WARN  request 7f3a took 1450 ms, limit is 1000 ms
2024-05-03 08:15:40 ERROR connection to 10.0.0.12:5432 lost, trying again in 5 s
2024-05-03 08:15:45 INFO  connection restored""",
    """<html>
  <head><title>Timetable</title></head>
  <body>
    <h1>Bus 42</h1>
    <ul><li>Mon to Fri: every 10 minutes</li><li>Saturday: every 20 minutes</li><li>Sunday: every hour</li></ul>
    <p>Valid from <b>1 July</b> until further notice. Questions? Write to <a href="mailto:bus@example.org">us</a>.</p>
  </body>
</html>""",
    """Let f(x) = x^3 - 6x^2 + 9x + 1. Its derivative is f'(x) = 3x^2 - 12x + 9 = 3(x - 1)(x - 3), which is zero at x =
1 and x = 3. Since f''(x) = 6x - 12 is negative at 1 and positive at 3, the function has a local maximum f(1) = 5 and a
local minimum f(3) = 1. Between them it falls; everywhere else it rises.""",
    """设数列首项为2，公差为3，求前20项的和。第20项为2＋19×3＝59，前20项的和为（2＋59）×20÷2＝610。若公差改为-1，则第20项为2－19＝-17，
前20项的和为（2－17）×20÷2＝-150。由此可见，公差的符号决定了数列的增减，而和的符号还与首项有关。""",
)
