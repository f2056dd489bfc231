"""What the page of a review asks for: rows that pass filters, and decisions that are kept.

Filters are evaluated here: a page about a hundred thousand rows gets fifty at a time.
"""

import copy
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from belle_jax.pages.page import render
from belle_jax.synthesis.decisions import ACTIONS, Decision, DecisionLog, bare
from belle_jax.texts.filters import Row

SHOWN = 50  # rows that a page gets at once
LISTED = 300  # categories that can be chosen from


class Item(NamedTuple):
    """A row or a rejected piece, as it was harvested.

    Attributes:
        place: Its number among all, from 0.
        name: As decisions call it.
        text: The row as JSON, without its neighbours; or a piece that is not a row.
        is_row: Whether it is one.
        category: '' for none.
        reason: Why it was rejected; '' if it was not.
        similarity: The score of its nearest text, if that is known.
        nearest: That text.
    """

    place: int
    name: str
    text: str
    is_row: bool
    category: str
    reason: str
    similarity: float | None
    nearest: str

    @classmethod
    def of(
        cls, place: int, name: str, found: Row | str, reason: str, score: Any, nearest: str
    ) -> 'Item':
        """An item from a row, or from the text of a piece that is not one."""
        row = found if isinstance(found, dict) else {}
        text = json.dumps(bare(row), ensure_ascii=False) if row else str(found)
        score = score if isinstance(score, int | float) else None
        category = str(row.get('category') or '')
        return cls(place, name, text, bool(row), category, reason, score, nearest)


class ReviewPage:
    """What the page asks for. Methods may be called from any thread."""

    def __init__(self, title: str, items: list[Item], log: DecisionLog) -> None:
        self._title, self._items, self._log = title, items, log
        self._by_name = {item.name: item for item in items}
        self._lock = threading.Lock()
        rows = [item for item in items if not item.reason]
        self._count = len(rows)
        self._lists = {
            'categories': Counter(i.category for i in items if i.category).most_common(LISTED),
            'reasons': Counter(i.reason for i in items if i.reason).most_common(),
        }

    def page(self, query: Mapping[str, str]) -> str:
        """The page, which asks for everything else."""
        return render('review.jinja', title=self._title, **self._lists)

    def counts(self) -> dict[str, int]:
        """How far the review is: all rows, decided ones, and decisions by what they are."""
        found: Counter[str] = Counter()
        for name, decision in self._log.decided.items():
            item = self._by_name.get(name)
            if item and not item.reason:
                found[decision.action] += 1
            elif item and decision.action != 'drop':
                found['restore'] += 1
        done = {action: found[action] for action in ('keep', 'drop', 'edit')}
        return {
            'all': self._count,
            'decided': sum(done.values()),
            **done,
            'restore': found['restore'],
            'rejected': len(self._items) - self._count,
        }

    def rows(self, query: Mapping[str, str]) -> dict[str, Any]:
        """The next rows that pass filters.

        Args:
            query: `after`, the place behind which to look; `state` ('', 'open', or an action);
                `category`; `reason` ('' for rows that were not rejected, '*' for all rejected
                ones); `least` and `most` for similarity; `search`, of which upper and lower case
                are the same.
        Returns:
            The rows, how many pass altogether, and the counts.
        Raises:
            ValueError: a number is none.
        """
        passes = self._filter(query)
        after = int(query.get('after', -1))
        with self._lock:
            found = [item for item in self._items if passes(item)]
            shown = [item for item in found if item.place > after][: SHOWN + 1]
            return {
                'items': [self._shown(item) for item in shown[:SHOWN]],
                'more': len(shown) > SHOWN,
                'passing': len(found),
                'counts': self.counts(),
            }

    def decide(self, asked: Any) -> dict[str, Any]:
        """Keeps a decision; it is on the disk when this returns.

        Args:
            asked: `row`, its name; `action`; for an edit `changes`, pairs of a path to a text
                inside the row, such as ['conversations', 0, 'value'], and the new text.
        Returns:
            The row as it is now, and the counts.
        Raises:
            ValueError: there is no such row, or this cannot be decided about it.
            OSError: the disk refuses it.
        """
        item = self._by_name.get(str(asked.get('row'))) if isinstance(asked, dict) else None
        if item is None:
            raise ValueError('there is no such row: load the page again.')
        action = str(asked.get('action'))
        if action in ('edit', 'restore') and not item.is_row:
            raise ValueError('this is not a row, so it can neither be edited nor taken back.')
        if action not in ACTIONS or action == ('keep' if item.reason else 'restore'):
            raise ValueError(
                'rejected rows are taken back, others are kept, and all may be edited or dropped.'
            )
        with self._lock:
            changed = _changed(self._now(item), asked.get('changes')) if action == 'edit' else None
            self._log.add(Decision(item.name, action, changed))
            return {'item': self._shown(item), 'counts': self.counts()}

    def undo(self, asked: Any) -> dict[str, Any]:
        """Takes the last decision back, of earlier sittings too; otherwise as `decide`."""
        with self._lock:
            if not (name := self._log.last):
                raise ValueError('there is nothing to undo.')
            self._log.add(Decision(name, 'undo'))
            item = self._by_name.get(name)
            return {'item': item and self._shown(item), 'counts': self.counts()}

    def _now(self, item: Item) -> Row:
        decision = self._log[item.name]
        return decision.edited if decision and decision.edited else json.loads(item.text)

    def _shown(self, item: Item) -> dict[str, Any]:
        decision = self._log[item.name]
        values = item._asdict() | {'state': decision.action if decision else ''}
        return values | ({'row': self._now(item), 'text': ''} if item.is_row else {})

    def _filter(self, query: Mapping[str, str]) -> Callable[[Item], bool]:
        state, category, reason = (query.get(key, '') for key in ('state', 'category', 'reason'))
        least, most = (float(query[key]) if query.get(key) else None for key in ('least', 'most'))
        words = query.get('search', '').casefold()
        # The row's JSON is looked through first, as taking each row out of it takes longer.
        written = json.dumps(words, ensure_ascii=False)[1:-1]

        def passes(item: Item) -> bool:
            if bool(item.reason) != bool(reason) or reason not in ('', '*', item.reason):
                return False
            if category and item.category != category:
                return False
            if least is not None or most is not None:
                score = item.similarity
                if score is None or score < (least or 0) or (most is not None and score > most):
                    return False
            decision = self._log[item.name]
            if state and state != ('open' if decision is None else decision.action):
                return False
            if not words:
                return True
            if decision is None or not decision.edited:
                if written not in item.text.casefold():
                    return False
                if not item.is_row:
                    return True
            return any(words in text.casefold() for text in _texts(self._now(item)))

        return passes


def _changed(row: Row, changes: Any) -> Row:
    row = copy.deepcopy(row)
    wrong = ValueError('an edit gives texts for places of the row that hold text.')
    try:
        for (*path, last), text in changes:
            inside: Any = row
            for step in path:
                inside = inside[step]
            if not (isinstance(inside[last], str) and isinstance(text, str)):
                raise wrong
            inside[last] = text
    except (TypeError, ValueError, LookupError) as error:
        raise wrong from error
    return row


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)
