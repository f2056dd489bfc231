"""Talking to a model in the terminal, turn after turn."""

import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from typing import TextIO

from belle_jax.data.records import Message
from belle_jax.decoding.assistant import Voice
from belle_jax.decoding.engine import Completion, Engine
from belle_jax.decoding.sampling import Sampling

HELP = """Enter sends a message, Alt-Enter begins a new line in it, and a paste stays one message.
  /reset   forget the conversation
  /help    this text
  /exit    leave (so do exit, quit and Ctrl-D)
  Ctrl-C   stop the answer that is being written"""
COMMANDS = {'/reset': 'reset', '/help': 'help', '/exit': 'exit', '/quit': 'exit'}
WORDS = {'exit': 'exit', 'quit': 'exit'}
"""What ends a chat at a terminal as well; through a pipe they are messages like others."""

Settings = Callable[[int], Sampling]
"""From the tokens of a prompt to how it is answered."""

ANSWER_SHARE = 4
"""A quarter of the context is kept free for an answer: older turns are forgotten for it."""


DIRECTIONS = frozenset('\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069')


def printable(text: str) -> str:
    """Text without what could steer a terminal: a model's words are not to be trusted.

    Control characters (so every escape sequence) go, but for newline and tab; so do the marks that
    turn the direction of writing.
    """
    return ''.join(
        c for c in text if c in '\n\t' or (unicodedata.category(c) != 'Cc' and c not in DIRECTIONS)
    )


class Chat:
    """One conversation."""

    def __init__(self, engine: Engine, voice: Voice, settings: Settings, out: TextIO = sys.stdout):
        """Takes what `converse` does, and where answers are printed."""
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
        self._tell_forgotten(self.messages[: len(self.messages) + 1 - len(messages)])
        self.messages = messages
        written, shown, done = '', '', None
        settings = self._settings(len(prompt))
        try:
            for piece in self._engine.stream(prompt, settings, row=self._turn):
                if isinstance(piece, Completion):
                    done = piece
                else:
                    written += piece
                    answer = self._voice.answer(written)
                    self._print(answer[len(shown) :])
                    shown = answer
        except KeyboardInterrupt:
            self._print(' [stopped]')
        self._print('\n')
        if done and done.finish_reason == 'length':
            self._tell_cut(done)
        self._turn += 1
        if self._voice.template.name == 'none':
            self.messages = []  # without a template there are no turns: each text stands alone
        else:
            self.messages.append({'role': 'assistant', 'content': shown})
        return shown

    def _fitting(self, messages: list[Message]) -> tuple[list[Message], list[int]]:
        """A conversation and its prompt, the oldest turns left out while an answer has no room."""
        longest, context = self._longest(0), self._engine.room(0)
        wanted = min(longest, max(1, (context or longest) // ANSWER_SHARE))
        while True:
            prompt = self._voice.prompt(messages)
            if self._longest(len(prompt)) >= wanted or len(messages) < 3:
                return messages, prompt
            messages = messages[2:]

    def _longest(self, prompt_tokens: int) -> int:
        """Tokens that an answer may have, by its settings and by the model's context."""
        most, room = self._settings(prompt_tokens).max_new_tokens, self._engine.room(prompt_tokens)
        return most if room is None else min(most, room)

    def _tell_forgotten(self, turns: list[Message]) -> None:
        said = [f'"{_brief(m["content"])}"' for m in turns if m['role'] == 'user']
        if said:
            which = f'turn {said[0]}' if len(said) == 1 else f'turns from {said[0]} to {said[-1]}'
            print(f'(the context is full: forgot the {which})', file=sys.stderr)

    def _tell_cut(self, answer: Completion) -> None:
        context = self._engine.room(0)
        if context and answer.prompt_tokens + answer.completion_tokens >= context:
            why = f'the context of {context:,} tokens is full; /reset begins anew'
        elif self._out.isatty():
            why = f'{answer.completion_tokens:,} tokens are the most that the settings allow'
        else:
            return
        print(f'(the answer was cut: {why})', file=sys.stderr)

    def _print(self, text: str) -> None:
        self._out.write(printable(text) if self._out.isatty() else text)
        self._out.flush()


def lines(interactive: bool) -> Iterator[str]:
    """What the person says, until the end of input: typed messages, or lines from a pipe."""
    if not interactive:
        for line in sys.stdin:
            yield line.rstrip('\n')
        return
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.output import create_output

    keys = KeyBindings()
    keys.add('escape', 'enter')(lambda event: event.current_buffer.insert_text('\n'))
    # Where the answers go to a file or a program, the prompt is still shown to the person.
    output = None if sys.stdout.isatty() else create_output(always_prefer_tty=True)
    session = PromptSession('> ', key_bindings=keys, output=output)
    while True:
        try:
            yield session.prompt()
        except EOFError:
            return
        except KeyboardInterrupt:
            print('(Ctrl-D or /exit leaves)')


def command_of(text: str, interactive: bool) -> str:
    """The command that a message is: reset, help, exit, '?' for one that does not exist, or ''.

    At a terminal a slash and letters make a command; a path or Chinese after the slash does not.
    """
    words = text.strip().lower().split(' ')
    known = COMMANDS | (WORDS if interactive else {})
    if len(words) == 1 and words[0] in known:
        return known[words[0]]
    unknown = interactive and '\n' not in text.strip() and re.fullmatch('/[a-z]*', words[0])
    return '?' if unknown else ''


def converse(engine: Engine, voice: Voice, settings: Settings, title: str = '') -> None:
    """Reads messages from standard input and answers them until it ends.

    `title` says to a person which model it is. A piped message that cannot be answered is a
    ValueError; an interactive one is only reported.
    """
    interactive = sys.stdin.isatty()
    chat = Chat(engine, voice, settings)
    if interactive:
        print(f'{title}\n{HELP}'.lstrip())
    for message in lines(interactive):
        command = command_of(message, interactive)
        if command == 'exit':
            return
        elif command == 'reset':
            chat.reset()
            if interactive:
                print('(the conversation is forgotten)')
        elif command:
            print(f'{message.strip()} is not a command.\n{HELP}' if command == '?' else HELP)
        elif message.strip() or voice.template.name == 'none':
            try:
                chat.say(message)
            except ValueError as error:
                if not interactive:
                    raise
                print(error, file=sys.stderr)


def _brief(text: str, width: int = 24) -> str:
    """The beginning of a text on one line."""
    text = printable(' '.join(text.split()))
    return text if len(text) <= width else text[: width - 1] + '…'
