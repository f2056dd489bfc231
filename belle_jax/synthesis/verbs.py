"""What an instruction asks for in one word, so that a plot can show how diverse a data set is.

Chinese has no spaces and this needs no segmenter: the word is the first verb of a list, looked for
after polite words; without one the question word, and without either the first two characters.
"""

import re

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
