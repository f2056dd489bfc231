"""Which kinds and actions of generate_data read which of its flags.

A flag that nothing would read is refused before anything is asked: a run that does not heed it
costs as much as one that does.
"""

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
    'api model_name max_tokens temperature top_p request': 'generate',
    'base_url concurrency timeout patience': 'generate',
    'requests_per_minute tokens_per_minute budget_usd budget_tokens': 'generate',
    'usd_per_million_input usd_per_million_output': 'generate',
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
# What nothing reads beside --similarity=none.
BESIDE_NO_SIMILARITY = 'threshold tokens neighbours'
