"""How the threads of engines wait, as the environment says it to their libraries."""

import pytest

from callboard_kit.openmp import SPIN_COUNT, let_waiting_threads_sleep

pytestmark = pytest.mark.unit


def test_waiting_threads_sleep_unless_the_operator_says_how_they_wait() -> None:
    for given, then in (
        ({}, {"GOMP_SPINCOUNT": str(SPIN_COUNT)}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
    ):
        environ = dict(given)
        let_waiting_threads_sleep(environ)
        assert environ == then
