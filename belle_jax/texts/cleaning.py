"""The cleaning of BELLE's 1M set as rules, and what else makes a row worthless.

BELLE took out of the 1M set: answers that call themselves a GPT model, rows whose input is so
incomplete that nobody could answer, and Chinese instructions with foreign input or answer. The
exact rules were not published; these are ours, careful with what only looks alike: harmful
requests that are declined, letters of apology, translations, code, programs about "given" arrays.
"""

import re

from belle_jax.texts.filters import Rule, Said, reject_if
from belle_jax.texts.language import foreign_field, scripts
from belle_jax.texts.material import is_incomplete
from belle_jax.texts.persona import calls_itself_a_model, is_refusal
from belle_jax.texts.repetition import loops

CHARACTERS = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd\ud800-\udfff]')

NOTHING = re.compile('[\\s.。…,，;；:：_-]*')


def _foreign(texts: Said) -> bool:
    question = '\n'.join(texts.questions)
    return foreign_field(question, (texts.given, *texts.answers))


def _not_chinese(texts: Said) -> bool:
    question = '\n'.join(texts.questions).strip()
    if scripts(question).chinese >= 0.3:
        return False
    # "请翻译：" before an English article is a Chinese question.
    return scripts(re.split('[。：:\n]', question, maxsplit=1)[0]).chinese < 0.5


def language_rule(language: str) -> Rule:
    """Rejects rows whose question is not in the language that was asked for.

    Args:
        language: 'zh' or 'en'.
    Returns:
        The rule.
    """
    if language == 'zh':
        return reject_if('not Chinese', 'the question is in another language', _not_chinese)
    return reject_if(
        'not English',
        'the question is in another language',
        lambda texts: scripts('\n'.join(texts.questions)).chinese > 0.5,
    )


def length_rules(longest: int, longest_question: int = 2000) -> tuple[Rule, ...]:
    """Bounds in characters on what is asked and on what is answered.

    Args:
        longest: Of an answer.
        longest_question: Of a question, without its input.
    Returns:
        The rules, in order.
    """
    return (
        reject_if(
            'empty answer',
            'an answer is empty, or is dots and dashes',
            lambda texts: not texts.answers or any(map(NOTHING.fullmatch, texts.answers)),
        ),
        reject_if(
            'question too long',
            f'a question has more than {longest_question:,} characters',
            lambda texts: any(len(text) > longest_question for text in texts.questions),
        ),
        reject_if(
            'answer too long',
            f'an answer has more than {longest:,} characters',
            lambda texts: any(len(text) > longest for text in texts.answers),
        ),
    )


BROKEN_TEXT = reject_if(
    'broken text',
    'it holds control characters, halves of characters or code that never ends',
    lambda texts: (
        any(CHARACTERS.search(text) for text in texts.all)
        or any(text.count('```') % 2 for text in texts.answers)
    ),
)
REPETITION = reject_if(
    'repetition', 'a text goes round in circles', lambda texts: any(map(loops, texts.all))
)
ECHO = reject_if(
    'echo',
    'an answer is its question',
    lambda texts: any(
        question.strip() == answer.strip()
        for question, answer in zip(texts.questions, texts.answers)
    ),
)
SELF_NAMING = reject_if(
    'calls itself a model', 'an answer says that it comes from an AI model', calls_itself_a_model
)
REFUSED = reject_if(
    'refusal',
    'an answer declines for want of ability',
    lambda texts: any(map(is_refusal, texts.answers, texts.questions)),
)
INCOMPLETE = reject_if(
    'incomplete input', 'the question points to a text that is not there', is_incomplete
)
FOREIGN = reject_if(
    'foreign text', 'a Chinese instruction has an input or answer in another language', _foreign
)


def cleaning(language: str, longest: int) -> tuple[Rule, ...]:
    """All rules of this module, cheap ones first.

    Args:
        language: 'zh' or 'en'.
        longest: Characters of an answer.
    Returns:
        The rules, in order.
    """
    chinese = (INCOMPLETE, FOREIGN) if language == 'zh' else ()
    return (
        *length_rules(longest),
        BROKEN_TEXT,
        language_rule(language),
        ECHO,
        SELF_NAMING,
        REFUSED,
        *chinese,
        REPETITION,
    )
