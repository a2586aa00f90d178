"""A plain MLflow model, written without any SDK: it returns what it is handed.

`python log_model.py --out DIR` saves it; the server then loads this very file from DIR.
"""

import argparse
from pathlib import Path

import mlflow.pyfunc
from mlflow.models import set_model


class Echo(mlflow.pyfunc.PythonModel):
    # MLflow turns a type hint on `model_input` into a check of each request, so there is none.
    def predict(self, context, model_input, params=None):
        return model_input


set_model(Echo())


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
