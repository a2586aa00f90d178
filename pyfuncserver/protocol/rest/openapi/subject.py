"""What a document is about."""

from __future__ import annotations

from dataclasses import dataclass

from pyfuncserver.model.call import Form
from pyfuncserver.model.description import TensorMetadata
from pyfuncserver.model.identity import Identity
from pyfuncserver.protocol.rest.openapi.interface import Interface


@dataclass(frozen=True)
class Subject:
    """A model, and what its server has been told."""

    model: Identity
    interface: Interface
    inputs: tuple[TensorMetadata, ...]
    """Those of the interface, as the Open Inference Protocol has them."""
    forms: frozenset[Form]
    """The forms of calls that the model answers."""
    has_predictions: bool
    """Whether this process answers any."""
    needs_token: bool
    chooses_status: bool
    """Whether the model may answer with a status of its own, as code of somebody's may."""
    is_plain: bool = True
    """Whether MLflow's conversion and signature stand before the model."""
    is_raw: bool = False
    """Whether the model takes what a body holds unconverted, as one with type hints does."""
    passes_payload: bool = False
    """Whether the model gets bodies as they come, in V1 and Seldon's REST."""
    metrics_path: str | None = "/metrics"
    """None where metrics are on a port of their own."""
    also_named: tuple[str, ...] = ()
    """What V1 calls it beside its full name."""
    is_alone: bool = True
    """Whether there is no other model here."""
    is_default: bool = True
    """Whether it is the one that is meant where none is named."""

    @property
    def names(self) -> tuple[str, ...]:
        """What V2 calls it, whatever its version; its bare name may be that of a later one."""
        return self.model.names if self.is_alone else (self.model.full_name, *self.also_named)

    @property
    def fronts(self) -> tuple[str, ...]:
        """What its paths have in front in the dialects that name no model: nothing, or a model."""
        bare = ("",) if self.is_default else ()
        if self.is_alone:
            return bare
        behind = (f"/models/{name}" for name in self.names)
        return (*bare, *behind, f"/models/{self.model.name}/versions/{self.model.version}")

    @property
    def is_open(self) -> bool:
        """Tell whether a body in V1 is all the model's to make sense of."""
        return self.passes_payload or not self.is_plain

    def form(self, usual: Form) -> Form:
        """Give the form that a call has, where bodies may be passed on as they come."""
        return Form.BYTES if self.passes_payload else usual
