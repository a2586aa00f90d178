"""What the operating system knows of processes: forking, orphans, memory, causes of death."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

PR_SET_PDEATHSIG = 1  # prctl(2)
PR_SET_CHILD_SUBREAPER = 36
# Threads of libraries that take care of forks themselves and yet stay: jemalloc (in pyarrow) locks
# its arenas before a fork and starts its thread anew in the child ("background_thread_postfork").
FORK_SAFE_THREADS = frozenset({"jemalloc_bg_thd"})
SIGNALS_OF_OURS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


def _prctl(option: int, argument: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    return bool(ctypes.CDLL(None, use_errno=True).prctl(option, argument, 0, 0, 0) == 0)


def become_subreaper() -> bool:
    """Adopt the orphans of this process's children; False where the kernel has no such thing."""
    return _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(signal_number: int) -> None:
    """Ask for a signal when the parent ends; 0 takes it back. Linux only, elsewhere nothing."""
    _prctl(PR_SET_PDEATHSIG, signal_number)


def fork(child: Callable[[], int]) -> int:
    """Fork; the child runs ``child`` and ends with its result, and never returns from here.

    The child starts with default handlers for the signals that the parent handles and without the
    parent's wake-up descriptor: a signal that comes in between waits until that is done.
    """
    _flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS_OF_OURS)
    try:
        pid = os.fork()
        if pid == 0:
            _be_the_child(child)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS_OF_OURS)


def _be_the_child(child: Callable[[], int]) -> NoReturn:
    status = 70  # EX_SOFTWARE, where even the code below fails
    try:
        signal.set_wakeup_fd(-1)
        for number in SIGNALS_OF_OURS:
            signal.signal(number, signal.SIG_DFL)
        # A terminal's Ctrl-C reaches the whole group, but stopping is the supervisor's to order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS_OF_OURS)
        status = child()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:  # noqa: BLE001  the top of a process: it is told as Python would
        sys.excepthook(*sys.exc_info())
    finally:
        leave(status)


def leave(status: int) -> NoReturn:
    """End a forked process at once: its parent's exit functions are not its own to run."""
    _flush()
    os._exit(status)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # closed, or nobody reads it any more
            continue


def fork_orphan(child: Callable[[], int]) -> None:
    """Fork a process that the nearest subreaper adopts at once.

    Raises: OSError where the process cannot be made (out of memory, too many processes).
    """

    def between() -> int:
        try:
            fork(child)
        except OSError as error:
            return error.errno or 1
        return 0

    _, status = os.waitpid(fork(between), 0)
    if status:
        number = os.waitstatus_to_exitcode(status)
        raise OSError(number, os.strerror(number) if number > 0 else describe_exit(status))


def unsafe_threads() -> list[str]:
    """Name the threads that would be lost, with the locks they hold, in a fork.

    Libraries that know of forks (OpenBLAS) end their threads in a ``pthread_atfork`` handler. So
    a fork is tried, of a child that does nothing, and what is still there after it is unsafe.
    """
    before = _thread_names()
    if len(before) <= 1:
        return []
    os.waitpid(fork(lambda: 0), 0)
    names = _thread_names()
    names.pop(os.getpid(), None)
    python = {thread.native_id: thread.name for thread in threading.enumerate()}
    return sorted(
        python.get(thread, name)
        for thread, name in names.items()
        if thread in python or name not in FORK_SAFE_THREADS
    )


def _thread_names() -> dict[int, str]:
    """Map each thread of this process to the name the kernel has for it."""
    if not sys.platform.startswith("linux"):
        return {thread.native_id or 0: thread.name for thread in threading.enumerate()}
    names = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            names[int(task.name)] = (task / "comm").read_text(encoding="utf-8").strip()
        except OSError:  # it has just ended
            continue
    return names


def memory_bytes(pid: int) -> tuple[int, int]:
    """Give a process's resident and proportional (shared pages divided) memory, in bytes.

    Zero where the process is gone or the kernel does not tell (proc(5), "smaps_rollup").
    """
    figures = {"Rss": 0, "Pss": 0}
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
            for line in rollup:
                name, _, rest = line.partition(":")
                if name in figures:
                    figures[name] = int(rest.split()[0]) * 1024
    except OSError:
        return 0, 0
    return figures["Rss"], figures["Pss"]


def describe_exit(status: int) -> str:
    """Say how a process ended, from its wait status, with a guess at who did it."""
    if os.WIFEXITED(status):
        return f"exited with status {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    guess = {
        signal.SIGKILL: " (out of memory, or killed by hand)",
        signal.SIGSEGV: " (a crash in native code)",
        signal.SIGABRT: " (native code gave up)",
    }.get(number, "")  # type: ignore[call-overload]
    return f"was killed by {name}{guess}"


def children() -> list[int]:
    """List the children of this process, adopted ones and those not yet reaped among them."""
    own, found = os.getpid(), []
    if not sys.platform.startswith("linux"):
        return []  # there nothing was adopted either, see become_subreaper
    for process in Path("/proc").glob("[0-9]*"):
        try:
            # The name, in parentheses, may hold anything; state and parent follow it.
            _, parent, *_ = (process / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(parent) == own:
            found.append(int(process.name))
    return found


def kill_children() -> None:
    """End what this process, or the user's code in it, has started."""
    for pid in children():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def forget_signals_in_forks() -> None:
    """Let a process that the user's code forks have signals of its own.

    Else it would inherit the loop's wake-up socket and its handlers, and a SIGTERM that ends the
    child (``multiprocessing`` does that) would be heard by this process, which would then drain.
    A signal that comes before the child is done with it waits, for it is blocked around the fork.
    """
    mask = threading.local()

    def block() -> None:
        mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask.before)

    def forget() -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        unblock()

    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=forget)
