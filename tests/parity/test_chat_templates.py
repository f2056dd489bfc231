"""Published chat templates: the tokens and masks are transformers', or a sentence refuses."""

import dataclasses
import datetime
import itertools
import json
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import tokenizers

from belle_jax.data import template_process, templates, tokenizer

pytestmark = [pytest.mark.parity, pytest.mark.slow]

PACKAGES = ('trl==1.16.0', 'axolotl==0.19.0')  # they carry templates of many publishers
SPECIAL = re.compile(r'<\|[\w ./:-]+\|>|</?[\w:|-]+>|\[/?[A-Z_]+\]|<｜[^<>｜]+｜>')
SYSTEM = {'role': 'system', 'content': '你是一个助手。 Be brief.'}


def turns(*contents):
    roles = ('user', 'assistant') * len(contents)
    return [{'role': r, 'content': c} for r, c in zip(roles, contents)]


# No two spaces follow each other: transformers joins them otherwise than SentencePiece does where
# it converts tokenizer.model itself.
CONVERSATIONS = {
    'one turn': turns('你好，你是谁？', '我是一个助手。'),
    'system': [SYSTEM, *turns('Hello there', 'Hi! How are you?')],
    'three turns': turns('1+1=?', 'It is 2.', 'And 2+2?', '4', '谢谢', '不客气！\n再见'),
    'system, two turns': [SYSTEM, *turns('a', 'b', 'c d', '"e" f')],
    'lines': turns('lead two\n\nlines', 'One:\n\n- two\n- three', 'x', 'y'),
    'code and marks': turns(
        '写 `print("<b>")`', '```python\nprint("😀")\n```', '<user> [x]', 'OK.'
    ),
}
LLAMA = {'tokenizer_class': 'LlamaTokenizer', 'bos_token': '<s>', 'eos_token': '</s>'}
BYTES = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'bos_token': '<|im_start|>',
    'eos_token': '<|im_end|>',
}
SHAPES = {
    'llama.model, legacy': ('llama_tokenizer.model', LLAMA | {'legacy': True}),
    'llama.model': ('llama_tokenizer.model', LLAMA | {'legacy': False}),
    'llama.json': ('llama_tokenizer.json', LLAMA | {'tokenizer_class': 'LlamaTokenizerFast'}),
    'llama.json, no prefix': ('llama_tokenizer.json', LLAMA | {'add_prefix_space': False}),
    'byte-level': ('zh_bpe_6400/tokenizer.json', BYTES),
}
# Shapes that the packages lack: special tokens with white space of their own, and plain marks.
SHAPES_OF_TEXT = {
    'zephyr': (
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    ),
    'vicuna': (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}"
        "{{ ' ASSISTANT: ' + m.content + eos_token }}{% else %}"
        "{{ ('USER: ' if m.role == 'user' else '') + m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
    ),
    'mistral v1': (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
        "{{ '[INST] ' + m.content + ' [/INST]' }}{% elif m.role == 'assistant' %}"
        "{{ m.content + eos_token + ' ' }}{% endif %}{% endfor %}"
    ),
    'stripping': (
        "{% for m in messages %}{{ '<|turn_l|> ' if m.role == 'user' else ' <|turn_r|>\n' }}"
        "{{ m.content + (eos_token if m.role == 'assistant' else '') }}{% endfor %}"
        "{% if add_generation_prompt %}{{ ' <|turn_r|>\n' }}{% endif %}"
    ),
}
STRIPPING = {'<|turn_l|>': {'lstrip': True, 'rstrip': True}, '<|turn_r|>': {'rstrip': True}}


@pytest.fixture(scope='session')
def sources(tmp_path_factory):
    """Name -> Jinja source, of the packages as they are on PyPI."""
    folder = tmp_path_factory.mktemp('wheels')
    command = [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps', '-d', str(folder)]
    if subprocess.run([*command, *PACKAGES], capture_output=True).returncode:
        pytest.skip(f'{" and ".join(PACKAGES)} could not be downloaded')
    found = {}
    for wheel in sorted(folder.glob('*.whl')):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith('.jinja'):
                    short = f'{name.split("/")[0]}/{name.split("/")[-1].removesuffix(".jinja")}'
                    found[short] = archive.read(name).decode('utf-8')
    return found | SHAPES_OF_TEXT


@pytest.fixture(scope='session', params=SHAPES)
def pair(request, sources, shared, tmp_path_factory):
    """Our tokenizer and transformers', with every template's special tokens after the others."""
    from transformers import AutoTokenizer

    file, settings = SHAPES[request.param]
    folder = tmp_path_factory.mktemp('tokenizer')
    name = 'tokenizer.model' if file.endswith('.model') else 'tokenizer.json'
    shutil.copyfile(shared / 'data/tokenizers' / file, folder / name)
    known = {*settings.values(), '<unk>', '<user>', '<b>'}
    if name == 'tokenizer.json':
        backend = tokenizers.Tokenizer.from_file(str(folder / name))
        known |= {token.content for token in backend.get_added_tokens_decoder().values()}
        size = backend.get_vocab_size()
    else:
        size = 32000
    found = dict.fromkeys(name for text in sources.values() for name in SPECIAL.findall(text))
    names = [name for name in dict.fromkeys((*found, *STRIPPING)) if name not in known]
    tokens = {
        str(size + i): {'content': n, 'special': True, 'normalized': False} | STRIPPING.get(n, {})
        for i, n in enumerate(names)
    }
    settings = settings | {'added_tokens_decoder': tokens}
    (folder / 'tokenizer_config.json').write_text(json.dumps(settings))
    (folder / 'config.json').write_text('{"model_type": "llama"}')
    return tokenizer.load(folder), AutoTokenizer.from_pretrained(str(folder))


def end_of(source, theirs):
    """The token with which a template ends an answer, or the tokenizer's own."""
    messages, eos = CONVERSATIONS['one turn'], theirs.eos_token
    try:
        text = theirs.apply_chat_template(messages, chat_template=source, tokenize=False)
    except Exception:  # it refuses even that, and then so must we
        return eos
    after = SPECIAL.match(text.split('我是一个助手。')[-1].lstrip())
    return after[0] if after and after[0] in theirs.get_vocab() else eos


def expected(theirs, source, messages, eos):
    """Tokens and, where the template marks them, what is learnt; None where it refuses."""
    masked = 'generation' in re.findall(r'{%-?\s*(\w+)', source)
    try:
        said = theirs.apply_chat_template(
            messages,
            chat_template=source,
            return_dict=True,
            return_assistant_tokens_mask=masked,
            eos_token=eos,
        )
    except Exception:
        return None
    return said['input_ids'], said.get('assistant_masks')


def learnt(made, tokens, trained):
    """The last run of tokens that is learnt from, as text and its last token."""
    runs = [
        list(run) for kept, run in itertools.groupby(zip(trained, tokens), lambda p: p[0]) if kept
    ]
    ids = [token for _, token in runs[-1]]
    return made.decode(ids[:-1], skip_special=False).strip(), ids[-1]


class Standing(datetime.datetime):
    """A clock that shows transformers' templates the date that ours show."""

    @classmethod
    def now(cls, tz=None):
        return template_process.STANDING


def test_published_templates_say_what_transformers_says(pair, sources, monkeypatch):
    monkeypatch.setattr('transformers.utils.chat_template_utils.datetime', Standing)
    ours, theirs = pair
    written = []
    for name, source in sources.items():
        eos = end_of(source, theirs)
        made = dataclasses.replace(
            ours,
            chat_template=source,
            eos_id=theirs.convert_tokens_to_ids(eos),
            names=ours.names | {'eos_token': eos},
        )
        template = templates.Template('tokenizer', made)
        for title, messages in CONVERSATIONS.items():
            said = expected(theirs, source, messages, eos)
            try:
                tokens, trained = template.encode(messages)
            except ValueError as refused:
                assert 'chat_template' in str(refused), (name, title)
                continue
            assert said is not None, (name, title)
            assert tokens == said[0], (name, title)
            if said[1] is not None:
                # Where earlier answers are rewritten, each is learnt in an example of its own.
                alone = len(template.examples(messages)) > 1
                since = len(template.prompt(messages[:-1])) if alone else 0
                assert [int(m) for m in trained[since:]] == said[1][since:], (name, title)
                ends = [t for t, m in zip(tokens, trained) if m and t == made.eos_id]
                assert not alone or len(ends) == 1, (name, title)
            else:
                text, last = learnt(made, tokens, trained)
                assert last == made.eos_id and text.endswith(messages[-1]['content']), (name, title)
            written.append(name)
    assert len(set(written)) >= 60 and len(written) >= 350
