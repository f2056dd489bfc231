"""Measures a model: a judge's scores of its answers, perplexity, other people's tasks.

    belle-jax evaluate run --model=runs/sft --judge=gpt-4.1 --output=evals/sft
    belle-jax evaluate run --model=runs/sft --judge=gpt-4 --output=evals/belle \\
        --questions=eval_set.json --prompts=eval_prompt.json --judgings=3
    belle-jax evaluate report --output=evals/sft --others=lora=evals/lora,base=evals/base

`run` goes through three stages, which can be run alone too, each of which goes on where it was
stopped, and none of which asks anything twice:

    answer   --model answers the questions: a run directory, checkpoint, Hugging Face directory or
             hub name; or with --model_url a model of that server; or --answers, a file of them.
    judge    --judge, a model of the server of --base_url, gives each answer a score from 0 to 1,
             --judgings times. With --against it says as well which of two answers is better.
    report   report.html, scores.json and scores.md in --output.

The key of a server comes from OPENAI_API_KEY. Without --questions and --prompts our own are taken;
BELLE's eval_set.json and eval_prompt.json are read as they are. Other actions:

    belle-jax evaluate page --judge=gpt-4.1                  score single answers in a browser
    belle-jax evaluate check_set --questions=mine.jsonl      is it a good set of questions?
    belle-jax evaluate contamination --questions=mine.jsonl --train=data/a.json,data/b.jsonl
    belle-jax evaluate harness --model=runs/sft --tasks=cmmlu,ceval-valid
    belle-jax evaluate perplexity --model=runs/sft --text=wikitext2 --output=perplexity.json

The text of `perplexity` is wikitext2, ptb or c4, as the papers on quantisation take them, or a
file: plain text, or rows as training reads them. It is cut into windows of --seq_len tokens, in
each of which every token but the first is foretold. With --stride windows overlap, and each token
is foretold once, from at least seq_len - stride tokens before it.
"""

import dataclasses
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from belle_jax import cli, server_flags
from belle_jax.disk import distinct
from belle_jax.flag_readers import require_read, table

FLAGS = flags.FLAGS
MODEL = flags.DEFINE_string(
    'model', '', "Run directory, checkpoint, Hugging Face directory, hub name, or a server's model."
)
OUTPUT = flags.DEFINE_string(
    'output', '', 'Directory of the evaluation; of perplexity, contamination and harness a file.'
)
QUESTIONS = flags.DEFINE_string(
    'questions',
    '',
    "File of question, std_answer and class, as BELLE's; by default our own. safety: our own that "
    'ask for harm, and those that only look so.',
)
PROMPTS = flags.DEFINE_string(
    'prompts', '', "File of the judge's prompts by class, as BELLE's; by default our own."
)
LANGUAGE = flags.DEFINE_enum('language', 'zh', ['zh', 'en'], 'Of our own prompts.')
MODEL_URL = flags.DEFINE_string(
    'model_url', '', 'Server that has --model; without it --model is one of ours.'
)
ANSWERS = flags.DEFINE_string('answers', '', "File of another program's answers, in place of both.")
JUDGE = flags.DEFINE_string('judge', '', 'Model that scores, of the server of --base_url.')
JUDGINGS = flags.DEFINE_integer('judgings', 1, 'Of each answer.', lower_bound=1)
JUDGE_TOKENS = flags.DEFINE_integer(
    'judge_tokens', 1024, 'Longest reply of the judge, in tokens.', lower_bound=16
)
AGAINST = flags.DEFINE_string(
    'against', '', 'Evaluation, or file of answers, to compare with answer by answer.'
)
OTHERS = flags.DEFINE_list(
    'others',
    [],
    'Evaluations to show beside this one: DIRECTORY or NAME=DIRECTORY. Where names are numbers, '
    'such as 0.2M=…, scores are drawn over them.',
)
NAME = flags.DEFINE_string('name', '', 'Of this one beside --others; by default the directory.')
PERSON = flags.DEFINE_string(
    'person', '', "File of a person's scores, {id, score}, to hold the judge's against."
)
TRAIN = flags.DEFINE_list('train', [], 'Files of training data that may hold the questions.')

TEMPLATE = flags.DEFINE_string('template', '', "Of conversations; by default the model's own.")
SYSTEM = flags.DEFINE_string('system', None, "System message (default: the run's).")
TEMPERATURE = flags.DEFINE_float(
    'temperature', 0.0, 'Of answers; 0: the likeliest token each time.', lower_bound=0
)
MAX_NEW_TOKENS = flags.DEFINE_integer('max_new_tokens', 1024, 'Longest answer.', lower_bound=1)
SEED = flags.DEFINE_integer('seed', 0, 'Decides the draws.')
DTYPE = flags.DEFINE_enum(
    'dtype', 'float32', ['float32', 'bfloat16'], 'Of weights and activations.'
)
BATCH_SIZE = flags.DEFINE_integer('batch_size', 8, 'Rows at a time.', lower_bound=1)
DEVICES = flags.DEFINE_integer('devices', 1, 'Split each weight over that many devices.')
HOST = flags.DEFINE_string('host', '127.0.0.1', 'Of the page: who may reach it.')
PORT = flags.DEFINE_integer('port', 0, 'Likewise; 0: one that is free.')

TEXT = flags.DEFINE_string('text', '', 'wikitext2, ptb, c4, or a file.')
SEQ_LEN = flags.DEFINE_integer(
    'seq_len', None, "Tokens of a window (default 2048, or the model's context if that is less)."
)
STRIDE = flags.DEFINE_integer('stride', 0, 'Tokens between two windows; 0: side by side.')

ASKING = 'run answer judge page'
READ_BY = {
    'model': 'run answer page harness perplexity',
    'output': 'run answer judge report contamination harness perplexity',
    'questions': 'run answer page check_set contamination',
    'prompts language judge judge_tokens': 'run judge page',
    'judgings against': 'run judge',
    'model_url answers': 'run answer',
    'others name person': 'run report',
    'train': 'run report check_set contamination',
    'template system temperature max_new_tokens seed': 'run answer page',
    'dtype batch_size devices': 'run answer page harness perplexity',
    'host port': 'page',
    'text seq_len stride': 'perplexity',
    server_flags.NAMES: ASKING,
}
NEEDED = {
    'run': 'output judge',
    'answer': 'output',
    'judge': 'output judge',
    'report': 'output',
    'page': 'judge',
    'check_set': 'questions',
    'contamination': 'train',
    'harness': 'model tasks',
    'perplexity': 'model text',
}


def main(action: str) -> Any:
    """Does it; returns what to print, or the exit code."""
    require_read(table(READ_BY), action)
    for flag in (FLAGS[name] for name in NEEDED[action].split()):
        if not flag.value:
            raise ValueError(f'--{flag.name} is missing. {flag.help}')
    return ACTIONS[action]()


def run() -> int:
    """All three stages; returns the exit code."""
    _rubrics().require(question.kind for question in _questions())
    return answer() or judge() or report()


def answer() -> int:
    """The first stage."""
    from belle_jax.judging import answering
    from belle_jax.judging.evaluation import Evaluation

    asked = _questions()
    if ANSWERS.value:
        distinct({'--answers': ANSWERS.value}, {'--output': f'{OUTPUT.value}/answers.jsonl'})
        given = answering.read(ANSWERS.value, asked)
        name = MODEL.value or Path(ANSWERS.value).stem
        evaluation = Evaluation.begin(OUTPUT.value, asked, model=name, answered_by='file')
        answering.write(evaluation.output, asked, given)
        return _said(f'{len(given):,} answers of {ANSWERS.value}.')
    if not MODEL.value:
        raise ValueError(f'--model is missing, or --answers. {MODEL.help}')
    options = {'temperature': TEMPERATURE.value, 'max_new_tokens': MAX_NEW_TOKENS.value}
    options |= {'seed': SEED.value}
    by = 'server' if MODEL_URL.value else 'model'
    evaluation = Evaluation.begin(
        OUTPUT.value, asked, model=MODEL.value, answered_by=by, answer_settings=options
    )
    if by == 'server':
        model = _asked(str(MODEL.value), MAX_NEW_TOKENS.value, TEMPERATURE.value)
        client = server_flags.client(model.model, MODEL_URL.value)
        return _ended(evaluation.ask_server(model, client))
    answering.from_model(asked, evaluation.output, options=options, **_model())
    return _said(f'{len(asked):,} answers are in {evaluation.output}')


def judge() -> int:
    """The second stage."""
    from belle_jax.judging.evaluation import Evaluation

    evaluation, rubrics = Evaluation(OUTPUT.value), _rubrics()
    asked = _asked(str(JUDGE.value), JUDGE_TOKENS.value, 0.0)
    client = server_flags.client(asked.model)
    missing = evaluation.judge(rubrics, JUDGINGS.value, asked, client)
    if not missing and AGAINST.value:
        missing = evaluation.compare(AGAINST.value, rubrics, asked, client)
    return _ended(missing)


def report() -> int:
    """The third stage."""
    from belle_jax.judging import report

    return _said(report.write(OUTPUT.value))


def page() -> None:
    """Serves the page that scores single answers."""


def check_set() -> str:
    """Looks a set of questions over."""
    return ''


def contamination() -> str:
    """Looks for questions in training data."""
    return ''


def harness() -> str:
    """Runs tasks of lm-evaluation-harness."""
    return ''


def perplexity() -> str:
    """Measures a text, writes --output, and returns what it came to."""
    from belle_jax.data import corpora, marked_text
    from belle_jax.decoding import assistant, perplexity
    from belle_jax.json_files import write_json

    model, source = str(MODEL.value), str(TEXT.value)
    if OUTPUT.value:
        distinct({'--text': source}, {'--output': OUTPUT.value})
    text = corpora.text(source)
    voice = assistant.voice(model)
    tokens = marked_text.encode(voice.tokenizer, text)
    share = len(tokens) / len(text.encode())
    decoder = assistant.decoder(model, voice, dtype=DTYPE.value, devices=DEVICES.value)
    seq_len = SEQ_LEN.value
    if seq_len is None and (seq_len := perplexity.window(decoder)) < perplexity.SEQ_LEN:
        print(f"--seq_len={seq_len}: the model's context.", file=sys.stderr)
    if corpus := corpora.CORPORA.get(source):
        tokens = tokens[: corpus.windows and corpus.windows * seq_len]
    found = perplexity.perplexity(
        decoder, tokens, seq_len, STRIDE.value, batch_size=BATCH_SIZE.value
    )
    result = {
        'model': model,
        'step': voice.step,
        'text': source,
        'dtype': DTYPE.value,
        'perplexity': found.value,
        **dataclasses.asdict(found),
        'bits_per_byte': found.loss / math.log(2) * share,
    }
    said = (
        f'perplexity {found.value:,.4f} ({found.loss:.5f} nats a token, '
        f'{result["bits_per_byte"]:.4f} bits a byte) on {found.tokens:,} tokens in '
        f'{found.windows:,} windows of {found.seq_len:,}'
    )
    if OUTPUT.value:
        Path(OUTPUT.value).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(OUTPUT.value), result)
        said += f'\nThe figures are in {OUTPUT.value}'
    return said


def _questions() -> list[Any]:
    from belle_jax.judging import questions

    own = {'': questions.OWN_QUESTIONS, 'safety': questions.OWN_SAFETY}
    return questions.read(own.get(QUESTIONS.value) or QUESTIONS.value)


def _rubrics() -> Any:
    from belle_jax.judging import rubrics

    return rubrics.read(PROMPTS.value or rubrics.OWN[LANGUAGE.value])


def _model() -> dict[str, Any]:
    """The flags that say how a model of ours is loaded and spoken to."""
    names = 'model template system dtype batch_size devices'.split()
    return {name: FLAGS[name].value for name in names}


def _asked(model: str, max_tokens: int, temperature: float) -> Any:
    from belle_jax.judging.answering import Asked

    options = {'max_tokens': max_tokens, 'temperature': temperature} | server_flags.request()
    options = {name: value for name, value in options.items() if value is not None}
    return Asked(model, options, server_flags.CONCURRENCY.value, server_flags.budget())


def _said(text: object) -> int:
    print(text)
    return 0


def _ended(missing: str) -> int:
    """Says what is missing of a stage, if anything; returns the exit code."""
    if missing:
        print(f'belle_jax.evaluate: {missing}', file=sys.stderr)
    return 1 if missing else 0


ACTIONS: dict[str, Callable[[], Any]] = {
    action.__name__: action
    for action in (
        *(run, answer, judge, report, page, check_set, contamination, harness, perplexity),
    )
}


if __name__ == '__main__':
    cli.run(
        main,
        actions=list(ACTIONS),
        stopped='stopped. The same command goes on where it was.',
        stopped_code=130,
    )
