"""What a report says about the kept rows and the course of a run, counted in one pass."""

import array
import math
import random
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from belle_jax.texts.filters import said

UNLABELLED = '(no category)'
OTHERS = '…'  # the end of a verb that is only an instruction's first two characters
REPLIES = 10  # of a stretch whose acceptance is shown, at least
STRETCHES = 40  # at most, in a plot
BINS, EVEN = 24, 20  # of lengths, at most, what is longest aside; of similarities

# Chinese has no spaces, and this needs no segmenter: what an instruction asks for is the first verb
# of this list, looked for after polite words; without one its question word.
COMMON = (
    '安排 扮演 帮助 比较 编写 给出 编造 编制 标出 标注 标记 补充 补全 猜测 策划 查找 阐述 陈述 '
    '重写 创建 创作 创造 纠正 归纳 归类 打分 代入 点评 调整 定义 对比 翻译 反驳 仿写 分析 分类 '
    '分辨 分解 辨认 辨别 概括 概述 改成 改写 改正 改编 改用 告诉 估算 估计 构思 构建 规划 还原 '
    '合并 画出 换成 回答 回复 汇总 绘制 计算 计划 检查 检验 检测 简述 讲述 讲解 讲清 校对 解答 '
    '解读 解方程 解释 介绍 纠错 举出 举例 开发 列出 列举 论述 论证 描述 描写 描绘 命名 模仿 模拟 '
    '拟定 拟写 排列 排序 判断 判定 匹配 评价 评估 评论 评分 拼写 启发 起草 取名 起名 求解 区分 '
    '圈出 润色 删去 删除 删掉 设计 设想 审核 生成 实现 识别 说出 说清 搜集 收集 缩写 缩成 谈谈 '
    '探讨 讨论 提供 提出 提取 提炼 挑选 替换 填写 填空 填入 统计 推荐 推断 推理 推导 完成 完善 '
    '虚构 续写 写出 写下 形容 修复 修改 选出 选择 选取 叙述 压缩 验证 演示 优化 预测 预估 阅读 '
    '运行 造句 摘出 摘录 找出 找到 诊断 整理 证明 执行 指出 制定 制作 转换 转化 转述 撰写 追问 '
    '总结 组成 做出 译成 译为 翻成 抽成 抽取 拆成 拆分 归为 回应 应对 建议 解决 处理 表达 展示 '
    '展开 确定 选用 输出 返回 打印 调试 测试 重构 查询'
).split()  # fmt: skip
SHORT = '写列找改说讲算求编译答选填猜补想评画读拟造'  # as a verb alone, at the beginning
POLITE = re.compile(
    r'^(?:你好[，,！!]?|您好[，,！!]?|请问|请你|请您|请|麻烦你?|劳驾|帮我|帮忙|帮|给我|替我|为我|'
    r'能不能|能否|可不可以|可否|可以|你能|您能|你可以|我想让你|我希望你|我需要你|我要你|现在|接下来|尝试|试着|'
    r'\s|[，,])+'
)
QUESTIONS = {
    '为什么': '为什么', '为何': '为什么', '怎么': '怎样', '怎样': '怎样', '如何': '怎样',
    '什么': '什么', '哪': '哪', '谁': '谁', '多少': '多少', '有几': '多少', '几点': '多少',
    '吗': '吗', '是不是': '吗', '是否': '吗', '能不能': '吗', '要不要': '吗', '还是': '还是',
}  # fmt: skip
# 说明 is a noun in 说明书, 这段说明里.
VERB = re.compile('|'.join(sorted(COMMON, key=len, reverse=True)) + '|说明(?![书文里太])')
QUESTION = re.compile('|'.join(sorted(QUESTIONS, key=len, reverse=True)))
HAN = re.compile('[㐀-鿿]')
WORD = re.compile(r"[a-z][a-z'-]*")
ENGLISH_POLITE = frozenset('please kindly now can could would you will i want need to'.split())


class Point(NamedTuple):
    """How far a run was after some reply; everything is counted from the beginning.

    Attributes:
        replies: Replies used.
        candidates: Rows that they held, rejected ones included.
        kept: Rows kept.
        prompt_tokens: Tokens sent.
        completion_tokens: Tokens received.
        usd: What it cost; 0 if no price is known.
    """

    replies: int = 0
    candidates: int = 0
    kept: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0


class Sample(NamedTuple):
    """A kept row, for people."""

    turns: tuple[tuple[str, str], ...]  # who or what, and the text
    category: str
    similarity: float | None


@dataclass
class RowStatistics:
    """What was counted of the kept rows.

    Attributes:
        rows: How many.
        categories: Rows by category; empty if no row has one.
        verbs: Rows by the word that stands for the instruction.
        verbs_of: The same by category.
        lengths: Characters of the first instruction, its input and all answers: how many rows have
            that many. Rows without input are not in `input`.
        questions: Questions of a conversation.
        similarities: Of the rows that have one.
        samples: A few rows, drawn evenly, always the same for the same rows.
    """

    rows: int = 0
    categories: Counter[str] = field(default_factory=Counter)
    verbs: Counter[str] = field(default_factory=Counter)
    verbs_of: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    lengths: dict[str, Counter[int]] = field(
        default_factory=lambda: {name: Counter() for name in ('instruction', 'input', 'output')}
    )
    questions: Counter[int] = field(default_factory=Counter)
    similarities: array.array = field(default_factory=lambda: array.array('d'))
    samples: list[Sample] = field(default_factory=list)


def count(rows: Iterable[Mapping[str, Any]], samples: int) -> RowStatistics:
    """Counts rows of any layout, in one pass.

    Args:
        rows: The kept rows, with category and similarity where there are any.
        samples: How many rows to keep as examples.
    Returns:
        The counts.
    """
    found, draw = RowStatistics(), random.Random(0)
    chosen: list[tuple[int, Mapping[str, Any]]] = []
    for row in rows:
        texts = said(dict(row))
        instruction = texts.questions[0] if texts.questions else ''
        category = str(row.get('category') or UNLABELLED)
        word = verb(instruction)
        found.categories[category] += 1
        found.verbs[word] += 1
        found.verbs_of[category][word] += 1
        found.lengths['instruction'][len(instruction)] += 1
        found.lengths['output'][sum(map(len, texts.answers))] += 1
        found.questions[len(texts.questions)] += 1
        if texts.given:
            found.lengths['input'][len(texts.given)] += 1
        if (similarity := _similarity(row)) is not None:
            found.similarities.append(similarity)
        # Reservoir sampling: every row has the same chance, however many there will be.
        place = found.rows if found.rows < samples else draw.randrange(found.rows + 1)
        if place < samples:
            chosen[place : place + 1] = [(found.rows, row)]
        found.rows += 1
    if set(found.categories) <= {UNLABELLED}:
        found.categories.clear()
    found.samples = [_sample(row) for _, row in sorted(chosen, key=lambda pair: pair[0])]
    return found


def stretches(points: Sequence[Point]) -> tuple[int, list[Point]]:
    """The course of a run at even distances.

    Args:
        points: In order; as many as there are.
    Returns:
        The replies of a stretch, a round number; the state at the end of each, a short last one
        included if there is nothing else or it is a quarter as long.
    """
    if not points:
        return REPLIES, []
    replies = points[-1].replies
    size = next(n for n in _round_numbers() if n >= REPLIES and replies <= STRETCHES * n)
    ends, due = [], size
    for point in points:
        if point.replies >= due:
            ends.append(point)
            due = (point.replies // size + 1) * size
    last = points[-1]
    if not ends or last.replies - ends[-1].replies >= size / 4:
        ends.append(last)
    return size, ends


def bins(counts: Mapping[int, int]) -> list[tuple[float, float, int]]:
    """Bins of even, round width for lengths, whose tail is long.

    Args:
        counts: How many rows have a length.
    Returns:
        For each bin its first length, the length that it ends before, and its rows. What lies above
        the 98th percentile is in a last bin that ends at infinity.
    """
    total, running, last = sum(counts.values()), 0, 0
    for length in sorted(counts):
        running, last = running + counts[length], length
        if running >= 0.98 * total:
            break
    width = next(w for w in _round_numbers() if (last + 1) / w <= BINS)
    number = math.ceil((last + 1) / width)
    heights = [0] * (number + 1)
    for length, rows in counts.items():
        heights[min(length // width, number)] += rows
    ends = [*range(width, (number + 1) * width, width), math.inf]
    found = [(float(i * width), end, n) for i, (end, n) in enumerate(zip(ends, heights))]
    return found if heights[-1] else found[:-1]


def even_bins(values: Sequence[float]) -> list[tuple[float, float, int]]:
    """Bins of similarities: from 0 to 1, or to the largest where a score goes beyond.

    Returns:
        For each bin where it begins and ends, and its rows.
    """
    top = float(max(1, math.ceil(max(values, default=0))))
    heights = [0] * EVEN
    for value in values:
        heights[max(0, min(int(value / top * EVEN), EVEN - 1))] += 1
    return [(i * top / EVEN, (i + 1) * top / EVEN, n) for i, n in enumerate(heights)]


def median(counts: Counter[int]) -> int:
    """The median of counted lengths, the lower one of two."""
    return statistics.median_low(counts.elements())


def _round_numbers() -> Iterable[int]:
    scale = 1
    while True:
        yield from (scale, 2 * scale, 5 * scale)
        scale *= 10


def _similarity(row: Mapping[str, Any]) -> float | None:
    value = row.get('similarity')
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _sample(row: Mapping[str, Any]) -> Sample:
    texts = said(dict(row))
    if 'conversations' in row or 'messages' in row:
        turns = [('user', text) for text in texts.questions]
        answers = [('assistant', text) for text in texts.answers]
        mixed = [turn for pair in zip(turns, answers) for turn in pair] + turns[len(answers) :]
    else:
        mixed = [('instruction', texts.questions[0]), ('input', texts.given)]
        mixed = [turn for turn in mixed if turn[1]] + [('output', texts.answers[0])]
    return Sample(tuple(mixed), str(row.get('category') or ''), _similarity(row))


def verb(instruction: str) -> str:
    """The word that stands for an instruction.

    Args:
        instruction: Chinese, or a language with spaces between words.
    Returns:
        A verb of the list, a question word, or the first two characters followed by '…'; for other
        languages the first word in lower case, polite ones aside; '' for an empty instruction.
    """
    text = instruction.strip()
    if not HAN.search(text):
        words = WORD.findall(text.lower())
        return next((word for word in words if word not in ENGLISH_POLITE), ''.join(words[:1]))
    text = POLITE.sub('', text) or text
    if found := VERB.match(text):
        return found[0]
    if text[0] in SHORT:
        return text[0]
    found, question = VERB.search(text), QUESTION.search(text)
    if question and (not found or '？' in text or '?' in text):
        return QUESTIONS[question[0]]
    return found[0] if found else f'{text[:2]}…'
