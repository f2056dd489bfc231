"""What the actions do; each returns what to print, or the exit code."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from belle_jax import cluster, cluster_flags, server_flags
from belle_jax.disk import distinct
from belle_jax.evaluate import options
from belle_jax.json_files import write_json

FLAGS = flags.FLAGS


def run() -> int:
    """All three stages; returns the exit code."""
    _rubrics().require(question.kind for question in _questions())
    job = cluster_flags.find()
    return _answer(job) or (0 if job and job.process else judge() or report())


def answer() -> int:
    """The first stage."""
    return _answer(cluster_flags.find())


def _answer(job: cluster.ClusterJob | None) -> int:
    """The first stage, to which the processes of a job come together for a model of ours alone."""
    if not (options.ANSWERS.value or options.MODEL_URL.value) and options.MODEL.value:
        return _answer_together(job)
    if _adapter():
        raise ValueError(
            f'--adapter={_adapter()} goes beside a model of ours: name that by --model, without '
            '--model_url and --answers.'
        )
    if job and job.process:
        return _said('process 0 does this alone.')
    from belle_jax.judging import answering
    from belle_jax.judging.evaluation import Evaluation

    asked = _questions()
    if options.ANSWERS.value:
        distinct(
            {'--answers': options.ANSWERS.value},
            {'--output': f'{options.OUTPUT.value}/answers.jsonl'},
        )
        given = answering.read(options.ANSWERS.value, asked)
        name = options.MODEL.value or Path(options.ANSWERS.value).stem
        evaluation = Evaluation.begin(options.OUTPUT.value, asked, model=name, answered_by='file')
        answering.write(evaluation.output, asked, given)
        return _said(f'{len(given):,} answers of {options.ANSWERS.value}.')
    if not options.MODEL.value:
        raise ValueError(f'--model is missing, or --answers. {FLAGS["model"].help}')
    evaluation = _begun(asked, 'server')
    model = _asked(
        str(options.MODEL.value), options.MAX_NEW_TOKENS.value, options.TEMPERATURE.value
    )
    client = server_flags.client(model.model, options.MODEL_URL.value)
    return _ended(evaluation.ask_server(model, client))


def _answer_together(job: cluster.ClusterJob | None) -> int:
    """Answers with a model of ours; of several processes one writes."""
    from belle_jax.judging import answering
    from belle_jax.judging.evaluation import ANSWERS

    asked, directory = _questions(), Path(options.OUTPUT.value)
    same = {f'--{name}': value for name, value in (_model() | _sampling()).items()}
    same['--questions'] = hashlib.sha256(repr(asked).encode('utf-8', 'replace')).hexdigest()
    place = f'--output={directory}'
    with cluster_flags.joined(job, directory / 'logs', same, place=place, stopped=130):
        writes = not (job and job.process)
        if writes:
            _begun(asked, 'model')
        devices = cluster_flags.all_devices(options.DEVICES) if job else options.DEVICES.value
        chosen = _model() | {'devices': devices, 'options': _sampling(), 'writes': writes}
        answering.from_model(asked, directory / ANSWERS, **chosen)
        return _said(f'{len(asked):,} answers are in {directory / ANSWERS}')


def _begun(asked: list[Any], by: str) -> Any:
    """The evaluation of --model, made or opened."""
    from belle_jax.judging.evaluation import Evaluation

    return Evaluation.begin(
        options.OUTPUT.value,
        asked,
        model=options.MODEL.value,
        answered_by=by,
        answer_settings=_sampling() | ({'adapter': given} if (given := _adapter()) else {}),
    )


def judge() -> int:
    """The second stage."""
    from belle_jax.judging.evaluation import Evaluation

    evaluation, rubrics = Evaluation(options.OUTPUT.value), _rubrics()
    asked = _asked(str(options.JUDGE.value), options.JUDGE_TOKENS.value, 0.0)
    client = server_flags.client(asked.model)
    missing = evaluation.judge(rubrics, options.JUDGINGS.value, asked, client)
    if not missing and options.AGAINST.value:
        missing = evaluation.compare(options.AGAINST.value, rubrics, asked, client)
    return _ended(missing)


def report() -> int:
    """The third stage."""
    from belle_jax.judging import report
    from belle_jax.judging.evaluation import CONTAMINATION, Evaluation

    evaluation = Evaluation(options.OUTPUT.value)
    if options.TRAIN.value:
        found = _overlap(evaluation.questions)
        print(found)
        write_json(evaluation.path / CONTAMINATION, found.to_dict())
    others = {}
    for word in options.OTHERS.value:
        name, _, directory = word.rpartition('=')
        if (name := name or Path(directory).name) in others:
            raise ValueError(f'--others has {name} twice: name them, NAME=DIRECTORY.')
        others[name] = directory
    return _said(
        report.write(evaluation, others, str(options.NAME.value), str(options.PERSON.value))
    )


def page() -> str:
    """Serves the page that scores single answers, until Ctrl-C."""
    from belle_jax.judging import scoring_page

    judge = _asked(str(options.JUDGE.value), options.JUDGE_TOKENS.value, 0.0)
    server_flags.client(judge.model)  # tells a wrong flag, or that the price is not known, once
    models = {}
    if name := str(options.MODEL.value):
        models[Path(name).name] = _answerer(name)
    made = scoring_page.ScoringPage(
        _questions(), _rubrics(), judge, lambda: server_flags.client(judge.model, told=True), models
    )
    scoring_page.serve(made, str(options.HOST.value), int(options.PORT.value))
    return 'The page is closed.'


def _answerer(name: str) -> Callable[[str], str]:
    """What has --model answer a question."""
    sampling = _sampling()
    if url := options.MODEL_URL.value:
        from belle_jax.judging.scoring_page import of_server

        asked = _asked(name, options.MAX_NEW_TOKENS.value, options.TEMPERATURE.value)
        return of_server(asked, lambda: server_flags.client(name, url, told=True))
    from belle_jax.judging.answering import speaker

    return speaker(options=sampling, **_model())


def check_set() -> int:
    """Looks a set of questions over; returns the exit code."""
    from belle_jax.judging import question_set

    known = _rubrics().prompts if options.PROMPTS.value else question_set.KINDS
    found = question_set.check(
        str(options.QUESTIONS.value),
        known,
        (lambda asked: _overlap(asked).sentences()) if options.TRAIN.value else None,
    )
    print(found)
    return 1 if found.errors else 0


def contamination() -> str:
    """Looks for questions in training data."""
    asked = _questions()
    found = _overlap(asked)
    texts = {question.number: question.text for question in asked}
    lines = [f'{number}: {texts[number][:60]!r}: {said}' for number, said in found.sentences()]
    if options.OUTPUT.value:
        _write(found.to_dict())
        lines.append(f'All overlaps are in {options.OUTPUT.value}')
    return '\n'.join([*lines, str(found)])


def harness() -> str:
    """Runs tasks of lm-evaluation-harness."""
    from belle_jax.judging import harness

    names = (
        *(
            'include_path',
            'num_fewshot',
            'limit',
            'batch_size',
            'seq_len',
            'dtype',
            'devices',
            'adapter',
        ),
        *('apply_chat_template', 'template', 'system', 'log_samples', 'output', 'adapter'),
    )
    chosen: dict[str, Any] = {name: FLAGS[name].value for name in names}
    tasks: Any = FLAGS['tasks'].value
    return harness.evaluate(str(options.MODEL.value), tasks, **chosen)


def perplexity() -> str:
    """Measures a text, writes --output, and returns what it came to."""
    from belle_jax.decoding import perplexity

    if options.OUTPUT.value:
        distinct({'--text': options.TEXT.value}, {'--output': options.OUTPUT.value})
    figures = perplexity.of_texts(
        str(options.MODEL.value),
        options.TEXT.value,
        options.SEQ_LEN.value,
        options.STRIDE.value,
        dtype=options.DTYPE.value,
        devices=options.DEVICES.value,
        batch_size=options.BATCH_SIZE.value,
        adapter=_adapter(),
    )
    said = perplexity.sentences(figures)
    if options.OUTPUT.value:
        _write(figures[0] if len(figures) == 1 else {'texts': figures})
        said += f'\nThe figures are in {options.OUTPUT.value}'
    return said


def _questions() -> list[Any]:
    from belle_jax.judging import questions

    own = {'': questions.OWN_QUESTIONS, 'safety': questions.OWN_SAFETY}
    return questions.read(own.get(options.QUESTIONS.value) or options.QUESTIONS.value)


def _overlap(asked: Any) -> Any:
    from belle_jax.judging.contamination import contamination

    return contamination(
        {question.number: question.text for question in asked}, options.TRAIN.value
    )


def _rubrics() -> Any:
    from belle_jax.judging import rubrics

    return rubrics.read(options.PROMPTS.value or rubrics.OWN[options.LANGUAGE.value])


def _adapter() -> str:
    return str(options.ADAPTER.value)


def _model() -> dict[str, Any]:
    """The flags that say how a model of ours is loaded and spoken to."""
    names = 'model adapter template system dtype batch_size devices'.split()
    return {name: FLAGS[name].value for name in names}


def _sampling() -> dict[str, Any]:
    names = 'temperature max_new_tokens seed'.split()
    return {name: FLAGS[name].value for name in names}


def _asked(model: str, max_tokens: int, temperature: float) -> Any:
    from belle_jax.judging.answering import Asked

    fields = {'max_tokens': max_tokens, 'temperature': temperature} | server_flags.request()
    fields = {name: value for name, value in fields.items() if value is not None}
    return Asked(model, fields, server_flags.CONCURRENCY.value, server_flags.budget())


def _write(values: dict[str, Any]) -> None:
    """Writes --output, where that is a file."""
    Path(options.OUTPUT.value).parent.mkdir(parents=True, exist_ok=True)
    write_json(Path(options.OUTPUT.value), values)


def _said(text: object) -> int:
    print(text)
    return 0


def _ended(missing: str) -> int:
    """Says what is missing of a stage, if anything; returns the exit code."""
    if missing:
        print(f'belle_jax.evaluate: {missing}', file=sys.stderr)
    return 1 if missing else 0


ACTIONS: dict[str, Callable[[], Any]] = {
    action.__name__.replace('_', '-'): action
    for action in (
        *(run, answer, judge, report, page, check_set, contamination, harness, perplexity),
    )
}
