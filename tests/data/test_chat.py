"""Templates: what training saw is what sampling sends, token for token."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from belle_jax.data import jinja_template, template_export, templates, tokenizer

TURNS = [
    {'role': 'user', 'content': '你好，介绍一下自己'},
    {'role': 'assistant', 'content': '我是BELLE。'},
    {'role': 'user', 'content': 'Translate: 再见'},
    {'role': 'assistant', 'content': 'Goodbye'},
    {'role': 'user', 'content': '1+1=?'},
    {'role': 'assistant', 'content': '\n等于 2'},
]
SYSTEM = [{'role': 'system', 'content': '你是一个助手'}]


@pytest.fixture(scope='module')
def llama(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp('llama')
    shutil.copyfile(shared / 'data/tokenizers/llama_tokenizer.model', folder / 'tokenizer.model')
    (folder / 'tokenizer_config.json').write_text('{"tokenizer_class": "LlamaTokenizer"}')
    return tokenizer.load(folder)


@pytest.fixture(scope='module')
def chinese(shared):
    return tokenizer.load(shared / 'data' / 'tokenizers' / 'zh_bpe_6400')


@pytest.fixture(params=['llama', 'chinese'])
def made(request):
    return request.getfixturevalue(request.param)


def text(made, ids):
    return made.decode(ids, skip_special=False)


@pytest.mark.parametrize('system', [[], SYSTEM])
@pytest.mark.parametrize('name', templates.NAMES)
def test_the_prompt_is_the_beginning_of_what_was_trained_on(request, made, name, system):
    if name == 'tokenizer' and not made.chat_template:
        with pytest.raises(ValueError, match='has no chat_template'):
            templates.Template(name, made)
        return
    template = templates.Template(name, made)
    messages = system + TURNS
    for turn in (1, 3, 5):
        end = len(system) + turn
        prompt = template.prompt(messages[:end])
        tokens, trained = template.encode(messages[: end + 1])
        assert tokens[: len(prompt)] == prompt
        # All of the answer is trained on, its end-of-sequence token last, and nothing after it,
        # which is what the tokenizer's own template writes between turns.
        stop = len(trained) - trained[::-1].index(True)
        assert all(trained[len(prompt) : stop]) and not trained[len(prompt) - 1]
        assert tokens[stop - 1] == made.eos_id and tokens[stop - 1] in template.stop_ids
        assert name == 'tokenizer' or stop == len(tokens)
        answer = made.decode(tokens[len(prompt) : stop - 1])
        content = messages[end]['content']
        # A jinja template may strip white space around an answer, as this tokenizer's does.
        assert answer.strip() == content.strip() if name == 'tokenizer' else answer == content


@pytest.mark.parametrize('name', ['belle', 'belle_sft', 'alpaca', 'none', 'tokenizer'])
def test_exactly_the_answers_and_their_ends_are_trained_on(chinese, name):
    template = templates.Template(name, chinese)
    tokens, trained = template.encode(SYSTEM + TURNS)
    learnt = chinese.decode([t for t, m in zip(tokens, trained) if m], skip_special=False)
    end = chinese.token(chinese.eos_id)
    answers = [m['content'] for m in TURNS if m['role'] == 'assistant']
    if name == 'tokenizer':
        answers = [a.lstrip('\n') for a in answers]
    assert learnt == ''.join(a + end for a in answers)


def test_belle_writes_the_published_prompt(llama, chinese):
    prompt = templates.Template('belle', llama).prompt(TURNS[:1])
    whole = 'Human: 你好，介绍一下自己\n\nAssistant:'
    assert prompt == [llama.bos_id, *llama.backend.encode(whole, add_special_tokens=False).ids]
    assert templates.Template('belle', chinese).prompt(TURNS[:1]) == chinese.encode(whole)


def test_belle_sft_tokenises_turns_apart_as_belles_trainer_does(llama):
    tokens, _ = templates.Template('belle_sft', llama).encode(TURNS[:4])
    expected = []
    for user, answer in (TURNS[:2], TURNS[2:4]):
        expected += llama.encode('Human: \n' + user['content'] + '\n\nAssistant: \n')
        expected += [*llama.encode(answer['content']), llama.eos_id]
    assert tokens == expected  # no BOS
    # The same text in one piece is other tokens: LLaMA's answers begin with a space of their own.
    whole = 'Human: \n' + TURNS[0]['content'] + '\n\nAssistant: \n' + TURNS[1]['content']
    apart, _ = templates.Template('belle_sft', llama).encode(TURNS[:2])
    assert llama.encode(whole) != apart[:-1]


def test_belle_card_writes_history_as_the_model_card_does(chinese):
    template = templates.Template('belle_card', chinese)
    expected = (
        'Human:你好，介绍一下自己\n\nAssistant:我是BELLE。Human: Translate: 再见\n\nAssistant:'
    )
    assert text(chinese, template.prompt(TURNS[:3])) == expected
    # Each answer is an example of its own, after the history that sampling sends.
    examples = template.examples(TURNS)
    tokens, trained, sizes = chinese.assemble(examples)
    assert len(examples) == len(sizes) == 3
    at = 0
    for turn, size in zip((1, 3, 5), sizes):
        prompt = template.prompt(TURNS[:turn])
        assert tokens[at : at + len(prompt)].tolist() == prompt
        assert trained[at : at + size].tolist() == [False] * len(prompt) + [True] * (
            size - len(prompt)
        )
        at += size


def test_belle_joins_instruction_and_input_as_belle_does_and_alpaca_has_a_section(chinese):
    turn = [{'role': 'user', 'content': '翻译成英文：', 'input': '你好'}]
    belle = text(chinese, templates.Template('belle', chinese).prompt(turn))
    assert belle == 'Human: 翻译成英文：你好\n\nAssistant:'
    alpaca = text(chinese, templates.Template('alpaca', chinese).prompt(turn))
    assert alpaca == (
        'Below is an instruction that describes a task, paired with an input that provides further '
        'context. Write a response that appropriately completes the request.\n\n'
        '### Instruction:\n翻译成英文：\n\n### Input:\n你好\n\n### Response:'
    )
    bare = text(chinese, templates.Template('alpaca', chinese).prompt(TURNS[:1]))
    assert '### Input' not in bare and bare.startswith('Below is an instruction that describes a t')
    assert text(chinese, templates.Template('none', chinese).prompt(turn)) == '翻译成英文：\n你好'


@pytest.mark.parametrize('name', templates.NAMES)
def test_what_a_user_types_is_never_a_special_token(made, name):
    if name == 'tokenizer' and not made.chat_template:
        return
    template = templates.Template(name, made)
    typed = ''.join(made.special) + 'x{}{{bos_token}}'
    clean, dirty = (
        template.prompt([{'role': 'user', 'content': content}]) for content in ('y', typed)
    )
    special = set(made.special.values())
    assert [t for t in dirty if t in special] == [t for t in clean if t in special]
    assert typed in text(made, dirty)


def test_the_tokenizers_own_template_says_what_transformers_says(chinese):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(str(chinese.directory))
    template = templates.Template('tokenizer', chinese)
    for end in (1, 3, 5):
        said = theirs.apply_chat_template(
            SYSTEM + TURNS[:end], add_generation_prompt=True, return_dict=True
        )['input_ids']
        assert template.prompt(SYSTEM + TURNS[:end]) == said
        rendered = theirs.apply_chat_template(SYSTEM + TURNS[:end], tokenize=False)
        source = theirs.chat_template
        assert jinja_template.render(source, SYSTEM + TURNS[:end], generate=False) == rendered


def test_a_template_that_rewrites_history_gives_each_answer_its_own_example(chinese):
    source = (
        "{%- for m in messages %}{%- if m.role == 'user' %}{{- '<|im_start|>' + m.content }}"
        "{%- elif loop.last %}{{- '=>' + m.content + '<|im_end|>' }}"
        "{%- else %}{{- '->' + m.content }}{%- endif %}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '=>' }}{%- endif %}"
    )
    template = own(chinese, source)
    assert len(template.examples(TURNS)) == 3
    for turn in (1, 3, 5):
        prompt = template.prompt(TURNS[:turn])
        tokens, trained = template.encode(TURNS[: turn + 1])
        assert tokens[: len(prompt)] == prompt and sum(trained) == len(tokens) - len(prompt)


def own(made, source):
    return templates.Template('tokenizer', dataclasses.replace(made, chat_template=source))


def test_an_answer_that_is_marked_so_is_not_learnt(made):
    turns = [*TURNS[:3], TURNS[3] | {'trained': False}, *TURNS[4:]]
    names = [name for name in templates.NAMES if name != 'tokenizer' or made.chat_template]
    for name in names:
        template = templates.Template(name, made)
        (_, all_learnt), (tokens, learnt) = template.encode(TURNS), template.encode(turns)
        lost = [t for t, a, b in zip(tokens, all_learnt, learnt) if a and not b]
        expected = [] if name == 'belle_card' else [*made.encode('Goodbye'), made.eos_id]
        assert made.decode(lost) == made.decode(expected) and len(lost) == len(expected)


def test_a_template_is_judged_on_the_conversation_at_hand(chinese):
    # Qwen3's way: the last answer alone begins with an empty thought.
    source = (
        "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' }}"
        "{%- if m.role == 'assistant' and loop.last %}{{- '<think></think>' }}{%- endif %}"
        "{{- m.content + '<|im_end|>\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
    )
    template = own(chinese, source)
    assert len(template.examples(TURNS[:2])) == 1
    tokens, trained, sizes = chinese.assemble(template.examples(TURNS))
    for turn, end in zip((1, 3, 5), np.cumsum(sizes)):
        part = slice(end - sizes[turn // 2], end)
        prompt = template.prompt(TURNS[:turn])
        assert tokens[part].tolist()[: len(prompt)] == prompt
        learnt = chinese.decode(tokens[part][trained[part]], skip_special=False)
        assert learnt == f'<think></think>{TURNS[turn]["content"]}<|im_end|>'


@pytest.mark.parametrize(
    ('source', 'written'),
    [
        ('{{ tools is none }} {{ documents is none }} {{ tools is defined }}', 'True True True'),
        ("{{ strftime_now('%d %b %Y') }}", '26 Jul 2024'),
        ('{{ {"b": "é", "a": 1} | tojson(sort_keys=true) }}', '{"a": 1, "b": "é"}'),
        ('{{ ["a"] | tojson(indent=1, separators=(",", ":")) }}', '[\n "a"\n]'),
    ],
)
def test_a_template_is_given_what_transformers_gives(source, written):
    assert jinja_template.render(source, [], generate=False) == written


@pytest.mark.parametrize('source', ["{{ 1 + 'a' }}", '{{ 1 / 0 }}', '{{ messages[0].x.y.z }}'])
def test_a_template_that_fails_is_a_sentence(source):
    with pytest.raises(ValueError, match=r"^the tokenizer's chat_template (says|fails on this)"):
        jinja_template.render(source, [], generate=False)


def test_a_template_without_an_end_is_an_error(chinese):
    source = '{%- for m in messages %}{{- m.content }}{%- endfor %}'
    template = own(chinese, source)
    with pytest.raises(ValueError, match='does not write an answer after its own prompt'):
        template.encode(TURNS[:2])


def test_a_chat_template_cannot_reach_python():
    with pytest.raises(ValueError, match="chat_template says: .*'__class__'"):
        jinja_template.render("{{ ''.__class__.__mro__[1].__subclasses__() }}", [], generate=False)


def test_an_exported_template_that_writes_the_date_says_that_it_moves(chinese):
    template = own(chinese, "{{ strftime_now('%Y') }}" + chinese.chat_template)
    assert template_export.export(template)[1].endswith(
        '2024-07-26 in training and moves where transformers renders it.'
    )


EXACT = 'The same tokens as in training'
FIRST = 'Only first turns are the same tokens'


@pytest.mark.parametrize(
    ('which', 'name', 'says'),
    [
        ('llama', 'belle', FIRST),  # ':"' is one of LLaMA's tokens, and lies across the cut
        ('llama', 'belle_card', EXACT),
        ('llama', 'belle_sft', EXACT),
        ('llama', 'alpaca', FIRST),
        ('llama', 'none', EXACT),
        ('chinese', 'belle', EXACT),
        ('chinese', 'belle_card', EXACT),
        ('chinese', 'alpaca', EXACT),
        ('chinese', 'none', EXACT),
    ],
)
def test_the_exported_chat_template_says_what_training_saw_or_says_where_not(
    request, which, name, says
):
    from transformers import AutoTokenizer

    made = request.getfixturevalue(which)
    template = templates.Template(name, made)
    source, note = template_export.export(template)
    assert source is not None and note.startswith(says)
    theirs = AutoTokenizer.from_pretrained(str(made.directory))
    for messages in (TURNS[:1], SYSTEM + TURNS[:1], TURNS[:5], SYSTEM + TURNS[:3]):
        said = theirs.apply_chat_template(
            messages, chat_template=source, add_generation_prompt=True, return_dict=True
        )['input_ids']
        if says == EXACT or len(messages) < 3:
            assert template.prompt(messages) == said


@pytest.mark.parametrize(
    ('empty', 'reason'),
    [
        (['bos_token'], 'makes other tokens of a first prompt'),
        (['bos_token', 'eos_token', 'unk_token'], 'transformers does not load the tokenizer'),
    ],
)
def test_where_transformers_misreads_the_tokenizer_no_template_is_exported(
    tmp_path, shared, empty, reason
):
    shutil.copyfile(shared / 'data/tokenizers/llama_tokenizer.model', tmp_path / 'tokenizer.model')
    settings = {'tokenizer_class': 'LLaMATokenizer', **dict.fromkeys(empty, '')}
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps(settings))
    source, note = template_export.export(templates.Template('belle', tokenizer.load(tmp_path)))
    assert source is None and reason in note


@pytest.mark.parametrize(
    ('messages', 'message'),
    [
        ([], 'a prompt ends with a user'),
        (TURNS[:2], 'a prompt ends with a user'),
        ([{'role': 'tool', 'content': 'x'}, TURNS[0]], "unknown role 'tool'"),
        ([TURNS[1], TURNS[0]], "turn 1 is the assistant's"),
        ([{'role': 'user', 'content': None}], 'turn 1 has no text'),
        ([TURNS[0], *SYSTEM, TURNS[0]], "turn 2 is the system's"),
    ],
)
def test_turns_that_no_template_can_write_are_an_error(chinese, messages, message):
    with pytest.raises(ValueError, match=message):
        templates.Template('belle', chinese).prompt(messages)


def test_an_unknown_template_is_an_error(chinese):
    with pytest.raises(ValueError, match=r"data.template='bele' is not known: choose one of belle"):
        templates.Template('bele', chinese)
