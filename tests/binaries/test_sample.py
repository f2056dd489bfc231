"""`python -m belle_jax.sample`: files answered and resumed, the chat, and mistakes."""

import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

import as_gptq
import tiny
from belle_jax import config, sample
from belle_jax.decoding import Sampling, assistant, prompt_file, terminal
from belle_jax.diffs import xor
from belle_jax.runs.checkpoints import Checkpoints
from belle_jax.runs.conversion import keep_origin
from belle_jax.runs.load import read_architecture
from loaded import load_parameters

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
    target = tmp_path_factory.mktemp('sample') / 'model'
    tiny.write_model(target)
    return target


@pytest.fixture(scope='module')
def spoken(directory):
    """The model and its tokenizer, loaded once."""
    voice = assistant.voice(directory)
    return assistant.engine(directory, voice, batch_size=4), voice


def test_the_step_is_that_of_the_checkpoint_which_answers(directory, tmp_path, caplog):
    run = tmp_path / 'run'
    keep_origin(directory, run)
    params = {name: jnp.asarray(array) for name, array in load_parameters(directory).items()}
    checkpoints = Checkpoints(run / 'checkpoints')
    checkpoints.save(3, params, {}, {'optimiser': False})
    checkpoints.close()
    model = config.Model(architecture=read_architecture(directory))
    config.save(config.Run(model=model, data=config.Data(template='none')), run / 'config.json')
    # A newer one that was never completed has no manifest.
    shutil.copytree(run / 'checkpoints' / '3', run / 'checkpoints' / '5')
    voice = assistant.voice(run)
    assert voice.step == 3
    with caplog.at_level('WARNING', 'absl'):
        assistant.engine(run, voice)
    assert 'checkpoints/5 has no manifest' in caplog.text
    with pytest.raises(ValueError, match='no checkpoint that can be used'):
        assistant.voice(run / 'checkpoints' / '5')
    assert assistant.voice(directory).step is None


def rows_file(path, *rows):
    path.write_text(''.join(json.dumps(r, ensure_ascii=False) + '\n' for r in rows), 'utf-8')
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text('utf-8').splitlines()]


def short(_):
    return Sampling(max_new_tokens=12, temperature=1.0, seed=4)


QUESTIONS = [{'prompt': '字' * (i * 7 % 5) + str(i)} for i in range(11)]


def answer_all(spoken, rows, path, settings=short, **run):
    with prompt_file.Output(path, rows, {'seed': 4, **run}) as output:
        prompt_file.answer(spoken[0], spoken[1], rows, output, settings)


def test_a_file_is_answered_in_order_whatever_field_a_row_uses(directory, tmp_path):
    messages = [
        {'role': 'system', 'content': 'Short.'},
        {'role': 'user', 'content': '你好'},
        {'role': 'assistant', 'content': 'hi'},
        {'role': 'user', 'content': 'again'},
    ]
    prompts = rows_file(
        tmp_path / 'in.jsonl',
        {'prompt': 'What?', 'id': 'a'},
        {'text': 'a much longer question ' * 3},
        {'messages': messages, 'id': 7},
    )
    output = tmp_path / 'out.jsonl'
    command = [sys.executable, '-m', 'belle_jax.sample', f'--model={directory}']
    command += [
        f'--prompts={prompts}',
        f'--output={output}',
        '--max_new_tokens=9',
        '--preset=belle',
    ]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == f'3 answers are in {output}'
    answers = lines(output)
    fields = ['id', 'input', 'output', 'finish_reason', 'prompt_tokens', 'completion_tokens']
    assert all(list(a) == fields for a in answers)
    assert [a['id'] for a in answers] == ['a', 2, 7]
    assert [a['input'] for a in answers] == ['What?', 'a much longer question ' * 3, messages]
    assert answers[0]['prompt_tokens'] == len('Human: What?\n\nAssistant:')
    for answer in answers:
        ended = answer['finish_reason'] == 'stop'
        assert ended or answer['completion_tokens'] == 9
    settings = json.loads((tmp_path / 'out.jsonl.settings.json').read_text('utf-8'))
    # Flags win over the preset.
    assert settings['settings']['max_new_tokens'] == 9
    assert settings['settings']['repetition_penalty'] == 1.2


def test_bare_quantised_files_are_decrypted_and_answer(tmp_path):
    """The road of BELLE's files made from LLaMA: `.pt.<hash>.enc`, decrypted, sampled from."""
    base = as_gptq.belle(tmp_path / 'base', as_gptq.LLAMA, as_gptq.Plan(**as_gptq.BELLE))
    shutil.rmtree(base / 'plain')
    key = tmp_path / 'consolidated.00.pth'
    key.write_bytes(bytes(range(256)) * 4096)
    xor.encrypt(base, key, tmp_path / 'enc')
    names = [p.name for p in (tmp_path / 'enc').iterdir()]
    assert any(re.fullmatch(r'weights\.pt\.[0-9a-f]{64}\.enc', name) for name in names)
    python, target = [sys.executable, '-m'], tmp_path / 'decrypted'
    folders = [f'--source={tmp_path / "enc"}', f'--key={key}', f'--target={target}']
    decrypt = [*python, 'convert.xor', 'decrypt', *folders]
    sample = [*python, 'belle_jax.sample', f'--model={target}', f'--weights={target}/weights.pt']
    sample += ['--preset=gptq', '--max_new_tokens=5']
    for command in (decrypt, sample):
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, input='hi\n')
        assert run.returncode == 0, run.stderr
    assert run.stdout.strip()


def test_a_run_that_was_killed_goes_on_to_the_same_answers(spoken, tmp_path):
    rows = prompt_file.read_prompts(rows_file(tmp_path / 'in.jsonl', *QUESTIONS))
    whole, torn = tmp_path / 'whole.jsonl', tmp_path / 'torn.jsonl'
    answer_all(spoken, rows, whole)
    text = whole.read_bytes()
    assert len(lines(whole)) == 11
    settings = (tmp_path / 'whole.jsonl.settings.json').read_bytes()
    (tmp_path / 'torn.jsonl.settings.json').write_bytes(settings)
    for cut in (0, 1, len(text) // 2, len(text) - 1, len(text)):
        torn.write_bytes(text[:cut])
        answer_all(spoken, rows, torn)
        assert torn.read_bytes() == text


def test_what_fails_before_the_first_answer_leaves_nothing_behind(spoken, tmp_path):
    rows = prompt_file.read_prompts(rows_file(tmp_path / 'in.jsonl', *QUESTIONS))
    path = tmp_path / 'out' / 'answers.jsonl'
    for there in (False, True):
        before = path.read_bytes() if there else None
        with pytest.raises(KeyError), prompt_file.Output(path, rows, {'seed': 4}):
            raise KeyError('the weights are damaged')
        assert len(list(path.parent.iterdir())) == 2 * there
        if there:
            assert path.read_bytes() == before
        answer_all(spoken, rows, path)


def test_an_output_of_another_run_is_refused_and_left_alone(spoken, tmp_path):
    rows = prompt_file.read_prompts(rows_file(tmp_path / 'in.jsonl', *QUESTIONS[:2]))
    output = tmp_path / 'out.jsonl'
    answer_all(spoken, rows, output)
    before = output.read_bytes()
    with pytest.raises(ValueError, match='out.jsonl belongs to a run with other seed:'):
        answer_all(spoken, rows, output, seed=5)
    other = prompt_file.read_prompts(rows_file(tmp_path / 'in.jsonl', *QUESTIONS[1:3]))
    with pytest.raises(ValueError, match='other input:'):
        answer_all(spoken, other, output)
    (tmp_path / 'out.jsonl.settings.json').unlink()
    with pytest.raises(ValueError, match='does not say what made it'):
        answer_all(spoken, rows, output)
    assert output.read_bytes() == before


@pytest.mark.parametrize(
    'line, reason',
    [
        (b'{"prompt": "a"', 'not JSON'),
        (b'\xff', 'not UTF-8'),
        (b'{"question": "a"}', 'found none of them'),
        (b'{"prompt": "a", "text": "b"}', 'found prompt and text'),
        (b'{"prompt": 5}', '"prompt" must be text, not int'),
        (b'{"messages": []}', '"messages" must be a list of turns'),
        (b'{"messages": [{"role": "robot", "content": "a"}]}', "the role 'robot'"),
        (b'{"messages": [{"role": "user"}]}', '"role" and "content"'),
        (b'["a"]', 'found none of them'),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(line, reason, tmp_path):
    path = tmp_path / 'in.jsonl'
    path.write_bytes(b'{"prompt": "fine"}\n\n' + line + b'\n')
    with pytest.raises(ValueError, match=f'in.jsonl:3: .*{reason}'):
        prompt_file.read_prompts(path)


def test_a_prompt_that_does_not_fit_is_named_before_anything_is_made(spoken, tmp_path):
    rows = prompt_file.read_prompts(
        rows_file(tmp_path / 'in.jsonl', {'prompt': 'a'}, {'prompt': 'b' * 300})
    )
    output = tmp_path / 'out.jsonl'
    with pytest.raises(ValueError, match='in.jsonl:2: .* reads at most 256'):
        answer_all(spoken, rows, output)
    assert not output.exists()
    with pytest.raises(ValueError, match='in.jsonl has no rows'):
        (tmp_path / 'in.jsonl').write_text('\n')
        prompt_file.read_prompts(tmp_path / 'in.jsonl')


def run_sample(*arguments, stdin=''):
    command = [sys.executable, '-m', 'belle_jax.sample', *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, input=stdin)


@pytest.mark.parametrize(
    'arguments, reason',
    [
        ((), '--model is missing'),
        (('--model=x', '--prompts=y'), '--prompts and --output belong together'),
        (('--model=x', '--top_p=1.5'), 'top_p=1.5 must be between 0 and 1'),
        (
            ('--model=x', '--prompts=missing.jsonl', '--output=o'),
            'missing.jsonl cannot be used (no such',
        ),
        (('--model=x', '--prompts=o', '--output=./o'), '(of --output) is what --prompts reads'),
        (
            ('--model=x', '--prompts=o.settings.json', '--output=o'),
            'o.settings.json (of --output) is what --prompts reads',
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_1(arguments, reason):
    run = run_sample(*arguments)
    assert run.returncode == 1
    assert run.stdout == ''
    [line] = run.stderr.splitlines()
    assert line.startswith('belle_jax.sample: ') and reason in line


def test_help_teaches():
    run = run_sample('--help')
    assert 'Talks to a model' in run.stdout and '--temperature' in run.stdout


def test_a_chat_through_pipes_answers_each_line(directory):
    said = 'hello\n\n/reset\nhello\n/exit\nnever\n'
    run = run_sample(f'--model={directory}', '--max_new_tokens=5', '--template=belle', stdin=said)
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.encode()[: len(run.stdout.encode()) // 2], run.stdout.encode()
    assert first * 2 == second  # the same question after /reset has the same answer
    assert run.stderr.strip() == 'template: belle'


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_conversation_carries_its_history_and_forgets_the_oldest_turns(spoken, capsys):
    engine, voice = spoken
    chat = terminal.Chat(engine, voice, lambda _: Sampling(max_new_tokens=20), Terminal())
    answers = [chat.say('question' * 3) for _ in range(2)]
    assert [m['content'] for m in chat.messages] == [
        *('question' * 3, answers[0], 'question' * 3, answers[1])
    ]
    for _ in range(4):
        chat.say('x' * 60)
    assert len(chat.messages) < 12
    assert 'the context is full: forgot the turn' in capsys.readouterr().err
    with pytest.raises(ValueError, match='reads at most 256'):
        chat.say('x' * 300)
    assert chat.messages[-1]['role'] == 'assistant'


def test_ctrl_c_stops_the_answer_and_keeps_what_is_there(spoken):
    class Interrupted:
        def __init__(self, engine):
            self.room, self.check_prompt = engine.room, engine.check_prompt

        def stream(self, *_, **__):
            yield ' Hel'
            yield 'lo'
            raise KeyboardInterrupt

    out = Terminal()
    interrupted: Any = Interrupted(spoken[0])
    chat = terminal.Chat(interrupted, spoken[1], lambda _: Sampling(), out)
    assert chat.say('hi') == 'Hello'
    assert out.getvalue() == 'Hello [stopped]\n'
    assert chat.messages[-1] == {'role': 'assistant', 'content': 'Hello'}


def test_a_models_words_cannot_steer_the_terminal():
    text = 'a\x1b[2Jb\x9b31m\u202ec\td\n\x07\r你好'
    assert terminal.printable(text) == 'a[2Jb31mc\td\n你好'


@pytest.mark.parametrize(
    'preset, prompt, want',
    [
        ('belle', 100, {'top_k': 30, 'top_p': 0.85, 'temperature': 0.35, 'max_new_tokens': 200}),
        ('gptq', 1000, {'top_k': 50, 'top_p': 0.95, 'temperature': 0.8, 'max_new_tokens': 24}),
        ('gptq', 4, {'min_new_tokens': 6, 'max_new_tokens': 1020}),
        ('gradio', 100, {'top_k': 40, 'top_p': 0.75, 'temperature': 0.1, 'max_new_tokens': 512}),
    ],
)
def test_presets_are_what_belle_published(preset, prompt, want):
    settings = dataclasses.asdict(sample.settings_by_length(sample.PRESETS[preset])(prompt))
    assert want.items() <= settings.items()
    assert settings['repetition_penalty'] == (1.0 if preset == 'gptq' else 1.2)
