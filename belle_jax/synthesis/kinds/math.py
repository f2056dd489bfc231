"""School mathematics with worked answers, whose arithmetic is checked."""

import re
from collections.abc import Iterable
from fractions import Fraction

from belle_jax.api import Reply
from belle_jax.synthesis.kinds.base import Kind, fill
from belle_jax.synthesis.parsing import Candidate, TaskFields
from belle_jax.texts.arithmetic import wrong_equations
from belle_jax.texts.filters import reject_if

TASKS = 3  # a worked answer is long; ten would not fit a reply
STEPS = (2, 5)
LONGEST_ANSWER = 60  # characters
PROBLEM = TaskFields(
    question=('题目', '问题', 'question', 'problem'),
    solution=('解题过程', '解答过程', '解答', '解析', '解', 'solution'),
    answer=('最终答案', '答案', 'answer'),
)
FINAL = re.compile(r'\n(?:答案：|Answer: )(?P<answer>[^\n]+)\Z')
NUMBER = re.compile(r'\d+(?:\.\d+)?')
THOUSANDS = re.compile(r'(?<=\d),(?=\d{3}(?!\d))')


def final_answer(output: str) -> str:
    """The last line behind 答案： or Answer:; '' without such a line or if it calculates."""
    match = FINAL.search(output)
    answer = match['answer'].strip() if match else ''
    return '' if len(answer) > LONGEST_ANSWER or re.search('[=＝≈?？]', answer) else answer


def underived(output: str) -> set[Fraction]:
    """The numbers of the final answer that the working never arrives at."""
    if not (match := FINAL.search(output)):
        return set()
    return _numbers(match['answer']) - _numbers(output[: match.start()])


def _numbers(text: str) -> set[Fraction]:
    return {Fraction(number) for number in NUMBER.findall(THOUSANDS.sub('', text))}


class Math(Kind):
    """Problems in BELLE's school_math layout; answers end with a line 答案：… or Answer: …."""

    name = 'math'
    checks = (
        reject_if(
            'no final answer',
            'the last line is not 答案： or Answer: and a result',
            lambda texts: not all(map(final_answer, texts.answers)),
        ),
        reject_if(
            'wrong arithmetic',
            'an equation in the working is wrong',
            lambda texts: any(map(wrong_equations, texts.answers)),
        ),
        reject_if(
            'answer not derived',
            'the final answer holds a number that the working never arrives at',
            lambda texts: any(map(underived, texts.answers)),
        ),
    )

    @property
    def most_rows(self) -> int:
        return min(TASKS, self.settings.tasks_per_request)

    def prompt(self, index: int) -> str:
        draw = self.draw(index)
        grade, _, topic = draw.one(self.lines('math_topics')).partition('\t')
        return fill(
            self.text,
            tasks=self.most_rows,
            grade=grade,
            topic=topic,
            setting=draw.one(self.lines('math_settings')),
            steps=draw.number(*STEPS),
        )

    def read(self, text: str, reply: Reply, cut: bool) -> Iterable[Candidate]:
        for candidate in PROBLEM.read(text, cut):
            if problem := candidate.row:
                answer = re.sub(r'\s*\n\s*', ' ', problem['answer'])
                output = f'{problem["solution"]}\n{self.say("答案：", "Answer: ")}{answer}'
                row = {'instruction': problem['question'], 'input': '', 'output': output}
                candidate = Candidate(row)
            yield candidate
