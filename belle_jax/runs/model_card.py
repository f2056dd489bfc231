"""The model card of an export: what the model is, what made it, and what is not known about it."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData, metadata_load

from belle_jax import __version__, families
from belle_jax.config import parse_sources
from belle_jax.families import Architecture
from belle_jax.json_files import read_json
from belle_jax.runs import run_directory

BELLE = """@misc{ji2023belle,
  title = {Exploring the Impact of Instruction Data Scaling on Large Language Models: An Empirical
           Study on Real-World Use Cases},
  author = {Yunjie Ji and Yong Deng and Yan Gong and Yiping Peng and Qiang Niu and Lei Zhang and
            Baochang Ma and Xiangang Li},
  year = {2023}, eprint = {2303.14742}, archivePrefix = {arXiv}
}"""
# What the published BELLE models are sampled with (BELLE-7B-2M's model card).
BELLE_SAMPLING = 'temperature 0.35, top_k 30, top_p 0.85, repetition_penalty 1.2, 200 new tokens'
LIMITATIONS = """Language models state wrong facts with confidence, follow harmful instructions, and
repeat the biases of what they were trained on. Nothing here was checked for safety. Judge every use
before people depend on it, and do not use the model where the data's or the base model's terms
forbid it."""


USE = """```python
from {library} import {model}
from transformers import AutoTokenizer

path = '{name}'  # this directory, or its name on the hub
model = {model}.from_pretrained(path, dtype='auto', device_map='auto')
tokenizer = AutoTokenizer.from_pretrained(path)
{inputs}
output = model.generate(**inputs.to(model.device), max_new_tokens=200)
print(tokenizer.decode(output[0, inputs['input_ids'].shape[1] :], skip_special_tokens=True))
```

Or in a terminal: `belle-jax sample {flags}`."""
CHAT = """inputs = tokenizer.apply_chat_template(
    [{'role': 'user', 'content': '你好'}],
    add_generation_prompt=True, return_tensors='pt', return_dict=True,
)"""
TEXT = "inputs = tokenizer('你好', return_tensors='pt')"
COUNTS = ('rows', 'kept', 'tokens', 'trained_tokens')


def write(
    checkpoint: run_directory.Checkpoint,
    dtype: str,
    template_note: str,
    *,
    chat: bool,
    adapter: bool = False,
) -> str:
    """The text of a `README.md`.

    Args:
        checkpoint: What is exported; its run directory says the rest.
        dtype: Of the exported weights.
        template_note: A sentence about the chat template.
        chat: Whether the exported tokenizer has one.
        adapter: Whether an adapter alone is exported.
    """
    library = 'peft' if adapter else 'transformers'
    name = checkpoint.run.absolute().name
    came = run_directory.read_origin(checkpoint.run)
    base = _name(came.get('source', ''))
    papers = [BELLE, families.of(checkpoint.architecture).citation] if base else [BELLE]
    licence = _licence(checkpoint, base)
    sections = {
        'Use': USE.format(
            name=name,
            library=library,
            model=f'Auto{"Peft" if adapter else ""}ModelForCausalLM',
            inputs=CHAT if chat else TEXT,
            flags=f'--model={base} --adapter={name}' if adapter else f'--model={name}',
        ),
        'Model': _model(checkpoint, base, came.get('revision'), dtype),
        'Data': _data(checkpoint),
        'Training': _training(checkpoint),
        'Template and sampling': _template(checkpoint, template_note),
        'Evaluation': _evaluation(checkpoint),
        'Limitations': LIMITATIONS,
        'Licence': f'`{licence}`. ' + _terms(base),
        'Citation': '\n\n'.join(f'```bibtex\n{paper}\n```' for paper in papers),
    }
    front = ModelCardData(
        base_model=base if '/' in base else None,
        library_name=library,
        license=licence,
        pipeline_tag='text-generation',
        tags=['belle-jax'],
    )
    body = '\n\n'.join(f'## {title}\n\n{text}' for title, text in sections.items())
    return f'---\n{front.to_yaml()}\n---\n\n# {name}\n\n{body}\n'


def _name(source: str) -> str:
    """A hub name as it is; of a path on somebody's machine the last part alone."""
    hub = re.fullmatch(r'[\w-][\w.-]*/[\w.-]+(:[\w.-]+)?', source)
    # RUNS/NAME looks like a hub name, and a directory here goes first, as in huggingface.resolve.
    return source if hub and not Path(source).exists() else Path(source).name


def _names(sources: str) -> str:
    """data.path with `_name` of each source."""
    parts = parse_sources(sources, 'data.path')
    return ', '.join(_name(s.path) + (f'={s.weight:g}' if s.weight != 1 else '') for s in parts)


def _public(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A source's account without the directories of the machine that it was read on."""
    values = dict(entry)
    if 'path' in values:
        values['path'] = _name(values['path'])
    if found := re.match(r'(.*)(: (?:JSON|Parquet|hub data set).*)', values.get('describe', '')):
        values['describe'] = _name(found[1]) + found[2]
    return values


def _model(
    checkpoint: run_directory.Checkpoint, base: str, revision: str | None, dtype: str
) -> str:
    a, title = checkpoint.architecture, families.of(checkpoint.architecture).title
    origins = f'Base model: `{base}`' + (f', commit {revision}.' if revision else '.')
    if not base:
        origins = 'Trained from random weights: there is no base model.'
    source = checkpoint.config['model'].get('source', '')
    if source and _name(source) != base:
        continued = f'Continued from the run `{_name(source)}`'
        origins = f'{origins} {continued}.' if base else f'{continued}, which names no base model.'
    return (
        f'{title} architecture, {_parameters(a):,} parameters, {a.vocab_size:,} tokens, {a.layers} '
        f'layers of width {a.embed:,}, weights in {dtype}.\n\n'
        + origins
        + f'\n\nExported by Belle-JAX {__version__} from step {checkpoint.step} of the run.'
    )


def _parameters(a: Architecture) -> int:
    return sum(math.prod(m.their_shape) * len(m.their_names) for m in families.tensor_maps(a))


def _data(checkpoint: run_directory.Checkpoint) -> str:
    path = checkpoint.run / run_directory.ACCOUNT
    if not path.is_file():
        return 'No data: the weights were converted, not trained, by this run.'
    account = read_json(path, 'restore it from where the run was made')
    try:
        return _counts(account)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f'{path} is not the account of a run ({error}): restore it.') from error


def _counts(account: dict[str, Any]) -> str:
    for part in {'sources', 'validation'} & account.keys():
        account[part] = [_public(entry) for entry in account[part]]
    head = f'| source | {" | ".join(COUNTS)} |'.replace('_', ' ')
    rows = [head, '|---' * (1 + len(COUNTS)) + '|']
    for entry in account.get('sources', []):
        counts = ' | '.join(f'{entry.get(name, 0):,}' for name in COUNTS)
        rows.append(f'| {_plain(entry.get("path", ""))} | {counts} |')
    # The blank lines let Markdown begin again inside of HTML.
    whole = f'<details><summary>All counts</summary>\n\n{_bullets(account)}\n\n</details>'
    return '\n'.join(rows) + '\n\n' + whole


def _bullets(value: Any, depth: int = 0) -> str:
    """A nested value as a Markdown list."""
    lines = []
    items = value.items() if isinstance(value, Mapping) else enumerate(value, 1)
    for key, item in items:
        name = str(key).replace('_', ' ')
        if isinstance(item, Mapping | list) and item:
            lines.append(f'{"  " * depth}- {name}:\n{_bullets(item, depth + 1)}')
        elif not isinstance(item, Mapping | list):
            number = isinstance(item, int) and not isinstance(item, bool)
            lines.append(
                f'{"  " * depth}- {name}: {item:,}' if number else f'{"  " * depth}- {name}: {item}'
            )
    return '\n'.join(lines)


def _training(checkpoint: run_directory.Checkpoint) -> str:
    if not (checkpoint.run / run_directory.ACCOUNT).is_file():
        return 'None by this run.'
    rows = ['| setting | value |', '|---|---|', f'| steps | {checkpoint.step:,} |']
    for section in ('optim', 'batch', 'train', 'data'):
        values = dict(checkpoint.config.get(section, {}))
        if section == 'data':
            values['path'] = _names(values.get('path', ''))
            values['tokenizer'] = _name(values.get('tokenizer', ''))
            check = values.get('validation', {})
            values['validation'] = check | {'path': _names(check.get('path', ''))}
        for key, value in values.items():
            if value not in ('', 0, None) and key not in ('cache_dir', 'wandb'):
                rows.append(f'| {section}.{key} | {_plain(value)} |')
    rows.append(f'| seed | {checkpoint.config.get("seed")} |')
    return '\n'.join(rows)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ', '.join(f'{k} {v}' for k, v in value.items() if v not in ('', 0)) or 'none'
    return str(value).replace('|', '\\|').replace('\n', ' ')


def _template(checkpoint: run_directory.Checkpoint, note: str) -> str:
    name = checkpoint.config.get('data', {}).get('template', 'tokenizer')
    text = f'Template `{name}`. {note}'
    if name.startswith('belle'):
        text += f' Published BELLE models are sampled with {BELLE_SAMPLING}.'
    return text + ' Defaults for sampling are in `generation_config.json`.'


def _evaluation(checkpoint: run_directory.Checkpoint) -> str:
    last: dict[str, float] = {}
    for record in run_directory.read_metrics(checkpoint.run / run_directory.METRICS)[0]:
        if record.get('step', 0) <= checkpoint.step:
            last |= {k: v for k, v in record.items() if v is not None}
    lines = [
        f'- {label}: {last[key]:.4f}'
        for key, label in (
            ('loss', 'training loss of the last steps (nats a token)'),
            ('evaluation_loss', 'evaluation loss (nats a token)'),
            ('evaluation_perplexity', 'evaluation perplexity'),
            ('evaluation_bits_per_character', 'evaluation, bits a character'),
        )
        if key in last
    ]
    return '\n'.join(lines) or 'Not evaluated.'


def _licence(checkpoint: run_directory.Checkpoint, base: str) -> str:
    """What the base model's card says, or its family's licence."""
    if not base:
        return 'unknown'
    card = checkpoint.run / run_directory.SOURCE / 'README.md'
    try:
        found = (metadata_load(card) or {}).get('license') if card.is_file() else None
    except Exception:  # somebody's card that is no YAML says nothing
        found = None
    return found if isinstance(found, str) else families.of(checkpoint.architecture).licence


def _terms(base: str) -> str:
    if base:
        return (
            "It is the base model's licence, which binds what is derived from it; the data may add "
            'terms of their own.'
        )
    return 'Whoever publishes the model chooses a licence that the data allow.'
