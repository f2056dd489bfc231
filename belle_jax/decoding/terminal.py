"""Talking to a model in the terminal, turn after turn."""

import sys
import unicodedata
from collections.abc import Callable, Iterator
from typing import TextIO

from belle_jax.data.records import Message
from belle_jax.decoding.assistant import Voice
from belle_jax.decoding.engine import Engine
from belle_jax.decoding.sampling import Sampling

HELP = """Type a message and press Enter. The model sees the whole conversation.
  /reset   forget the conversation
  /help    this text
  /exit    leave (so does Ctrl-D)
  Ctrl-C   stop the answer that is being written"""

ANSWER_ROOM = 256
"""Tokens kept free for an answer: older turns are forgotten to make room for it."""


def printable(text: str) -> str:
    """Text without what could steer a terminal: a model's words are not to be trusted.

    Control characters (so every escape sequence) go, but for newline and tab; so do the marks that
    turn the direction of writing.
    """
    return ''.join(
        c for c in text if c in '\n\t' or (unicodedata.category(c) != 'Cc' and c not in DIRECTIONS)
    )


DIRECTIONS = frozenset('\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069')


class Chat:
    """One conversation."""

    def __init__(
        self,
        engine: Engine,
        voice: Voice,
        settings: Callable[[int], Sampling],
        out: TextIO = sys.stdout,
    ):
        """
        Args:
            engine: Answers.
            voice: Writes prompts.
            settings: From the tokens of a prompt to how it is answered.
            out: Where they are printed.
        """
        self.messages: list[Message] = []
        self._engine, self._voice, self._settings, self._out = engine, voice, settings, out
        self._turn = 0

    def reset(self) -> None:
        """Forgets the conversation."""
        self.messages, self._turn = [], 0

    def say(self, text: str) -> str:
        """Answers one message, printing the answer as it is made.

        Ctrl-C ends the answer; what is there of it stays part of the conversation.

        Raises:
            ValueError: the message alone does not fit the model's context.
        """
        messages, prompt = self._fitting([*self.messages, {'role': 'user', 'content': text}])
        self._engine.check_prompt(prompt)
        if forgotten := (len(self.messages) + 1 - len(messages)) // 2:
            print(f'(the context is full: forgot the oldest {forgotten} turns)', file=sys.stderr)
        self.messages = messages
        written, shown = '', ''
        try:
            settings = self._settings(len(prompt))
            for piece in self._engine.stream(prompt, settings, row=self._turn):
                if isinstance(piece, str):
                    written += piece
                    answer = self._voice.answer(written)
                    self._print(answer[len(shown) :])
                    shown = answer
        except KeyboardInterrupt:
            self._print(' [stopped]')
        self._print('\n')
        self._turn += 1
        if self._voice.template.name == 'none':
            self.messages = []  # without a template there are no turns: each text stands alone
        else:
            self.messages.append({'role': 'assistant', 'content': shown})
        return shown

    def _fitting(self, messages: list[Message]) -> tuple[list[Message], list[int]]:
        """A conversation and its prompt, the oldest turns left out while an answer has no room."""
        wanted = min(self._settings(0).max_new_tokens, ANSWER_ROOM)
        while True:
            prompt = self._voice.prompt(messages)
            room = self._engine.room(len(prompt))
            if room is None or room >= wanted or len(messages) < 3:
                return messages, prompt
            messages = messages[2:]

    def _print(self, text: str) -> None:
        self._out.write(printable(text) if self._out.isatty() else text)
        self._out.flush()


def lines(interactive: bool) -> Iterator[str]:
    """What the person says, until the end of input."""
    if not interactive:
        for line in sys.stdin:
            yield line.rstrip('\n')
        return
    import readline  # noqa: F401 - gives input() a history and editing keys

    while True:
        try:
            yield input('> ')
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print('\n(Ctrl-D or /exit leaves)')


def converse(engine: Engine, voice: Voice, settings: Callable[[int], Sampling]) -> None:
    """Reads messages from standard input and answers them until it ends.

    Args:
        engine: Answers.
        voice: Writes prompts.
        settings: From the tokens of a prompt to how it is answered.
    Raises:
        ValueError: a piped message cannot be answered; an interactive one is only reported.
    """
    interactive = sys.stdin.isatty()
    chat = Chat(engine, voice, settings)
    if interactive:
        print(HELP)
    for line in lines(interactive):
        command = line.strip()
        if command == '/exit':
            return
        elif command == '/reset':
            chat.reset()
        elif command == '/help':
            print(HELP)
        elif command or voice.template.name == 'none':
            try:
                chat.say(line)
            except ValueError as error:
                if not interactive:
                    raise
                print(error, file=sys.stderr)
