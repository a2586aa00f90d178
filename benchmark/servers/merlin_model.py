"""An echo written with Merlin's SDK: `python merlin_model.py --out DIR`."""

import argparse

import mlflow.pyfunc
from caraml.upi.v1.upi_pb2 import PredictValuesResponse, ResponseMetadata
from merlin.model import PyFuncModel


class MerlinEcho(PyFuncModel):
    def initialize(self, artifacts):
        """Need nothing."""

    def infer(self, request, **_kwargs):
        return request

    def upiv1_infer(self, request, _context):
        return PredictValuesResponse(
            prediction_result_table=request.prediction_table,
            target_name=request.target_name,
            metadata=ResponseMetadata(prediction_id=request.metadata.prediction_id),
        )


def main() -> None:
    # The SDK's cloudpickle is too old to pickle a class of Python 3.11 by its code, so the class
    # is one of a module, and the module goes along.
    import merlin_model

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    mlflow.pyfunc.save_model(
        parser.parse_args().out,
        python_model=merlin_model.MerlinEcho(),
        code_path=[__file__],
        conda_env={"name": "echo", "dependencies": ["python"]},
    )


if __name__ == "__main__":
    main()
