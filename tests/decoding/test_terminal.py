"""The chat at a terminal: what is typed, what is a command, what is remembered, what is said."""

import io
from typing import Any

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from safetensors.numpy import load_file

import tiny
from belle_jax import sample
from belle_jax.decoding import Completion, Sampling, assistant, terminal

POEM = ['床前明月光', '疑是地上霜', '举头望明月', '低头思故乡']
FRAME = len('Human: \n\nAssistant:')  # bytes, each of which is a token


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
    target = tmp_path_factory.mktemp('terminal') / 'model'
    tiny.write_model(target)
    return target


@pytest.fixture(scope='module')
def voice(directory):
    return assistant.voice(directory, template='belle')


class Scripted:
    """An engine of a given context that answers 'yes', or goes on to the end of it."""

    def __init__(self, context: int | None, endless: bool = False):
        self.context, self.endless = context, endless
        self.prompts: list[int] = []  # their tokens

    def room(self, prompt_tokens):
        return None if self.context is None else max(self.context - prompt_tokens, 0)

    def check_prompt(self, tokens):
        assert self.room(len(tokens)) != 0

    def stream(self, prompt, settings, row):
        self.prompts.append(len(prompt))
        room = self.room(len(prompt))
        most = settings.max_new_tokens if room is None else min(settings.max_new_tokens, room)
        yield ' yes'
        made = most if self.endless else min(most, 5)
        yield Completion('yes', [7] * made, 'length' if made == most else 'stop', len(prompt))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def chat_of(engine: Any, voice, out=None, **options):
    settings = sample.settings_by_length(options)
    return terminal.Chat(engine, voice, settings, out or Terminal())


def test_a_model_of_a_short_context_remembers(voice, capsys):
    """256 tokens, as the quickstart's: an answer of up to 512 does not claim them all."""
    engine = Scripted(256)
    chat = chat_of(engine, voice)
    for text in ('我叫小明', '我几岁', '再见'):
        chat.say(text)
    said, end = [len(text.encode()) for text in ('我叫小明', '我几岁', '再见')], len('yes') + 1
    first = FRAME + said[0]
    between = engine.prompts[1] - first - end - FRAME - said[1]  # what stands between two turns
    assert engine.prompts[0] == first and between in (0, 1, 2)
    assert engine.prompts[2] == first + 2 * (end + FRAME + between) + said[1] + said[2]
    assert len(chat.messages) == 6
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
    ('context', 'options', 'kept'),
    [
        (256, {}, 192),  # a quarter of the context is for the answer
        (256, {'max_new_tokens': 20}, 236),  # or less where less is asked for
        (None, {'max_length': 200, 'max_new_tokens': 200}, 150),  # gptq's way, on BLOOM
        (100_000, {}, 100_000 - 512),
    ],
)
def test_turns_are_kept_while_an_answer_has_room(voice, context, options, kept):
    engine = Scripted(context)
    chat = chat_of(engine, voice, **options)
    size = (kept - 3 * FRAME - 30) // 2
    chat.messages = [
        {'role': 'user', 'content': 'a' * size},
        {'role': 'assistant', 'content': 'yes'},
        {'role': 'user', 'content': 'b' * size},
        {'role': 'assistant', 'content': 'yes'},
    ]
    begun = list(chat.messages)
    room = kept - len(voice.prompt([*begun, {'role': 'user', 'content': ''}]))
    assert 0 < room < 60
    chat.say('c' * room)
    assert engine.prompts == [kept] and len(chat.messages) == 6
    chat.messages = begun
    chat.say('c' * (room + 1))
    assert len(chat.messages) == 4 and chat.messages[0]['content'] == 'b' * size


def test_each_forgotten_turn_is_named_once(voice, capsys):
    chat = chat_of(Scripted(256), voice)
    for text in ('first question', 'second\nquestion', 'x' * 60, 'y' * 80):
        chat.say(text)
    assert capsys.readouterr().err.splitlines() == [
        '(the context is full: forgot the turns from "first question" to "second question")'
    ]
    chat.say('w' * 90)
    told = f'(the context is full: forgot the turns from "{"x" * 23}…" to "{"y" * 23}…")\n'
    assert capsys.readouterr().err == told
    chat.say('z')
    assert capsys.readouterr().err == ''


def test_an_answer_that_was_cut_is_told_with_its_reason(voice, capsys):
    chat_of(Scripted(256, endless=True), voice).say('hi')
    full = '(the answer was cut: the context of 256 tokens is full; /reset begins anew)\n'
    assert capsys.readouterr().err == full
    chat_of(Scripted(256, endless=True), voice, io.StringIO()).say('hi')  # through a pipe as well
    assert capsys.readouterr().err == full
    chat_of(Scripted(None, endless=True), voice, max_new_tokens=30).say('hi')
    limit = '(the answer was cut: 30 tokens are the most that the settings allow)\n'
    assert capsys.readouterr().err == limit
    chat_of(Scripted(256), voice).say('hi')
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
    ('text', 'typed', 'piped'),
    [
        ('/reset', 'reset', 'reset'),
        (' /RESET ', 'reset', 'reset'),
        ('/Help', 'help', 'help'),
        ('/quit', 'exit', 'exit'),
        ('EXIT', 'exit', ''),
        ('quit', 'exit', ''),
        ('/foo', '?', ''),
        ('/reset now', '?', ''),
        ('/', '?', ''),
        ('/etc/passwd 是什么？', '', ''),
        ('/你好', '', ''),
        ('exit the shop', '', ''),
        ('/reset\nand more', '', ''),
        ('', '', ''),
    ],
)
def test_what_is_a_command(text, typed, piped):
    assert terminal.command_of(text, interactive=True) == typed
    assert terminal.command_of(text, interactive=False) == piped


def test_a_paste_is_one_message_and_alt_enter_begins_a_line():
    paste = '\r'.join(POEM)
    keys = f'\x1b[200~{paste}\x1b[201~\r' + 'two\x1b\rlines\r' + 'half\x03' + 'three\r' + '\x04'
    with create_pipe_input() as typed, create_app_session(input=typed, output=DummyOutput()):
        typed.send_text(keys)
        assert list(terminal.lines(True)) == ['\n'.join(POEM), 'two\nlines', 'three']


def test_a_pipe_is_read_line_by_line(monkeypatch):
    monkeypatch.setattr('sys.stdin', io.StringIO('a\n\nexit\nb'))
    assert list(terminal.lines(False)) == ['a', '', 'exit', 'b']


def test_the_conversation_at_a_terminal(directory, voice, monkeypatch, capsys):
    engine: Any = Scripted(256)
    monkeypatch.setattr('sys.stdin', Terminal())
    typed = iter(['hi', '/HELP', '/foo', '/Reset', 'hi', 'Quit', 'never'])
    monkeypatch.setattr(terminal, 'lines', lambda _: typed)
    terminal.converse(engine, voice, lambda _: Sampling(), 'the model')
    out = capsys.readouterr().out
    assert out.startswith(f'the model\n{terminal.HELP}\n') and out.count(terminal.HELP) == 3
    assert f'/foo is not a command.\n{terminal.HELP}' in out
    assert engine.prompts == [FRAME + 2, FRAME + 2] and next(typed) == 'never'


def test_the_title_names_the_model(directory, voice):
    engine = assistant.engine(directory, voice)
    count = sum(array.size for array in load_file(directory / 'model.safetensors').values())
    assert assistant.title(directory, engine, voice) == (
        f'{directory} · LLaMA, {count:,} parameters · context 256 tokens'
    )
