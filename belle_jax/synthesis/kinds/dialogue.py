"""Dialogues between two given characters, in the layout of BELLE's generated_chat."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from belle_jax.api import Reply
from belle_jax.synthesis.kinds.base import Draw, Kind, fill, own
from belle_jax.synthesis.parsing import Candidate, refused
from belle_jax.synthesis.settings import Settings
from belle_jax.synthesis.sources import read_objects
from belle_jax.synthesis.turns import Speakers
from belle_jax.texts.cleaning import BROKEN_TEXT, REPETITION, language_rule, length_rules
from belle_jax.texts.filters import NAMES_A_MODEL, Row, Rule

FEWEST, LINES = 4, (8, 16)  # lines of a dialogue: to be kept, asked for
PAIR = '{"a": {"name", "about"}, "b": {"name", "about"}, "scenes": [...]}'


def _spellings(names: list[str]) -> dict[str, list[str]]:
    """How lines may name the two: by their names, their given names (秀兰, Ruth), their places."""
    given = [n[1:] if len(n) == 3 and not n.isascii() else n.partition(' ')[0] for n in names]
    if given[0] == given[1]:
        given = names
    places = ('角色一', 'Character 1'), ('角色二', 'Character 2')
    return {name: [name, short, *place] for name, short, place in zip(names, given, places)}


def _is_texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


class Dialogue(Kind):
    """Two characters talk; the row gives them as its instruction."""

    name = 'dialogue'
    needed = ('a', 'b')

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._pairs: Sequence[Mapping[str, Any]] = settings.characters or read_objects(
            own('characters.jsonl', settings.language)
        )
        for number, pair in enumerate(self._pairs, 1):
            people = [side for side in map(pair.get, 'ab') if isinstance(side, Mapping)]
            names = {side.get('name') or None for side in people if _is_texts(side.values())}
            scenes = pair.get('scenes') or []
            if len(names - {None}) < 2 or not isinstance(scenes, list) or not _is_texts(scenes):
                raise ValueError(
                    f'--characters: pair {number} does not have two names that differ, or other '
                    f'things than texts: each line is {PAIR}.'
                )

    def filters(self) -> tuple[Rule, ...]:
        return (
            NAMES_A_MODEL,
            *length_rules(self.settings.longest_answer),
            BROKEN_TEXT,
            language_rule(self.settings.language),
            REPETITION,
        )

    def _drawn(self, index: int) -> tuple[Mapping[str, Any], str, Draw]:
        draw = self.draw(index)
        pair = draw.one(self._pairs)
        met = self.say('两个人偶然相遇', 'the two meet by chance')
        return pair, draw.one(pair.get('scenes') or [met]), draw

    def prompt(self, index: int) -> str:
        pair, scene, draw = self._drawn(index)
        a, b = pair['a'], pair['b']
        return fill(
            self.text,
            a=a['name'],
            b=b['name'],
            about_a=a.get('about', ''),
            about_b=b.get('about', ''),
            scene=scene,
            lines=draw.number(*LINES),
            first=draw.one((a, b))['name'],
        )

    def read(self, text: str, reply: Reply, cut: bool) -> Iterable[Candidate]:
        pair, scene, _ = self._drawn(reply.index)
        names = [pair[side]['name'] for side in 'ab']
        speakers = Speakers(_spellings(names), others=True)
        task = self.say('根据以下角色信息完成一段对话', 'Write a dialogue between these characters')
        comma, stop, colon = self.say(('，', '。', '：'), (', ', '.', ': '))
        people = [
            f'{pair[side]["name"]}{comma}{pair[side].get("about", "")}{stop}' for side in 'ab'
        ]
        instruction = '\n'.join([task, *people, f'{self.say("情景", "Scene")}{colon}{scene}'])
        for piece, turns, is_cut in speakers.conversations(text, cut):
            while turns and turns[0].speaker not in names:
                turns = turns[1:]  # "地点：…" before anybody speaks
            if is_cut:
                turns = turns[:-1]  # the last line is not whole
            output = '\n'.join(f'{turn.speaker}{colon}{turn.text}' for turn in turns)
            said = {turn.speaker for turn in turns}
            if said - set(names):
                yield refused('unknown speaker', piece)
            elif not all(turn.text for turn in turns):
                yield refused('empty turn', piece)
            elif len(turns) < FEWEST or len(said) < 2:
                yield refused('truncated' if cut else 'too few turns', piece)
            else:
                yield Candidate({'instruction': instruction, 'input': '', 'output': output})

    def compared(self, row: Row) -> str:
        return row['output']  # the same two people may meet again
