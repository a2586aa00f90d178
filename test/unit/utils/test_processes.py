from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from pyfuncserver.utils import processes

Script = Callable[..., str]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, ["exited with status 0"]),
        (3 << 8, ["exited with status 3"]),
        (signal.SIGKILL, ["SIGKILL", "out of memory"]),
        (signal.SIGSEGV, ["SIGSEGV", "native code"]),
        (signal.SIGABRT, ["SIGABRT", "native code"]),
        (signal.SIGTERM, ["SIGTERM"]),
        (signal.SIGRTMIN + 3, ["signal 37"]),
    ],
)
def test_exit_is_described(status: int, words: list[str]) -> None:
    described = processes.describe_exit(int(status))
    assert all(word in described for word in words)
    assert "out of memory" not in described or "out of memory" in words


def test_fork_gives_the_childs_result(run_script: Script) -> None:
    printed = run_script("""
        import os, sys
        from pyfuncserver.utils import processes

        def wait(child):
            return os.waitstatus_to_exitcode(os.waitpid(processes.fork(child), 0)[1])

        def leave():
            sys.exit(5)

        def leave_with_words():
            sys.exit("words")

        def fail():
            sys.excepthook = lambda *_: None
            raise KeyboardInterrupt

        print(wait(lambda: 0), wait(lambda: 7), wait(leave), wait(leave_with_words), wait(fail))
    """)
    assert printed.split() == ["0", "7", "5", "1", "70"]


def test_child_never_comes_back_and_runs_no_exit_function_of_its_parent(
    run_script: Script,
) -> None:
    printed = run_script("""
        import atexit, os
        from pyfuncserver.utils import processes
        atexit.register(lambda: print("exit function"))
        print("before", end=" ")  # not flushed yet
        os.waitpid(processes.fork(lambda: print("child") or 0), 0)
        print("after")
    """)
    assert printed == "before child\nafter\nexit function\n"


def test_child_has_default_handlers_and_an_open_mask(run_script: Script) -> None:
    printed = run_script("""
        import os, signal, socket
        from pyfuncserver.utils import processes
        here, there = socket.socketpair()
        there.setblocking(False)
        signal.set_wakeup_fd(there.fileno())
        for number in processes.SIGNALS_OF_OURS:
            signal.signal(number, lambda *_: None)

        def child():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
            assert signal.set_wakeup_fd(-1) == -1
            assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
            return 0

        _, status = os.waitpid(processes.fork(child), 0)
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        print(os.waitstatus_to_exitcode(status))
        # Or else a warning about the descriptor comes at the end.
        signal.set_wakeup_fd(-1)
        here.close(), there.close()
    """)
    assert printed.strip() == "0"


def test_orphan_is_adopted_by_the_subreaper(run_script: Script) -> None:
    printed = run_script("""
        import os
        from pyfuncserver.utils import processes
        assert processes.become_subreaper()
        told, tell = os.pipe()

        def host():
            def worker():
                os.close(tell)
                os.read(told, 1)
                return 9 if os.getppid() == top else 8
            processes.fork_orphan(worker)
            return 0

        top = os.getpid()
        host_pid = processes.fork(host)
        assert os.waitpid(host_pid, 0)[1] == 0
        (orphan,) = processes.children()
        assert orphan != host_pid
        os.write(tell, b"!")
        print(os.waitstatus_to_exitcode(os.waitpid(orphan, 0)[1]))
        assert processes.children() == []
    """)
    assert printed.strip() == "9"


def test_orphan_that_cannot_be_made_is_an_error(run_script: Script) -> None:
    run_script("""
        import errno, os
        from pyfuncserver.utils import processes
        forks = []
        fork = os.fork

        def second_fails():
            forks.append(1)
            if len(forks) == 2:
                raise OSError(errno.EAGAIN, "no more")
            return fork()

        os.fork = second_fails
        try:
            processes.fork_orphan(lambda: 0)
        except OSError as error:
            assert error.errno == errno.EAGAIN, error
        else:
            raise SystemExit("no error")
    """)


def test_children_are_those_that_are_not_reaped(run_script: Script) -> None:
    run_script("""
        import os, signal, time
        from pyfuncserver.utils import processes
        assert processes.children() == []
        told, tell = os.pipe()

        def child():
            os.close(tell)
            os.read(told, 1)
            return 0

        first, second = processes.fork(child), processes.fork(child)
        assert sorted(processes.children()) == sorted([first, second])
        os.kill(first, signal.SIGKILL)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)  # dead, and not reaped
        # Its threads may live on in it, with children of their own that are not adopted yet.
        assert sorted(processes.children()) == sorted([first, second])
        os.waitpid(first, 0)
        assert processes.children() == [second]
        os.close(tell)
        os.waitpid(second, 0)
    """)


def test_child_dies_with_its_parent(run_script: Script) -> None:
    run_script("""
        import os, signal
        from pyfuncserver.utils import processes
        assert processes.become_subreaper()
        told, tell = os.pipe()

        def parent():
            def child():
                processes.die_with_parent(signal.SIGKILL)
                os.write(tell, b"%d" % os.getpid())
                signal.pause()
                return 0
            processes.fork(child)
            signal.pause()
            return 0

        pid = processes.fork(parent)
        child_pid = int(os.read(told, 20))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        _, status = os.waitpid(child_pid, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
    """)


@pytest.mark.parametrize(
    ("setup", "end", "expected"),
    [
        ("", "", "[]"),
        (
            "from threading import *; e = Event(); t = Thread(None, e.wait, 'a pump'); t.start()",
            "e.set(); t.join()",
            "['a pump']",
        ),
        (
            "import numpy as np; a = np.ones((600, 600)); a @ a",
            "",
            "[]",
        ),
        (
            "import threading; t = threading.Thread(target=int); t.start(); t.join()",
            "",
            "[]",
        ),
    ],
    ids=["none", "python", "blas", "ended"],
)
def test_unsafe_threads(run_script: Script, setup: str, end: str, expected: str) -> None:
    code = f"""
        import warnings
        warnings.simplefilter("ignore")  # Python 3.12 warns of forks beside threads
        from pyfuncserver.utils import processes
        {setup}
        print(processes.unsafe_threads())
        {end}
    """
    assert run_script(code, OPENBLAS_NUM_THREADS="2").strip() == expected


def test_memory_of_this_process() -> None:
    resident, proportional = processes.memory_bytes(os.getpid())
    assert resident >= proportional > 1_000_000


def test_memory_of_a_process_that_is_gone() -> None:
    assert processes.memory_bytes(2**22 + 1) == (0, 0)
