"""When calls are let through to a server that has failed."""

from adapters.redis.circuit import FAILURES, OPEN_SECONDS, Circuit


class Clock:
    """Seconds that pass when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def an_open_circuit() -> tuple[Circuit, Clock]:
    clock = Clock()
    circuit = Circuit(clock)
    circuit.failed(late=True)
    return circuit, clock


def test_a_few_failures_in_a_row_open_it() -> None:
    circuit = Circuit(Clock())
    for _ in range(FAILURES - 1):
        circuit.failed(late=False)
        assert circuit.lets_through()
    circuit.failed(late=False)
    assert not circuit.lets_through()


def test_failures_with_a_success_between_do_not() -> None:
    circuit = Circuit(Clock())
    for _ in range(10 * FAILURES):
        circuit.failed(late=False)
        circuit.succeeded()
        assert circuit.lets_through()
        circuit.failed(late=False)
        assert circuit.lets_through()
        circuit.succeeded()


def test_one_call_that_took_all_its_time_opens_it() -> None:
    circuit, _ = an_open_circuit()
    assert not circuit.lets_through()


def test_one_call_a_second_is_let_through() -> None:
    circuit, clock = an_open_circuit()
    clock.now += OPEN_SECONDS * 0.99
    assert not circuit.lets_through()
    clock.now += OPEN_SECONDS * 0.02
    assert [circuit.lets_through() for _ in range(3)] == [True, False, False]
    clock.now += OPEN_SECONDS  # it was cancelled, and nobody knows what it would have found
    assert [circuit.lets_through() for _ in range(3)] == [True, False, False]


def test_its_failure_keeps_the_circuit_open() -> None:
    circuit, clock = an_open_circuit()
    clock.now += OPEN_SECONDS
    assert circuit.lets_through()
    clock.now += OPEN_SECONDS / 2
    circuit.failed(late=False)
    clock.now += OPEN_SECONDS * 0.99
    assert not circuit.lets_through()


def test_its_success_closes_it() -> None:
    circuit, clock = an_open_circuit()
    clock.now += OPEN_SECONDS
    assert circuit.lets_through()
    circuit.succeeded()
    assert [circuit.lets_through() for _ in range(3)] == [True, True, True]
    circuit.failed(late=False)
    assert circuit.lets_through()
