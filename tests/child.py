"""Work in a forked child, for tests of what survives a fork."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable

ALARM_SECONDS = 60


def run_in_child(work: Callable[[], None]) -> None:
    """Forks, calls `work` in the child, and fails where it raises, crashes or takes longer than a minute."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(ALARM_SECONDS)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, "the child hangs" if status == -signal.SIGALRM else f"the child ends with {status}"
