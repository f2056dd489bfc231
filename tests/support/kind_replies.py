"""What the test server answers for the kinds other than self-instruct, with real models' faults.

As in `api_replies`: functions of the request's body and chance alone.
"""

import random
import re

from api_replies import PLACES, REMARKS, THINGS, VERBS, WAYS

# One in a reply: chances in percent.
FAULTS = {'refusal': 5, 'cut': 7, 'wrong colons': 8, 'fence': 5, 'talk': 8, 'bold': 6, 'broken': 4}
SUMS = '买了 卖出 借走 收到 用掉 装好 运走 种下'.split()
UNITS = '本 个 箱 棵 只 张 袋 盒'.split()


def multiturn(body: dict, chance: random.Random) -> tuple[str, str]:
    """A conversation of 用户 and 助手, or two."""
    talks = []
    for _ in range(chance.choice((1, 1, 2))):
        thing, turns = chance.choice(THINGS), []
        for _ in range(chance.randint(2, 5)):
            place, way = chance.choice(PLACES), chance.choice(WAYS)
            turns.append(
                f'用户：{chance.choice(VERBS)}一下{place}{thing}的{way}，再说说{chance.choice(THINGS)}？\n'
                f'助手：{"".join(chance.sample(REMARKS, 3))}{place}的{thing}有'
                f'{chance.randint(2, 90)}种讲究。'
            )
        talks.append('\n'.join(turns))
    return _spoilt('\n###\n'.join(talks), '用户：', chance)


def dialogue(body: dict, chance: random.Random) -> tuple[str, str]:
    """A dialogue of the two characters that the prompt names."""
    names = re.findall(r'^角色[一二]：(.+?)，', _prompt(body), re.M)
    said = [
        f'{names[n % 2]}：{chance.choice(REMARKS)}{chance.choice(PLACES)}的'
        f'{chance.choice(THINGS)}，{chance.choice(VERBS)}了{chance.randint(2, 60)}回，'
        f'还是{chance.choice(WAYS)}要紧。'
        for n in range(chance.randint(6, 14))
    ]
    if chance.random() < 0.04:
        said.append('路人：让一让！')
    return _spoilt('\n'.join(said), f'{names[0]}：', chance)


def math(body: dict, chance: random.Random) -> tuple[str, str]:
    """Three problems with worked answers, one in twenty of them wrong."""
    problems = []
    for _ in range(3):
        place, thing, unit = chance.choice(PLACES), chance.choice(THINGS), chance.choice(UNITS)
        boxes, each = chance.randint(3, 40), chance.randint(12, 99)
        gone = chance.randint(2, boxes * each - 1)
        left = boxes * each - gone
        wrong = chance.random() < 0.05
        problems.append(
            f'题目：{"".join(chance.sample(REMARKS, 2))}{place}的小店有{boxes}箱{thing}，'
            f'每箱{each}{unit}，{chance.choice(SUMS)}{gone}{unit}，{chance.choice(REMARKS)}'
            f'还剩多少{unit}？\n'
            f'解答：\n一共有：{boxes}×{each}={boxes * each + 10 * wrong}（{unit}）\n'
            f'还剩：{boxes * each}-{gone}={left}（{unit}）\n剩下的比原来少，结果合理。\n'
            f'答案：{left}{unit}\n'
        )
    return _spoilt('###\n'.join(problems), '题目：', chance)


def evol(body: dict, chance: random.Random) -> tuple[str, str]:
    """An instruction that goes on from the given one; one in twenty is the given one."""
    given = re.search(r'已有的指令：\n(.+)', _prompt(body))
    instruction = given[1] if given else ''
    if chance.random() > 0.05:
        instruction = (
            f'{chance.choice(VERBS)}{chance.choice(PLACES)}{chance.choice(THINGS)}的'
            f'{chance.choice(WAYS)}，不超过{chance.randint(50, 300)}字，并与'
            f'{chance.choice(PLACES)}的{chance.choice(THINGS)}作对照。'
        )
    answer = ''.join(chance.sample(REMARKS, 4))
    text = f'指令：{instruction}\n输入：<无输入>\n输出：{answer}'
    return _spoilt(text, '指令：', chance)


def label(body: dict, chance: random.Random) -> tuple[str, str]:
    """One of the categories that the prompt lists, in one of many spellings; some of none."""
    names = re.findall(r'^- ([^（\n]+)（', _prompt(body), re.M)
    name = chance.choice(names)
    if chance.random() < 0.05:
        return '很抱歉，作为一个人工智能语言模型，我无法完成这个请求。', 'stop'
    if chance.random() < 0.05:
        return '其他', 'stop'
    spelling = chance.choice(('{}', '{}。', '类别：{}', '**{}**', '“{}”', ' {}\n'))
    return spelling.format(chance.choice((name, name.title(), name.replace(' ', '_')))), 'stop'


def _prompt(body: dict) -> str:
    return str(body.get('prompt') or body['messages'][-1]['content'])


def _spoilt(text: str, first: str, chance: random.Random) -> tuple[str, str]:
    (fault,) = chance.choices([*FAULTS, ''], [*FAULTS.values(), 100 - sum(FAULTS.values())])
    if fault == 'refusal':
        return '很抱歉，作为一个人工智能语言模型，我无法完成这个请求。', 'stop'
    if fault == 'cut':
        return text[: chance.randint(len(text) // 2, len(text) - 3)], 'length'
    spoilt = {
        'wrong colons': text.replace('：', ' :'),
        'fence': f'```\n{text}\n```',
        'talk': f'好的，以下是为您写的内容：\n\n{text}\n\n###\n希望对您有帮助！',
        'bold': text.replace(first, f'**{first}** '),
        'broken': text.replace('：', '', 3),
    }
    return spoilt.get(fault, text), 'stop'
