"""The kinds of task of the quickstart's data: what is asked, in which words, and the right answer.

Every kind is a rule with very many instances, so that an answer that was never seen can only come
from the rule. All content stands in this file; nothing is downloaded.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

# Characters to copy, turn round and cut: common nouns of nature, none of them in a phrasing below.
NATURE = '山水云风雨雪花草木江湖海星石沙田林竹梅松鸟鱼马牛'
DIGITS = '零一二三四五六七八九'
PLACES = ('', '十', '百', '千')

FAMILY_NAMES = '王李张刘陈杨赵黄周吴徐孙胡朱高何郭罗'
GIVEN_NAMES = '明华强芳娜敏静丽军洋勇艳杰涛超霞平刚'
CITIES = tuple('北京 上海 广州 深圳 成都 杭州 武汉 西安 南京 重庆 天津 苏州'.split())
GOODS = ('茶叶', '毛笔', '雨伞', '帽子', '书包', '手表', '水壶', '围巾', '钢琴', '地图')
QUALITIES = '大小轻重新旧厚薄长短贵美亮暗'
VERBS = ('拿走', '弄丢', '找到', '卖掉', '送来', '藏起')

OPPOSITES = tuple('大小 高低 长短 快慢 多少 冷热 黑白 新旧 远近 轻重 早晚 前后'.split())
COUNTS = dict(zip('两三四五六七八九', 'two three four five six seven eight nine'.split()))
COLOURS = dict(
    zip('红黄蓝绿黑白紫灰棕粉', 'red yellow blue green black white purple grey brown pink'.split())
)
ANIMALS = dict(
    zip(
        '猫狗鸡鸭兔鼠猴熊羊鹅',
        'cats dogs hens ducks rabbits rats monkeys bears goats geese'.split(),
    )
)
CLASSES = {
    '水果': ('苹果', '香蕉', '葡萄', '西瓜', '桃子', '柠檬'),
    '动物': ('老虎', '大象', '猴子', '兔子', '狐狸', '骆驼'),
    '衣物': ('衬衫', '裤子', '毛衣', '裙子', '手套', '外套'),
    '交通工具': ('汽车', '火车', '飞机', '轮船', '地铁', '帆船'),
}

Draw = Callable[[random.Random], tuple[tuple, str]]


@dataclass(frozen=True)
class TaskKind:
    """One kind of task."""

    name: str  # in the data and in the printed table
    draw: Draw  # takes a random generator, returns the values for a phrasing, and the answer
    phrasings: tuple[str, ...]  # ways to ask, format strings over the drawn values
    pairs: int = 1000  # to make, held-out ones included
    new_answers: bool = True  # whether held-out answers must be ones that no training row has


def numeral(number: int) -> str:
    """An integer from 1 to 9999 in Chinese characters, as it is read (3002 is 三千零二)."""
    text, digits = '', str(number)
    for place, digit in zip(range(len(digits) - 1, -1, -1), digits, strict=True):
        if digit != '0':
            text += DIGITS[int(digit)] + PLACES[place]
        elif text and not text.endswith('零'):
            text += '零'
    text = text.rstrip('零')
    return text[1:] if text.startswith('一十') else text


def _read_number(rng: random.Random):
    number = _three_or_four_digits(rng)
    return (number,), numeral(number)


def _write_number(rng: random.Random):
    number = _three_or_four_digits(rng)
    return (numeral(number),), str(number)


def _extract(rng: random.Random):
    name, city, goods = _name(rng), rng.choice(CITIES), rng.choice(GOODS)
    return (name, city, goods), f'{name}，{city}，{goods}'


def _passive(rng: random.Random):
    name, verb, goods = _name(rng), rng.choice(VERBS), rng.choice(GOODS)
    return (name, verb, goods), f'{goods}被{name}{verb}了'


def _comparison(rng: random.Random):
    a, b = rng.sample(GOODS, 2)
    quality = rng.choice(QUALITIES)
    return (a, b, quality), f'{b}没有{a}{quality}'


def _translate(rng: random.Random):
    count, colour, animal = (rng.choice(list(words)) for words in (COUNTS, COLOURS, ANIMALS))
    return (f'{count}只{colour}{animal}',), f'{COUNTS[count]} {COLOURS[colour]} {ANIMALS[animal]}'


def _opposites(rng: random.Random):
    pairs = [pair if rng.random() < 0.5 else pair[::-1] for pair in rng.sample(OPPOSITES, 3)]
    return tuple(a for a, _ in pairs), '、'.join(b for _, b in pairs)


def _first_characters(rng: random.Random):
    words = [''.join(rng.sample(NATURE, 2)) for _ in range(3)]
    return tuple(words), ''.join(word[0] for word in words)


def _reverse(rng: random.Random):
    text = ''.join(rng.sample(NATURE, 4))
    return (text,), text[::-1]


def _date(rng: random.Random):
    year = rng.randint(1950, 2049)
    month, day = _one_or_two_digits(rng, 12), _one_or_two_digits(rng, 28)
    return (year, month, day), f'{year}-{month:02}-{day:02}'


def _clock(rng: random.Random):
    noon, hour, minute = rng.choice(('上午', '下午')), rng.randint(1, 11), rng.randint(0, 59)
    return (noon, hour, minute), f'{hour + 12 * (noon == "下午"):02}:{minute:02}'


def _price(rng: random.Random):
    yuan, fen = _one_or_two_digits(rng, 99), _one_or_two_digits(rng, 99)
    return (yuan, fen), f'{yuan}.{fen:02}元'


def _choose(rng: random.Random):
    asked, *others = rng.sample(list(CLASSES), 3)
    word = rng.choice(CLASSES[asked])
    words = [word, *(rng.choice(CLASSES[other]) for other in others)]
    rng.shuffle(words)
    return (*words, asked), word


def _parity(rng: random.Random):
    number = rng.randint(100, 9999)
    return (number,), '偶数' if number % 2 == 0 else '奇数'


def _three_or_four_digits(rng: random.Random) -> int:
    return rng.randint(100, 999) if rng.random() < 0.5 else rng.randint(1000, 9999)


def _one_or_two_digits(rng: random.Random, most: int) -> int:
    """From 1 to `most`, one digit as often as two: the padding zero is what must be learnt."""
    return rng.randint(1, 9) if rng.random() < 0.5 else rng.randint(10, most)


def _name(rng: random.Random) -> str:
    return rng.choice(FAMILY_NAMES) + rng.choice(GIVEN_NAMES)


KINDS = (
    TaskKind('读数', _read_number, ('用汉字写出数字{}。', '数字{}怎么读？')),
    TaskKind('写数', _write_number, ('用阿拉伯数字写出“{}”。', '“{}”是多少？')),
    TaskKind(
        '提取',
        _extract,
        ('{}在{}买了{}。谁在哪里买了什么？', '找出人名、城市和物品：昨天{}到{}去买{}。'),
    ),
    TaskKind('被字句', _passive, ('改成“被”字句：{}{}了{}', '把“{}{}了{}”改成被动句。')),
    TaskKind('比较句', _comparison, ('“{}比{}{}”还可以怎么说？', '换一种说法：{}比{}{}')),
    TaskKind('翻译', _translate, ('翻译成英文：{}', '“{}”用英语怎么说？'), 700),
    TaskKind('反义词', _opposites, ('写出反义词：{}、{}、{}', '“{}、{}、{}”的反义词分别是什么？')),
    TaskKind('首字', _first_characters, ('取每个词的第一个字：{}、{}、{}',)),
    TaskKind('倒写', _reverse, ('把“{}”倒过来写。',)),
    TaskKind(
        '日期', _date, ('把日期改写成数字格式：{}年{}月{}日', '{}年{}月{}日的数字写法是什么？')
    ),
    TaskKind(
        '时间',
        _clock,
        ('用二十四小时制写出：{}{}点{}分', '{}{}点{}分的二十四小时写法是什么？'),
        900,
    ),
    TaskKind('换算', _price, ('{}元{}分等于多少元？', '换算成元：{}元{}分')),
    TaskKind(
        '归类', _choose, ('{}、{}、{}中哪一个是{}？', '从{}、{}、{}里选出{}。'), new_answers=False
    ),
    TaskKind('奇偶', _parity, ('{}是奇数还是偶数？', '判断奇偶：{}'), new_answers=False),
)
