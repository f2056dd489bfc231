"""Tasks for lm-evaluation-harness that need no network: a file of rows, each kind of request."""

import json
import random
from pathlib import Path

FIELDS = """\
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
target_delimiter: ""
"""
CHOICE = """\
output_type: multiple_choice
doc_to_target: "{{answer}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
TASKS = {
    # Texts of several tokens, and letters, of one.
    'local_choices': 'doc_to_text: "{{question}}"\ndoc_to_choice: "{{choices}}"\n' + CHOICE,
    'local_letters': 'doc_to_text: "{{question}}\\n'
    'A. {{choices[0]}}\\nB. {{choices[1]}}\\nC. {{choices[2]}}\\n答案："\n'
    'doc_to_choice: ["A", "B", "C"]\n' + CHOICE,
    'local_last': """\
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: "{{gold}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
    'local_whole': """\
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}{{gold}}"
metric_list:
  - {metric: byte_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
""",
    'local_answers': """\
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{gold}}"
generation_kwargs:
  until: ["。", ".", "\\n\\n"]
  max_gen_toks: 24
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
""",
}


def write_tasks(folder: Path, text: str, count: int, seed: int = 0) -> list[str]:
    """Writes rows cut from a text, and the tasks over them.

    Args:
        folder: Made; what `include_path` names.
        text: Any text of some thousand characters.
        count: Rows: a passage, how it goes on, and two continuations from elsewhere.
        seed: Where passages are cut.
    Returns:
        The tasks' names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw, lines = random.Random(seed), []
    for _ in range(count):
        size, more = draw.randrange(40, 160), draw.randrange(6, 17)
        places = [draw.randrange(len(text) - 200) for _ in range(3)]
        gold = text[places[0] + size : places[0] + size + more]
        choices = [gold, *(text[at : at + draw.randrange(6, 17)] for at in places[1:])]
        draw.shuffle(choices)
        question = text[places[0] : places[0] + size]
        answer = choices.index(gold)
        row = {'question': question, 'choices': choices, 'answer': answer, 'gold': gold}
        lines.append(json.dumps(row, ensure_ascii=False) + '\n')
    rows = folder / 'rows.jsonl'
    rows.write_text(''.join(lines), 'utf-8')
    fields = FIELDS.format(rows=json.dumps(str(rows.resolve())))
    for name, task in TASKS.items():
        (folder / f'{name}.yaml').write_text(f'task: {name}\n{fields}{task}', 'utf-8')
    return list(TASKS)
