"""The names under which a model is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from pyfuncserver.config import Config


@dataclass(frozen=True)
class Identity:
    """A model's names. The full name is its key: in V1's paths, and in the InferenceService."""

    name: str
    version: str
    full_name: str

    @classmethod
    def of(cls, config: Config) -> Identity:
        return cls(config.model_name, config.model_version, config.full_name)

    @property
    def names(self) -> tuple[str, ...]:
        """What a client may call it: by its name, or by its full one."""
        return tuple(dict.fromkeys((self.name, self.full_name)))
