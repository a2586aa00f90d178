"""An echo that sets the collector as its process's variables say: `python heap_model.py --out DIR`.

It does so with its first prediction, when the server has done what it does to the heap.
GC_THRESHOLDS holds the three numbers of gc.set_threshold; GC_THAW=1 gives what is frozen back.
"""

import argparse
import gc
import os
from pathlib import Path

import mlflow.pyfunc
from mlflow.models import set_model


class HeapEcho(mlflow.pyfunc.PythonModel):
    is_set = False

    def predict(self, context, model_input, params=None):
        if not self.is_set:
            self.is_set = True
            set_collector()
        return model_input


def set_collector() -> None:
    if thresholds := os.environ.get("GC_THRESHOLDS"):
        gc.set_threshold(*map(int, thresholds.split(",")))
    if os.environ.get("GC_THAW"):
        gc.unfreeze()


set_model(HeapEcho())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    mlflow.pyfunc.save_model(
        parser.parse_args().out, python_model=str(Path(__file__).resolve()), pip_requirements=[]
    )
