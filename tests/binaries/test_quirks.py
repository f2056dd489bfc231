"""Every kind from one server with every quirk: the same, left in peace or killed four times."""

import json
import random
import signal
import time
from collections import Counter

import pytest

import api_replies
import english_replies
import kind_replies
import quirks
from belle_jax.api import Journal
from generate_runs import WAYS, finish, serving, start

FAULTS = {
    'fault_rate': 0.3,
    'most_faults': 1,
    'retry_after': '0.05',
    'delay': 0.02,
    'faults': (*WAYS, 'broken off'),
    'rules': quirks.rules,
    'twist': quirks.twist,
    'keep_bodies': True,
}
KILLS, CONCURRENCY = 4, 8
# Rows of some thirty requests: few, and enough to meet the quirks; label: as many as there are.
COUNTS = {'self_instruct': 90, 'multiturn': 30, 'dialogue': 24, 'math': 80, 'evol': 26, 'label': 0}
RUNS = [(kind, language) for kind in COUNTS for language in ('zh', 'en')]
SOAKED = [pytest.param(*run, marks=pytest.mark.soak) for run in RUNS[1:]]


def flags(kind, language, folder, url):
    rows = [f'--rows={_rows(folder.parent)}'] if kind in ('evol', 'label') else []
    count = [f'--count={COUNTS[kind]}'] if COUNTS[kind] else []
    return [
        f'--kind={kind}', f'--language={language}', f'--output={folder}/rows.json', *rows, *count,
        f'--base_url={url}', '--model_name=m', '--usd_per_million_input=2',
        '--usd_per_million_output=8', f'--concurrency={CONCURRENCY}', '--timeout=20',
        '--give_up_after=0', *([] if kind == 'label' else ['--threshold=0.8']),
    ]  # fmt: skip


def _rows(folder):
    path = folder / 'given.json'
    chance = random.Random(3)
    words = zip(api_replies.PLACES * 3, api_replies.THINGS, api_replies.WAYS * 3)
    rows = [
        {'instruction': f'{chance.choice(api_replies.VERBS)}{"".join(named)}。', 'output': '好。'}
        for named in words
    ]
    path.write_text(json.dumps(rows, ensure_ascii=False), 'utf-8')
    return path


def charged(server):
    """USD of every answer of the server, whether it arrived or not."""
    return sum(2 * prompt + 8 * (total - prompt) for _, prompt, total in server.charged) / 1e6


def journaled(path):
    """Prompts that are answered, what was paid, and what may have been."""
    with Journal(path) as journal:
        answered = {
            str(asked.body['messages']) for asked, reply in journal.entries() if not reply.error
        }
        return answered, journal.spent(), journal.lost


@pytest.mark.parametrize(('kind', 'language'), [RUNS[0], *SOAKED])
def test_a_run_from_a_server_with_every_quirk_is_the_same_after_four_kills(
    tmp_path, kind, language
):
    replies = kind_replies if language == 'zh' else english_replies
    content = getattr(replies, kind, None) or api_replies.self_instruct
    with serving(content=content, **FAULTS) as server:
        account, _ = finish(start(*flags(kind, language, tmp_path / 'calm', server.url)))
        bodies, cost = server.bodies, charged(server)
    _, spent, lost = journaled(tmp_path / 'calm/rows.journal.sqlite')
    # What was answered is paid as the server charged it, whatever it counted.
    assert lost.requests == 0 and spent.cost_usd == pytest.approx(cost, rel=0.01)
    assert 'is sent as max_completion_tokens' in account and 'top_p is left out' in account
    assert 'began with thoughts' in account
    assert '草稿' not in (tmp_path / 'calm/rows.json').read_text('utf-8')

    chance, before = random.Random(kind + language), set()
    with serving(content=content, **FAULTS) as server:
        for number in range(KILLS + 1):
            begun = len(server.bodies)
            process = start(*flags(kind, language, tmp_path / 'killed', server.url))
            if number < KILLS:
                wanted = begun + chance.randint(1, len(bodies) // (KILLS + 1))
                while len(server.bodies) < wanted and process.poll() is None:
                    time.sleep(0.005)
                process.send_signal(signal.SIGKILL)
                process.communicate()
            else:
                account, _ = finish(process)
            now, spent, lost = journaled(tmp_path / 'killed/rows.journal.sqlite')
            again = before & {str(body['messages']) for body in server.bodies[begun:]}
            assert not again, f'{len(again)} answers were asked for twice'
            before = now
        cost = charged(server)
    for name in ('rows.json', 'rows.rejected.jsonl'):
        disturbed, calm = (tmp_path / folder / name for folder in ('killed', 'calm'))
        assert disturbed.read_bytes() == calm.read_bytes()
    # What a kill lost may have been charged; it is told apart, and not below what it was.
    assert lost.requests <= KILLS * CONCURRENCY
    assert spent.cost_usd <= 1.01 * cost <= 1.02 * (spent.cost_usd + lost.cost_usd)
    assert ('earlier runs were killed' in account) == (lost.requests > 0)
    what = Counter(line['what'] for line in server.log)
    assert {'400 ruled', 'ok'} <= what.keys() and len(what) > 6
