"""Text that goes round in circles, as language models write when they lose the thread."""

import re

SHORTEST = 40  # characters; below, a text may repeat itself (哈哈哈哈)
GRAM = 8
LONG = 200
# A unit of 2 to 80 characters, five times or more without a break.
LOOP = re.compile(r'(.{2,80}?)\1{4,}', re.S)
LETTERS = re.compile(r'\w')
DIFFERENT = 0.3  # share of different 8-grams of a long text


def loops(text: str) -> bool:
    """Whether a text repeats itself beyond what songs, tables and code do.

    Either one unit follows itself five times or more and fills a third of the text, or, in 200
    characters or more, less than a third of the sequences of eight characters are different.
    Rules of dashes and blanks do not count.

    Args:
        text: Any text.
    Returns:
        True for a degenerate text.
    """
    if len(text) < SHORTEST:
        return False
    grams = len(text) - GRAM + 1
    if grams >= LONG:
        share = len({text[at : at + GRAM] for at in range(grams)}) / grams
        # Most texts are done here: a loop that fills a third leaves fewer different sequences.
        if share > 0.85:
            return False
        if share < DIFFERENT:
            return len(LETTERS.findall(text)) * 3 >= len(text)  # less: rules and dots of tables
    looped = sum(
        match.end() - match.start()
        for match in LOOP.finditer(text)
        if len(LETTERS.findall(match[1])) * 2 >= len(match[1].strip()) and LETTERS.search(match[1])
    )
    return looped * 3 >= len(text)
