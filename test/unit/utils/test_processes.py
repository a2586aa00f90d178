from __future__ import annotations

import mmap
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pyfuncserver.utils import processes

Script = Callable[..., str]


EXIT, KILL, SEGV = 3 << 8, int(signal.SIGKILL), int(signal.SIGSEGV)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (EXIT, ["exited with status 3", "os._exit"]),
        (70 << 8, ["exited with status 70", "traceback"]),
        (KILL, ["SIGKILL", "out of memory"]),
        (SEGV, ["SIGSEGV", "native code"]),
        (signal.SIGBUS, ["SIGBUS", "disk is full"]),
        (signal.SIGABRT, ["SIGABRT", "native code"]),
        (signal.SIGILL, ["SIGILL", "another CPU"]),
        (signal.SIGFPE, ["SIGFPE", "native code"]),
        (signal.SIGTERM, ["SIGTERM"]),
        (signal.SIGRTMIN + 3, ["signal 37"]),
    ],
)
def test_exit_is_described(status: int, words: list[str]) -> None:
    described = processes.describe_exit(int(status))
    assert all(word in described for word in words)
    assert "out of memory" not in described or "out of memory" in words


def test_plain_exit_needs_no_guess() -> None:
    assert processes.describe_exit(0) == "exited with status 0"


def test_sigkill_is_described_by_what_the_memory_limit_did() -> None:
    assert processes.describe_exit(KILL, out_of_memory=True) == (
        "was killed by SIGKILL (out of memory)"
    )
    assert "did not do it" in processes.describe_exit(KILL, out_of_memory=False)
    assert "memory limit" not in processes.describe_exit(SEGV, out_of_memory=False)


@pytest.mark.parametrize(
    ("status", "out_of_memory", "cause"),
    [
        (0, False, "exit"),
        (EXIT, True, "exit"),
        (KILL, False, "signal"),
        (KILL, True, "out_of_memory"),
        (SEGV, True, "crash"),
        *((int(number), False, "crash") for number in processes.CRASHES),
        (int(signal.SIGTERM), True, "signal"),
        (int(signal.SIGRTMIN), False, "signal"),
        (SEGV | 0x80, False, "crash"),  # with a core dumped
    ],
)
def test_cause(status: int, out_of_memory: bool, cause: str) -> None:
    assert processes.cause_of(status, out_of_memory) == cause


def test_anonymous_memory_leaves_files_out(tmp_path: Path) -> None:
    before = processes.anonymous_bytes(os.getpid())
    size = 64_000_000
    taken = bytearray(b"1") * size
    (tmp_path / "weights").write_bytes(taken)
    with (tmp_path / "weights").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        assert sum(mapped[::4096]) == sum(taken[::4096])
        grown = processes.anonymous_bytes(os.getpid()) - before
        mapped.close()
    assert size * 0.9 < grown < size * 1.5


def test_anonymous_memory_of_a_process_that_is_gone() -> None:
    assert processes.anonymous_bytes(2**22 + 1) == 0


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
        pid_out, pid_in = os.pipe()

        def host():
            def worker():
                os.close(tell)
                os.read(told, 1)
                return 9 if os.getppid() == top else 8
            processes.fork_orphan(worker, lambda pid: os.write(pid_in, str(pid).encode()))
            return 0

        top = os.getpid()
        host_pid = processes.fork(host)
        assert os.waitpid(host_pid, 0)[1] == 0
        (orphan,) = processes.children()
        assert orphan != host_pid
        assert orphan == int(os.read(pid_out, 20))
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
            processes.fork_orphan(lambda: 0, print)
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
