"""From a run's data section to batches: splits, accounts, and reading ahead."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from belle_jax import config, data
from belle_jax.data import tokenizer


@pytest.fixture(scope='module')
def chinese(shared):
    return tokenizer.load(shared / 'data' / 'tokenizers' / 'zh_bpe_6400')


def write(path, rows):
    path.write_text('\n'.join(json.dumps(r, ensure_ascii=False) for r in rows), 'utf-8')
    return str(path)


def pairs(count, word='问题'):
    return [
        {'instruction': f'{word}{i}', 'output': f'答案{i}。' * (i % 5 + 1)} for i in range(count)
    ]


def run(tmp_path, path, *, batch=4, accumulation=1, epochs=2.0, steps=0, seed=0, **fields):
    validation = config.Validation(**fields.pop('validation', {}))
    return config.Run(
        seed=seed,
        batch=config.Batch(batch, accumulation),
        train=config.Train(epochs=epochs, steps=steps),
        data=config.Data(
            path=path, cache_dir=f'{tmp_path}/cache', seq_len=64, validation=validation, **fields
        ),
    )


def texts(plan, made):
    """All conversations of a plan, decoded."""
    found = []
    for batch in data.load(plan, ahead=0):
        for tokens, segments in zip(batch['tokens'], batch['segment_ids']):
            for number in range(1, segments.max() + 1):
                found.append(made.decode(tokens[segments == number]))
    return found


def held_texts(prepared, made):
    """Those of validation."""
    return [text for held in prepared.validation for text in texts(held.plan, made)]


def test_reading_ahead_gives_what_asking_gives(tmp_path, chinese):
    path = write(tmp_path / 'a.jsonl', pairs(100))
    plan = data.prepare(run(tmp_path, path), chinese).train
    rows = [1, 3]
    loaded = list(data.load(plan, rows, start=2))
    assert len(loaded) == plan.steps() - 2 > 5
    for step, batch in enumerate(loaded, 2):
        expected = plan.batch(step, rows)
        assert batch.keys() == expected.keys()
        assert all(np.array_equal(batch[k], expected[k]) for k in batch)
    assert list(data.load(plan, start=plan.steps())) == []
    assert len(list(data.load(plan, stop=3))) == 3


def test_the_plan_ends_with_the_epochs_unless_steps_are_given(tmp_path, chinese):
    path = write(tmp_path / 'a.jsonl', pairs(50))
    by_epochs = data.prepare(run(tmp_path, path, epochs=1.5), chinese).train
    assert by_epochs.limit == round(1.5 * by_epochs.rows_per_epoch)
    by_steps = data.prepare(run(tmp_path, path, steps=1000), chinese).train
    assert by_steps.limit is None and by_steps.batch(999)['tokens'].any(1).all()


@pytest.mark.parametrize('validation', [{'count': 10}, {'fraction': 0.1}])
def test_validation_rows_are_never_trained_on_even_as_copies(tmp_path, chinese, validation):
    # Every row stands twice, in two files and two layouts.
    first = write(tmp_path / 'a.jsonl', pairs(100))
    second = write(
        tmp_path / 'b.json',
        [{'input': r['instruction'], 'target': r['output']} for r in pairs(100)],
    )
    made = run(tmp_path, f'{first},{second}', epochs=1, validation=validation)
    prepared = data.prepare(made, chinese)
    held, trained = held_texts(prepared, chinese), texts(prepared.train, chinese)
    assert len(held) == 10 and not set(held) & set(trained)
    assert len(trained) == 180 and len(set(trained)) == 90
    sources = prepared.account['sources']
    assert sum(s['validation'] for s in sources) == 10
    assert sum(s['copies_of_validation'] for s in sources) == 10
    again = data.prepare(made, chinese)
    assert held_texts(again, chinese) == held
    other = data.prepare(run(tmp_path, f'{first},{second}', seed=1, validation=validation), chinese)
    assert set(held_texts(other, chinese)) != set(held)


def test_validation_by_file(tmp_path, chinese):
    train, held = write(tmp_path / 'a', pairs(40)), write(tmp_path / 'b', pairs(15, '考题'))
    made = run(tmp_path, train, validation={'path': held}, batch=4, accumulation=2)
    prepared = data.prepare(made, chinese)
    assert sorted(t[7:9] for t in held_texts(prepared, chinese)) == ['考题'] * 15
    # Evaluation runs in micro-batches.
    assert [held.plan.batch_size for held in prepared.validation] == [2]
    assert prepared.account['validation'][0]['records'] == 15
    (tmp_path / 'other').mkdir()
    other = write(tmp_path / 'other' / 'b', pairs(5, '另一'))
    both = data.prepare(run(tmp_path, train, validation={'path': f'{held},{other}'}), chinese)
    assert [h.name for h in both.validation] == [str(held), str(other)]  # for both are called b
    weighted = run(tmp_path, train, validation={'path': f'{held}=0.5'})
    with pytest.raises(ValueError, match='b the weight 0.5: what is evaluated on is read once'):
        data.prepare(weighted, chinese)


def test_an_answers_example_stays_with_its_conversation(tmp_path, chinese):
    """belle_card makes several examples of a conversation: all on the same side of the split."""
    rows = [
        {'messages': [{'role': r, 'content': f'{i}{r}{n}'} for n in '12' for r in ROLES]}
        for i in range(30)
    ]
    path = write(tmp_path / 'a', rows)
    made = run(tmp_path, path, template='belle_card', validation={'count': 5}, epochs=1)
    prepared = data.prepare(made, chinese)
    held, trained = held_texts(prepared, chinese), texts(prepared.train, chinese)
    assert len(held) == 10 and len(trained) == 50
    number = {t.split('user')[0].removeprefix('Human:').strip() for t in held}
    assert len(number) == 5
    assert not number & {t.split('user')[0].removeprefix('Human:').strip() for t in trained}


ROLES = ('user', 'assistant')


def test_the_account_adds_up(tmp_path, chinese, shared):
    path = str(shared / 'data' / 'instructions' / 'sharegpt_zh_1K_format.jsonl')
    made = run(tmp_path, path, on_bad_row='skip', validation={'count': 50}, epochs=1)
    prepared = data.prepare(made, chinese)
    entry = prepared.account['sources'][0]
    assert entry['rows'] == 1000 and entry['skipped'] == {'empty question': 1}
    out = entry['validation'] + entry['copies_of_validation'] + sum(entry['skipped'].values())
    assert entry['rows'] == entry['kept'] + entry['nothing_to_learn'] + out
    batches = list(data.load(prepared.train))
    assert sum((b['segment_ids'] > 0).sum() for b in batches) == entry['tokens']
    assert sum(b['weights'].sum() for b in batches) == entry['trained_tokens']
    full = sum((b['segment_ids'].max(1) > 0).sum() for b in batches)
    assert full == entry['bins'] == prepared.train.rows_per_epoch
    assert entry['packing_efficiency'] == round(entry['tokens'] / (entry['bins'] * 64), 4)
    said = str(prepared.account)
    assert 'JSON lines, conversations, 1,000 rows' in said and 'skipped, empty question: 1' in said
    assert f'{entry["later_turns_left_out"]:,}' in said and f'{entry["tokens"]:,} tokens' in said
    assert json.loads(json.dumps(prepared.account.to_dict())) == prepared.account


def test_fields_that_nothing_reads_are_told_once_each(tmp_path, chinese):
    rows = [r | {'id': i, 'category': 'x'} for i, r in enumerate(pairs(40))]
    turns = [{'role': r, 'content': 'x', 'name': 'y'} for r in ROLES]
    checks = write(tmp_path / 'b:c.json', [{'messages': turns}])
    made = run(tmp_path, write(tmp_path / 'a', rows), validation={'path': checks})
    account = data.prepare(made, chinese).account
    assert list(account['sources'][0]['unread_fields'].items()) == [('category', 40), ('id', 40)]
    assert account['validation'][0]['unread_fields'] == {'messages[].name': 2}
    said = str(account).splitlines()
    assert '  fields that are not read: category (40), id (40)' in said
    assert 'validation: 1 conversations of b:c.json' in said
    # Rows that are held out of the same files are told of with them.
    made = run(tmp_path, f'{tmp_path}/a', validation={'count': 5})
    assert str(data.prepare(made, chinese).account).count('category (40)') == 1


def test_a_comma_in_a_path_is_written_with_a_backslash(tmp_path, chinese):
    (tmp_path / 'a,b=2').mkdir()
    first = write(tmp_path / 'a,b=2' / 'rows=3', pairs(10)).replace(',', '\\,') + '=1'
    second = write(tmp_path / 'c', pairs(10, '考题'))
    made = run(tmp_path, f'{first},{second}=2', validation={'path': first})
    with pytest.raises(ValueError, match='leaves nothing to train on'):
        data.prepare(run(tmp_path, first, validation={'path': first}), chinese)
    account = data.prepare(made, chinese).account
    told = [(s['path'], s['weight'], s['kept']) for s in account['sources']]
    assert told == [(f'{tmp_path}/a,b=2/rows=3', 1, 0), (f'{tmp_path}/c', 2, 10)]
    assert account['validation'][0]['path'] == f'{tmp_path}/a,b=2/rows=3'


def test_the_fingerprint_changes_with_everything_that_changes_batches(tmp_path, chinese):
    path = write(tmp_path / 'a.jsonl', pairs(50))

    def fingerprint(source=path, **fields):
        return data.prepare(run(tmp_path, source, **fields), chinese).train.fingerprint

    base = fingerprint()
    assert base == fingerprint() == fingerprint(epochs=7.0)  # a longer run goes on with the same
    changed = [
        fingerprint(seed=1),
        fingerprint(batch=8),
        fingerprint(packing=False),
        fingerprint(train_on='all'),
        fingerprint(template='alpaca'),
        fingerprint(f'{path}=2'),
        fingerprint(validation={'count': 5}),
    ]
    assert len({base, *changed}) == 1 + len(changed)


def test_unpacked_batches_hold_one_conversation_a_row(tmp_path, chinese):
    path = write(tmp_path / 'a.jsonl', pairs(20))
    prepared = data.prepare(run(tmp_path, path, packing=False, epochs=1), chinese)
    assert prepared.train.rows_per_epoch == 20
    assert all(b['segment_ids'].max() == 1 for b in data.load(prepared.train))


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'path': ''}, '--config.data.path is empty'),
        ({'template': 'x'}, "data.template='x' is not known"),
        ({'validation': {'count': 20}}, 'validation takes 20 of 20 different conversations'),
    ],
)
def test_mistakes_are_errors_that_name_the_field(tmp_path, chinese, fields, message):
    path = fields.pop('path', write(tmp_path / 'a.jsonl', pairs(20)))
    with pytest.raises(ValueError, match=message):
        data.prepare(run(tmp_path, path, **fields), chinese)


def test_rows_without_answers_leave_nothing_to_train_on(tmp_path, chinese):
    path = write(tmp_path / 'a', [{'messages': [{'role': 'user', 'content': 'x'}]}])
    with pytest.raises(ValueError, match='leaves nothing to train on'):
        data.prepare(run(tmp_path, path), chinese)


def test_preparing_data_imports_no_jax():
    code = 'import sys, belle_jax.data, belle_jax.data.records; assert "jax" not in sys.modules'
    subprocess.run([sys.executable, '-c', code], check=True)


def test_answers_that_are_marked_are_read_and_not_learnt(tmp_path, chinese):
    """Of two equal answers with one marked, half is learnt; a conversation of marks alone goes."""

    def talk(*marks):
        turns = [[{'role': r, 'content': f'{i}{r}'} for r in ROLES] for i in range(len(marks))]
        for turn, mark in zip(turns, marks):
            turn[1]['content'] = '同样的答案' * 2
            turn[1] |= mark
        return {'messages': [message for turn in turns for message in turn]}

    def account(name, *rows, **fields):
        path = write(tmp_path / name, rows)
        return data.prepare(run(tmp_path, path, **fields), chinese).account['sources'][0]

    whole = account('whole', talk({}, {}))
    half = account('half', talk({'weight': 0}, {'weight': 1}))
    assert (
        half['tokens'] == whole['tokens'] and half['trained_tokens'] * 2 == whole['trained_tokens']
    )
    assert not half['unread_fields']
    some = account('some', talk({'loss': False}, {'train': False}), talk({'loss': True}, {}))
    assert (some['kept'], some['nothing_to_learn']) == (1, 1)
    assert some['trained_tokens'] == whole['trained_tokens']
    # All tokens are learnt where that is asked for.
    assert (
        account('half', talk({'weight': 0}, {}), train_on='all')['trained_tokens']
        > half['tokens'] - 2
    )


def test_a_row_that_the_template_refuses_is_told_or_counted(tmp_path, chinese):
    source = (
        "{%- for m in messages %}{%- if '不' in m.content %}{{ raise_exception('no 不 here') }}"
        "{%- endif %}{{- m.role + ':' + m.content }}{%- if m.role == 'assistant' %}"
        '{{- eos_token }}{%- endif %}{%- endfor %}'
        "{%- if add_generation_prompt %}{{- 'assistant:' }}{%- endif %}"
    )
    made = dataclasses.replace(chinese, chat_template=source)
    rows = [{'instruction': '好', 'output': o} for o in ('是', '不是', '对')]
    path = write(tmp_path / 'rows.jsonl', rows)
    with pytest.raises(ValueError, match=r'rows.jsonl:2: .*chat_template says: no 不 here.*on_bad'):
        data.prepare(run(tmp_path, path, template='tokenizer'), made)
    skipping = run(tmp_path, path, template='tokenizer', on_bad_row='skip')
    entry = data.prepare(skipping, made).account['sources'][0]
    assert entry['skipped'] == {'refused by the template': 1} and entry['kept'] == 2
