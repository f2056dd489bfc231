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
BELLE's eval_set.json and eval_prompt.json are read as they are. Several processes, started as those
of `belle-jax sample`, answer with one model, split over the devices of all; process 0 alone writes
and asks the judge. Other actions:

    belle-jax evaluate page --judge=gpt-4.1                  score single answers in a browser
    belle-jax evaluate check-set --questions=mine.jsonl      is it a good set of questions?
    belle-jax evaluate contamination --questions=mine.jsonl --train=data/a.json,data/b.jsonl
    belle-jax evaluate harness --model=runs/sft --tasks=cmmlu,ceval-valid
    belle-jax evaluate perplexity --model=runs/sft --text=wikitext2 --output=perplexity.json

The text of `perplexity` is wikitext2, ptb or c4, as the papers on quantisation take them, or a
file: plain text, or rows as training reads them. It is cut into windows of --seq_len tokens, in
each of which every token but the first is foretold. With --stride windows overlap, and each token
is foretold once, from at least seq_len - stride tokens before it. Several texts, with commas
between them, are measured each by itself; models with other tokenizers compare by bits a character.
"""

from typing import Any

from absl import flags

from belle_jax import cli, cluster_flags, server_flags
from belle_jax.evaluate import options
from belle_jax.evaluate.actions import ACTIONS
from belle_jax.flag_readers import require_read, table

flags.adopt_module_key_flags(options)
flags.adopt_module_key_flags(server_flags)
flags.adopt_module_key_flags(cluster_flags)
ASKING = 'run answer judge page'
READ_BY = {
    'model': 'run answer page harness perplexity',
    'output': 'run answer judge report contamination harness perplexity',
    'questions': 'run answer page check-set contamination',
    'prompts': 'run judge page check-set',
    'language judge judge_tokens': 'run judge page',
    'judgings against': 'run judge',
    'answers': 'run answer',
    'model_url': 'run answer page',
    'adapter': 'run answer page harness perplexity',
    'others name person': 'run report',
    'train': 'run report check-set contamination',
    'temperature max_new_tokens seed': 'run answer page',
    'coordinator processes process cluster_timeout': 'run answer',
    'template system': 'run answer page harness',
    'dtype batch_size devices': 'run answer page harness perplexity',
    'host port': 'page',
    'text stride': 'perplexity',
    'seq_len': 'perplexity harness',
    'tasks include_path num_fewshot limit apply_chat_template log_samples': 'harness',
    server_flags.NAMES: ASKING,
}
NEEDED = {
    'run': 'output judge',
    'answer': 'output',
    'judge': 'output judge',
    'report': 'output',
    'page': 'judge',
    'check-set': 'questions',
    'contamination': 'train',
    'harness': 'model tasks',
    'perplexity': 'model text',
}


def main(action: str) -> Any:
    """Does it; returns what to print, or the exit code."""
    require_read(table(READ_BY), action)
    for flag in (flags.FLAGS[name] for name in NEEDED[action].split()):
        if not flag.value:
            raise ValueError(f'--{flag.name} is missing. {flag.help}')
    return ACTIONS[action]()


if __name__ == '__main__':
    cli.run(
        main,
        actions=list(ACTIONS),
        stopped='stopped. The same command goes on where it was.',
        stopped_code=130,
    )
