"""What Kubernetes, SkyPilot and Docker read in launch/, held against schemas and linters."""

import http.server
import json
import os
import re
import subprocess
import threading

import pytest
import yaml

import starters

# ─── Kubernetes ──────────────────────────────────────────────────────────────────────────────────


def jobsets():
    """Each JobSet by what its pods run on."""
    listed = yaml.safe_load((starters.LAUNCH / 'jobset.yaml').read_text('utf-8'))
    return {one['metadata']['labels']['accelerator']: one for one in listed['items']}


def unread(given, read, place=''):
    """What a schema's own reader has left out or changed."""
    if isinstance(given, dict) and isinstance(read, dict):
        for name, value in given.items():
            yield from unread(value, read.get(name), f'{place}.{name}')
    elif isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        for number, value in enumerate(given):
            yield from unread(value, read[number], f'{place}[{number}]')
    elif given != read:
        yield place


@pytest.mark.parametrize('accelerator', ['gpu', 'tpu'])
def test_a_jobset_is_read_whole_by_the_schemas_of_jobset_and_kubernetes(accelerator):
    schema = pytest.importorskip('kubeflow_trainer_api.models', reason='of the extra test')
    given = jobsets()[accelerator]
    assert list(unread(given, schema.JobsetV1alpha2JobSet.from_dict(given).to_dict())) == []
    # And the check sees a field that Kubernetes does not have, and one of another type.
    pod = given['spec']['replicatedJobs'][0]['template']['spec']['template']['spec']
    pod['restartPolcy'] = pod['restartPolicy']
    read = schema.JobsetV1alpha2JobSet.from_dict(given).to_dict()
    assert [place.rpartition('.')[2] for place in unread(given, read)] == ['restartPolcy']
    pod['containers'][0]['env'] = [{'name': 'JAX_NUM_PROCESSES', 'value': 2}]
    with pytest.raises(ValueError, match='valid string'):
        schema.JobsetV1alpha2JobSet.from_dict(given)


def test_both_jobsets_run_the_same_training_and_tell_a_mistake_from_a_loss():
    gpu, tpu = (jobsets()[name]['spec'] for name in ('gpu', 'tpu'))
    jobs = [spec['replicatedJobs'][0]['template']['spec'] for spec in (gpu, tpu)]
    containers = [job['template']['spec']['containers'][0] for job in jobs]
    assert containers[0]['args'] == containers[1]['args']
    assert [c['image'].rpartition(':')[2] for c in containers] == ['cuda', 'tpu']
    for spec, job in zip((gpu, tpu), jobs):
        (rule,) = job['podFailurePolicy']['rules']
        assert rule == {'action': 'FailJob', 'onExitCodes': {'operator': 'In', 'values': [1, 2]}}
        assert spec['failurePolicy']['rules'][0]['action'] == 'FailJobSet'
        assert job['parallelism'] == job['completions'] and job['backoffLimit'] == 0
        assert job['template']['spec']['terminationGracePeriodSeconds'] >= 120


def test_the_pods_of_gpu_machines_get_the_three_values_by_which_they_meet():
    job = jobsets()['gpu']['spec']['replicatedJobs'][0]
    container = job['template']['spec']['template']['spec']['containers'][0]
    found = []
    for number in range(job['replicas']):
        prefix = 'jobset.sigs.k8s.io/'
        labels = {'replicatedjob-replicas': str(job['replicas']), 'job-index': str(number)}
        fields = {f"metadata.labels['{prefix}{name}']": value for name, value in labels.items()}
        fields[f"metadata.annotations['{prefix}coordinator']"] = (
            'belle-jax-gpu-host-0-0.belle-jax-gpu'
        )
        values: dict[str, str] = {}
        for variable in container['env']:  # in order, as the kubelet does
            source = variable.get('valueFrom', {}).get('fieldRef', {}).get('fieldPath')
            text = fields[source] if source else variable['value']
            values[variable['name']] = text.replace('$(HOST)', values.get('HOST', ''))
        found.append({k: v for k, v in values.items() if k.startswith('JAX_')})
    assert found == [
        {
            'JAX_COORDINATOR_ADDRESS': 'belle-jax-gpu-host-0-0.belle-jax-gpu:8476',
            'JAX_NUM_PROCESSES': '2',
            'JAX_PROCESS_ID': number,
        }
        for number in ('0', '1')
    ]


# What a cluster with JobSet answers about what it has; to anything else: nothing of that name.
GROUP = 'jobset.x-k8s.io/v1alpha2'
KINDS = {
    '/api': {'kind': 'APIVersions', 'versions': ['v1']},
    '/api/v1': {'kind': 'APIResourceList', 'groupVersion': 'v1', 'resources': []},
    '/apis': {
        'kind': 'APIGroupList',
        'groups': [
            {
                'name': 'jobset.x-k8s.io',
                'versions': [{'groupVersion': GROUP, 'version': 'v1alpha2'}],
            }
        ],
    },
    f'/apis/{GROUP}': {
        'kind': 'APIResourceList',
        'groupVersion': GROUP,
        'resources': [{'name': 'jobsets', 'kind': 'JobSet', 'namespaced': True, 'verbs': ['get']}],
    },
}


class Answers(http.server.BaseHTTPRequestHandler):
    """The part of a Kubernetes server that kubectl asks before a dry run of its own."""

    def do_GET(self):
        known = KINDS.get(self.path.partition('?')[0])
        text = json.dumps(known or {'kind': 'Status', 'reason': 'NotFound', 'code': 404})
        self.send_response(200 if known else 404)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format, *args):
        pass


@pytest.mark.parametrize('accelerator', ['gpu', 'tpu'])
def test_kubectl_reads_the_file_and_takes_the_one_that_is_asked_for(tmp_path, accelerator):
    kubectl = starters.tool('kubectl', 'the client of Kubernetes')
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = subprocess.run(
            [
                *(kubectl, f'--server=http://127.0.0.1:{server.server_port}', 'apply'),
                *('-f', starters.LAUNCH / 'jobset.yaml', '-l', f'accelerator={accelerator}'),
                *('--dry-run=client', '--validate=false', '--output=json'),
            ],
            env={'PATH': os.environ['PATH'], 'HOME': str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)['spec'] == jobsets()[accelerator]['spec']


# ─── SkyPilot ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize('part', ['setup', 'run'])
def test_the_commands_of_skypilot_are_clean_for_shellcheck(part):
    shellcheck = starters.tool('shellcheck', 'it comes with the extra test')
    commands = yaml.safe_load((starters.LAUNCH / 'skypilot.yaml').read_text('utf-8'))[part]
    done = subprocess.run(
        [shellcheck, '--shell=bash', '-'],
        input=commands,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize('extra', ['cuda', 'tpu'])
def test_skypilot_starts_each_machine_with_its_rank_and_leaves_tpus_to_themselves(tmp_path, extra):
    task = yaml.safe_load((starters.LAUNCH / 'skypilot.yaml').read_text('utf-8'))
    assert task['resources']['job_recovery'] == {'recover_on_exit_codes': [75]}
    starters.stub(tmp_path / '.venv' / 'bin' / 'python', 'env | grep ^JAX_ | sort; echo "$@"')
    settings = {name: value for name, value in task['envs'].items() if value is not None}
    given = {'SKYPILOT_NODE_IPS': '10.0.0.1\n10.0.0.2', 'SKYPILOT_NUM_NODES': '2'}
    done = subprocess.run(
        ['bash', '-c', task['run']],
        cwd=tmp_path,
        env={'PATH': os.environ['PATH'], 'SKYPILOT_NODE_RANK': '1', 'WORKDIR': 'gs://b/run'}
        | (given | settings | {'EXTRA': extra}),
        capture_output=True,
        text=True,
        check=True,
    )
    *joined, training = done.stdout.splitlines()
    three = ['ADDRESS=10.0.0.1:8476', 'NUM_PROCESSES=2', 'PROCESS_ID=1']
    names = ['JAX_COORDINATOR_', 'JAX_', 'JAX_']
    assert joined == ([a + b for a, b in zip(names, three)] if extra == 'cuda' else [])
    assert training.startswith('-m belle_jax.train --config=sft_llama:7b --workdir=gs://b/run ')


# ─── the image ───────────────────────────────────────────────────────────────────────────────────


def test_the_dockerfile_is_clean_and_copies_what_there_is():
    text = (starters.LAUNCH / 'Dockerfile').read_text('utf-8')
    for source in re.findall(r'^COPY (.+) \S+$', text, re.MULTILINE):
        assert all((starters.ROOT / name).exists() for name in source.split())
    assert set(re.findall(r'^FROM sources AS (\w+)$', text, re.MULTILINE)) == {'cuda', 'tpu'}
    assert text.count('ENTRYPOINT ["belle-jax"]') == 2
    hadolint = starters.tool('hadolint', 'it comes with the extra test')
    done = subprocess.run(
        [hadolint, starters.LAUNCH / 'Dockerfile'], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
