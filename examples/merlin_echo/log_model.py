"""A model in the shape that the Merlin SDK gives it, here without the SDK.

With the SDK, `MerlinShaped` is `merlin.model.PyFuncModel`, and only `MerlinEcho` is yours.

`python log_model.py --out DIR` saves it; the server then loads this very file from DIR.
"""

import argparse
from pathlib import Path
from typing import Any

import mlflow.pyfunc
from google.protobuf import message_factory
from mlflow.models import set_model


class MerlinShaped(mlflow.pyfunc.PythonModel):
    """Unwraps the envelope that the server hands over, and calls one method a protocol."""

    def predict(self, context, model_input):
        request = model_input["__INPUT__"]
        # Over HTTP the envelope has no protocol. The SDK's member is an enum, so compare its value.
        protocol = model_input.get("__PROTOCOL__")
        if protocol is None:
            return self.infer(request, **model_input.get("__EXTRA_ARGS__", {}))
        if protocol.value == "UPI_V1":
            return self.upiv1_infer(request, model_input["__GRPC_CONTEXT__"])
        raise NotImplementedError(f"protocol {protocol} is not supported")

    def infer(self, request: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("infer is not implemented")

    def upiv1_infer(self, request: Any, context: Any) -> Any:
        raise NotImplementedError("upiv1_infer is not implemented")


class MerlinEcho(MerlinShaped):
    def infer(self, request: Any, **kwargs: Any) -> Any:
        """Return the body as it came; `kwargs["headers"]` are the request's headers."""
        return request

    def upiv1_infer(self, request: Any, context: Any) -> Any:
        """Return the table and the variables as they came; `context` is the gRPC context."""
        response = new_response(request)
        response.prediction_result_table.CopyFrom(request.prediction_table)
        response.prediction_context.MergeFrom(request.prediction_context)
        response.metadata.prediction_id = request.metadata.prediction_id
        return response


def new_response(request: Any) -> Any:
    """Make an empty response; `upi_pb2.PredictValuesResponse` with caraml-upi-protos installed."""
    message = request.DESCRIPTOR.file.message_types_by_name["PredictValuesResponse"]
    return message_factory.GetMessageClass(message)(target_name=request.target_name)


set_model(MerlinEcho())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="a directory to be made")
    out: Path = parser.parse_args().out
    # Saved as code: a pickle could be loaded only by the Python version that wrote it.
    mlflow.pyfunc.save_model(
        str(out),
        python_model=str(Path(__file__).resolve()),
        pip_requirements=[f"mlflow=={mlflow.__version__}"],
    )
    print(f"Saved. Serve it: python -m pyfuncserver --model_dir {out}")


if __name__ == "__main__":
    main()
