"""What a compiled program's text says: its collectives in loops, its shapes."""

import re

CALLED = r'(?:calls|to_apply|body|condition|branch_\w+)=\{?([%\w.\-, ]+)'
COLLECTIVES = r'= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all)(?:-start)?\('


def loop_collectives(text: str) -> list[str]:
    """The collectives that run in loops: kind and shapes, each once.

    Compilers move them into computations of their own, which a loop's body calls.
    """
    called: dict[str, set[str]] = {}
    lines: dict[str, list[str]] = {}
    inside = ''
    for line in text.splitlines():
        if line and not line[0].isspace() and line.rstrip().endswith('{'):
            inside = re.sub(r'^ENTRY ', '', line).lstrip('%').split()[0]
        lines.setdefault(inside, []).append(line)
        for names in re.findall(CALLED, line):
            called.setdefault(inside, set()).update(n.strip(' %') for n in names.split(','))
    waiting, looped = re.findall(r'body=%?([\w.\-]+)', text), set()
    while waiting:
        name = waiting.pop()
        if name not in looped:
            looped.add(name)
            waiting.extend(called.get(name, ()))
    found = set()
    for name in looped:
        for line in lines.get(name, ()):
            if match := re.search(COLLECTIVES, line):
                shapes = re.findall(r'\w+\[[\d,]*\]', match[1])
                found.add(f'{match[2]} {" ".join(shapes)}')
    return sorted(found)


def elements(shape: str) -> int:
    """How many entries 'f32[2,3]' has."""
    count = 1
    for n in re.findall(r'\d+', shape[shape.index('[') :]):
        count *= int(n)
    return count
