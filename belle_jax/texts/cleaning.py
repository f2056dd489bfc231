"""The cleaning of BELLE's 1M set as rules, and what else makes a row worthless.

BELLE took out of the 1M set: answers that call themselves a GPT model, rows whose input is so
incomplete that nobody could answer, and Chinese instructions with foreign input or answer. The
exact rules were not published; these are ours, careful with what only looks alike: harmful
requests that are declined, letters of apology, translations, code, programs about "given" arrays.
"""

import re

from belle_jax.texts.filters import Rule, Said, reject_if
from belle_jax.texts.language import (
    LETTER,
    calls_itself_a_model,
    foreign_field,
    is_refusal,
    scripts,
)

# --- material that a question points to, and that is not there ------------------------------------

_MATERIAL = (
    '文章|短文|课文|全文|原文|文本|文字|文段|段落|段话|一段|句子|语句|句话|话语|单词|词语|词汇|诗歌|诗句|古诗|对话|邮件|新闻|报道|'
    '材料|资料|内容|表格|数据|列表|清单|代码|程序|故事|摘要|评论|描述|信息|选项|问题|题目|场景|情境|情景|数列|方程式?|公式|主题|'
    '关键词|关键字|标题|提纲|大纲|案例|简历|合同|歌词|聊天记录|商品|产品'
)
_HERE = r'(?=[的这是给几一两二三四五六七八九十\d])'  # 下面 and 上面 are places, too
_POINT = (
    rf'(?:以下|下面{_HERE}|下列|如下|下文|给定|给出的|所给|提供的|上述|以上|上面{_HERE}|'
    '这一?[篇段首封则组句])'
)
POINTS = re.compile(
    rf'{_POINT}(?:的|所|了|是|这|中|给出|给定|提供|一|[两二三四五六七八九十几\d]|[个篇段首封则组句条些份张道种])*?[^，。：:\n]{{0,6}}?'
    rf'(?:{_MATERIAL})'
)
# What may be "given" and is not: a program's parameters, in whose place nothing has to stand.
PROGRAM = re.compile(
    r'编写|实现|设计|创建|构建|开发|系统|模型|方法|函数|算法|程序|代码|脚本|python|java|sql|c\+\+',
    re.I,
)
MATERIAL_FOLLOWS = re.compile(r'[:：\n“"「『《【\[(（0-9A-Za-z]|[。！？!?；;][^。！？!?；;]{4,}')
PLACEHOLDER = re.compile(
    r'\W*(?:(?:请?在?(?:此处|这里|下方)|请)(?:请)?(?:输入|粘贴|插入|填写|填入|提供|附上)[^，。\n]{0,16}|'
    r'(?:输入|粘贴|插入|填写|填入|附上)(?:[一你您需要相具]|文)[^，。:：\n]{0,16}|'
    r'(?:一|某)(?:篇|段|首|封|张|份|个|组|些|则)(?:[^，。\n]{0,10})(?:文章|文本|文字|短文|新闻|报道|邮件|代码|诗歌|评论|句子|段落|'
    r'故事|材料|数据|列表)|(?:文章|文本|文字|段落|句子|新闻|代码|数据|原文|正文|具体|相关|示例)(?:的)?(?:内容|文本|正文|全文|文字)?|'
    r'(?:此处|这里)(?:为|是|省略|插入)?[^，。\n]{0,12}|略|省略|待定|待补充|暂无|[xX×_*?？]{2,}|[.…。]{2,}|无|none|null|n/?a|'
    r'(?:insert|your|paste|some|the) [\w ]{0,24}(?:text|article|content|here|input|code))\W*',
    re.I,
)
ASKS_BACK = re.compile(
    r'\A\W*(?:(?:很|非常)?(?:抱歉|对不起|不好意思)[，,]?)?(?:请(?:您|你)?(?:先|再|重新)?(?:提供|给出|输入|补充|告诉我|发送|上传)'
    r'[^。！!\n]{0,30}(?:文章|文本|文字|内容|信息|句子|段落|数据|代码|材料|问题|上下文|列表|细节|详情|输入|选项|主题)|'
    r'[^。！!\n]{0,24}(?:没有|未|并未|尚未|缺少|缺乏|没)(?:有|能)?(?:提供|给出|看到|找到|收到|输入|指定|给定|包含|任何)?[^。！!\n]{0,14}'
    r'(?:文章|文本|文字|输入|句子|段落|材料|上下文|具体(?:内容|信息)|足够的?信息|相关信息|选项|题目|列表)[^。！!\n]{0,24}'
    r'(?:无法|不能|请|没法|难以))'
)


def is_incomplete(texts: Said) -> bool:
    """Whether a row lacks what its question needs.

    So it is if the input is a placeholder, the question points to a text that follows nowhere, or
    the answer asks for it.
    """
    if texts.given:
        return PLACEHOLDER.fullmatch(texts.given) is not None or _asks_back(texts)
    instruction = texts.questions[0].strip() if texts.questions else ''
    match = POINTS.search(instruction)
    if match and len(texts.questions) == 1:
        before, after = instruction[: match.start()], instruction[match.end() :]
        back = match[0].startswith(('上', '以上', '这')) and len(before) >= 12
        given = match[0].startswith(('给', '所给', '提供'))
        program = given and PROGRAM.search(instruction)
        if not back and not program and not MATERIAL_FOLLOWS.search(after):
            return True
    return _asks_back(texts)


def _asks_back(texts: Said) -> bool:
    if len(texts.answers) != 1 or any(LETTER.search(question) for question in texts.questions):
        return False
    return ASKS_BACK.search(texts.answers[0][:120]) is not None


# --- text that goes round in circles, as models write when they lose the thread -------------------

SHORTEST = 40  # characters; below, a text may repeat itself (哈哈哈哈)
GRAM = 8
LONG = 200
# A unit of 2 to 80 characters, five times or more without a break.
LOOP = re.compile(r'(.{2,80}?)\1{4,}', re.S)
LETTERS = re.compile(r'\w')
DIFFERENT = 0.3  # share of different 8-grams of a long text


def loops(text: str) -> bool:
    """Whether a text repeats itself beyond what songs, tables and code do.

    Either one unit follows itself five times or more and fills a third of the text, or, in 200
    characters or more, less than a third of the sequences of eight characters are different.
    Rules of dashes and blanks do not count.
    """
    if len(text) < SHORTEST:
        return False
    grams = len(text) - GRAM + 1
    if grams >= LONG:
        share = len({text[at : at + GRAM] for at in range(grams)}) / grams
        # Most texts are done here: a loop that fills a third leaves fewer different sequences.
        if share > 0.85:
            return False
        if share < DIFFERENT:
            return len(LETTERS.findall(text)) * 3 >= len(text)  # less: rules and dots of tables
    looped = sum(
        match.end() - match.start()
        for match in LOOP.finditer(text)
        if len(LETTERS.findall(match[1])) * 2 >= len(match[1].strip()) and LETTERS.search(match[1])
    )
    return looped * 3 >= len(text)


# --- the rules ------------------------------------------------------------------------------------

CHARACTERS = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd\ud800-\udfff]')
NOTHING = re.compile('[\\s.。…,，;；:：_-]*')


def _not_chinese(texts: Said) -> bool:
    question = '\n'.join(texts.questions).strip()
    if scripts(question).chinese >= 0.3:
        return False
    # "请翻译：" before an English article is a Chinese question.
    return scripts(re.split('[。：:\n]', question, maxsplit=1)[0]).chinese < 0.5


def language_rule(language: str) -> Rule:
    """Rejects rows whose question is not in the language that was asked for, 'zh' or 'en'."""
    if language == 'zh':
        return reject_if('not Chinese', 'the question is in another language', _not_chinese)
    return reject_if(
        'not English',
        'the question is in another language',
        lambda texts: scripts('\n'.join(texts.questions)).chinese > 0.5,
    )


def length_rules(longest: int, longest_question: int = 2000) -> tuple[Rule, ...]:
    """Bounds in characters on answers, and on questions without their input."""
    return (
        reject_if(
            'empty answer',
            'an answer is empty, or is dots and dashes',
            lambda texts: not texts.answers or any(map(NOTHING.fullmatch, texts.answers)),
        ),
        reject_if(
            'question too long',
            f'a question has more than {longest_question:,} characters',
            lambda texts: any(len(text) > longest_question for text in texts.questions),
        ),
        reject_if(
            'answer too long',
            f'an answer has more than {longest:,} characters',
            lambda texts: any(len(text) > longest for text in texts.answers),
        ),
    )


BROKEN_TEXT = reject_if(
    'broken text',
    'it holds control characters, halves of characters or code that never ends',
    lambda texts: (
        any(CHARACTERS.search(text) for text in texts.all)
        or any(text.count('```') % 2 for text in texts.answers)
    ),
)
REPETITION = reject_if(
    'repetition', 'a text goes round in circles', lambda texts: any(map(loops, texts.all))
)
ECHO = reject_if(
    'echo',
    'an answer is its question',
    lambda texts: any(
        question.strip() == answer.strip()
        for question, answer in zip(texts.questions, texts.answers)
    ),
)
SELF_NAMING = reject_if(
    'calls itself a model', 'an answer says that it comes from an AI model', calls_itself_a_model
)
REFUSED = reject_if(
    'refusal',
    'an answer declines for want of ability',
    lambda texts: any(map(is_refusal, texts.answers, texts.questions)),
)
INCOMPLETE = reject_if(
    'incomplete input', 'the question points to a text that is not there', is_incomplete
)
FOREIGN = reject_if(
    'foreign text',
    'a Chinese instruction has an input or answer in another language',
    lambda texts: foreign_field('\n'.join(texts.questions), (texts.given, *texts.answers)),
)


def cleaning(language: str, longest: int) -> tuple[Rule, ...]:
    """All rules of this module, cheap ones first.

    Args:
        language: 'zh' or 'en'.
        longest: Characters of an answer.
    """
    chinese = (INCOMPLETE, FOREIGN) if language == 'zh' else ()
    return (
        *length_rules(longest),
        BROKEN_TEXT,
        language_rule(language),
        ECHO,
        SELF_NAMING,
        REFUSED,
        *chinese,
        REPETITION,
    )
