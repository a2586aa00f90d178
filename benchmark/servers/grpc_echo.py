"""The least a grpcio server with a thread pool can do for UPI: parse, copy the table, serialise."""

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from caraml.upi.v1.upi_pb2 import PredictValuesRequest, PredictValuesResponse


def predict_values(request, _context):
    return PredictValuesResponse(
        prediction_result_table=request.prediction_table, target_name=request.target_name
    )


def main() -> None:
    method = grpc.unary_unary_rpc_method_handler(
        predict_values, PredictValuesRequest.FromString, PredictValuesResponse.SerializeToString
    )
    service = "caraml.upi.v1.UniversalPredictionService"
    server = grpc.server(ThreadPoolExecutor(10))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(service, {"PredictValues": method})]
    )
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    server.wait_for_termination()


main()
