"""An echo in KServe's SDK, V2 protocol: a request in raw is answered in raw."""

import argparse

import kserve


class Echo(kserve.Model):
    def __init__(self) -> None:
        super().__init__("echo")
        self.ready = True

    async def predict(self, payload, headers=None, response_headers=None):
        outputs = [self.echo(tensor, payload.from_grpc) for tensor in payload.inputs]
        return kserve.InferResponse(payload.id or "", self.name, outputs)

    @staticmethod
    def echo(tensor, is_grpc):
        output = kserve.InferOutput(tensor.name, tensor.shape, tensor.datatype)
        is_raw = is_grpc and bool(tensor._raw_data)
        output.set_data_from_numpy(tensor.as_numpy(), binary_data=is_raw)
        return output


argparse.ArgumentParser(parents=[kserve.model_server.parser]).parse_known_args()
kserve.ModelServer(workers=1).start([Echo()])
