"""The threads of the CPU backend: how many, what they do with a list of items, and what the results owe to them."""

import os
import threading
import time
import weakref

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from strategies import seeded
from threadpoolctl import threadpool_info

from minifcn import ops
from minifcn.backend import get_backend
from minifcn.errors import UsageError
from minifcn.ops.routes import is_forced
from minifcn.threads import _Job, get_threads, set_threads


@pytest.fixture
def threads():
    """Whatever a test sets, the tests after it have the number from before."""
    before = get_threads()
    yield
    set_threads(before)


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_map_keeps_the_order_of_the_items(threads):
    """Results in the order in which threads finish."""
    started = threading.Barrier(2, timeout=10)

    def work(item):
        if item < 2:
            started.wait()  # both at once, or never: the items really run side by side
        return item * item

    set_threads(2)
    assert get_backend("cpu").map(work, range(20)) == [item * item for item in range(20)]


def test_a_helper_has_the_settings_of_the_caller(threads):
    """A route that is forced for the half of a layer which the caller itself computes, and not for the other."""
    started = threading.Barrier(2, timeout=10)

    def work(item):
        started.wait()
        return is_forced("sparse"), threading.get_ident()

    set_threads(2)
    with ops.conv_route("sparse"):
        (first, caller), (second, helper) = get_backend("cpu").map(work, range(2))
    assert (first, second) == (True, True)
    assert caller != helper
    assert not any(forced for forced, _ in get_backend("cpu").map(work, range(2)))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_items_may_map_themselves(threads, count):
    """Two gradients at a time, each of which maps its blocks: threads that wait for each other, or a result too few."""

    def work(item):
        return get_backend("cpu").map(lambda part: (item, part), range(5))

    set_threads(count)
    before = blas_threads()
    for _ in range(50):
        results = get_backend("cpu").map(work, range(3))
        assert results == [[(item, part) for part in range(5)] for item in range(3)]
    assert blas_threads() == before


@pytest.mark.parametrize("count", [1, 2])
def test_an_exception_in_a_thread_reaches_the_caller(threads, count):
    """Swallowed by the pool, and a part of the output never written; BLAS left at one thread."""
    set_threads(count)
    before = blas_threads()

    def work(item):
        raise KeyError(item)

    with pytest.raises(KeyError):
        get_backend("cpu").map(work, range(4))
    assert blas_threads() == before
    assert get_backend("cpu").map(str, range(3)) == ["0", "1", "2"]


def test_an_interrupted_caller_leaves_no_helper_at_work():
    """Ctrl-C while a helper adds up a gradient in the caller's scratch memory, where the next gradient is added up."""
    interrupted, started, finished = threading.Event(), threading.Barrier(2, timeout=10), []

    class Interrupted(threading.Event):
        def wait(self, timeout=None):
            if not interrupted.is_set():
                interrupted.set()
                raise KeyboardInterrupt
            return super().wait(timeout)

    def work(item):
        started.wait()  # the helper has one of the two
        if threading.current_thread() is helper:
            interrupted.wait(10)
            time.sleep(0.1)
            finished.append(item)

    job = _Job(work, range(2))
    job.done = Interrupted()
    helper = threading.Thread(target=job.help)
    helper.start()
    job.work()
    with pytest.raises(KeyboardInterrupt):
        job.wait()
    assert len(finished) == 1
    helper.join()


def test_nothing_to_do_is_done_at_once(threads):
    """An empty batch, for which the caller waits forever: nobody finishes its last item."""
    set_threads(2)
    assert get_backend("cpu").map(str, []) == []


def test_a_helper_that_is_still_asleep_holds_on_to_no_array():
    """The job of a map that is done waits for it to wake up, with what went in and what came out."""
    items = [np.ones(3), np.ones(3)]
    job = _Job(np.sqrt, items)
    job.work()
    results = job.wait()
    arrays = [weakref.ref(array) for array in (*items, *results)]
    del items, results
    assert [array() for array in arrays] == [None] * 4


def test_another_number_of_threads_ends_the_helpers_of_the_old_one(threads):
    """A notebook that compares numbers of threads collects them all."""
    for count in (3, 4, 2):
        set_threads(count)
        get_backend("cpu").map(str, range(8))
    for _ in range(1000):  # each ends when it wakes up
        helpers = [thread for thread in threading.enumerate() if thread.name.startswith("minifcn-")]
        if len(helpers) == 1:
            break
        time.sleep(0.01)
    assert len(helpers) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_process_makes_threads_of_its_own(threads):
    """It has no thread but the one that forked, and would wait forever for the helpers of its parent."""
    set_threads(2)
    get_backend("cpu").map(str, range(2))
    child = os.fork()
    if child == 0:
        started = threading.Barrier(2, timeout=10)
        code = 1
        try:
            get_backend("cpu").map(lambda _: started.wait(), range(2))
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_blas_is_held_to_one_thread_for_each_worker_while_they_work(threads):
    """Two workers with two BLAS threads each on two cores: twice as slow."""
    set_threads(2)
    inside = get_backend("cpu").map(lambda _: blas_threads(), range(4))
    assert inside == [{1}] * 4
    assert blas_threads() == {2}


def test_threads_can_be_set(threads):
    """--threads that changes one pool and not the other."""
    for count in (1, 2):
        set_threads(count)
        assert get_threads() == count
        assert get_backend("cpu").workers == count
        assert blas_threads() == {count}


@pytest.mark.parametrize("count", [0, -1])
def test_fewer_than_one_thread_is_refused(threads, count):
    """A pool without workers waits for ever."""
    with pytest.raises(UsageError, match=f"--threads {count}: at least 1 is needed"):
        set_threads(count)


def test_the_number_of_threads_follows_the_environment(monkeypatch):
    """OMP_NUM_THREADS=1 in a container of one core, and a pool of 64 threads."""
    monkeypatch.setattr("minifcn.threads._thread_count", None)
    assert get_threads() <= max(blas_threads())
    assert get_threads() >= 1


def test_results_hardly_depend_on_the_number_of_threads(threads):
    """Blocks that overlap or leave a gap when there are two workers; sums may differ by rounding."""
    results = []
    for count in (1, 2, 2):
        set_threads(count)
        x, weight = seeded(2, 16, 40, 40, dtype=np.float32), seeded(16, 16, 3, 3, dtype=np.float32)
        y = ops.conv_transpose2d(ops.conv2d(x, weight, padding=1), weight, stride=2)
        y.backward(np.sin(y.data))
        results.append([y.data, x.grad, weight.grad])
    for one, two, again in zip(*results, strict=True):
        assert_array_equal(two, again)
        assert_allclose(one, two, rtol=0, atol=3e-6 * np.abs(one).max())  # float32; 4e-7 was seen
