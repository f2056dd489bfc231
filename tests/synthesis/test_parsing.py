"""Replies in BELLE's numbered format, as models write them: each rule and each mended bug."""

from belle_jax.synthesis.parsing import TASK, Candidate, plain
from belle_jax.synthesis.turns import Speakers

OPENING = '4. 指令:'
SPEAKERS = Speakers({'human': ('用户', 'Human'), 'assistant': ('助手', 'Assistant')})


def read(text: str, cut: bool = False) -> list[Candidate]:
    return TASK.read(text, cut, OPENING)


def rows(text: str, cut: bool = False) -> list[tuple[str, str, str]]:
    found = [candidate.row for candidate in read(text, cut)]
    return [(row['instruction'], row['input'], row['output']) for row in found if row]


def reasons(text: str, cut: bool = False) -> list[str]:
    return [candidate.rejected for candidate in read(text, cut)]


WHOLE = """ 写一首关于秋天的四行诗。
4. 输入:
<无输入>
4. 输出:
秋风扫落叶，
寒露湿青苔。
雁字南飞去，
何时带信来。
###
5. 指令: 把下面的句子翻译成英文。
5. 输入:
我最喜欢的季节是春天。
5. 输出:
My favorite season is spring.
###"""


def test_a_reply_goes_on_from_the_label_with_which_the_prompt_ended() -> None:
    assert rows(WHOLE) == [
        ('写一首关于秋天的四行诗。', '', '秋风扫落叶，\n寒露湿青苔。\n雁字南飞去，\n何时带信来。'),
        ('把下面的句子翻译成英文。', '我最喜欢的季节是春天。', 'My favorite season is spring.'),
    ]


def test_a_reply_that_repeats_the_label_is_read_the_same() -> None:
    assert rows('###\n4. 指令:' + WHOLE) == rows(WHOLE)
    assert rows('4. 指令：' + WHOLE) == rows(WHOLE)


def test_colons_may_be_half_or_full_width_and_mixed() -> None:
    wide = WHOLE.replace(':', '：')
    mixed = WHOLE.replace('输入:', '输入：').replace('5. 指令:', '5．指令 :')
    assert rows(wide) == rows(mixed) == rows(WHOLE)


def test_line_ends_of_windows_and_invisible_characters_change_nothing() -> None:
    odd = '\ufeff' + WHOLE.replace('\n', '\r\n').replace('指令', '指\u200b令')
    assert rows(odd) == rows(WHOLE)


def test_the_last_piece_of_a_cut_reply_is_dropped_with_its_text() -> None:
    cut = WHOLE.removesuffix('###') + '###\n6. 指令: 请列出三个节约用水的办法。\n6. 输入:\n<无输'
    assert rows(cut, cut=True) == rows(WHOLE)
    last = read(cut, cut=True)[-1]
    assert (last.rejected, last.row) == ('truncated', None)
    assert last.detail.startswith('6. 指令: 请列出三个节约用水的办法。')


def test_a_cut_answer_that_looks_whole_is_dropped_too() -> None:
    assert reasons(WHOLE.removesuffix('\n###'), cut=True) == ['', 'truncated']


def test_a_reply_cut_after_a_separator_loses_nothing() -> None:
    assert reasons(WHOLE, cut=True) == ['', '']


def test_without_separators_all_tasks_are_read_not_the_first_alone() -> None:
    joined = WHOLE.replace('###\n', '').removesuffix('###')
    assert rows(joined) == rows(WHOLE)


def test_tasks_on_one_line_are_read() -> None:
    line = (
        ' 给出“快乐”的反义词。 4. 输入：<无输入> 4. 输出：悲伤 '
        '5. 指令：概括这句话。 5. 输入：今天下雨，比赛取消了。 5. 输出：比赛因雨取消。'
    )
    assert rows(line) == [
        ('给出“快乐”的反义词。', '', '悲伤'),
        ('概括这句话。', '今天下雨，比赛取消了。', '比赛因雨取消。'),
    ]


def test_labels_without_numbers_inside_a_line_are_read_as_belle_reads_them() -> None:
    assert rows('指令: 说出中国的首都。 输入: <无输入> 输出: 北京') == [
        ('说出中国的首都。', '', '北京')
    ]


def test_the_number_of_the_next_task_is_stripped() -> None:
    left = WHOLE.removesuffix('###') + '6.'
    assert rows(left) == rows(WHOLE)


def test_numbers_that_end_an_input_or_an_answer_stay() -> None:
    text = """4. 指令: 计算两个数的和。
4. 输入:
12 和 8
4. 输出:
得数是
20
###
5. 指令: 圆周率取两位小数是多少？
5. 输入: <无输入>
5. 输出: 3.14"""
    assert rows(text) == [
        ('计算两个数的和。', '12 和 8', '得数是\n20'),
        ('圆周率取两位小数是多少？', '', '3.14'),
    ]


def test_an_input_that_says_there_is_none_is_empty() -> None:
    for none in (
        '<无输入>',
        '＜无输入＞',
        '无输入',
        '（无输入）',
        '[无输入]。',
        '无',
        'N/A',
        '<noinput>',
    ):
        text = WHOLE.replace('<无输入>', none)
        assert rows(text) == rows(WHOLE), none


def test_a_text_that_mentions_无输入_is_not_emptied() -> None:
    program = '程序启动后五秒内无输入则自动退出，请补充这一条说明。'
    text = (
        f'4. 指令: 润色下面的说明。\n4. 输入:\n{program}\n4. 输出:\n若五秒内没有输入，程序将退出。'
    )
    assert rows(text)[0][1] == program


def test_what_a_chat_model_says_first_is_no_part_of_an_instruction() -> None:
    text = '好的，以下是为您编写的新任务：\n\n###\n4. 指令:' + WHOLE
    assert rows(text) == rows(WHOLE)
    assert reasons(text) == ['', '']
    without_separator = '好的，以下是更多的任务指令：\n4. 指令:' + WHOLE
    assert rows(without_separator) == rows(WHOLE)


def test_headings_rules_and_bold_labels_of_chat_models_are_read() -> None:
    text = """**任务 4：**

**指令：** 给小学生解释什么是日食。
**输入：** 无
**输出：** 月亮走到太阳和地球中间，把太阳挡住了，就是日食。

---

### 任务 5

**指令**：把这句话改成被动句。
**输入**：小猫打翻了花瓶。
**输出**：花瓶被小猫打翻了。
"""
    assert rows(text) == [
        ('给小学生解释什么是日食。', '', '月亮走到太阳和地球中间，把太阳挡住了，就是日食。'),
        ('把这句话改成被动句。', '小猫打翻了花瓶。', '花瓶被小猫打翻了。'),
    ]
    assert set(reasons(text)) == {''}


def test_english_labels_are_read() -> None:
    text = """### 4. Instruction: Name three primary colours.
4. Input: <noinput>
4. Output: Red, yellow and blue.
###
5. INSTRUCTION: Correct the spelling.
5. Input: I recieved it.
5. Output: I received it."""
    assert rows(text) == [
        ('Name three primary colours.', '', 'Red, yellow and blue.'),
        ('Correct the spelling.', 'I recieved it.', 'I received it.'),
    ]


def test_a_numbering_that_restarts_or_slips_does_not_matter() -> None:
    text = """1. 指令: 说出一种水果。
1. 输入: <无输入>
1. 输出: 苹果
###
1. 指令: 说出一种动物。
2. 输入: <无输入>
3. 输出: 老虎"""
    assert rows(text) == [('说出一种水果。', '', '苹果'), ('说出一种动物。', '', '老虎')]


def test_a_fence_around_the_whole_reply_is_taken_off() -> None:
    for fence in ('```', '```text', '```markdown'):
        assert rows(f'{fence}\n4. 指令:{WHOLE}\n```') == rows(WHOLE), fence
    assert rows(f'好的：\n```\n4. 指令:{WHOLE.removesuffix("###").rstrip()}\n```') == rows(WHOLE)


def test_code_in_an_answer_keeps_its_fence_and_its_hashes() -> None:
    code = '```python\n###\n# 读入并求和\n###\nprint(sum(map(int, input().split())))\n```'
    text = f'4. 指令: 写一个求和的程序。\n4. 输入: 无\n4. 输出:\n{code}\n###\n5. 指令: 说声你好。'
    assert read(text)[0].row == {'instruction': '写一个求和的程序。', 'input': '', 'output': code}
    assert plain(code) == code


def test_a_markdown_heading_inside_an_answer_does_not_cut_it() -> None:
    answer = '### 第一步\n先把水烧开。\n### 第二步\n放入面条，煮三分钟。'
    text = f'4. 指令: 写一份煮面的步骤。\n4. 输入: <无输入>\n4. 输出:\n{answer}\n###\n'
    assert rows(text) == [('写一份煮面的步骤。', '', answer)]


def test_输入_and_输出_inside_sentences_and_samples_are_words() -> None:
    answer = '```python\nprint(int(input()) * 2)\n```\n示例：\n输入：5\n输出：10'
    text = f'4. 指令: 编写程序，根据输入: 一个整数，打印它的两倍。\n4. 输入: 无\n4. 输出:\n{answer}'
    assert rows(text) == [('编写程序，根据输入: 一个整数，打印它的两倍。', '', answer)]


def test_samples_in_the_instruction_do_not_take_the_place_of_the_numbered_labels() -> None:
    text = """4. 指令: 按照示例编写程序。
输入：3
输出：9
4. 输入: 4
4. 输出: 16"""
    assert rows(text) == [('按照示例编写程序。\n输入：3\n输出：9', '4', '16')]


def test_a_task_without_one_of_its_labels_is_rejected_with_its_text() -> None:
    text = """4. 指令: 介绍一下长城。
4. 输出: 长城是中国古代的防御工程。
###
5. 指令: 说出一种乐器。
5. 输入: <无输入>
5. 输出: 二胡
6. 输入: 没有指令的材料
6. 输出: 没有指令的回答"""
    assert reasons(text) == ['missing label', '', 'missing label']
    assert read(text)[0].detail == '4. 指令: 介绍一下长城。\n4. 输出: 长城是中国古代的防御工程。'
    assert rows(text) == [('说出一种乐器。', '', '二胡')]


def test_empty_fields_are_rejected() -> None:
    assert reasons('4. 指令:\n4. 输入: 材料\n4. 输出: 回答') == ['empty field']
    assert reasons('4. 指令: 写一首诗。\n4. 输入: <无输入>\n4. 输出:\n###') == ['empty field']


def test_text_without_labels_is_rejected_once() -> None:
    refusal = '对不起，作为一个AI语言模型，我无法完成这个任务。'
    assert read(refusal) == [Candidate(None, 'no labels', refusal)]
    assert reasons(WHOLE + '\n\n以上就是全部任务，希望对你有帮助！') == ['', '', 'no labels']


def test_only_the_end_of_a_reply_that_was_cut_at_once_is_kept_as_text() -> None:
    assert reasons(' 请用三句话介', cut=True) == ['truncated']


def test_turns_are_read_by_their_names() -> None:
    text = """好的，下面是对话。

**用户：** 番茄叶子发黄怎么办？
**助手**：先看是哪里的叶子：
1. 下部老叶：多半缺氮。
2. 上部新叶：多半缺铁。
Human: 是下面的。
Assistant(耐心地)：那就追一次稀薄的氮肥。"""
    assert [tuple(turn) for turn in SPEAKERS.read(text)] == [
        ('human', '番茄叶子发黄怎么办？'),
        ('assistant', '先看是哪里的叶子：\n1. 下部老叶：多半缺氮。\n2. 上部新叶：多半缺铁。'),
        ('human', '是下面的。'),
        ('assistant', '那就追一次稀薄的氮肥。'),
    ]


def test_several_conversations_in_one_reply_are_told_apart() -> None:
    text = """对话1：
用户：一公里是多少米？
助手：一千米。
###
**对话 2：**
用户：怎么画一条线？
助手：写三个减号：
---
就是一条线。"""
    pieces = list(SPEAKERS.pieces(text))
    assert [len(SPEAKERS.read(piece)) for piece in pieces] == [2, 2]
    assert SPEAKERS.read(pieces[1])[1].text == '写三个减号：\n---\n就是一条线。'


def test_names_inside_code_open_no_turn() -> None:
    text = '用户：给个配置的例子\n助手：\n```yaml\n用户: 张三\n```\n改成你的名字即可。'
    turns = SPEAKERS.read(text)
    assert [turn.speaker for turn in turns] == ['human', 'assistant']
    assert turns[1].text == '```yaml\n用户: 张三\n```\n改成你的名字即可。'
