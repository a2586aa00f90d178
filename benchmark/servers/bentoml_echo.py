"""An echo in BentoML."""

from typing import Any

import bentoml


@bentoml.service(workers=1)
class Echo:
    @bentoml.api
    def predict(self, instances: list[Any]) -> dict[str, Any]:
        return {"predictions": instances}
