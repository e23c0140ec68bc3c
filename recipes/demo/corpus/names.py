"""Names composed at random, by the thousand, so that the model learns to copy a name and not to recall one."""

from __future__ import annotations

from random import Random

SURNAMES = "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎余潘杜戴夏钟汪田任姜范方石姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段雷钱汤尹黎易常武乔贺赖龚文庞樊兰殷施陶洪翟安颜倪严牛温芦季俞章鲁葛伍韦申尤毕聂焦向柳邢岳齐梅莫庄辛管祝左涂谷祁时舒耿牟卜路詹关苗凌费纪靳盛童欧甄项曲成游阳裴席卫查屈鲍位覃霍翁隋植甘景薄单包司柏宁柯阮桂闵解强柴华车冉房边"
DOUBLE_SURNAMES = "欧阳|司马|上官|诸葛|东方|皇甫|慕容|令狐|夏侯|南宫|端木|司徒".split("|")
GIVEN = "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英华玉萍红玲芬燕彬鹏浩凯鑫波斌宇健俊帆雪琳晨阳欣怡佳慧思雨梦琪子轩然嘉诚天宁安乐康文博学海山川云龙春秋冬夏月星光辉国庆建民志远新宏大成功永福德才良善美真心诗书画音清白青松竹梅兰菊荷晓晴瑶璐璇婷媛颖茜蕾薇菲倩岚蓉莉莲珍珠瑾瑜琦珊瑞祥吉贵荣昌盛兴旺达顺利和睦仁义礼智信忠孝廉勤奋进取毅坚恒峰岩石林森柏杨柳枫桐楠樟榕泽润泉溪江河湖涵淳洁澄澜潇渊浪航舟帅冠群英雄杰豪迈朗旭昊昕晖晔曦阅悦怀恩念慈惠敬谦逊温柔雅致宜宛若依彤丹紫蓝金银锦绣绮罗绫纱素尘凡空灵奇妙巧一二三九千百万亿"
PREFIXES = "小|阿|老|大".split("|")
FIRST_NAMES = """Tom Jack Mary Lucy Anna Peter John Alice Bob David Emma Grace Henry Jane Kate Leo Mike Nancy Oscar Paul Rose Sam Tina Victor Wendy Frank Helen Ivan Julia Kevin Laura Martin Nora Olivia Patrick Quentin Rachel Simon Thomas Ursula Vera
William Xavier Yvonne Zoe Aaron Abigail Adam Adrian Agnes Alan Albert Alex Alexander Alfred Alison Amanda Amber Amelia Amy Andrea Andrew Angela Angus Anita Anne Anthony Antonio April Arthur Ashley Audrey Austin Barbara Barry Beatrice Ben Bernard Beth Betty Bill
Billy Bonnie Brad Brenda Brian Bridget Bruce Bryan Calvin Cameron Carl Carla Carlos Carmen Carol Caroline Catherine Cecilia Charles Charlie Charlotte Chloe Chris Christina Clara Claire Clark Claudia Colin Connie Craig Cynthia Daisy Daniel Daphne Dean Deborah Dennis
Derek Diana Diego Dominic Donald Donna Dora Doris Dorothy Douglas Duncan Dylan Earl Edgar Edith Edmund Edward Edwin Eileen Elaine Eleanor Eli Elijah Elizabeth Ella Ellen Elliot Elsa Elsie Emily Eric Erica Ernest Esther Ethan Eugene Eva Evan Evelyn Faith Felix
Fiona Flora Florence Frances Francis Fred Freda Gabriel Gail Gary Gavin Gemma George Gerald Gina Glen Gloria Gordon Graham Greg Gregory Greta Gus Guy Hannah Harold Harriet Harry Harvey Hazel Heather Hector Heidi Herbert Holly Hope Howard Hugh Hugo Ian Ida Irene Iris
Irma Isaac Isabel Isla Jacob Jacqueline Jake James Jamie Janet Janice Jason Jasper Jean Jeff Jenny Jeremy Jerry Jesse Jessica Jill Jim Jimmy Joan Joanna Joe Joel Johnny Jonathan Jordan Joseph Joshua Joy Joyce Judith Judy Julian Julie June Justin Karen Karl Kathy
Katie Keith Kelly Ken Kenneth Kim Kurt Kyle Larry Lauren Lawrence Leah Lee Lena Leonard Leslie Lewis Liam Lilian Lily Linda Lisa Liz Logan Lois Lola Louis Louise Lucas Luke Lydia Lynn Mabel Maggie Malcolm Marcus Margaret Maria Marie Marilyn Mark Marlene Martha
Mason Matthew Maureen Max Maxine May Megan Melanie Melissa Michael Michelle Mildred Miles Milo Miriam Molly Monica Morgan Muriel Nadia Naomi Natalie Nathan Neil Nicholas Nicole Nigel Nina Noah Noel Norman Oliver Otto Owen Pamela Patricia Paula Pauline Penny Percy
Philip Phoebe Phyllis Polly Rachael Ralph Ray Raymond Rebecca Reginald Rex Richard Rick Rita Robert Robin Rodney Roger Roland Ronald Rosa Rosemary Ross Roy Ruby Rupert Russell Ruth Ryan Sabrina Sally Samantha Samuel Sandra Sara Sarah Scott Sean Sebastian Shane
Sharon Sheila Shirley Sidney Sophia Sophie Stacy Stanley Stella Stephen Steve Stuart Sue Susan Sylvia Ted Teresa Terry Theo Tiffany Timothy Toby Tony Tracy Trevor Vanessa Vernon Victoria Vincent Viola Violet Virginia Vivian Walter Warren Wayne Wilma Winston Yolanda Zack""".split()
_ONSETS = "b c d f g h j k l m n p r s t v w z br ch dr fl gr kr pl sh st th tr".split()
_VOWELS = "a e i o u ai ea ee ia io".split()
_CODAS = ["", "", "", "n", "l", "r", "s", "m", "x", "nd", "th", "k"]


def chinese_name(rng: Random) -> str:
    """A Chinese full name, now and then a nickname."""
    if rng.random() < 0.1:
        return rng.choice(PREFIXES) + rng.choice(GIVEN if rng.random() < 0.5 else SURNAMES)
    surname = rng.choice(DOUBLE_SURNAMES) if rng.random() < 0.04 else rng.choice(SURNAMES)
    return surname + "".join(rng.choice(GIVEN) for _ in range(rng.choice([1, 2, 2])))


def invented_word(rng: Random, syllables: tuple[int, int] = (1, 3)) -> str:
    """A pronounceable word that means nothing, capitalised."""
    parts = [rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(rng.randint(*syllables))]
    return "".join(parts).capitalize()


def english_name(rng: Random) -> str:
    """An English first name, sometimes invented, sometimes with a family name."""
    name = rng.choice(FIRST_NAMES) if rng.random() < 0.65 else invented_word(rng, (2, 2))
    return f"{name} {invented_word(rng, (1, 2))}" if rng.random() < 0.08 else name
