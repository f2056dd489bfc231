"""Labels: which of the categories each existing row belongs to."""

import re
from collections.abc import Iterable

from belle_jax.api import Reply
from belle_jax.synthesis import json_replies
from belle_jax.synthesis.kinds.base import Kind, fill
from belle_jax.synthesis.parsing import Candidate, refused
from belle_jax.synthesis.settings import Settings
from belle_jax.synthesis.sources import read_categories
from belle_jax.texts.filters import Row, Rule, said

LONGEST_QUESTION, LONGEST_ANSWER = 1200, 400  # characters: enough to see what is asked
KEYS = '类别|分类|标签|答案|category|label|class|name'
ANNOUNCED = re.compile(
    r'(?:类别|分类|标签|答案|category|label|class)\s*(?:名称)?\s*(?:是|为|[:：])+\s*', re.I
)


class Label(Kind):
    """Request n asks for the category of row n."""

    name = 'label'
    needed = ('categories', 'instruction')

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        if not settings.rows:
            raise ValueError('kind=label labels existing rows: name their file in --rows.')
        self._categories = list(settings.categories) or read_categories()
        self._names: dict[str, str] = {}
        for each in self._categories:
            for spelling in (each['name'], each.get('zh') or each['name']):
                self._names[_plain(spelling)] = each['name']
        if '' in self._names:
            raise ValueError('--categories: a category is called by punctuation alone: rename it.')
        longest_first = sorted(self._names, key=len, reverse=True)
        # "open qa" holds no "qa", and "mathematics" no "math": English names are whole words.
        self._mention = re.compile(
            '|'.join(rf'(?<![a-z]){re.escape(name)}(?![a-z])' for name in longest_first)
        )

    def filters(self) -> tuple[Rule, ...]:
        return ()

    @property
    def requests(self) -> int:
        return len(self.settings.rows)

    def prompt(self, index: int) -> str:
        row = said(dict(self.settings.rows[index]))
        lines = []
        for each in self._categories:
            name, told = each['name'], each.get('definition') or ''
            zh = f'- {name}（{each.get("zh") or name}）：{told}'
            lines.append(self.say(zh, f'- {name}: {each.get("english") or told}'))
        return fill(
            self.text,
            count=len(self._categories),
            categories='\n'.join(lines),
            instruction=_short('\n'.join(row.questions), LONGEST_QUESTION),
            input=_short(row.given, LONGEST_QUESTION) or self.say('（无）', '(none)'),
            output=_short('\n'.join(row.answers), LONGEST_ANSWER) or self.say('（无）', '(none)'),
        )

    def read(self, text: str, reply: Reply, cut: bool) -> Iterable[Candidate]:
        row = dict(self.settings.rows[reply.index])
        for piece in json_replies.pieces(text, KEYS, ANNOUNCED):
            said = [value for key, value in piece.value.items() if re.fullmatch(KEYS, key, re.I)]
            text = '\n'.join(map(json_replies.as_text, said)) or text
        name = self._category(text)
        if not name:
            yield refused('ambiguous label' if name == '' else 'unknown label', text)
        elif self.settings.apart:
            yield Candidate({'id': row.get('id', str(reply.index)), 'category': name})
        else:
            yield Candidate(row | {'category': name})

    def _category(self, text: str) -> str | None:
        """The category that a reply names; '' if it names several, None if it names none."""
        lines = [line for line in text.splitlines() if line.strip(' \t`*#-')]
        said_so = ANNOUNCED.search(text)
        tries = [lines[0] if lines else '']
        if said_so:
            tries.insert(0, text[said_so.end() :].partition('\n')[0])
        for each in tries:
            if _plain(each) in self._names:
                return self._names[_plain(each)]
        for each in (*tries, text):
            named = {self._names[name] for name in self._mention.findall(_plain(each))}
            if len(named) == 1:
                return named.pop()
            if named:
                return ''
        return None

    def compared(self, row: Row) -> str:
        return ''


def _plain(text: str) -> str:
    """A name without case, punctuation and sorts of blanks: `Open_QA`, `open\xa0qa.` are one."""
    return ' '.join(re.sub(r'[\W_]+', ' ', text).lower().split())


def _short(text: str, longest: int) -> str:
    text = text.strip()
    return text if len(text) <= longest else text[:longest] + '……'
