"""What a run is asked to do, and the body of its requests."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from belle_jax import declaration
from belle_jax.declaration import at_least, within

# What is asked when no model is named. BELLE's, gpt-3.5-turbo and text-davinci-003, are gone or
# going, and no model of today's completions is anybody's first choice.
MODELS = {'chat': 'gpt-4.1-mini', 'completion': ''}
# BELLE forbids the end of text to GPT-3's models, which would end after the first task. Others have
# another token there.
GPT3, END_OF_TEXT = 'text-davinci', 50256
# BELLE's own stop strings. "20." also ends a reply at "2020." or "20.5", in the middle of an
# answer, and the server says `stop` as for a whole one: so by default only a list's number
# 20 ends it, which is the same for a list and harms no text. `stop=BELLE_STOP` brings them back.
BELLE_STOP = ('\n20', '20.', '20.')
LIST_STOP = ('\n20.', '\n20．', '\n20、')
CHOICES = {'api': tuple(MODELS), 'language': ('zh', 'en'), 'evolve': ('both', 'deepen', 'widen')}


@dataclasses.dataclass(frozen=True)
class Settings:
    """One run's choices; kinds read what they need.

    Attributes:
        seeds: Seed tasks, each with instruction and instances (BELLE's) or input and output.
        rows: Existing rows, to be evolved or labelled: row n belongs to request n.
        categories: The classes, each with name, zh and definition.
        characters: Pairs for dialogues, each with a, b (name, about) and scenes; empty: our own.
        seed: Of every draw: seeds, topics, characters, operators.
        language: 'zh' or 'en': of the prompts, the rows and the rules that they have to pass.
        num_prompt_instructions: Seed tasks shown in each prompt.
        tasks_per_request: New tasks asked for in each prompt.
        turns: Fewest and most questions of a conversation.
        prompt_file: A text that takes the place of the kind's own prompt.
        evolve: Which ways of changing instructions: 'both', 'deepen' or 'widen'.
        apart: Labels come as rows of id and category alone, not as a field of the whole row.
        longest_answer: Characters above which an answer is rejected.
        api: 'chat' or 'completion'.
        model_name: As the server knows it; empty: one of OpenAI's, for chat.
        max_tokens: Longest reply, in tokens.
        temperature: Of sampling.
        top_p: Nucleus of sampling.
        stop: Strings that end a reply; None: the kind's own.
        request: Fields of every request, over those that come of the other settings; None leaves
            one out.
    """

    seeds: Sequence[Mapping[str, Any]] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    categories: Sequence[Mapping[str, str]] = ()
    characters: Sequence[Mapping[str, Any]] = ()
    seed: int = 0
    language: str = 'zh'
    num_prompt_instructions: int = 3
    tasks_per_request: int = 10
    turns: tuple[int, int] = (2, 5)
    prompt_file: str = ''
    evolve: str = 'both'
    apart: bool = False
    longest_answer: int = 8000
    api: str = 'chat'
    model_name: str = ''
    max_tokens: int = 1024
    temperature: float = at_least(0, 1.0)
    top_p: float = within(0, 1, 1.0)
    stop: tuple[str, ...] | None = None
    request: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        declaration.check(self, '--')
        for field, known in CHOICES.items():
            if getattr(self, field) not in known:
                raise ValueError(
                    f'{field}={getattr(self, field)!r} is unknown: set --{field} to '
                    f'{", ".join(known[:-1])} or {known[-1]}.'
                )
        for field in ('num_prompt_instructions', 'tasks_per_request', 'max_tokens'):
            if getattr(self, field) < 1:
                raise ValueError(
                    f'{field}={getattr(self, field)} asks for nothing: set --{field} to 1 or more.'
                )
        if not self.model:
            raise ValueError(f'api={self.api} has no model of its own: name one with --model_name.')
        fewest, most = self.turns
        if not 1 <= fewest <= most:
            raise ValueError(
                f'turns={fewest},{most}: the fewest questions of a conversation are 1 or more, and '
                'no more than the most. Set --turns.'
            )

    @property
    def model(self) -> str:
        """The model that is asked."""
        return self.model_name or MODELS[self.api]

    def body(self, prompt: str, stop: Sequence[str] = ()) -> dict[str, Any]:
        """The request that carries a prompt, exactly as it is sent.

        Args:
            prompt: The text to send.
            stop: The kind's stop strings, unless the settings have their own.
        Source: LianjiaTech/BELLE, data/1.5M.
        """
        chat = {'messages': [{'role': 'user', 'content': prompt}]}
        body: dict[str, Any] = {
            'model': self.model,
            **(chat if self.api == 'chat' else {'prompt': prompt}),
            'n': 1,
            'max_tokens': self.max_tokens,
            'temperature': self.temperature,
            'top_p': self.top_p,
        }
        if strings := list(dict.fromkeys(self.stop if self.stop is not None else stop)):
            body['stop'] = strings
        if self.model.startswith(GPT3):
            body['logit_bias'] = {str(END_OF_TEXT): -100}
        body |= self.request
        return {field: value for field, value in body.items() if value is not None}


def read_turns(texts: Sequence[str]) -> tuple[int, int]:
    """The value of --turns; a ValueError where that is not two numbers."""
    try:
        fewest, most = map(int, texts)
    except ValueError as error:
        raise ValueError(f'--turns={",".join(texts)} is not a pair such as 2,5.') from error
    return fewest, most


# --- which kinds and actions of generate_data read which of its flags ----------------------------
# A flag that nothing would read is refused before anything is asked: a run that does not heed it
# costs as much as one that does.

WRITING = 'self_instruct multiturn dialogue math evol'  # the kinds whose rows are new texts
READ_BY = {  # `generate`: all kinds; `--apply`: of a review
    'output output_dir overwrite': 'generate dedupe convert --apply',
    'rows': 'evol label dedupe convert review --apply',
    'apply': 'review --apply',
    'on_bad_row': 'dedupe convert',
    'compare': 'dedupe',
    'layout separator': 'convert',
    'host port': 'review',
    'language': 'generate dedupe',
    'kind count journal rebuild prompt_file give_up_after': 'generate',
    'api model_name max_tokens temperature top_p': 'generate',
    'num_prompt_instructions num_cpus': 'self_instruct',
    'tasks_per_request': 'self_instruct math',
    'categories': 'self_instruct label',
    'turns': 'multiturn',
    'characters': 'dialogue',
    'evolve': 'evol',
    'apart': 'label',
    'seeds seed longest_answer without similarity': WRITING,
    'threshold tokens': f'{WRITING} dedupe',
    'neighbours': 'self_instruct math evol',
}
