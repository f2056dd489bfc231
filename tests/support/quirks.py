"""What public reports tell of servers that call themselves OpenAI-compatible, as one server.

`rules` refuses: fields by name, prompts by its filter, lengths in other people's words. `twist`
changes replies: reasoning in all its places, ends under all names, counts that leave reasoning out
or cannot be. Both depend on the prompt alone, so that a run that is killed meets what one that is
not meets.
"""

import random

from api_server import body_key

LONGEST = 700  # tokens of an answer, for the prompts that are too long
UNKNOWN = 'max_tokens', 'top_p'
MODERATION = (
    (400, 'Content Exists Risk', 'invalid_request_error'),
    (400, 'Output data may contain inappropriate content.', 'data_inspection_failed'),
    (400, '系统检测到输入或生成内容可能包含不安全或敏感内容', '1301'),
    (403, 'Input was flagged', 403),
    (451, 'blocked', None),
)
TOO_LONG = (
    (422, f'`inputs` tokens + `max_new_tokens` must be <= {LONGEST}', 'validation'),
    (400, f'Range of input length should be [1, {LONGEST}]', 'InvalidParameter'),
    (500, 'the request exceeds the available context size', 500),
)
DRAFT = (
    '用户要我写任务。先想一想：\n4. 指令：这只是草稿\n4. 输入：无\n4. 输出：不该留下\n'
    '用户：草稿？\n助手：草稿。'
)


def rules(body: dict) -> tuple[int, dict] | None:
    """The refusal of a body, or None."""
    if '1+1' in str(body['messages']):
        return None
    for name in UNKNOWN:
        if name in body:
            message = f"Unsupported parameter: '{name}' is not supported with this model."
            return _error(400, message, 'unsupported_parameter', param=name)
    chance = _chance(body, 'rules')
    drawn = chance.random()
    if drawn < 0.06:
        return _error(*chance.choice(MODERATION))
    if drawn < 0.14 and body['max_completion_tokens'] > LONGEST:
        return _error(*chance.choice(TOO_LONG))
    return None


def twist(body: dict, reply: dict) -> dict:
    """A good reply as another server would have given it; what is charged stays in the total."""
    chance, (choice,) = _chance(body, 'twist'), reply['choices']
    message, usage = choice['message'], reply['usage']
    drawn = chance.random()
    if drawn < 0.15:
        message['content'] = f'<think>\n{DRAFT}\n</think>\n\n{message["content"]}'
    elif drawn < 0.25:
        message['content'] = f'{DRAFT}\n</think>\n\n{message["content"]}'
    elif drawn < 0.3:
        message['content'], choice['finish_reason'] = f'<think>\n{DRAFT}', 'stop'
    elif drawn < 0.4:
        message['reasoning_content'] = DRAFT
        usage['total_tokens'] += len(DRAFT)
    elif drawn < 0.42:
        message |= {'content': None, 'refusal': '抱歉，这个我不能写。'}
    if choice['finish_reason'] == 'stop':
        whole = ['stop', 'stop', 'eos', 'end_turn', 'STOP', None]
        choice['finish_reason'] = chance.choice(whole)
    else:
        cut = ['length', 'model_length', 'MAX_TOKENS', 'sensitive']
        choice['finish_reason'] = chance.choice(cut)
    if chance.random() < 0.1:
        usage['completion_tokens'] = chance.choice([-5, float('nan'), 1e400, None, 'many'])
    return reply


def _chance(body: dict, what: str) -> random.Random:
    return random.Random(f'{what} {body_key({"asked": body["messages"]})}')


def _error(status: int, message: str, code: object, **more: object) -> tuple[int, dict]:
    return status, {'error': {'message': message, 'code': code, **more}}
