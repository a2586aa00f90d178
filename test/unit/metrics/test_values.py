from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Script = Callable[..., str]

PROLOGUE = """
    import errno, logging, os, sys, threading
    from pathlib import Path
    from pyfuncserver.metrics import instruments
    folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    lines = []

    class Lines(logging.Handler):
        def emit(self, record):
            lines.append((record.levelname, record.getMessage()))

    logging.getLogger().addHandler(Lines())

    def settle():
        # What went wrong is told by a thread of its own.
        for thread in threading.enumerate():
            if thread is not threading.current_thread():
                thread.join(10)

    def refuse(number):
        def posix_fallocate(*arguments):
            raise OSError(number, os.strerror(number))
        os.posix_fallocate = posix_fallocate

    def child(run):
        pid = os.fork()
        if pid == 0:
            try:
                run()
                os._exit(0)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0

    def totals():
        # As a scrape reads them, by labels.
        from prometheus_client.multiprocess import MultiProcessCollector
        files = [str(file) for file in folder.glob("*.db")]
        families = MultiProcessCollector.merge(files)
        return {
            tuple(v for k, v in sample.labels.items() if k != "pid"): sample.value
            for family in families for sample in family.samples
        }

    instruments.install("0")
    from prometheus_client import Counter, Gauge
    counter = Counter("calls", "Calls.", ("who",))

    def value(who):
        return counter.labels(who)._value.get()

    def count(whos, times=1):
        for who in whos:
            counter.labels(who).inc(times)
"""

# More than the first size of a file holds.
MANY = "[f'{n:0100}' for n in range(1000)]"


@pytest.fixture
def run(run_script: Script, tmp_path: Path) -> Callable[[str], str]:
    folder = tmp_path / "metrics"
    folder.mkdir()
    return lambda body: run_script(PROLOGUE + body, PROMETHEUS_MULTIPROC_DIR=str(folder))


def test_files_grow_and_a_successor_goes_on(run: Callable[[str], str]) -> None:
    run(f"""
    many = {MANY}
    child(lambda: instruments.set_identity("0") or count(many))
    child(lambda: instruments.set_identity("0") or count(many, 2))
    found = totals()
    assert [found[(who,)] for who in many] == [3] * 1000, found
    assert [file.name for file in folder.iterdir()] == ["counter_0.db"]
    assert lines == []
    """)


@pytest.mark.parametrize("how", ["pass", "refuse(errno.EOPNOTSUPP)"], ids=["call", "zeros"])
def test_every_block_of_a_file_exists(run: Callable[[str], str], how: str) -> None:
    run(f"""
    {how}
    count(["a"])
    file = folder / "counter_0.db"
    assert file.stat().st_size == 65536
    assert file.stat().st_blocks * 512 >= 65536
    count({MANY})
    assert file.stat().st_size > 65536
    assert file.stat().st_blocks * 512 >= file.stat().st_size
    assert totals()[("a",)] == 1
    assert lines == []
    """)


def test_what_a_full_disk_has_no_room_for_is_counted_in_the_process(
    run: Callable[[str], str],
) -> None:
    run(f"""
    count(["before"])
    refuse(errno.ENOSPC)
    many = {MANY}
    count(many)
    count(many)
    count(["before"])
    gauge = Gauge("size", "Size.", multiprocess_mode="livesum")
    gauge.set(7)
    assert gauge._value.get() == 7
    settle()
    assert [value(who) for who in many] == [2] * 1000
    found = totals()
    assert found[("before",)] == 2
    told = [who for who in many if (who,) in found]
    assert 100 < len(told) < 1000, "as many as the file held"
    assert all(found[(who,)] == 2 for who in told)
    assert [level for level, _ in lines] == ["ERROR"], lines
    assert str(folder) in lines[0][1] and "No space left" in lines[0][1], lines
    assert [file.name for file in folder.iterdir()] == ["counter_0.db"], "no half of a file"
    """)


def test_a_disk_that_has_room_again_is_used_again(run: Callable[[str], str]) -> None:
    run(f"""
    count(["before"])
    works = os.posix_fallocate
    refuse(errno.ENOSPC)
    count({MANY})
    os.posix_fallocate = works
    count(["after"])
    assert totals()[("after",)] == 1
    settle()
    """)


@pytest.mark.parametrize("identities", [["0"], ["0", "1"]], ids=["at-first", "after-a-fork"])
def test_a_directory_that_is_gone_stops_nothing(
    run: Callable[[str], str], identities: list[str]
) -> None:
    run(f"""
    import shutil

    def work():
        for identity in {identities}:
            instruments.set_identity(identity)
            shutil.rmtree(folder, ignore_errors=identity == "1")
            count(["a", "b", "a"])
            assert (value("a"), value("b")) == (2, 1)
        settle()
        assert [level for level, _ in lines] == ["ERROR"], lines
        assert str(folder) in lines[0][1] and "No such file" in lines[0][1], lines

    child(work)
    """)


def test_no_descriptor_left_stops_nothing(run: Callable[[str], str]) -> None:
    run("""
    import resource
    folder.stat()
    used = len(os.listdir("/proc/self/fd")) - 1
    count(["before"])
    import prometheus_client.multiprocess
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 2, most))
    gauge = Gauge("size", "Size.", ("who",), multiprocess_mode="livesum")
    gauge.labels("a").inc(3)
    gauge.labels("a").inc(3)
    count(["before", "after"])
    assert gauge.labels("a")._value.get() == 6
    settle()
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    found = totals()
    assert found[("before",)] == 2 and found[("after",)] == 1
    assert [level for level, _ in lines] == ["ERROR"], lines
    assert "Too many open files" in lines[0][1]
    """)


@pytest.mark.parametrize(
    "content", ["b''", "b'torn'", "bytes(100)", "b'\\xff' * 64", "b'\\x40\\0\\0\\0' + b'x' * 60"]
)
def test_a_file_that_is_torn_is_made_anew(run: Callable[[str], str], content: str) -> None:
    run(f"""
    (folder / "counter_0.db").write_bytes({content})
    count(["a", "b"])
    assert totals() == {{("a",): 1, ("b",): 1}}, totals()
    """)


def test_a_log_handler_may_count_lines(run: Callable[[str], str]) -> None:
    run("""
    logged = Counter("logged", "Lines.", ("level",))

    class Counting(logging.Handler):
        def emit(self, record):
            logged.labels(record.levelname).inc()

    logging.getLogger().addHandler(Counting())
    refuse(errno.ENOSPC)
    logged.labels("ERROR").inc()
    settle()
    assert logged.labels("ERROR")._value.get() == 2
    """)


def test_what_a_model_forks_does_not_write_over_the_models_figures(
    run: Callable[[str], str],
) -> None:
    run("""
    count(["a"], 5)
    child(lambda: count(["a", "b", "c"]))
    count(["a"])
    assert totals() == {("a",): 6}, totals()
    assert [file.name for file in folder.iterdir()] == ["counter_0.db"]
    assert lines == []
    """)


def test_what_is_counted_is_in_the_file_when_the_process_is_killed(
    run: Callable[[str], str],
) -> None:
    run(f"""
    import signal
    from pyfuncserver.metrics.instruments import Instruments
    from pyfuncserver.metrics.meters import LOOP, Meters
    pid = os.fork()
    if pid == 0:
        instruments.set_identity("0")
        meters = Meters(Instruments(), "m-1", "v1")
        for number in range(1000):
            meters.arrive()
            meters.enter_at_once()
            if number == 500:
                count({MANY})  # the files grow
            meters.settle(200, None, (LOOP, 0.002))
        meters.arrive()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    from prometheus_client.multiprocess import MultiProcessCollector
    families = MultiProcessCollector.merge([str(file) for file in folder.glob("*_0.db")])
    samples = [sample for family in families for sample in family.samples]
    found = {{
        (s.name, s.labels.get("le", s.labels.get("where"))): s.value for s in samples
    }}
    assert found["pyfuncserver_requests_total", None] == 1000
    assert found["pyfuncserver_predictions_total", "loop"] == 1000
    assert found["pyfuncserver_requests_in_flight", None] == 1
    assert found["pyfuncserver_request_wait_seconds_bucket", "0.0005"] == 1000
    assert found["pyfuncserver_request_wait_seconds_sum", None] == 0
    assert found["pyfuncserver_request_duration_seconds_bucket", "0.001"] == 0
    assert found["pyfuncserver_request_duration_seconds_bucket", "0.0025"] == 1000
    assert abs(found["pyfuncserver_request_duration_seconds_sum", None] - 2) < 1e-9
    """)


def test_threads_lose_no_count(run: Callable[[str], str]) -> None:
    run("""
    from pyfuncserver.metrics.instruments import Instruments
    from pyfuncserver.metrics.meters import THREAD, Meters
    sys.setswitchinterval(1e-6)
    ours = Instruments()
    meters = Meters(ours, "m-1", "v1")

    def work():
        for _ in range(2000):
            meters.arrive()
            meters.queue()
            meters.leave_queue(0.5)
            meters.settle(200, "internal", (THREAD, 0.25))
            ours.requests.labels("m-1", "v1", "200").inc()
            count(["a"])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = totals()
    assert found[("a",)] == 8000
    assert found[("200", "v1", "m-1")] == 16000
    assert meters._in_flight.get() == meters._waiting.get() == 0
    assert ours.duration.labels("m-1", "v1")._sum.get() == 2000
    """)


def test_a_child_of_a_model_that_counts_at_the_time_can_count(run: Callable[[str], str]) -> None:
    """A fork while another thread holds the lock must not leave it held in the child."""
    run("""
    done = threading.Event()

    def work():
        while not done.is_set():
            count(["a"])

    thread = threading.Thread(target=work)
    thread.start()
    before = sum(totals().values())
    for _ in range(50):
        child(lambda: count(["a"], 1_000_000))
    done.set()
    thread.join()
    assert totals()[("a",)] < 1_000_000
    """)


def test_gauges_of_which_the_latest_counts_have_a_time(run: Callable[[str], str]) -> None:
    run("""
    try:
        gauge = Gauge("latest", "Latest.", multiprocess_mode="mostrecent")
    except ValueError:  # prometheus_client before 0.18
        sys.exit()
    gauge.set(5)
    instruments.set_identity("1")
    gauge.set(7)
    instruments.set_identity("0")
    assert gauge._value.get() == 5
    assert totals()[()] == 7
    """)


def test_files_of_our_own_values_are_those_of_the_library(run: Callable[[str], str]) -> None:
    """Let the library's own values go on where ours have stopped, and the reverse."""
    run("""
    from prometheus_client import values as theirs
    count(["a", "b"], 3)
    instruments.set_identity("2")
    Their = theirs.MultiProcessValue(lambda: "0")
    value = Their("counter", "calls", "calls_total", ("who",), ("a",), "Calls.")
    assert value.get() == 3
    value.inc(4)
    instruments.set_identity("0")
    assert counter.labels("a")._value.get() == 7
    assert totals()[("a",)] == 7 and totals()[("b",)] == 3
    """)
