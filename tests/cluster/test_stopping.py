"""All processes stop before the same step, whoever is asked and however far the others are."""

import queue
import random
import threading
import time

import pytest

from belle_jax.cluster.stopping import Stopping


@pytest.mark.parametrize('seed', range(12))
def test_all_stop_before_the_same_step(seed):
    chance = random.Random(seed)
    count = chance.choice([2, 3, 5])
    members = [Stopping(count, n) for n in range(count)]
    inboxes = [queue.SimpleQueue() for _ in range(count)]
    ended, steps = threading.Event(), [0] * count

    def sender(number):
        to = range(1, count) if number == 0 else [0]
        return lambda stop: [inboxes[n].put((number, stop)) for n in to]

    def watch(number):
        while not ended.is_set():
            members[number].turn(sender(number))
            while not inboxes[number].empty():
                time.sleep(chance.random() / 2000)
                members[number].hear(*inboxes[number].get(), sender(number))
            time.sleep(0.0005)

    def train(number):
        # As in a collective operation, nobody is more than two steps ahead of another.
        while not members[number].reached(steps[number]):
            while steps[number] > min(steps) + 1 and not ended.is_set():
                time.sleep(0.0002)
            time.sleep(chance.random() / 1000)
            steps[number] += 1

    threads = [threading.Thread(target=f, args=(n,)) for f in (watch, train) for n in range(count)]
    for thread in threads:
        thread.start()
    time.sleep(chance.random() / 20)
    for number in chance.sample(range(count), chance.randint(1, count)):
        members[number].ask()
    for thread in threads[count:]:
        thread.join(timeout=20)
        assert not thread.is_alive(), 'a main thread waits for ever'
    ended.set()
    assert len(set(steps)) == 1


def test_one_that_was_asked_before_its_first_step_begins_none():
    alone = Stopping(1, 0)
    assert not alone.reached(3)
    alone.ask()
    alone.turn(lambda **_: None)
    assert not alone.reached(3) and alone.reached(4)
