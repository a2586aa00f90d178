"""An echo for seldon-core-microservice."""


class Echo:
    def predict(self, X, names=None, meta=None):  # noqa: N803  Seldon's own name
        return X
