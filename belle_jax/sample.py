"""Talks to a model: a chat in the terminal, or a file of prompts answered in batches.

    belle-jax sample --model=runs/sft
    belle-jax sample --model=BelleGroup/BELLE-7B-2M --preset=belle --dtype=bfloat16
    belle-jax sample --model=bloomz-7b1-mt --weights=bloom7b-2m-4bit-128g.pt
    belle-jax sample --model=runs/sft --prompts=questions.jsonl --output=answers.jsonl

--model is a run directory, one of its checkpoints, a Hugging Face directory, also of a quantised
model, or a hub name; with --weights the directory of configuration and tokenizer alone. Without
--prompts, each message is a turn of one conversation, answered as it is made. At a terminal Enter
sends it, Alt-Enter begins a new line, a paste stays whole, Ctrl-C stops an answer, /reset forgets
the conversation, /help lists the commands, /exit leaves. From a pipe each line is a message.

A prompts file has one JSON object a line: {"prompt": "..."}, {"messages": [{"role": "user",
"content": "..."}]} or BELLE's {"text": "..."}, and optionally an "id". The output has, in the same
order, id, input, output, finish_reason (stop or length), prompt_tokens, completion_tokens. The same
command again continues where it was stopped. What a row gets depends on the row, the settings and
the seed, not on the rows beside it. Several processes that Slurm, Kubernetes, mpirun or TPU
machines start, or that --coordinator, --processes and --process name, answer it with one model,
split over the devices of all.

Prompts are written as the run was trained; a Hugging Face directory's own chat template is used, or
else BELLE's. --template=none continues raw text. Without a temperature the answer is greedy: the
likeliest token each time.
"""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from belle_jax import cli, cluster_flags, signals

# BELLE's published settings: its model cards; its GPTQ scripts, whose lengths count the prompt and
# whose top_k is transformers' default of the time; its Gradio page.
PRESETS: dict[str, dict[str, Any]] = {
    'belle': {
        'template': 'belle',
        'temperature': 0.35,
        'top_k': 30,
        'top_p': 0.85,
        'repetition_penalty': 1.2,
        'max_new_tokens': 200,
    },
    'gptq': {
        'template': 'belle',
        'temperature': 0.8,
        'top_k': 50,
        'top_p': 0.95,
        'min_length': 10,
        'max_length': 1024,
        'max_new_tokens': 1024,
    },
    'gradio': {
        'temperature': 0.1,
        'top_k': 40,
        'top_p': 0.75,
        'repetition_penalty': 1.2,
        'max_new_tokens': 512,
    },
}

MODEL = flags.DEFINE_string(
    'model', '', 'Run directory, checkpoint, Hugging Face directory or hub name.'
)
WEIGHTS = flags.DEFINE_string(
    'weights',
    '',
    'A .pt or .safetensors file of GPTQ weights alone, as BELLE published them; --model is then '
    'the directory of the config.json and tokenizer of its base.',
)
ADAPTER = flags.DEFINE_string(
    'adapter', '', "An adapter of the model, PEFT's or a run's, which is not merged into it."
)
PROMPTS = flags.DEFINE_string('prompts', None, 'JSON lines to answer instead of a chat.')
OUTPUT = flags.DEFINE_string('output', None, 'Where the answers go, with --prompts.')
PRESET = flags.DEFINE_enum(
    'preset',
    None,
    list(PRESETS),
    "BELLE's settings: of its model cards (belle), its GPTQ scripts (gptq), its web page (gradio). "
    'Any flag beside it wins.',
)
FLAGS = {
    flag.name: flag
    for flag in (
        flags.DEFINE_float(
            'temperature',
            None,
            '0 (default): the likeliest token; about 0.3 to 1: drawn, freer with higher values.',
        ),
        flags.DEFINE_integer('top_k', None, 'Draw from the k likeliest tokens alone (0: all).'),
        flags.DEFINE_float(
            'top_p', None, 'Draw from the likeliest tokens that hold this probability (1: all).'
        ),
        flags.DEFINE_float(
            'min_p',
            None,
            "Draw from tokens with at least this fraction of the likeliest's probability (0: all).",
        ),
        flags.DEFINE_float(
            'repetition_penalty', None, 'Above 1: tokens that occurred become less likely (1: off).'
        ),
        flags.DEFINE_integer(
            'max_new_tokens',
            None,
            'Longest answer, in tokens (default 512; less where the context ends).',
        ),
        flags.DEFINE_integer('min_new_tokens', None, 'No end before that many tokens (default 0).'),
        flags.DEFINE_integer('max_length', None, 'Longest prompt and answer together (0: any).'),
        flags.DEFINE_integer('min_length', None, 'No end before prompt and answer have that many.'),
        flags.DEFINE_multi_string('stop', None, 'Text that ends an answer; may be repeated.'),
        flags.DEFINE_integer('seed', None, 'Decides the draws (default 0).'),
        flags.DEFINE_integer('num_beams', None, 'Above 1: beam search, which draws nothing.'),
        flags.DEFINE_string(
            'template',
            None,
            "belle, belle_card, belle_sft, alpaca, tokenizer (the directory's own "
            'chat template) or none (raw text); by default what the model was trained with.',
        ),
    )
}
SYSTEM = flags.DEFINE_string('system', None, "System message (default: the run's).")
DTYPE = flags.DEFINE_enum(
    'dtype', 'float32', ['float32', 'bfloat16'], 'Of weights and activations.'
)
BATCH_SIZE = flags.DEFINE_integer('batch_size', 8, 'Prompts answered at a time.', lower_bound=1)
DEVICES = flags.DEFINE_integer('devices', 1, 'Split each weight over that many devices.')


def options() -> dict[str, Any]:
    """The flags that were given, over the preset's."""
    given = {name: flag.value for name, flag in FLAGS.items() if flag.value is not None}
    return PRESETS.get(PRESET.value or '', {}) | given


def settings_by_length(options: dict[str, Any]) -> Callable[[int], Any]:
    """A function from the tokens of a prompt to the settings of its answer."""
    from belle_jax.decoding import Sampling

    options = {k: tuple(v) if k == 'stop' else v for k, v in options.items() if k != 'template'}
    longest, shortest = options.pop('max_length', 0), options.pop('min_length', 0)
    base = Sampling(**options)

    def settings(prompt_tokens: int) -> Sampling:
        room = max(1, longest - prompt_tokens) if longest else base.max_new_tokens
        return dataclasses.replace(
            base,
            max_new_tokens=min(base.max_new_tokens, room),
            min_new_tokens=max(base.min_new_tokens, shortest - prompt_tokens),
        )

    return settings


def main() -> None:
    """Checks what can be checked, loads the model, answers."""
    if bool(PROMPTS.value) != bool(OUTPUT.value):
        raise ValueError('--prompts and --output belong together: give both, or neither to chat.')
    chosen = options()
    settings = settings_by_length(chosen)
    from belle_jax.data import templates
    from belle_jax.decoding import assistant, prompt_file, terminal
    from belle_jax.disk import distinct

    if (name := chosen.get('template')) and name not in templates.NAMES:
        raise ValueError(f'--template={name} is not known: {", ".join(templates.NAMES)} are.')
    if OUTPUT.value:
        beside = f'{OUTPUT.value}{prompt_file.SETTINGS}'
        distinct({'--prompts': PROMPTS.value}, {'--output': [OUTPUT.value, beside]})
    rows = prompt_file.read_prompts(PROMPTS.value) if PROMPTS.value else []
    voice = assistant.voice(str(MODEL.value), chosen.get('template', ''), SYSTEM.value)
    print(f'template: {voice.template.name}', file=sys.stderr)
    if OUTPUT.value:
        _answer(rows, voice, chosen, settings)
    else:
        engine = _engine(voice, DEVICES.value)
        signals.as_usual()
        title = assistant.title(str(MODEL.value), engine, voice)
        terminal.converse(engine, voice, settings, title)


def _answer(rows: list[Any], voice: Any, chosen: dict[str, Any], settings: Any) -> None:
    """Answers a file of prompts; the processes of a job do it together, with one model."""
    from belle_jax.decoding import prompt_file

    path = str(OUTPUT.value)
    run = {
        'model': str(MODEL.value),
        'step': voice.step,
        'template': voice.template.name,
        'system': voice.system,
        'dtype': DTYPE.value,
        'batch_size': BATCH_SIZE.value,
        'settings': chosen,
    }
    if WEIGHTS.value:
        run['weights'] = str(WEIGHTS.value)
    if ADAPTER.value:
        run['adapter'] = str(ADAPTER.value)
    job = cluster_flags.find()
    same = {f'--{name}': value for name, value in run.items()}
    with cluster_flags.joined(job, Path(f'{path}.logs'), same, place=f'--output={path}'):
        # The output comes first: that it cannot be written is known before weights are read.
        with prompt_file.Output(path, rows, run, writes=not (job and job.process)) as output:
            engine = _engine(voice, cluster_flags.all_devices(DEVICES) if job else DEVICES.value)
            prompt_file.answer(engine, voice, rows, output, settings)
        print(f'{len(rows):,} answers are in {path}')


def _engine(voice: Any, devices: int) -> Any:
    from belle_jax.decoding import assistant

    return assistant.engine(
        str(MODEL.value),
        voice,
        dtype=DTYPE.value,
        batch_size=BATCH_SIZE.value,
        devices=devices,
        weights=str(WEIGHTS.value),
        adapter=str(ADAPTER.value),
    )


if __name__ == '__main__':
    cli.run(
        main, required=('model',), stopped='stopped. With --prompts the same command continues.'
    )
