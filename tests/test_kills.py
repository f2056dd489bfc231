"""Everything that writes, killed anywhere and started again, ends as if nothing had happened."""

import pytest

import judge_replies
import kills

NAMES = tuple(trial.name for trial in kills.trials(''))
pytestmark = pytest.mark.slow
SOAK_ALONE = (
    'convert.adapter merge',
    'convert.extend_vocab',
    'convert.prune_vocab',
    'training adapters',
)
JAX = (
    'training',
    'convert.adapter from_peft',
    'convert.from_hf',
    'convert.to_hf',
    'convert.to_hf, .bin',
    'convert.gptq',
    'sample --prompts',
)


@pytest.fixture(scope='module')
def every():
    """The programs, with the server that some of them ask."""
    with kills.serving(content=judge_replies.either) as server:
        yield {trial.name: trial for trial in kills.trials(server.url)}


def check(tally: kills.Tally, least: int) -> None:
    assert (tally.failed, tally.different, tally.left) == (0, 0, 0), '\n'.join(tally.told)
    assert tally.kills >= least


@pytest.mark.parametrize('name', [name for name in NAMES if name not in SOAK_ALONE])
def test_killed_at_any_step_and_started_again_a_program_ends_as_ever(every, tmp_path, name):
    count = 2 if name in JAX else 3
    check(kills.run(every[name], tmp_path, count), count)


@pytest.mark.soak
@pytest.mark.parametrize('name', NAMES)
def test_killed_by_the_dozen_a_program_ends_as_ever(every, tmp_path, name):
    """Goes on where an earlier `make soak` of the same sources was stopped."""
    check(kills.run(every[name], tmp_path, 25, seed=1, state=kills.state_of(name)), 25)


def test_the_harness_sees_what_is_left_and_what_is_different(tmp_path):
    trial = kills.Trial('careless', 'killed_parts careless', ('a',), lambda folder: None)
    tally = kills.run(trial, tmp_path, 12)
    assert tally.kills == 12 and tally.left and tally.failed and tally.different
