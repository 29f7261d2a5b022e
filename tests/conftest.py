"""What every test run needs, wherever it was started."""

import signal


def pytest_configure() -> None:
    """Be a process that Ctrl-C reaches: one that a shell started in the background hands its deafness on to children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
