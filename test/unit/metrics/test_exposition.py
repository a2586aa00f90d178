from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

Script = Callable[..., str]

# Each process counts under the identity it is told, then the last one renders.
PROLOGUE = """
    import os, sys
    from pyfuncserver.metrics import directory
    from pyfuncserver.scoreboard import Reload, Restart, Scoreboard, State
    board = Scoreboard(2)

    def process(identity, requests, in_flight=0):
        from pyfuncserver.utils import processes

        def child():
            from prometheus_client import Counter
            from pyfuncserver.metrics import instruments
            instruments.install(identity)
            ours = instruments.Instruments()
            models = Counter("model_calls", "The model's own.")
            for _ in range(requests):
                ours.requests.labels("m-1", "v1", "200").inc()
                ours.duration.labels("m-1", "v1").observe(0.002)
                models.inc()
            ours.in_flight.labels("m-1", "v1").inc(in_flight)
            ours.model.labels("m", "1", "m-1", "p", "plain", "l").set(1)
            return 0

        _, status = os.waitpid(processes.fork(child), 0)
        assert status == 0, status

    def render(accept=""):
        from pyfuncserver.metrics import exposition
        return exposition.render(board, accept)

    def show(accept=""):
        body, _ = render(accept)
        sys.stdout.write(body.decode())
"""


def samples(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


@pytest.fixture
def scraped(run_script: Script, tmp_path: Path) -> Callable[[str], dict[str, float]]:
    def run(body: str) -> dict[str, float]:
        return samples(run_script(PROLOGUE + body, PROMETHEUS_MULTIPROC_DIR=str(tmp_path)))

    return run


def test_processes_are_summed(scraped: Callable[[str], dict[str, float]]) -> None:
    found = scraped("""
    process("0", 3, in_flight=1)
    process("1", 4, in_flight=2)
    show()
    """)
    assert found["pyfuncserver_requests_total{code=200,dialect=v1,model=m-1}"] == 7
    assert found["pyfuncserver_request_duration_seconds_count{dialect=v1,model=m-1}"] == 7
    bucket = "pyfuncserver_request_duration_seconds_bucket"
    assert found[f"{bucket}{{dialect=v1,le=0.001,model=m-1}}"] == 0
    assert found[f"{bucket}{{dialect=v1,le=0.0025,model=m-1}}"] == 7
    assert found["pyfuncserver_requests_in_flight{dialect=v1,model=m-1}"] == 3
    assert found["model_calls_total"] == 7
    info = [name for name in found if name.startswith("pyfuncserver_model_info{")]
    assert [found[name] for name in info] == [1]
    assert not any("pid=" in name for name in found), "one series, however many processes"


def test_successor_goes_on_counting(
    scraped: Callable[[str], dict[str, float]], tmp_path: Path
) -> None:
    found = scraped("""
    from pathlib import Path
    process("0", 3, in_flight=1)
    directory.retire(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]), "0")
    process("0", 4, in_flight=2)
    process("0", 1, in_flight=0)
    show()
    """)
    assert found["pyfuncserver_requests_total{code=200,dialect=v1,model=m-1}"] == 8
    assert found["model_calls_total"] == 8
    names = [path.name for path in tmp_path.iterdir()]
    assert names
    assert all(name.endswith("_0.db") for name in names), "no file for a pid"


def test_what_was_in_flight_in_the_dead_is_forgotten(
    scraped: Callable[[str], dict[str, float]],
) -> None:
    found = scraped("""
    from pathlib import Path
    process("0", 1, in_flight=5)
    process("1", 1, in_flight=1)
    directory.retire(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]), "0")
    show()
    """)
    assert found["pyfuncserver_requests_in_flight{dialect=v1,model=m-1}"] == 1
    assert found["pyfuncserver_requests_total{code=200,dialect=v1,model=m-1}"] == 2


def test_identity_changes_after_a_fork(run_script: Script, tmp_path: Path) -> None:
    # The model, with its own counter, is loaded by the host; the workers count on.
    text = run_script(
        PROLOGUE
        + """
    from pyfuncserver.metrics import instruments
    from pyfuncserver.utils import processes
    instruments.install("host1")
    from prometheus_client import Counter
    counter = Counter("model_calls", "The model's own.")
    counter.inc(100)

    def worker(identity):
        def run():
            instruments.set_identity(identity)
            counter.inc()
            return 0
        return run

    for identity in "01":
        assert os.waitpid(processes.fork(worker(identity)), 0)[1] == 0
    show()
    """,
        PROMETHEUS_MULTIPROC_DIR=str(tmp_path),
    )
    assert samples(text)["model_calls_total"] == 102


def test_daemon_state(scraped: Callable[[str], dict[str, float]]) -> None:
    found = scraped("""
    board.set_slot(0, os.getpid(), State.READY, 3)
    board.set_slot(1, 2**22 + 1, State.STARTING, 3)
    board.set_generation(3)
    board.count(Restart.SIGNAL)
    board.count(Reload.FAILED)
    board.count_boot_failure()
    board.beat(0)
    show()
    """)
    assert found["pyfuncserver_workers{state=ready}"] == 1
    assert found["pyfuncserver_workers{state=starting}"] == 1
    assert found["pyfuncserver_workers{state=draining}"] == 0
    assert found["pyfuncserver_worker_restarts_total{reason=signal}"] == 1
    assert found["pyfuncserver_worker_restarts_total{reason=exit}"] == 0
    assert found["pyfuncserver_reloads_total{outcome=failed}"] == 1
    assert found["pyfuncserver_reloads_total{outcome=done}"] == 0
    assert found["pyfuncserver_boot_failures_total"] == 1
    assert 0 <= found["pyfuncserver_worker_silence_seconds{worker=0}"] < 5
    assert found["pyfuncserver_model_generation"] == 3
    assert found["pyfuncserver_worker_resident_memory_bytes{worker=0}"] > 1_000_000


def test_format_is_what_accept_asks_for(run_script: Script, tmp_path: Path) -> None:
    accepts = ["", "*/*", "text/plain", "application/openmetrics-text; version=1.0.0"]
    printed = run_script(
        PROLOGUE
        + f"""
    import json
    process("0", 3)
    found = [(type_, body.decode()) for body, type_ in map(render, {accepts!r})]
    print(json.dumps(found))
    """,
        PROMETHEUS_MULTIPROC_DIR=str(tmp_path),
    )
    *plain, (open_type, open_text) = json.loads(printed)
    for content_type, text in plain:
        assert content_type.startswith("text/plain")
        assert samples(text)["pyfuncserver_requests_total{code=200,dialect=v1,model=m-1}"] == 3
    assert open_type.startswith("application/openmetrics-text")
    assert open_text.endswith("# EOF\n")
    assert "# TYPE pyfuncserver_requests counter" in open_text
    assert 'pyfuncserver_requests_total{code="200",dialect="v1",model="m-1"} 3.0' in open_text


@pytest.mark.parametrize("content", [b"", b"torn", b"\xff" * 64, b"\x40\0\0\0" + b"x" * 60])
def test_a_torn_file_hides_no_other(
    scraped: Callable[[str], dict[str, float]], tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "counter_9.db").write_bytes(content)
    found = scraped("""
    process("0", 3)
    show()
    """)
    assert found["pyfuncserver_requests_total{code=200,dialect=v1,model=m-1}"] == 3
    assert found["model_calls_total"] == 3
    assert found["pyfuncserver_model_generation"] == 0


def test_a_torn_file_is_told_once(run_script: Script, tmp_path: Path) -> None:
    (tmp_path / "counter_9.db").write_bytes(b"torn")
    printed = run_script(
        PROLOGUE
        + """
    import logging
    logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
    for _ in range(5):
        render()
    """,
        PROMETHEUS_MULTIPROC_DIR=str(tmp_path),
    )
    assert printed.count("ERROR metric files are left out") == 1, printed


def test_without_its_directory_the_daemon_is_told(
    scraped: Callable[[str], dict[str, float]],
) -> None:
    found = scraped("""
    import shutil
    process("0", 3)
    shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    board.set_generation(2)
    show()
    """)
    assert found["pyfuncserver_model_generation"] == 2
    assert "model_calls_total" not in found
