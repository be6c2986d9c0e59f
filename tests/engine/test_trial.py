"""Which batches ``--auto`` tries and takes, of steps whose time and memory are given."""

from itertools import islice
from types import SimpleNamespace

import pytest
from mmengine.config import Config

from mmconvnext.engine import trial
from mmconvnext.engine.trial import Trial

FACTS = (0.1, 0, 1000)  # loading, worker_memory, images
SIZE = 100  # bytes of a checkpoint


class Steps:
    """Steps that take the seconds and the bytes that functions of the batch size say."""

    def __init__(self, seconds, memory):
        self.seconds, self.memory = seconds, memory
        self.taken, self.images = [], FACTS[-1]
        self.loading = FACTS[0]

    def small(self):
        return 0

    def largest_batch(self, size):
        return size

    def batches(self, size):
        while True:
            yield size

    def step(self, runner, size):
        self.taken.append(size)
        return (self.seconds(size), True) if size else (0.0, True)

    def peak(self):
        return int(self.memory(max(self.taken, default=0), len(self.taken)))


@pytest.fixture
def take(monkeypatch):
    def take(seconds=lambda size: 1.0, memory=lambda size, steps: 1000):
        steps = Steps(seconds, memory)
        monkeypatch.setattr(trial, "_step", steps.step)
        monkeypatch.setattr(trial, "_peak_memory", steps.peak)
        monkeypatch.setattr(trial, "_reset_peak_memory", lambda: None)
        monkeypatch.setattr(trial, "_save", lambda runner: SIZE)
        return steps

    monkeypatch.setattr(trial.time, "time", lambda: 0.0)
    return take


@pytest.mark.parametrize(
    ("seconds", "memory", "most", "end", "sizes"),
    [
        (lambda n: 1.0, lambda n, _: 1000, 16, 100, [1, 2, 4, 8, 16]),
        (lambda n: 1.0, lambda n, _: 1000, 15, 100, [1, 2, 4, 8]),
        (lambda n: 0.1 * n, lambda n, _: 1000, 16, 100, [1, 2]),  # not faster
        (lambda n: 1.0, lambda n, _: 1000, 16, 4.9, [1]),  # no time for another
        (lambda n: 1.0, lambda n, _: 1000 * (n + 1), 16, 100, [1, 2, 4]),  # 8 would take 9000
        (lambda n: 2.5, lambda n, _: 1000, 16, 100, [1]),  # all cores are busy
        (lambda n: 9.0, lambda n, _: 1000, 16, 100, [1]),
    ],
)
def test_batches_grow_as_long_as_that_pays_and_fits(take, seconds, memory, most, end, sizes):
    steps = take(seconds, memory)
    found = [*trial._growing(None, steps, FACTS, most, end, 8000)]
    assert [each.batch_size for each in found] == sizes
    assert found[0].memory == memory(1, 0)
    assert found[-1].speed == sizes[-1] / seconds(sizes[-1])
    # a first step that is slow, but not by much, is taken again
    assert steps.taken.count(1) == (2 if seconds(1) == 2.5 else 1)


def a_trial(size=2, seconds=1.0, memory=1000):
    return Trial(size, seconds, memory, *FACTS, True)


def test_steps_are_taken_until_the_memory_grows_no_more(take):
    steps = take(memory=lambda size, count: 1000 + min(count, 5))
    found = trial._settled(None, steps, a_trial(), 100)
    assert found.memory == 1005
    assert len(steps.taken) == 5 + trial.SETTLED - 1


def test_where_there_is_no_time_for_that_later_memory_is_expected(take):
    steps = take(memory=lambda size, count: 1000 + count)
    found = trial._settled(None, steps, a_trial(), 3.9)
    assert steps.taken == [2]  # no second one, as a checkpoint takes 3 s
    assert found.memory == max(1080, 850 + 2 * SIZE)
    slow = trial._settled(None, steps, a_trial(seconds=50.0), 52.0)
    assert steps.taken == [2], "not even one step"
    assert slow.memory == 1080


@pytest.mark.parametrize(
    ("speeds", "memory", "settled", "chosen"),
    [
        ([1, 2, 4], [1000, 1000, 1000], [1000], [4]),
        ([1, 2, 1.5], [1000, 1000, 1000], [1000], [2]),
        ([1, 2, 4], [1000, 1000, 6500], [1000], [2]),  # 6500 would become more than 8000
        ([1, 2, 4], [1000, 1000, 1000], [9000, 8000], [4, 2]),
        ([1, 2, 4], [1000, 1000, 1000], [9000, 9000, 9000], [4, 2, 1]),  # the last is refused later
        ([1], [9000], [], []),
    ],
)
def test_the_fastest_that_fits_is_chosen_or_half_of_it(
    take, monkeypatch, speeds, memory, settled, chosen
):
    steps, tried = take(), []
    sizes = [2**i for i in range(len(speeds))]
    grown = [a_trial(n, n / s, m) for n, s, m in zip(sizes, speeds, memory, strict=True)]
    hub = SimpleNamespace(update_info_dict=lambda info: None)
    runner = SimpleNamespace(
        **{"optim_wrapper": None, "message_hub": hub, "train_dataloader": None},
        build_optim_wrapper=lambda wrapper: wrapper,
        call_hook=lambda name: None,
        model=SimpleNamespace(train=lambda: None),
    )
    monkeypatch.setattr(trial, "build_runner", lambda cfg, parts: runner)
    monkeypatch.setattr(trial, "Samples", lambda *_: steps)
    monkeypatch.setattr(trial, "_growing", lambda *_: iter(grown))

    def settle(runner, samples, best, end):
        tried.append(best.batch_size)
        return trial.replace(best, memory=settled[len(tried) - 1])

    monkeypatch.setattr(trial, "_settled", settle)
    cfg = Config({"train_dataloader": {"batch_size": 16}, "optim_wrapper": {}})
    found = [*islice(trial.run_trials(cfg, 100, 8000), 20)]
    assert found[: len(grown)] == grown
    assert tried == [each.batch_size for each in found[len(grown) :]] == chosen
