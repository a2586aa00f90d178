"""An echo that holds a GiB of weights: `python heavy_model.py --out DIR`."""

import argparse
from pathlib import Path

import mlflow.pyfunc
import numpy as np
from mlflow.models import set_model


class Heavy(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.weights = np.ones(1 << 27)
        self.place = 0

    def predict(self, context, model_input, params=None):
        # Another page each time, so that they are read as a model's weights are.
        self.place = (self.place + 999_983) % len(self.weights)
        if self.weights[self.place] != 1:
            raise ValueError("a weight has changed")
        return model_input


set_model(Heavy())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    mlflow.pyfunc.save_model(
        parser.parse_args().out, python_model=str(Path(__file__).resolve()), pip_requirements=[]
    )
