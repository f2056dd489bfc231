"""Chat templates: a conversation to the tokens that training sees and sampling sends.

A template writes a conversation as pieces of text and special tokens; each piece is tokenised on
its own, so where the pieces are cut decides which tokens there are. Training and sampling use the
same pieces: the prompt of a conversation is, token for token, the beginning of the conversation
that was trained on.

BOS stands once at the start, where the tokenizer itself writes it (LLaMA's does, BLOOM's does not)
and the template is not `belle_sft`, whose trainer never wrote one. An answer is always followed by
the end-of-sequence token, which is always trained on. A user's turn starts like a text of its own.
"""

import dataclasses
from collections.abc import Sequence

from belle_jax.data.jinja_template import JinjaTemplate
from belle_jax.data.records import Message
from belle_jax.data.tokenizer import Piece, Tokenizer

ALPACA = (
    'Below is an instruction that describes a task. '
    'Write a response that appropriately completes the request.'
)
ALPACA_INPUT = (
    'Below is an instruction that describes a task, paired with an input that provides further '
    'context. Write a response that appropriately completes the request.'
)


@dataclasses.dataclass(frozen=True)
class Style:
    """How a template writes; `{}` is the place of the content."""

    user: str  # a turn of the user, up to where the answer begins: the cut is there
    user_input: str = ''  # the same for a turn with a separate input, which has the second `{}`
    join: str = ''  # between instruction and input where `user_input` is empty
    system: str = '{}\n\n'  # in front of the first turn
    preamble: tuple[str, str] = ('', '')  # the system message of rows without: bare, with input
    bos: bool = True
    continued: bool = True  # answers go on in the prompt's text; False: each is a text of its own
    card: bool = False  # earlier turns as BELLE's card writes them


# BELLE joins instruction and input without a separator (train/scripts/convert_to_conv_data.py).
STYLES = {
    'belle': Style(user='Human: {}\n\nAssistant:'),
    'belle_card': Style(user='Human: {}\n\nAssistant:', card=True),
    'belle_sft': Style(user='Human: \n{}\n\nAssistant: \n', bos=False, continued=False),
    'alpaca': Style(
        user='### Instruction:\n{}\n\n### Response:',
        user_input='### Instruction:\n{}\n\n### Input:\n{}\n\n### Response:',
        preamble=(ALPACA, ALPACA_INPUT),
    ),
    'tokenizer': Style(user='{}', join='\n'),  # the rest says the tokenizer's `chat_template`
    'none': Style(user='{}', join='\n'),
}
NAMES = tuple(STYLES)
CARD_TURN = 'Human:{}\n\nAssistant:{}'


class Template:
    """A named template with the tokenizer that it writes for."""

    def __init__(self, name: str, tokenizer: Tokenizer) -> None:
        """Takes one of `NAMES`; an unknown one, or a tokenizer without its own, is a ValueError."""
        if name not in STYLES:
            raise ValueError(
                f'data.template={name!r} is not known: choose one of {", ".join(NAMES)} with '
                '--config.data.template.'
            )
        self.name, self.tokenizer, self.style = name, tokenizer, STYLES[name]
        self.own = JinjaTemplate(tokenizer) if name == 'tokenizer' else None

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer."""
        return (self.tokenizer.eos_id,)

    def fingerprint(self) -> str:
        """What decides the pieces, as text: for the token cache and the plan."""
        return repr((self.name, self.own.fingerprint() if self.own else self.style))

    def encode(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """The tokens of one conversation.

        Args:
            messages: Turns, the last one of the assistant's.
        Returns:
            Ids, and for each whether it is trained on. With a template whose earlier turns are
            written otherwise (`examples` gives several), the last answer alone is trained on.
        """
        tokens, trained, _ = self.tokenizer.assemble([self.examples(messages)[-1]])
        return tokens.tolist(), trained.tolist()

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens after which the assistant's answer begins.

        Args:
            messages: Turns, the last one of the user's.
        Returns:
            Ids; BOS where the template writes it.
        """
        if not messages or messages[-1].get('role') != 'user':
            raise ValueError("a prompt ends with a user's turn: add one after the assistant's.")
        return self.tokenizer.assemble([self.pieces(messages)])[0].tolist()

    def examples(self, messages: Sequence[Message]) -> list[list[Piece]]:
        """What is trained on for one conversation: normally all answers in one example.

        `belle_card` and some tokenizers' own write a turn otherwise once it is history, so that
        each answer needs an example of its own, with the history that sampling will send.
        """
        if self.own:
            return self.own.examples(self._spelled(messages))
        if not self.style.card:
            return [self.pieces(messages)]
        answers = [i for i, m in enumerate(messages) if m['role'] == 'assistant']
        return [self.pieces(messages[: i + 1]) for i in answers] or [self.pieces(messages)]

    def pieces(self, messages: Sequence[Message]) -> list[Piece]:
        """The pieces of a conversation, in order."""
        check(messages)
        if self.own:
            return self.own.pieces(self._spelled(messages))
        tokenizer, style = self.tokenizer, self.style
        turns = [m for m in messages if m['role'] != 'system']
        users = [i for i, m in enumerate(turns) if m['role'] == 'user']
        start = self._system(messages, turns)
        pieces: list[Piece] = []
        if style.bos and tokenizer.adds_bos and tokenizer.bos_id is not None:
            pieces.append(Piece(tokenizer.bos_id))
        if style.card and len(users) > 1:
            start += self._history(turns[: users[-1]])
            turns = turns[users[-1] :]
        for turn in turns:
            if turn['role'] == 'user':
                pieces.append(Piece(start + self._user(turn)))
                start = ''
            else:
                trained = turn.get('trained', True)
                pieces.append(Piece(turn['content'], trained, style.continued))
                pieces.append(Piece(tokenizer.eos_id, trained))
        return pieces

    def _spelled(self, messages: Sequence[Message]) -> list[Message]:
        """The turns with their inputs joined on, for the tokenizer's own template."""
        check(messages)
        return [{**m, 'content': joined(m, self.style.join)} for m in messages]

    def _user(self, turn: Message) -> str:
        style, content, extra = self.style, turn['content'], turn.get('input') or ''
        if not extra:
            return style.user.format(content)
        if style.user_input:
            return style.user_input.format(content, extra)
        return style.user.format(joined(turn, style.join))

    def _system(self, messages: Sequence[Message], turns: Sequence[Message]) -> str:
        text = next((m['content'] for m in messages if m['role'] == 'system'), '')
        text = text or self.style.preamble[bool(turns and turns[0].get('input'))]
        return self.style.system.format(text) if text else ''

    def _history(self, turns: Sequence[Message]) -> str:
        """Earlier turns one after the other, in one text without end-of-sequence tokens."""
        pairs = zip(turns[::2], turns[1::2])
        return ''.join(
            CARD_TURN.format(joined(user, self.style.join), answer['content'])
            for user, answer in pairs
        )


def check(messages: Sequence[Message]) -> None:
    """Refuses turns that no template can write.

    Raises:
        ValueError: an unknown role, or turns that do not alternate, starting with the user's.
    """
    expected = 'user'
    for number, message in enumerate(messages, 1):
        role = message.get('role')
        if not isinstance(message.get('content'), str):
            raise ValueError(f'turn {number} has no text in its field "content": give it some.')
        if role not in ('system', 'user', 'assistant'):
            raise ValueError(f'turn {number} has the unknown role {role!r}: use user or assistant.')
        if role == 'system' and number == 1:
            continue
        if role != expected:
            raise ValueError(
                f"turn {number} is the {role}'s where the {expected}'s belongs: a system message "
                'comes first, then user and assistant take turns.'
            )
        expected = 'assistant' if role == 'user' else 'user'


def joined(turn: Message, separator: str) -> str:
    """A user's turn as one text: the instruction and, if there is one, its input."""
    extra = turn.get('input') or ''
    return f'{turn["content"]}{separator}{extra}' if extra else turn['content']
