"""Plans of models of few layers, for tests: jobs as JSON on standard input, facts on the output.

A process of its own, because the compilers are found on PYTHONPATH alone; one for many plans.
"""

import dataclasses
import json
import sys

import jax

from belle_jax import config
from belle_jax.planning import answering, planner


def planned(job):
    """The facts of a plan, and its program.

    Args:
        job: preset, layers, topology, and either sample (rows, slots) or fields of a run; shape
            has further fields of the model that are not the preset's.
    """
    preset, other = config.PRESETS[job['preset']], job.get('shape', {})
    shape = dataclasses.replace(preset, layers=job['layers'], **other)
    run = config.from_dict(job.get('fields', {}))
    model = dataclasses.replace(run.model, architecture=shape, dtype='bfloat16')
    run = dataclasses.replace(run, model=model)
    if 'sample' in job:
        plan = answering.plan(run, job['topology'], *job['sample'])
        return answering.facts(plan) | {'text': plan.program.text}
    plan = planner.plan(run, job['topology'])
    return planner.facts(plan) | {'text': plan.step.text}


jax.config.update('jax_platforms', 'cpu')
json.dump([planned(job) for job in json.load(sys.stdin)], sys.stdout)
