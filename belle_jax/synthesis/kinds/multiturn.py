"""Conversations of several turns between a user and an assistant."""

import itertools
from collections.abc import Iterable

from belle_jax.api import Reply
from belle_jax.synthesis.kinds.base import Kind, fill
from belle_jax.synthesis.kinds.self_instruct import shot
from belle_jax.synthesis.parsing import Candidate, refused
from belle_jax.synthesis.turns import Speakers, Turn
from belle_jax.texts.filters import Row

HUMAN = '用户 人类 顾客 提问者 问 Human User'.split()
ASSISTANT = '助手 AI助手 智能助手 助理 机器人 答 Assistant AI Bot GPT'.split()
LONGEST_EXAMPLE = (60, 150)  # characters; longer ones hold their own material
SPEAKERS = Speakers({'human': HUMAN, 'assistant': ASSISTANT})


class Multiturn(Kind):
    """Conversations in BELLE's layout: turns from human and assistant."""

    name = 'multiturn'

    def prompt(self, index: int) -> str:
        draw = self.draw(index)
        example = ''
        if self.settings.seeds:  # how the topic may begin; seeds are as diverse as data gets
            instruction = shot(draw.one(self.settings.seeds)).instruction
            if len(instruction) <= self.say(*LONGEST_EXAMPLE):
                example = self.say(
                    f'7. 其中一问可以与这个任务类似，但不要照抄：{instruction}\n',
                    f'7. One question may be like this task, but not a copy of it: {instruction}\n',
                )
        return fill(
            self.text,
            topic=draw.one(self.lines('topics')),
            user=draw.one(self.lines('users')),
            shape=draw.one(self.lines('turns_shapes')),
            turns=draw.number(*self.settings.turns),
            example=example,
        )

    def read(self, text: str, reply: Reply, cut: bool) -> Iterable[Candidate]:
        return itertools.starmap(self._conversation, SPEAKERS.conversations(text, cut))

    def _conversation(self, piece: str, turns: list[Turn], cut: bool) -> Candidate:
        if turns and turns[0].speaker != 'human':
            turns = turns[1:]  # a greeting, or a system message, before anybody asked
        if cut:
            turns = turns[:-1]  # the last one is not whole; those before are
        if len(turns) % 2:
            turns = turns[:-1]  # a question that nobody answers
        if any(turn.speaker != ('human', 'assistant')[at % 2] for at, turn in enumerate(turns)):
            return refused('turns out of order', piece)
        if not all(turn.text for turn in turns):
            return refused('empty turn', piece)
        if len(turns) < 2 * self.settings.turns[0]:
            return refused('truncated' if cut else 'too few turns', piece)
        return Candidate({'conversations': [{'from': t.speaker, 'value': t.text} for t in turns]})

    def compared(self, row: Row) -> str:
        return '\n'.join(t['value'] for t in row['conversations'] if t['from'] == 'human')
