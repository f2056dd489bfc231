"""What the test server answers to English prompts: realistic replies for each kind, some faulty.

As in `api_replies`: functions of the request's body and chance alone.
"""

import random
import re

PEOPLE = 'Ana Ben Carla Dev Ella Finn Gus Hope Ian June Kim Lars Mona Ned Olga Paul'.split()
THINGS = 'apples lanterns tickets postcards buckets ribbons kites candles maps stools'.split()
PLACES = 'harbour orchard library workshop bakery station museum garden castle school'.split()
WAYS = 'history upkeep cost opening-hours safety design staffing lighting seating funding'.split()
VERBS = 'Explain Compare Describe Summarise Plan Review Outline List Defend Rewrite'.split()
REMARKS = (
    'Begin with whatever can be done today, and leave the rest for later.',
    'People in the area say that one visit is never enough.',
    'Three points matter here, and the first of them is time.',
    'It differs from season to season, so ask before you go.',
    'The older members still remember how it used to be done.',
    'Most beginners go wrong at this point, which is no reason to give up.',
    'What counts in the end is care rather than money.',
    'Two of the neighbours have tried it and were content.',
)


def self_instruct(body: dict, chance: random.Random) -> tuple[str, str]:
    """Some tasks that go on from the number with which the prompt ends."""
    number = int(re.findall(r'(\d+)\. Instruction:\Z', _prompt(body))[0])
    tasks = []
    for n in range(number, number + chance.randint(4, 6)):
        given = _remarks(chance, 2) if chance.random() < 0.6 else '<noinput>'
        tasks.append(
            f'{n}. Instruction: {_subject(chance)}\n{n}. Input:\n{given}\n'
            f'{n}. Output:\n{_remarks(chance, 4)}\n'
        )
    return _spoilt('###\n'.join(tasks).removeprefix(f'{number}. Instruction:'), chance)


def multiturn(body: dict, chance: random.Random) -> tuple[str, str]:
    """A conversation of User and Assistant."""
    turns = [
        f'User: {_subject(chance)[:-1]}, please?\nAssistant: {_remarks(chance, 3)}'
        for _ in range(chance.randint(2, 5))
    ]
    return _spoilt('\n'.join(turns), chance)


def dialogue(body: dict, chance: random.Random) -> tuple[str, str]:
    """A dialogue of the two characters of the prompt, by full names or given names."""
    names = re.findall(r'^Character [12]: (.+?),', _prompt(body), re.M)
    shown = names if chance.random() < 0.5 else [name.split()[0] for name in names]
    said = [
        f'{shown[n % 2]}: {chance.choice(REMARKS)} The {chance.choice(PLACES)} has '
        f'{chance.randint(2, 90)} {chance.choice(THINGS)}.'
        for n in range(chance.randint(6, 14))
    ]
    if chance.random() < 0.05:
        said.append('Receptionist: Would you two keep it down?')
    return _spoilt('\n'.join(said), chance)


def math(body: dict, chance: random.Random) -> tuple[str, str]:
    """Three problems with worked solutions, one in twenty of them wrong."""
    problems = []
    for number in range(1, 4):
        boxes, each, thing = chance.randint(3, 40), chance.randint(12, 99), chance.choice(THINGS)
        gone = chance.randint(2, boxes * each - 1)
        left, wrong = boxes * each - gone, 10 * (chance.random() < 0.05)
        heading = f'**Problem {number}:**' if chance.random() < 0.3 else 'Problem:'
        problems.append(
            f'{heading} {_remarks(chance, 2)} {_subject(chance)} There are {boxes} boxes with '
            f'{each} {thing} each; {gone} go. How many {thing} stay?\nSolution:\n'
            f'Altogether: {boxes}×{each}={boxes * each + wrong} ({thing})\n'
            f'Left: {boxes * each}-{gone}={left} ({thing})\nThat is fewer than before.\n'
            f'Answer: {left} {thing}\n'
        )
    return _spoilt('###\n'.join(problems), chance)


def evol(body: dict, chance: random.Random) -> tuple[str, str]:
    """A task that goes on from the given one; one in twenty is the given one."""
    (given,) = re.findall(r"The task's instruction:\n(.+)", _prompt(body))
    instruction = given if chance.random() < 0.05 else _subject(chance)
    text = f'Instruction: {instruction}\nInput: <noinput>\nOutput: {_remarks(chance, 4)}'
    return _spoilt(text, chance)


def label(body: dict, chance: random.Random) -> tuple[str, str]:
    """One of the categories that the prompt lists; some of none."""
    name = chance.choice(re.findall(r'^- ([^:\n]+):', _prompt(body), re.M))
    text = chance.choice(('{}', '{}.', 'Category: {}', '**{}**')).format(name)
    return _spoilt('something else' if chance.random() < 0.05 else text, chance, cut=False)


def _subject(chance: random.Random) -> str:
    one, other = chance.sample(PLACES, 2)
    return (
        f'{chance.choice(VERBS)} the {chance.choice(WAYS)} of the {one} for {chance.choice(PEOPLE)}'
        f', with {chance.choice(THINGS)} from the {other} and at most {chance.randint(20, 300)} '
        f'{chance.choice(THINGS)}.'
    )


def _remarks(chance: random.Random, count: int) -> str:
    return f'{" ".join(chance.sample(REMARKS, count))} ({chance.choice(PEOPLE)})'


def _prompt(body: dict) -> str:
    return str(body.get('prompt') or body['messages'][-1]['content'])


def _spoilt(text: str, chance: random.Random, cut: bool = True) -> tuple[str, str]:
    fault = chance.random()
    if fault < 0.05:
        return "I'm sorry, but as an AI language model I cannot help with that.", 'stop'
    if fault < 0.12 and cut:
        return text[: chance.randint(len(text) // 2, len(text) - 3)], 'length'
    if fault < 0.2 and cut:
        return f'Sure! Here is what you asked for:\n\n{text}', 'stop'
    return text, 'stop'
