"""One process of a job, without JAX: joins as training does, says so, and does as it is told.

python job_member.py '{"processes": 2, "process": 1, "coordinator": "localhost:8476", …}'
"""

import json
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def start(folder: Path, process: int, settings: dict[str, Any]) -> subprocess.Popen[str]:
    """Starts a member, whose output goes to FOLDER/out-N.

    Args:
        folder: Also the workdir, unless the settings have another.
        process: Its number.
        settings: Other fields of `Job`, and timeout, facts, act (wait, end or fail), workdir.
    """
    words = json.dumps({'process': process, 'workdir': str(folder)} | settings)
    with (folder / f'out-{process}').open('w') as file:
        return subprocess.Popen(
            [sys.executable, __file__, words],
            cwd=ROOT,
            env={'PYTHONPATH': str(ROOT)},
            stdout=file,
            stderr=file,
            text=True,
        )


def main() -> None:
    """Is the member."""
    settings = json.loads(sys.argv[1])
    from belle_jax import cli, cluster
    from belle_jax.cluster import joining

    joining._start_jax = lambda watch, port: None
    stub: Any = types.ModuleType('jax')
    stub.distributed = types.SimpleNamespace(shutdown=lambda: None)
    sys.modules['jax'] = stub
    workdir, facts = Path(settings.pop('workdir')), settings.pop('facts', {})
    timeout, act = settings.pop('timeout'), settings.pop('act', 'wait')
    job = cluster.ClusterJob(**settings)
    try:
        with cluster.joined(job, workdir, facts, timeout=timeout, program='member', stopped=143):
            (workdir / f'in-{job.process}').touch()
            print('inside', flush=True)
            if act == 'wait':
                time.sleep(60)
            elif act == 'fail':
                raise ValueError('rows.jsonl is missing here.')
    except ValueError as error:
        cli.fail(error)


if __name__ == '__main__':
    main()
