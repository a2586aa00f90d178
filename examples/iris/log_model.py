"""A scikit-learn classifier with a signature: the server checks each request against it.

`python log_model.py --out DIR` trains and saves it.
"""

import argparse
from pathlib import Path

import mlflow.sklearn
import sklearn
from mlflow.models import infer_signature
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="a directory to be made")
    out: Path = parser.parse_args().out
    measures, species = load_iris(return_X_y=True, as_frame=True)
    classifier = LogisticRegression(max_iter=500).fit(measures, species)
    mlflow.sklearn.save_model(
        classifier,
        str(out),
        signature=infer_signature(measures, classifier.predict(measures)),
        input_example=measures.head(2),
        pip_requirements=[
            f"mlflow=={mlflow.__version__}",
            f"scikit-learn=={sklearn.__version__}",
        ],
    )
    print(f"Saved. Serve it: python -m pyfuncserver --model_dir {out}")


if __name__ == "__main__":
    main()
