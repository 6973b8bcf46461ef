import numpy as np
import pytest

from edgebus.samples import onset


def test_no_errors_have_no_onset():
    assert onset([], origin=0) is None


@pytest.mark.parametrize("stray", [[], [3.0], [3.0, 20.0, 41.0, 77.0]])
def test_stray_errors_before_the_change_do_not_move_it(stray):
    errors = [*stray, *np.arange(100.0, 160.0, 0.5)]
    assert onset(errors, origin=0) == pytest.approx(100, abs=1)


def test_a_steady_rate_begins_with_its_first_errors():
    errors = list(np.arange(1.0, 100.0))
    assert onset(errors, origin=0) <= 10


def test_a_rate_that_falls_begins_with_its_first_error():
    errors = [*np.arange(0.0, 10.0, 0.1), *np.arange(10.0, 100.0, 10.0)]
    assert onset(errors, origin=0) <= 1


def test_a_burst_at_the_end_is_not_taken_for_the_domain():
    errors = [*np.arange(100.0, 160.0, 0.5), 170.0, 170.0001, 170.0002]
    assert onset(errors, origin=0) == pytest.approx(100, abs=1)


def test_a_ramp_is_found_where_errors_become_frequent():
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.exponential(np.linspace(4.0, 0.1, 300)))
    found = onset(list(times), origin=0)
    early = (times < found).sum() / found
    late = (times >= found).sum() / (times[-1] - found)
    assert late > 2 * early


def test_one_error_is_its_own_onset():
    assert onset([5.0], origin=5.0) == 5.0
