"""The way up: what the processes below tell the supervisor, one JSON line an event, in one pipe."""

from __future__ import annotations

import json
import os
import select
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reports:
    """The end of the pipe that every child writes to. Thread-safe: a line is written at once."""

    descriptor: int

    def send(self, event: str, **details: Any) -> None:
        os.write(self.descriptor, self._line(event, details))

    def fail(self, reason: str) -> None:
        """Tell why this process cannot serve; cut to what a pipe takes in one piece."""
        while len(line := self._line("failed", {"reason": reason})) > select.PIPE_BUF:
            reason = reason[: len(reason) * 3 // 4]
        os.write(self.descriptor, line)

    @staticmethod
    def _line(event: str, details: dict[str, Any]) -> bytes:
        return (json.dumps({"event": event, "pid": os.getpid(), **details}) + "\n").encode()
