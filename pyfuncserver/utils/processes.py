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
SIGNALS_OF_OURS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
UNEXPECTED_ERROR = 70  # EX_SOFTWARE of sysexits.h
CRASHES = frozenset(
    {
        *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL),
        *(signal.SIGABRT, signal.SIGSYS, signal.SIGTRAP),
    }
)

_EXIT_GUESSES = {0: "", UNEXPECTED_ERROR: " (an unexpected error; its traceback is in the log)"}
_ANY_EXIT_GUESS = " (os._exit or sys.exit in the model or its libraries?)"
_SIGNAL_GUESSES: dict[int, str] = {
    signal.SIGKILL: " (out of memory, or killed by hand)",
    signal.SIGSEGV: " (a crash in native code: an access outside of its memory)",
    signal.SIGBUS: " (a file mapped into memory was cut short, or its disk is full or broken)",
    signal.SIGFPE: " (a crash in native code: an impossible calculation)",
    signal.SIGILL: " (native code made for another CPU?)",
    signal.SIGABRT: " (native code gave up)",
    signal.SIGSYS: " (a system call that this container forbids)",
    signal.SIGTRAP: " (native code gave up)",
    signal.SIGXCPU: " (the limit of CPU time, see ulimit -t)",
    signal.SIGXFSZ: " (the limit of a file's size, see ulimit -f)",
}


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
    status = UNEXPECTED_ERROR  # where even the code below fails
    try:
        signal.set_wakeup_fd(-1)
        for number in SIGNALS_OF_OURS:
            signal.signal(number, signal.SIG_DFL)
        # A terminal's signals reach the whole group, but stopping is the supervisor's to order.
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS_OF_OURS)
        status = child()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:  # noqa: BLE001  the top of a process: it is told as Python would
        sys.excepthook(*sys.exc_info())
    finally:
        leave(status)


def leave(status: int) -> NoReturn:
    """End this process at once, with no exit functions: of a forked one they are its parent's."""
    _flush()
    os._exit(status)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # closed, or nobody reads it any more
            continue


def fork_orphan(child: Callable[[], int], tell: Callable[[int], None]) -> None:
    """Fork a process that the nearest subreaper adopts at once; ``tell`` is given its pid.

    Raises: OSError where the process cannot be made (out of memory, too many processes).
    """

    def between() -> int:
        try:
            tell(fork(child))
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

    Zero where the process is gone or the kernel does not tell.
    """
    figures = _memory_figures(pid)
    return figures.get("Rss", 0), figures.get("Pss", 0)


def anonymous_bytes(pid: int) -> int:
    """Give the memory of a process that no file stands behind, in bytes, what is swapped included.

    Where the kernel does not tell, the resident memory; zero where the process is gone.
    """
    figures = _memory_figures(pid)
    if not figures:
        return _resident_bytes(pid)
    return figures.get("Anonymous", 0) + figures.get("Swap", 0)


def _memory_figures(pid: int) -> dict[str, int]:
    """Read what the kernel tells of a process's memory, in bytes (proc(5), "smaps_rollup")."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
            next(rollup, None)  # the range of addresses
            fields = (line.split() for line in rollup)
            return {name.rstrip(":"): int(kilobytes) * 1024 for name, kilobytes, _ in fields}
    except OSError:
        return {}


def _resident_bytes(pid: int) -> int:
    try:
        _, pages, *_ = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def describe_exit(status: int, out_of_memory: bool | None = None) -> str:
    """Say how a process ended, from its wait status, with a guess at who did it.

    ``out_of_memory`` tells whether the kernel has killed for want of memory; None where nobody
    has looked.
    """
    if os.WIFEXITED(status):
        code = os.WEXITSTATUS(status)
        return f"exited with status {code}{_EXIT_GUESSES.get(code, _ANY_EXIT_GUESS)}"
    number = os.WTERMSIG(status)
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    guess = _SIGNAL_GUESSES.get(number, "")
    if number == signal.SIGKILL and out_of_memory is not None:
        guess = (
            " (out of memory)"
            if out_of_memory
            else " (by somebody; the memory limit did not do it)"
        )
    return f"was killed by {name}{guess}"


def cause_of(status: int, out_of_memory: bool) -> str:
    """Give how a process ended as a metric's label.

    ``exit``; ``crash`` (a fault in native code); ``out_of_memory``; ``signal``, any other.
    """
    if os.WIFEXITED(status):
        return "exit"
    number = os.WTERMSIG(status)
    if number == signal.SIGKILL and out_of_memory:
        return "out_of_memory"
    return "crash" if number in CRASHES else "signal"


def children(of: int | None = None) -> list[int]:
    """List a process's children, adopted ones and those not yet reaped among them."""
    own, found = of or os.getpid(), []
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


def kill_with_children(pid: int) -> None:
    """End a process, and what it has started."""
    victims = [pid, *children(pid)]
    for victim in victims:
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue


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
