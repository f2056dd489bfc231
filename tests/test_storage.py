"""Places on object stores, against servers of both kinds on this machine."""

import os
import re
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from absl import flags

import object_stores
import programs
import training_runs
from belle_jax import flag_readers, storage
from belle_jax.data import token_cache
from belle_jax.data.templates import Template
from belle_jax.data.tokenizer import load
from belle_jax.runs import workdir
from belle_jax.runs.load import load_model
from belle_jax.runs.run_directory import entries_of, verify, write_manifest
from object_stores import names, put
from tiny import write_model


@pytest.fixture(scope='module', params=['s3', 'gs'])
def scheme(request):
    with object_stores.serving(request.param):
        yield request.param


@pytest.fixture(scope='module')
def s3():
    with object_stores.serving('s3') as server:
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Another disk in each test, and no waiting."""
    monkeypatch.setenv('BELLE_JAX_CACHE', str(tmp_path / 'disk'))
    monkeypatch.setattr(workdir, 'PAUSES', (0.0,))
    storage._fetched.cache_clear()
    return tmp_path / 'disk'


@pytest.fixture
def url(scheme, request):
    return f'{scheme}://bucket/{abs(hash(request.node.name))}'


def fill(folder, **files):
    for name, text in files.items():
        path = folder / name.replace('__', '/').replace('_', '.')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def checkpoint(run, step, text):
    """A folder with a file or two, and its manifest."""
    folder = run / 'checkpoints' / str(step)
    fill(folder, state__a=text, meta__metadata='{}')
    write_manifest(folder)


def refuse(monkeypatch, method, *endings):
    """Has the store refuse names with these endings, as one that goes away in an upload does."""
    real = getattr(storage.Place, method)

    def failing(self, name):
        if name.endswith(endings):
            raise ConnectionError('the network is down')
        real(self, name)

    monkeypatch.setattr(storage.Place, method, failing)


def test_what_is_read_is_fetched_where_it_changed_and_what_is_gone_goes(url, tmp_path, monkeypatch):
    fill(tmp_path / 'model', config_json='{}', a_txt='one', sub__b_txt='two')
    put(tmp_path / 'model', url)
    put(tmp_path / 'model', f'{url}-other')  # a name that begins alike is another place
    here = storage.local(url)
    assert {p.relative_to(here).as_posix() for p in here.rglob('*') if p.is_file()} == {
        'config.json', 'a.txt', 'sub/b.txt'
    }  # fmt: skip
    fetched = []
    real = storage.Place._get
    monkeypatch.setattr(
        storage.Place,
        '_get',
        lambda self, name, told: (fetched.append(name), real(self, name, told)),
    )
    storage._fetched.cache_clear()
    assert storage.local(url) == here and not fetched
    fill(tmp_path / 'model', a_txt='three')
    (tmp_path / 'model' / 'sub' / 'b.txt').unlink()
    place = storage.Place(url, 'sources')
    place._delete(['sub/b.txt'])
    put(tmp_path / 'model' / 'sub', url)
    place._delete(['a.txt'])
    storage._store(url[:2]).pipe_file(f'{url[5:]}/a.txt', b'three')
    storage._fetched.cache_clear()
    storage.local(url)
    assert fetched == ['a.txt'] and (here / 'a.txt').read_text() == 'three'
    assert not (here / 'sub' / 'b.txt').exists()
    # One file, one kind of file, and what has passed through a Path.
    assert storage.local(f'{url}/a.txt').read_text() == 'three'
    part = storage.local(f'{url}-other', ['config.json'])
    assert [p.name for p in part.rglob('*') if p.is_file()] == ['config.json']
    assert storage.local(storage.Path(url)) == here
    assert storage.local('a/b') == storage.Path('a/b')


def test_a_run_is_sent_with_its_manifest_last_and_a_cut_upload_is_no_checkpoint(
    url, cache, monkeypatch
):
    work = workdir.Workdir(url)
    work.fetch()
    fill(work.path, config_json='{}', tokenizer__tokenizer_json='{}')
    checkpoint(work.path, 5, 'five')
    fill(
        work.path,
        checkpoints__7__state__half='not whole',
        _hidden='here alone',
        logs__process='too',
    )
    work.send()
    five = {'checkpoints/5/state/a', 'checkpoints/5/meta/metadata', 'checkpoints/5.manifest.json'}
    assert names(url) == five | {'config.json', 'tokenizer/tokenizer.json'}
    # The next one is cut off before its manifest, and then its machine is gone.
    checkpoint(work.path, 10, 'ten')
    with monkeypatch.context() as patch:
        refuse(patch, '_put', 'manifest.json')
        work.send()
        with pytest.raises(OSError, match=f'{url} does not answer .the network is down.*kept in'):
            work.send(must=True)
    assert 'checkpoints/10/state/a' in names(url)
    ahead = cache.rename(cache.with_name('ahead'))
    work.fetch()
    assert sorted(p.name for p in (work.path / 'checkpoints').iterdir()) == ['5', '5.manifest.json']
    verify(work.path / 'checkpoints' / '5')
    # It saves step 10 itself, with other files: what was left of the first one goes.
    fill(work.path / 'checkpoints' / '10', state__b='ten again')
    write_manifest(work.path / 'checkpoints' / '10')
    shutil.rmtree(work.path / 'checkpoints' / '5')
    (work.path / 'checkpoints' / '5.manifest.json').unlink()
    work.send()
    ten = {'checkpoints/10/state/b', 'checkpoints/10.manifest.json'}
    assert names(url) == ten | {'config.json', 'tokenizer/tokenizer.json'}
    # The machine with the first one comes back: it was not sent, and is not newer.
    shutil.rmtree(cache)
    ahead.rename(cache)
    work.fetch()
    assert {p.name for p in (work.path / 'checkpoints').rglob('*') if p.is_file()} == {
        'b', '10.manifest.json', 'half'
    }  # fmt: skip
    verify(work.path / 'checkpoints' / '10')
    # What is newer here and was not sent stays, and is sent.
    checkpoint(work.path, 15, 'fifteen')
    with monkeypatch.context() as patch:
        refuse(patch, '_put', '')
        work.send()
    work.fetch()
    verify(work.path / 'checkpoints' / '15')
    work.send()
    assert 'checkpoints/15.manifest.json' in names(url) and not (work.path / '.unsent').exists()
    # Of a run that is read, the newest checkpoint is fetched alone, or the one that is named.
    put(work.path / 'checkpoints' / '15', f'{url}/checkpoints/20')  # cut
    for place, step in ((url, '15'), (f'{url}/checkpoints/10', '10')):
        storage._fetched.cache_clear()
        here = storage.local(place)
        folder = cache / 'sources' / url.replace('://', '/') / 'checkpoints'
        assert here == (folder / '10' if step == '10' else folder.parent)
        assert [p.name for p in folder.glob('*.manifest.json')] == [f'{step}.manifest.json']
        verify(folder / step)


def test_tokens_are_kept_there_and_found_from_another_disk(url, tmp_path, cache, monkeypatch):
    flags = training_runs.make_data(tmp_path)
    assert flags
    put(tmp_path / 'tokenizer', f'{url}/tokenizer')
    storage._store(url[:2]).pipe_file(f'{url[5:]}/a.jsonl', (tmp_path / 'a.jsonl').read_bytes())
    words = load(f'{url}/tokenizer')
    given = (f'{url}/a.jsonl', Template('belle', words), '', 'error', f'{url}/tokens')
    made = token_cache.open_source(*given)
    assert made.account['path'] == f'{url}/a.jsonl' and made.account['rows'] == 90
    assert {n.partition('/')[2] for n in names(f'{url}/tokens')} == {
        'meta.json', 'tokens.bin', 'trained.bin', 'examples.npz'
    }  # fmt: skip
    shutil.rmtree(cache / 'tokens')
    monkeypatch.setattr(token_cache, '_write', None)
    np.testing.assert_array_equal(token_cache.open_source(*given).tokens, made.tokens)


def test_a_model_on_a_store_answers_as_on_a_disk(url, tmp_path):
    write_model(tmp_path / 'model')
    put(tmp_path / 'model', url)
    tokens = np.arange(8)[None]
    ours, theirs = (load_model(source)(tokens) for source in (url, tmp_path / 'model'))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_sends_goes_on_on_another_machine(
    s3, tmp_path, cache, monkeypatch
):
    """Killed with its disk lost, and started again: the same losses and parameters."""
    data = training_runs.make_data(tmp_path)
    url = 's3://bucket/killed'

    def start(disk):
        command = [sys.executable, '-m', 'belle_jax.train', f'--config={training_runs.RECIPE}']
        return programs.Program(
            [*command, f'--workdir={url}', *data, '--config.train.steps=11'],
            cwd=training_runs.ROOT,
            env=os.environ
            | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(training_runs.ROOT)}
            | {'BELLE_JAX_CACHE': str(tmp_path / disk)},
            stdout=tmp_path / f'{disk}.log',
        )

    with object_stores.holding(s3, '/10.manifest.json') as arrived:
        process = start('first')
        assert arrived.wait(120), (tmp_path / 'first.log').read_text()
        process.kill()
        process.wait()
    assert {'checkpoints/5.manifest.json', 'checkpoints/10/meta/metadata'} <= names(url)
    assert 'checkpoints/10.manifest.json' not in names(url)
    assert start('second').wait(timeout=300) == 0, (tmp_path / 'second.log').read_text()
    log = (tmp_path / 'second.log').read_text()
    assert 'from step 5'
    assert f'The run is in {url} (here {tmp_path}/second' in log
    undisturbed = tmp_path / 'undisturbed'
    training_runs.train(undisturbed, [*data, '--config.train.steps=11'])
    for run in (tmp_path / 'second/runs/s3/bucket/killed', storage.local(url)):
        assert training_runs.losses(run) == training_runs.losses(undisturbed)
        ours, theirs = map(training_runs.parameters, (run, undisturbed))
        assert ours.keys() == theirs.keys() and len(ours) > 10
        for name, value in theirs.items():
            np.testing.assert_array_equal(ours[name], value, err_msg=name)


class Meeting:
    """A member of a job of two, in a thread."""

    apart = True

    def __init__(self, process, other=None):
        self.process = process
        self.values, self.made, self.barrier = (
            (other.values, other.made, other.barrier) if other else ({}, [], threading.Barrier(2))
        )

    def decide(self, value, by):
        self.values[self.process] = value
        self.barrier.wait(30)
        if not self.process:
            self.made.append(by([self.values[0], self.values[1]]))
        self.barrier.wait(30)
        return self.made[-1]


def test_of_several_copies_each_has_a_part_and_the_manifest_waits_for_all(
    url, tmp_path, monkeypatch
):
    works, member = [], None
    for process in range(2):
        monkeypatch.setenv('BELLE_JAX_CACHE', str(tmp_path / str(process)))
        works.append(workdir.Workdir(url))
        works[-1].fetch()
        works[-1].join(member := Meeting(process, member))
    monkeypatch.setenv('BELLE_JAX_CACHE', str(tmp_path / 'reader'))
    fill(works[0].path, config_json='{}')

    def save(process, step, must=False):
        folder = works[process].path / 'checkpoints' / str(step)
        fill(folder, state__zarr_json='{}', state__c=f'{step}', when=f'{process}')
        (folder / 'state' / 'c').rename(folder / 'state' / f'c{process}')
        write_manifest(folder, works[process].share(folder, entries_of(folder)))
        try:
            works[process].send(must)
        except OSError as error:
            return str(error)

    def both(step, **options):
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda process: save(process, step, **options), range(2)))

    def files(step):
        found = {f'state/{n}' for n in ('zarr.json', 'c0', 'c1')} | {'when'}
        return {f'checkpoints/{step}/{n}' for n in found} | {f'checkpoints/{step}.manifest.json'}

    assert both(5) == [None, None]
    assert names(url) == files(5) | {'config.json'}
    five = [work.path / 'checkpoints' / '5' for work in works]
    assert [p.name for p in five[1].rglob('*') if p.is_file()] == ['c1']
    for folder, said in zip(five, ['c1 is missing', 'c1 is not in'], strict=True):
        with pytest.raises(ValueError, match=said):
            verify(folder)
    # What one of them could not send keeps the sums of all back, until it could.
    with monkeypatch.context() as patch:
        refuse(patch, '_put', '10/state/c1')
        for said in both(10, must=True):
            assert said and re.search(
                'the network is down.* lost with .*goes on from what was sent', said
            )
    assert names(url) == files(5) | files(10) - {
        'checkpoints/10/state/c1', 'checkpoints/10.manifest.json'
    } | {'config.json'}  # fmt: skip
    for work in works:
        shutil.rmtree(work.path / 'checkpoints' / '5')
        (work.path / 'checkpoints' / '5.manifest.json').unlink()
    assert both(15) == [None, None]
    assert names(url) == files(10) | files(15) | {'config.json'}
    read = storage.local(url) / 'checkpoints' / '15'
    verify(read)
    assert (read / 'when').read_text() == '0' and (read / 'state' / 'c1').read_text() == '15'
    # Each becomes whole where it starts again, and what only parts are there of goes.
    fill(works[1].path / 'checkpoints' / '20', state__c1='unsent')
    write_manifest(works[1].path / 'checkpoints' / '20')
    for work in works:
        work.fetch()
        verify(work.path / 'checkpoints' / '15')
        assert not [p for p in work.path.rglob('20/**/*') if p.is_file()]


@pytest.mark.soak
def test_two_processes_with_a_disk_each_train_in_one_place_and_one_goes_on(s3, tmp_path):
    """Stopped, both disks lost, started again; then one process, on a disk that has a part."""
    data = training_runs.make_data(tmp_path)
    url = 's3://bucket/pod'
    flags = [*data, '--config.train.freeze=embed', '--config.train.steps=24']
    flags += ['--config.train.checkpoint_every=9']

    def start(disks, *more):
        command = [sys.executable, '-m', 'belle_jax.train', f'--config={training_runs.RECIPE}']
        jobs = programs.job(len(disks)) if len(disks) > 1 else [[]]
        return [
            programs.Program(
                [*command, f'--workdir={url}', *flags, *own, *more],
                cwd=training_runs.ROOT,
                env=os.environ
                | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(training_runs.ROOT)}
                | {'BELLE_JAX_CACHE': str(tmp_path / disk)},
                stdout=tmp_path / f'{disk}.log',
            )
            for disk, own in zip(disks, jobs, strict=True)
        ]

    def end(running):
        return [process.wait(timeout=300) for process in running]

    def run(disk):
        return tmp_path / disk / 'runs/s3/bucket/pod'

    both = start('ab', '--cpu_devices=1')
    while training_runs.steps_done(run('a')) < 8:
        said = (tmp_path / 'a.log').read_text() if (tmp_path / 'a.log').exists() else ''
        assert [process.poll() for process in both] == [None, None], said
        time.sleep(0.01)
    both[1].send_signal(signal.SIGTERM)
    assert end(both) == [143, 143], (tmp_path / 'a.log').read_text()
    step = training_runs.steps_done(run('a'))
    assert 8 <= step < 20 and f'checkpoints/{step}.manifest.json' in names(url)
    for disk, said in {'a': 'is missing', 'b': 'is not in'}.items():
        for part in (f'checkpoints/{step}', 'frozen/0'):
            with pytest.raises(ValueError, match=said):
                verify(run(disk) / part)
        shutil.rmtree(tmp_path / disk)
    assert end(start('cd', '--cpu_devices=1', '--config.train.max_steps=20')) == [0, 0]
    assert f'from step {step}, up to step 20' in (tmp_path / 'c.log').read_text()
    assert end(start('d', '--cpu_devices=2')) == [0]
    undisturbed = tmp_path / 'undisturbed'
    training_runs.train(undisturbed, [*flags, '--cpu_devices=2'])
    there = storage.local(url)
    assert training_runs.losses(there) == training_runs.losses(undisturbed)
    ours, theirs = map(training_runs.parameters, (there, undisturbed))
    assert ours.keys() == theirs.keys() and len(ours) > 10
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_what_cannot_be_had_is_one_sentence_and_no_secret_is_told(s3, tmp_path, monkeypatch):
    def said(url, **variables):
        storage._store.cache_clear()
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value) if value else patch.delenv(name)
            patch.setenv('AWS_EC2_METADATA_DISABLED', 'true')
            with pytest.raises((OSError, ValueError)) as error:
                workdir.Workdir(url).fetch() if 'run' in url else storage.local(url)
        storage._store.cache_clear()
        assert 'a-secret' not in str(error.value) and '\n' not in str(error.value)
        return str(error.value)

    assert 'look whether the bucket s3://none is there' in said('s3://none/run')
    assert 's3://bucket/nothing has nothing: look' in said('s3://bucket/nothing')
    assert 'must name a bucket and a place in it' in said('s3://')
    assert 'must name a bucket and a place in it' in said('s3://bucket/../../etc')
    missing = said('s3://bucket/run', AWS_ACCESS_KEY_ID='', AWS_SECRET_ACCESS_KEY='')
    assert missing == (
        's3://bucket/run may not be used with the credentials here: set AWS_ACCESS_KEY_ID and '
        'AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.'
    )
    storage._store('s3').pipe_file('bucket/outside/a/../../../b', b'')
    assert 'would lie outside of its copy: rename it' in said('s3://bucket/outside')
    elsewhere = {'AWS_ENDPOINT_URL': 'http://127.0.0.1:1', 'AWS_MAX_ATTEMPTS': '1'}
    refused = said('s3://bucket/run', **elsewhere)
    assert refused.startswith('s3://bucket/run does not answer (Could not connect to the endpoint')
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, 's3fs', None)
        patch.delitem(sys.modules['fsspec.registry']._registry, 's3')
        assert "not installed: pip install 'belle-jax[remote]'" in said('s3://bucket/run')


def test_flags_that_are_read_are_fetched_and_those_that_are_written_refused(
    s3, tmp_path, monkeypatch
):
    put(tmp_path, 's3://bucket/flags')
    fill(tmp_path / 'flags', a_txt='one')
    put(tmp_path / 'flags', 's3://bucket/flags')
    values = flags.FlagValues()
    monkeypatch.setattr(flags, 'FLAGS', values)
    for name in ('model', 'source', 'workdir', 'output', 'config.data.path', 'system'):
        flags.DEFINE_string(name, '', '', flag_values=values)
    flags.DEFINE_list('text', [], '', flag_values=values)
    file = 's3://bucket/flags/a.txt'
    values(['x', f'--source={file}=0.5,b=1', f'--text={file},wikitext2', '--system=See s3://x/y.'])
    values(['x', f'--workdir={file}', f'--config.data.path={file}'])
    flag_readers.fetch_places()
    here = storage.local(file)
    assert here.read_text() == 'one'
    assert values.source == f'{here}=0.5,b=1' and values.text == [str(here), 'wikitext2']
    assert values.workdir == values['config.data.path'].value == file
    values(['x', '--source=s3://bucket/nothing', '--output=gs://bucket/rows.jsonl'])
    with pytest.raises(ValueError, match='--output=gs://bucket/rows.jsonl must be on a disk: .*cp'):
        flag_readers.fetch_places()
