"""What the test server says as a judge, and as a model that is judged; see api_replies."""

import random

import api_replies

# How judges write a score, and what no score can be read from.
WAYS = (
    '得分: {}\n理由：回答覆盖了要点，语句通顺。',
    '得分：{}分。模型回答与标准答案基本一致。',
    '**得分**: {}/1\n\n理由：最终结果一致，但步骤略有省略。',
    '模型回答符合问题要求，不过例子偏少。\n\n得分：{}',
    'The answer is mostly right.\n{{"score": {}}}',
)
UNREAD = (
    '作为AI语言模型，我无法对这个回答给出得分。',
    '这个回答还不错，但是还有提高的空间。',
    '得分：7',
)


def judge(body: dict, chance: random.Random) -> tuple[str, str]:
    """A score with reasons; one in ten replies has none, of which a second asking mends all but a
    few. What does not ask for a score gets an answer, and what asks which of two is better, that.

    Returns:
        The text and the finish_reason.
    """
    messages = body['messages']
    prompt = messages[-1]['content']
    score = chance.choice(['0', '0.2', '0.5', '0.75', '0.8', '0.9', '1'])
    if 'winner' in prompt:
        winner = chance.choice(['A', 'B', 'tie'])
        return f'两个回答各有长短。\n{{"winner": "{winner}"}}', 'stop'
    if len(messages) > 1:
        return ('得分: ' + score if chance.random() < 0.7 else '抱歉，我无法评分。'), 'stop'
    if '得分' not in prompt and '"score"' not in prompt:
        return f'这是对问题的回答，共{len(prompt)}个字。', 'stop'
    if chance.random() < 0.1:
        return chance.choice(UNREAD), 'stop'
    return chance.choice(WAYS).format(score), 'stop'


def refuse(body: dict, chance: random.Random) -> tuple[str, str]:
    """A judge that refuses everything."""
    return '对不起，我不能对这些内容进行评价。', 'stop'


def either(body: dict, chance: random.Random) -> tuple[str, str]:
    """A judge, and a model for data generation: what it is asked says which."""
    prompt = body.get('prompt') or body['messages'][0]['content']
    return (api_replies.self_instruct if '指令' in prompt else judge)(body, chance)
