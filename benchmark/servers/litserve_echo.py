"""An echo in LitServe: `python litserve_echo.py PORT`."""

import sys

import litserve


class Echo(litserve.LitAPI):
    def setup(self, device):
        """Need nothing."""

    def decode_request(self, request):
        return request["instances"]

    def predict(self, x):
        return x

    def encode_response(self, output):
        return {"predictions": output}


if __name__ == "__main__":
    server = litserve.LitServer(Echo(), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
    )
