"""What the test server answers: the text of a reply, drawn from chance and what was asked.

A function of this kind takes the request's body and a `random.Random` that depends on the body and
the server's seed alone, and returns the text and the finish_reason. The server finds it by
`module:function`.
"""

import random
import re

VERBS = '解释 比较 列出 总结 描述 设计 分析 评价 改写 推荐 计算 翻译 归纳 介绍 续写 模拟'.split()
PLACES = (
    '杭州 敦煌 成都 喀什 泉州 苏州 拉萨 哈尔滨 景德镇 大理 西安 平遥 漠河 三亚 黄山 洛阳'.split()
)
THINGS = (
    '茶叶 丝绸 瓷器 古桥 夜市 园林 石窟 面食 戏曲 剪纸 年画 皮影 湿地 候鸟 梯田 古城墙 冰雕 火锅 '
    '书院 渡口 竹编 铜镜 漆器 木雕 灯会 药材 盐井 驿道 航海图 天文台 水车 邮局'
).split()
WAYS = (
    '保存方法 历史来历 制作步骤 游览路线 主要特点 常见误会 价格差别 四季变化 文化意义 安全须知 '
    '学习计划 宣传口号 维修流程 分类标准 数据统计 代表人物'
).split()
REMARKS = (
    '首先要弄清它的来历，再看它今天的用处。',
    '当地人常说，看一眼不如住一年。',
    '这一点可以从三个方面来说明。',
    '需要注意的是，不同季节差别很大。',
    '研究者为此走访了十几个村镇。',
    '其中最要紧的是把握好时间和分寸。',
    '如果条件允许，最好亲自去看一看。',
    '它的价值并不在于贵，而在于用心。',
    '由此可见，传统和新意并不矛盾。',
    '初学者往往在这里出错，不必着急。',
)
# The faults that real models' replies have, one in a reply: chances in percent.
FAULTS = {'wide colons': 8, 'no colons': 4, 'several in one': 6, 'refusal': 5, 'cut': 7}


def self_instruct(body: dict, chance: random.Random) -> tuple[str, str]:
    """Some 700 characters in BELLE's format: tasks of 指令, 输入 and 输出, between ###.

    Args:
        body: Its prompt ends with the number of the first task and 指令:.
        chance: Decides everything.
    Returns:
        The text, which goes on where the prompt stopped, and stop or length.
    """
    prompt = body.get('prompt') or body['messages'][-1]['content']
    asked = re.search(r'(\d+)\.\s*指令\s*[:：]?\s*$', prompt)
    number = int(asked[1]) if asked else 1
    (fault,) = chance.choices([*FAULTS, ''], [*FAULTS.values(), 100 - sum(FAULTS.values())])
    if fault == 'refusal':
        return '很抱歉，作为一个人工智能语言模型，我无法完成这个请求。', 'stop'
    pieces = [_task(number + n, chance) for n in range(chance.randint(4, 6))]
    if 'prompt' in body:
        pieces[0] = pieces[0].split('指令:', 1)[1]
    text = '###\n'.join(pieces)
    if fault == 'wide colons':
        text = text.replace('指令:', '指令：').replace('输入:', '输入：').replace('输出:', '输出：')
    elif fault == 'no colons':
        text = text.replace('输出:', '输出')
    elif fault == 'several in one':
        text = text.replace('###\n', '', 1)
    elif fault == 'cut':
        return text[: chance.randint(len(text) // 2, len(text) - 5)], 'length'
    return text, 'stop'


def _task(number: int, chance: random.Random) -> str:
    place, thing, way = chance.choice(PLACES), chance.choice(THINGS), chance.choice(WAYS)
    given = '<无输入>'
    if chance.random() < 0.4:
        given = f'{place}的{thing}有{chance.randint(2, 99)}处，{chance.choice(REMARKS)}'
    remarks = ''.join(chance.sample(REMARKS, chance.randint(3, 6)))
    return (
        f'{number}. 指令: {chance.choice(VERBS)}{place}{thing}的{way}，{chance.choice(VERBS)}'
        f'{chance.choice(THINGS)}与它的关系\n{number}. 输入:\n{given}\n{number}. 输出:\n'
        f'{place}的{thing}在{way}上有{chance.randint(2, 9)}个要点。{remarks}\n'
    )
