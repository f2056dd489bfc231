"""The page says what the run did, shows other people's text as text, and asks for nothing."""

import collections
import html.parser
import json
import math
import random
import re

import pytest

from belle_jax.pages.page import bars, compact, histogram, lines, percent, sunburst
from belle_jax.synthesis import report_statistics
from belle_jax.synthesis.report import Point, ReportData, page, write
from belle_jax.synthesis.report_statistics import verb
from belle_jax.synthesis.sources import read_seeds

EVIL = '</style></title><script>alert(1)</script><img src=x onerror="alert(2)">\'&amp;'


class Page(html.parser.HTMLParser):
    """Text by tag, and every tag with its attributes; fails where tags do not match."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.texts = [], [], collections.defaultdict(list)
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != 'meta':
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts[self.open[-1] if self.open else ''].append(data)


def data(**changes):
    rows = [
        {'instruction': '请写一首诗', 'input': '', 'output': '诗' * 30, 'category': 'generation'},
        {'instruction': '翻译成英文', 'input': '水', 'output': 'water', 'category': 'translation'},
        {'instruction': '写一封信', 'input': '', 'output': '信' * 10, 'category': 'generation'},
    ]
    rows = [row | {'similarity': 0.1 * n} for n, row in enumerate(rows, 1)]
    given = {
        'title': 'Belle.train.json',
        'settings': [('model_name', 'a-model'), ('temperature', 1.0)],
        'rejected': {'too similar': 30, 'too short': 10, 'never': 0},
        'series': [
            Point(100, 800, 480, 50_000, 40_000, 0.25),
            Point(150, 1200, 600, 75_000, 60_000, 0.6),
        ],
        'rows': iter(rows),
    }
    return ReportData(**(given | changes))


def test_the_page_stands_alone(tmp_path):
    write(tmp_path / 'new/report.html', data())
    text = (tmp_path / 'new/report.html').read_text('utf-8')
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['report.html']
    found = Page(text)
    names = {tag for tag, _ in found.tags}
    assert not names & {'script', 'link', 'img', 'iframe', 'object', 'embed', 'form', 'a', 'base'}
    for _, attributes in found.tags:
        assert not {name for name in attributes if name.startswith('on') or name in ('src', 'href')}
    assert not re.search(r'https?:|url\(|@import|//\w', text)
    policies = [a['content'] for t, a in found.tags if a.get('http-equiv')]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert text.count('prefers-color-scheme: dark') == 1


def test_all_text_is_escaped():
    row = {'instruction': EVIL, 'input': EVIL, 'output': EVIL, 'category': EVIL, 'similarity': 0.5}
    talk = {'conversations': [{'from': 'human', 'value': EVIL}, {'from': 'gpt', 'value': EVIL}]}
    text = page(
        data(
            title=EVIL,
            settings=[(EVIL, EVIL)],
            rejected={EVIL: 3},
            why={EVIL: EVIL},
            measure=EVIL,
            rows=[row, talk],
        )
    )
    assert '<script' not in text and '<img' not in text and 'onerror="' not in text
    found = Page(text)
    ours = (
        'html head meta title style body main section div b span i p h1 h2 h3 table tr td article '
    )
    ours += 'header dl dt dd svg g path rect line text circle polyline'
    assert {tag for tag, _ in found.tags} <= set(ours.split())
    assert found.texts['h1'] == [EVIL] and found.texts['dd'] == [EVIL] * 5
    assert found.texts['td'] == [EVIL, EVIL] and found.texts['title'][0] == EVIL


def test_half_characters_do_not_stop_the_page(tmp_path):
    rows = [{'instruction': '写\ud83d', 'input': '', 'output': '好'}]
    write(tmp_path / 'a.html', data(rows=rows))
    assert '写?' in (tmp_path / 'a.html').read_text('utf-8')


def test_the_tiles_are_the_runs_figures():
    found = Page(page(data()))
    tiles = re.findall(r'<b>(.*?)</b><span>(.*?)</span>', page(data()))
    assert tiles == [
        ('3', 'rows kept'),
        ('150', 'replies used'),
        ('50%', 'of all tasks kept'),
        ('4.00', 'rows kept per reply'),
        ('135k', 'tokens, 60k of them answers'),
        ('$0.60', 'paid'),
        ('$1.00', 'per 1,000 rows'),
    ]
    assert found.texts['td'] == ['model_name', 'a-model', 'temperature', '1.0']
    free = [point._replace(usd=0.0) for point in data().series]
    text = page(data(series=free))
    assert ('–', 'no price known') in re.findall(r'<b>(.*?)</b><span>(.*?)</span>', text)
    assert 'Cost of 1,000' not in text and '$' not in text


def curve(text, title):
    """The points of a card's curves, in the chart's own coordinates, and what they say."""
    card = text[text.index(f'<h3>{title}</h3>') :].split('<div class="card')[0]
    drawn = re.findall(r'<circle[^>]*cx="([\d.]+)" cy="([\d.]+)" r="3"><title>(.*?)</title>', card)
    return [(float(x), float(y)) for x, y, _ in drawn], [said for _, _, said in drawn]


def test_the_course_is_that_of_each_stretch():
    text = page(data())
    places, said = curve(text, 'Share of tasks kept')
    assert said == ['kept, 100: 60%', 'kept, 150: 30%']
    # The upright axis goes from 0 % at y = 190 to 60 % at y = 12, the other from 52 to 508.
    assert places == [(52 + 456 * 100 / 150, 12.0), (508.0, 101.0)]
    assert curve(text, 'Cost of 1,000 kept rows')[1] == [
        'in this stretch, 100: $0.52',
        'in this stretch, 150: $2.92',
        'since the beginning, 100: $0.52',
        'since the beginning, 150: $1.00',
    ]
    assert curve(text, 'Tokens')[1] == [
        'prompts, 0: 0', 'prompts, 100: 50k', 'prompts, 150: 75k',
        'completions, 0: 0', 'completions, 100: 40k', 'completions, 150: 60k',
    ]  # fmt: skip
    assert curve(text, 'Rows kept')[1] == ['rows, 0: 0', 'rows, 100: 480', 'rows, 150: 600']


def test_stretches_are_of_a_round_number_of_replies_and_not_too_many():
    def points(*replies):
        return [Point(n, 8 * n, 5 * n, n, n, n / 100) for n in replies]

    assert report_statistics.stretches([]) == (10, [])
    assert report_statistics.stretches(points(3)) == (10, points(3))
    assert report_statistics.stretches(points(*range(1, 46))) == (10, points(10, 20, 30, 40, 45))
    # A short stretch at the end counts from a quarter on.
    assert report_statistics.stretches(points(*range(1, 43))) == (10, points(10, 20, 30, 40))
    # Points may be rare: a stretch ends at the first one that is not before its end.
    assert report_statistics.stretches(points(600, 1300, 2600, 2900, 3000)) == (
        100, points(600, 1300, 2600, 2900, 3000),
    )  # fmt: skip
    assert report_statistics.stretches(points(60, 110, 260, 290, 3000))[1] == points(110, 260, 3000)
    for last, size in ((400, 10), (401, 20), (20_000, 500), (20_001, 1000), (1_000_000, 50_000)):
        found, ends = report_statistics.stretches(points(*range(1, last + 1)))
        assert found == size and ends[0].replies == size and ends[-1].replies >= last - size / 4
        assert len(ends) == -(-last // size) - (last % size == 1)


def test_bars_show_numbers_and_shares():
    text = page(data(why={'too similar': 'ROUGE-L of 0.7 or more'}))
    rejected = text[text.index('<h2>Rejected') : text.index('<h2>Settings')]
    shown = re.findall(
        r'title="(.*?)">.*?auto">(.*?)<.*?width:([\d.]+)%.*?"number">(.*?)<.*?"share">(.*?)<',
        rejected,
    )
    assert shown == [
        ('ROUGE-L of 0.7 or more', 'too similar', '100.00', '30', '75%'),
        ('too short', 'too short', '33.33', '10', '25%'),
    ]
    assert '40 pieces of replies' in rejected
    asked = text[text.index('What is asked for') : text.index('Lengths and')]
    names = re.findall(r'class="name" dir="auto">(.*?)<.*?"number">(.*?)<', asked)
    assert names == [('generation', '2'), ('translation', '1'), ('写', '2'), ('翻译', '1')]
    assert 'generation, 写: 2' in asked and 'translation: 1 (33%)' in asked


def test_rows_are_counted_in_one_pass(shared):
    path = shared / 'data/instructions/alpaca_zh_demo.json'
    rows = json.loads(path.read_text('utf-8'))
    draw = random.Random(1)
    for row in rows:
        row['category'], row['similarity'] = draw.choice('abc'), draw.random()
    found = report_statistics.count(iter(rows), 8)
    assert found.rows == 1000
    assert found.categories == collections.Counter(row['category'] for row in rows)
    for field in ('instruction', 'output'):
        assert found.lengths[field] == collections.Counter(len(row[field]) for row in rows)
    given = [len(row['input']) for row in rows if row['input']]
    assert found.lengths['input'] == collections.Counter(given)
    assert report_statistics.median(found.lengths['input']) == sorted(given)[(len(given) - 1) // 2]
    assert list(found.similarities) == [row['similarity'] for row in rows]
    assert found.verbs == sum(found.verbs_of.values(), collections.Counter())
    assert sum(found.verbs.values()) == 1000 and found.verbs['写'] == 51
    assert len(found.samples) == 8
    assert found.samples == report_statistics.count(rows, 8).samples
    texts = {row['instruction'] for row in rows}
    assert {dict(sample.turns)['instruction'] for sample in found.samples} <= texts


def test_samples_are_drawn_evenly():
    """Each tenth of the rows gives about a tenth of many samples."""
    rows = [{'instruction': f'第{n}题', 'input': '', 'output': '好'} for n in range(2000)]
    samples = report_statistics.count(rows, 1000).samples
    numbers = [int(re.findall(r'\d+', dict(s.turns)['instruction'])[0]) for s in samples]
    assert numbers == sorted(set(numbers)) and len(numbers) == 1000
    tenths = collections.Counter(n // 200 for n in numbers)
    assert all(75 <= tenths[n] <= 125 for n in range(10))
    few = report_statistics.count(rows[:3], 8).samples
    assert [dict(s.turns)['instruction'] for s in few] == ['第0题', '第1题', '第2题']


def test_conversations_are_counted_and_shown():
    turns = ['你好', '您好！', '写诗', '好诗']
    names = ('human', 'assistant') * 2
    rows = [
        {'conversations': [{'from': n, 'value': t} for n, t in zip(names, turns)]},
        {'messages': [{'role': 'system', 'content': 's'}, {'role': 'user', 'content': '再见吧'},
                      {'role': 'assistant', 'content': '慢走'}]},
    ]  # fmt: skip
    found = report_statistics.count(rows, 8)
    assert found.lengths['instruction'] == {2: 1, 3: 1} and found.lengths['output'] == {5: 1, 2: 1}
    assert found.questions == {2: 1, 1: 1} and not found.categories
    assert found.samples[0].turns == (
        ('user', '你好'), ('assistant', '您好！'), ('user', '写诗'), ('assistant', '好诗'),
    )  # fmt: skip
    text = page(data(rows=rows))
    assert 'Turns of conversations' in text and 'Categories' not in text


def test_a_run_that_kept_nothing_has_a_page():
    text = page(data(rows=[], series=[], rejected={}, settings=[]))
    assert Page(text).texts['h2'] == ['Rejected']
    assert 'nothing to show' in text


def test_length_bins_hold_every_row():
    draw = random.Random(2)
    for scale in (1, 5, 60, 4000):
        counts = collections.Counter(int(draw.expovariate(1 / scale)) for _ in range(3000))
        found = report_statistics.bins(counts)
        assert sum(rows for _, _, rows in found) == 3000 and len(found) <= 25
        assert found[0][0] == 0 and [b[1] for b in found[:-1]] == [b[0] for b in found[1:]]
        for begin, end, rows in found:
            assert rows == sum(n for length, n in counts.items() if begin <= length < end)
        if math.isinf(found[-1][1]):
            assert found[-1][2] <= 0.02 * 3000
    assert report_statistics.bins({7: 2}) == [*[(i, i + 1, 0) for i in range(7)], (7, 8, 2)]


def test_similarity_bins_go_to_one_or_beyond():
    unit = report_statistics.even_bins([0.0, 0.049, 0.05, 0.7, 1.0])
    assert [n for _, _, n in unit] == [2, 1, *[0] * 12, 1, *[0] * 4, 1]
    assert unit[-1][1] == 1 and len(unit) == 20
    assert report_statistics.even_bins([3.5, 17.2])[-1][1] == 18


def test_histograms_have_the_height_of_their_numbers():
    drawn = histogram([(0, 10, 4), (10, 20, 8), (20, math.inf, 2)], 'characters', mark=10)
    columns = re.findall(r'height="([\d.]+)"><title>(.*?)</title>', drawn)
    assert columns == [('89.0', '0 – 10: 4'), ('178.0', '10 – 20: 8'), ('44.5', '≥ 20: 2')]
    assert 'class="mark" x1="204.0" x2="204.0"' in drawn and '≥20' in drawn
    assert 'nothing to show' in histogram([(0, 1, 0)], 'x')


def test_a_whole_ring_and_no_data_are_drawn():
    assert 'nothing to show' in lines([], 'x', compact) and 'nothing to show' in bars([], 0)
    ring = sunburst([('all', 5, [('写', 3)])])
    assert ring.count('<path') == 3 and 'all, others: 2' in ring and 'NaN' not in ring.lower()


@pytest.mark.parametrize(
    ('number', 'text'),
    [(0, '0'), (0.05, '0.05'), (950, '950'), (1200, '1.2k'), (34e6, '34M'), (2.5e9, '2.5B')],
)
def test_numbers_are_compact(number, text):
    assert compact(number) == text


def test_shares_are_percentages():
    assert [percent(x) for x in (0, 0.004, 0.09, 0.1, 1)] == ['0%', '0.4%', '9.0%', '10%', '100%']


@pytest.mark.parametrize(
    ('instruction', 'word'),
    [
        ('请写一首诗', '写'),
        ('请你帮我翻译这段话', '翻译'),
        ('根据下列事实编写一个故事', '编写'),
        ('把下面的句子改写得更正式', '改写'),
        ('为什么天是蓝的？', '为什么'),
        ('为何天是蓝的？', '为什么'),
        ('如何做豆腐', '怎样'),
        ('一共有多少个苹果？', '多少'),
        ('月亮会发光吗？', '吗'),
        ('这份说明书太长了', '这份…'),
        ('解方程', '解方程'),
        ('Please write a poem.', 'write'),
        ('Can you explain this?', 'explain'),
        ('42', ''),
        ('', ''),
        ('？', ''),
    ],
)
def test_a_word_stands_for_an_instruction(instruction, word):
    assert verb(instruction) == word


def test_our_seeds_ask_in_many_words():
    words = collections.Counter(verb(seed['instruction']) for seed in read_seeds())
    assert len(words) > 80 and words.most_common(1)[0][1] < 20


def test_the_page_is_the_same_for_the_same_run(tmp_path):
    for name in 'ab':
        write(tmp_path / f'{name}.html', data())
    assert (tmp_path / 'a.html').read_bytes() == (tmp_path / 'b.html').read_bytes()
    write(tmp_path / 'a.html', data(title='newer'))
    assert '<h1>newer</h1>' in (tmp_path / 'a.html').read_text('utf-8')


def test_a_page_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(ValueError, match=r'a\.html cannot be written'):
        write(tmp_path / 'file/a.html', data())
    (tmp_path / 'folder').mkdir()
    with pytest.raises(ValueError, match='folder cannot be written'):
        write(tmp_path / 'folder', data())
    assert sorted(path.name for path in tmp_path.iterdir()) == ['file', 'folder']
