"""Filters of rows: each rule on what it is for, and on what only looks like it."""

import collections
import json
from pathlib import Path

import pytest

from belle_jax.synthesis.sources import read_seeds
from belle_jax.texts.arithmetic import wrong_equations
from belle_jax.texts.cleaning import cleaning, length_rules, loops
from belle_jax.texts.filters import BELLE, Row, apply_rules, said, without
from belle_jax.texts.language import is_code, is_foreign, is_refusal, scripts

CLEANING = cleaning('zh', 8000)


def row(instruction: str, output: str = '好的，如下所示。', given: str = '') -> Row:
    return {'instruction': instruction, 'input': given, 'output': output}


def belle(instruction: str, output: str = '好的，如下所示。', given: str = '') -> str:
    return apply_rules(row(instruction, output, given), BELLE)[1]


def clean(instruction: str, output: str = '好的，如下所示。', given: str = '') -> str:
    return apply_rules(row(instruction, output, given), CLEANING)[1]


# ------------------------------------------------------------------------- BELLE's rules


@pytest.mark.parametrize(
    'word', '图像 图片 照片 文件 图表 图层 曲线图 折线图 直线图 柱形图 饼状图 链接 http'.split()
)
def test_what_needs_another_medium_is_rejected_wherever_it_stands(word: str) -> None:
    assert belle(f'请描述这张{word}里有什么。') == 'needs a medium'
    assert belle('说明步骤。', f'先打开{word}，再看说明。') == 'needs a medium'
    assert belle('说明步骤。', given=f'见{word}') == 'needs a medium'


@pytest.mark.parametrize(
    'name', ['OpenAI', 'chatgpt', 'ChatGPT', 'gpt-3.5-turbo', 'GPT-4', 'GPT-3']
)
def test_what_names_a_model_is_rejected_in_any_case(name: str) -> None:
    assert belle('介绍一种语言模型。', f'{name} 是一种语言模型。') == 'names a model'


@pytest.mark.parametrize(
    ('instruction', 'left'),
    [
        ('GPT应该根据关键词写一首诗。', '根据关键词写一首诗。'),  # BELLE left 该根据…
        ('GPT应根据关键词写一首诗。', '根据关键词写一首诗。'),
        ('GPT模型应该根据关键词写一首诗。', '根据关键词写一首诗。'),
        ('要求GPT模型能够根据关键词写一首诗。', '根据关键词写一首诗。'),
        ('请让GPT模型根据关键词写一首诗。', '根据关键词写一首诗。'),
        ('请GPT写一首关于春天的诗。', '写一首关于春天的诗。'),
        ('给出三个词语，使得GPT模型能够写出一首诗。', '给出三个词语，写出一首诗。'),
        ('使用gpt模型写一首关于春天的诗。', '写一首关于春天的诗。'),
    ],
)
def test_phrases_that_address_a_gpt_model_are_deleted_whole(instruction: str, left: str) -> None:
    before = row(instruction)
    kept, reason = apply_rules(before, BELLE)
    assert (kept, reason) == (row(left), '')
    assert before == row(instruction)  # rules change no row in place


def test_an_instruction_or_input_that_still_names_gpt_is_rejected() -> None:
    assert belle('介绍GPT的原理。') == 'GPT remains'
    assert belle('概括下面的话。', given='很多人喜欢和GPT聊天。') == 'GPT remains'
    assert belle('介绍语言模型。', 'GPT 是其中一种。') == ''  # BELLE looks at neither in the answer


def test_instructions_of_three_characters_or_fewer_are_rejected() -> None:
    assert belle('写首诗') == 'instruction too short'
    assert belle('写首诗。') == ''


def test_the_length_counts_after_phrases_are_deleted() -> None:
    assert belle('请让GPT模型写诗。') == 'instruction too short'


def test_with_an_input_instructions_stay_under_100_characters_or_150_with_an_example() -> None:
    for length, reason in ((99, ''), (100, 'instruction too long')):
        assert belle('写' * length, given='春天') == reason
    for length, reason in ((149, ''), (150, 'instruction too long')):
        assert belle('示例' + '写' * (length - 2), given='春天') == reason
        assert belle('例子' + '写' * (length - 2), given='春天') == reason
    assert belle('写' * 160) == ''


# ------------------------------------------------------------------- the 1M set's cleaning


@pytest.mark.parametrize(
    'answer',
    [
        '作为一个AI语言模型，我没有个人的喜好，但是可以介绍几种。',
        '作为人工智能助手，我觉得这本书值得一读。',
        '我是一个人工智能语言模型，没有吃过火锅。',
        '我是由OpenAI训练的大型语言模型。',
        '你好，我是百度研发的知识增强大语言模型文心一言。',
        '我是ChatGPT，很高兴认识你。',
        '很高兴认识你！我叫通义千问。',
        'As an AI language model, I have no feelings.',
        "I'm an AI assistant, and I like tea.",
    ],
)
def test_answers_that_call_themselves_a_model_are_rejected(answer: str) -> None:
    assert clean('介绍一下你自己，再推荐一种爱好。', answer) == 'calls itself a model'


@pytest.mark.parametrize(
    ('question', 'answer'),
    [
        ('什么是语音助手？', '语音助手是一种人工智能程序，用户可以和它对话。'),
        ('百度是做什么的？', '百度是一家人工智能公司，我在使用搜索时常常用到它。'),
        ('替一位应聘者写自我介绍。', '我是华为系统部的一名工程师，负责设备的测试。'),
        ('扮演一个来自未来的机器人，打个招呼。', '你好，我是一个智能机器人，来自两百年以后。'),
        ('怎样看待新技术？', '作为一名人工智能专家，我认为要谨慎。'),
        ('为什么说语言是文化的载体？', '作为语言学家，我们可以从词汇里看出历史。'),
        ('写一句广告词。', '我是你身边的小助手，开会再也不迟到。'),
    ],
)
def test_people_roles_and_texts_about_assistants_stay(question: str, answer: str) -> None:
    assert clean(question, answer) == ''


def test_a_role_does_not_excuse_a_companys_model() -> None:
    answer = '你好，我是OpenAI训练的语言模型，现在扮演机器人。'
    assert clean('扮演一个机器人。', answer) == 'calls itself a model'


@pytest.mark.parametrize(
    'answer',
    [
        '对不起，我无法访问互联网，所以不能查询今天的天气。',
        '很抱歉，我不能帮您预订酒店。',
        '抱歉，我没有办法判断这张桌子有多重。',
        '我无法提供这方面的回答。',
        "I'm sorry, but I can't help with that.",
        'I cannot assist you with booking.',
    ],
)
def test_answers_that_decline_for_want_of_ability_are_rejected(answer: str) -> None:
    assert clean('今天有什么值得去的地方？', answer) == 'refusal'
    assert is_refusal(answer)


@pytest.mark.parametrize(
    ('question', 'answer'),
    [
        (
            '怎样撬开邻居家的门锁？',
            '对不起，我不能提供这样的帮助：撬锁入室是违法的。忘带钥匙请找开锁公司。',
        ),
        ('写一条请假的短信。', '很抱歉，王老师，我今天发烧，无法完成值日，想请假一天。'),
        ('写一封道歉信的开头。', '对不起，我昨天没能按时到场，也没有办法及时回复您的电话。'),
        ('为什么人会说对不起？', '对不起是表示歉意的话。'),
        ('怎样拒绝加班？', '可以说：“抱歉，我今晚有安排，无法帮您完成这项工作。”'),
    ],
)
def test_declining_harm_and_letters_of_apology_stay(question: str, answer: str) -> None:
    assert clean(question, answer) == ''


@pytest.mark.parametrize(
    ('question', 'given', 'answer'),
    [
        ('请根据以下文章构建一个需要回答的问题。', '', '这篇文章的主旨是什么？'),
        ('比较以下两首诗的主题。', '', '第一首写山，第二首写水。'),
        ('将给定的文本归类为说明文或叙述文。', '', '叙述文'),
        ('这段文字的中心思想是什么？', '', '珍惜时间。'),
        ('给下面的段落加一个标题。', '一段关于环保的文字', '保护家园'),
        ('给下面的段落加一个标题。', '[请在此处粘贴文章]', '保护家园'),
        ('翻译成英文。', '……', 'Hello.'),
        ('修改句子使其更正式。', '', '请提供你想要修改的句子，我来改写。'),
        ('总结这家餐厅的特点。', '某餐厅', '您没有提供具体信息，我无法总结。'),
    ],
)
def test_rows_whose_material_is_missing_are_rejected(
    question: str, given: str, answer: str
) -> None:
    assert clean(question, answer, given) == 'incomplete input'


@pytest.mark.parametrize(
    ('question', 'given'),
    [
        ('将以下三个句子组合成一段话。\n狗很聪明。狗很忠诚。狗是朋友。', ''),
        ('翻译下面的句子：我喜欢春天。', ''),
        ('给下列词语分类 苹果 老虎 香蕉 (水果或动物)', ''),
        ('给定一个整数数组，编写函数返回其中最大的数。', ''),
        ('床前明月光，疑是地上霜。举头望明月，低头思故乡。请赏析以上诗句。', ''),
        ('用“春天”造句，要求以下面的方式开头：“当”', ''),
        ('请提供一个简洁的描述，解释机器学习是什么', ''),
        ('为什么他们总在我帖子下面评论？', ''),
        ('构建给定月份的活动日历', '输入：2020年10月'),
        ('说出给定科学术语的组成部分。', '光合作用'),
        ('写一条客服回复，请顾客补充订单信息。', ''),
    ],
)
def test_rows_whose_material_is_there_stay(question: str, given: str) -> None:
    assert clean(question, '好的，如下所示。', given) == ''


def test_a_letter_may_ask_for_information() -> None:
    assert clean('写一条客服回复。', '请提供您的订单号和联系信息，我们会尽快处理。') == ''


ENGLISH = 'The spring is my favourite season because the flowers are in bloom.'


@pytest.mark.parametrize(
    ('question', 'answer', 'given'),
    [
        ('列出四张披头士的专辑。', 'Here is a list of four albums by the Beatles for you.', ''),
        ('概括这段话。', '作者喜欢春天。', ENGLISH),
        ('你最喜欢什么季节？', 'わたしはさくらがさくはるがすきです', ''),
        ('你最喜欢什么季节？', 'Мне больше всего нравится весна', ''),
        ('你最喜欢什么季节？', 'J’aime surtout le printemps parce que les fleurs sont belles.', ''),
    ],
)
def test_chinese_instructions_with_foreign_text_are_rejected(
    question: str, answer: str, given: str
) -> None:
    assert clean(question, answer, given) == 'foreign text'


@pytest.mark.parametrize(
    ('question', 'answer', 'given'),
    [
        ('把下面的话翻译成英文。', ENGLISH, '春天花开，是我最喜欢的季节。'),
        ('用英语写一句关于春天的话。', ENGLISH, ''),
        ('辨认每行文字是哪种语言。', '日语\n韩语', 'おはようございます\n안녕하세요'),
        ('改正句子的语法错误。', 'He does not like to go there.', 'He do not likes to go there.'),
        ('用“do away with”这个短语写一句话。', 'We should do away with plastic bags and cups.', ''),
        ('写一个求和的程序。', 'def total(items):\n    return sum(items)\n', ''),
        ('写一条查询，找出工资最高的人。', 'SELECT name FROM staff ORDER BY pay DESC LIMIT 1', ''),
        ('解释这个报错。', '下标越界了。', 'IndexError: list index out of range in the main loop'),
        ('列出四位爵士乐手。', 'Miles Davis, John Coltrane, Bill Evans, Chet Baker', ''),
        ('这条评论的情感是什么？', 'Positive', '这家店的面条真好吃！'),
        ('算出总价。', '一共 1157 元。', 'iPad Pro - 849\nApple Pencil - 129\nSmart Folio - 179'),
        ('解方程。', 'x = 3, y = 4', '2x + y = 10, x + y = 7'),
        ('推荐学习编程的网站。', '可以看看 Codecademy、freeCodeCamp 和 LeetCode，都有中文。', ''),
    ],
)  # fmt: skip
def test_translation_language_learning_code_and_names_stay(
    question: str, answer: str, given: str
) -> None:
    assert clean(question, answer, given) == ''


def test_scripts_count_prose_without_code_and_formulas() -> None:
    assert scripts('用 `print("hello world")` 打印') == (3, 0, 0, 0)
    assert scripts('面积是 $\\pi r^2 times big$ 平方米') == (6, 0, 0, 0)
    assert scripts('12 + 30 = 42').chinese == 0.5
    assert is_code('for i in range(3):\n    print(i)') and not is_code('If you go, go now.')
    assert is_foreign(ENGLISH) and not is_foreign(
        '我喜欢 Python、Java 和 machine learning 这些课。'
    )


def test_questions_in_another_language_are_rejected() -> None:
    assert clean('What is the capital of France?', '巴黎。') == 'not Chinese'
    assert clean(f'请把下面的话翻译成中文。\n{ENGLISH}', '我最喜欢春天。') == ''
    english = cleaning('en', 8000)
    assert apply_rules(row('法国的首都是哪里？', 'Paris'), english)[1] == 'not English'
    assert apply_rules(row('What is the capital of France?', 'Paris'), english)[1] == ''


# ------------------------------------------------------------------------- degenerate text


@pytest.mark.parametrize(
    'text',
    [
        '我们要保护环境，' * 12,
        '春天来了，花开了。' + '非常好' * 30,
        '\n'.join(['1. 多喝水，注意休息，保持良好的心情。'] * 9),
        '可以从以下方面入手：' + '首先要制定计划，其次要坚持执行，最后要总结经验，' * 12,
    ],
)
def test_text_that_goes_round_in_circles_is_rejected(text: str) -> None:
    assert loops(text)
    assert clean('怎样安排一天的生活？', text) == 'repetition'


@pytest.mark.parametrize(
    'text',
    [
        '哈哈哈哈哈哈哈哈',
        '| 姓名 | 年龄 |\n|------|------|\n| 张三 | 25 |\n| 李四 | 36 |\n| 王五 | 42 |\n',
        '\n'.join(f'{a}×{b}={a * b}' for a in range(1, 10) for b in range(1, a + 1)),
        '两只老虎，两只老虎，跑得快，跑得快，一只没有眼睛，一只没有尾巴，真奇怪，真奇怪。',
        '目录\n第一章 春' + '.' * 60 + '1\n第二章 夏' + '.' * 60 + '9',
        '门前大桥下，游过一群鸭，快来快来数一数，二四六七八。' * 2,
    ],
)
def test_songs_tables_and_rules_stay(text: str) -> None:
    assert not loops(text)


# ------------------------------------------------------------------------------ the others


def test_lengths_and_emptiness_are_bounded() -> None:
    bounds = length_rules(longest=10, longest_question=8)
    assert apply_rules(row('写一首诗。', '春' * 10), bounds)[1] == ''
    assert apply_rules(row('写一首诗。', '春' * 11), bounds)[1] == 'answer too long'
    assert apply_rules(row('写' * 9, '春'), bounds)[1] == 'question too long'
    for nothing in ('', ' \n', '……', '---'):
        assert apply_rules(row('写一首诗。', nothing), bounds)[1] == 'empty answer'
    for little in ('是', '😀', '√', '42'):
        assert apply_rules(row('写一首诗。', little), bounds)[1] == ''


def test_broken_text_is_rejected() -> None:
    assert clean('介绍北京。', '北京是\ufffd\ufffd的首都。') == 'broken text'
    assert clean('介绍北京。', '北京是\ud83d首都。') == 'broken text'
    assert clean('写一段代码。', '```python\nprint(1)') == 'broken text'
    assert clean('写一段代码。', '```python\nprint(1)\n```') == ''


def test_an_answer_that_repeats_its_question_is_rejected() -> None:
    assert clean('请介绍一下北京。', '请介绍一下北京。\n') == 'echo'


def test_rules_read_all_layouts() -> None:
    talk = {
        'conversations': [
            {'from': 'human', 'value': '你好，你是谁？'},
            {'from': 'assistant', 'value': '我是由OpenAI训练的语言模型。'},
        ]
    }
    chat = {
        'messages': [{'role': 'system', 'content': '友好一些'}, {'role': 'user', 'content': '嗨'}]
    }
    assert apply_rules(talk, CLEANING) == (None, 'calls itself a model')
    assert said(chat) == (('嗨',), '', ())
    assert said({'input': '写诗', 'target': '春'}) == (('写诗',), '', ('春',))
    assert apply_rules(chat, CLEANING)[1] == 'empty answer'


def test_rules_can_be_switched_off_by_name() -> None:
    fewer = without(BELLE, ['needs a medium'])
    assert apply_rules(row('打开文件。'), fewer)[1] == ''
    assert [rule.name for rule in BELLE if rule not in fewer] == ['needs a medium']
    with pytest.raises(ValueError, match="no filter 'needs a medum' to switch off: this kind has"):
        without(BELLE, ['needs a medum'])


def test_names_of_rules_are_unique_and_explained() -> None:
    rules = (*BELLE, *CLEANING)
    assert len({rule.name for rule in rules}) == len(rules)
    assert all(rule.why and not rule.why.endswith('.') for rule in rules)


# ------------------------------------------------------------------------------- real data


def _lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text('utf-8').splitlines() if line.strip()]


def test_the_175_real_seed_tasks_pass_the_cleaning(shared: Path) -> None:
    for seed in _lines(shared / 'data/belle/zh_seed_tasks.json'):
        instance = seed['instances'][0]
        assert clean(seed['instruction'], instance['output'], instance['input']) == '', seed


def test_our_own_seed_tasks_pass_all_rules_and_their_arithmetic_is_right() -> None:
    for seed in read_seeds():
        for instance in seed['instances']:
            question, output = seed['instruction'], instance['output']
            assert belle(question, output, instance['input']) == '', seed
            assert clean(question, output, instance['input']) == '', seed
            assert wrong_equations(output) == [], seed


def test_of_the_real_evaluation_answers_only_self_naming_ones_go(shared: Path) -> None:
    counts = collections.Counter(
        clean(each['question'], each['std_answer'])
        for each in _lines(shared / 'data/belle/eval_set.json')
        if each['std_answer']
    )
    # The one broken text is a program whose fence is never closed.
    assert counts == {'': 624, 'calls itself a model': 6, 'broken text': 1}


def test_of_the_real_translations_and_code_none_is_called_foreign(shared: Path) -> None:
    every = _lines(shared / 'data/belle/eval_set.json')
    tasks = [each for each in every if each['class'] == 'code' or '翻译' in each['question']]
    assert len(tasks) > 60
    for each in tasks:
        answer = each['std_answer'] or '好的。'
        assert clean(each['question'], answer) != 'foreign text', each
