from __future__ import annotations

import subprocess
import sys

import pytest

LIMITED = """
import resource
from pyfuncserver.utils import sockets
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
sockets.raise_descriptor_limit()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("soft", "hard"), [(100, 500), (500, 500)])
def test_the_descriptor_limit_is_raised_as_far_as_it_may_be(soft: int, hard: int) -> None:
    command = [sys.executable, "-c", LIMITED.format(soft=soft, hard=hard)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == [str(hard), str(hard)]
