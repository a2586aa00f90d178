"""A forest of a hundred trees for Fisher's irises: `python forest_model.py --out DIR`."""

import argparse

import mlflow.sklearn
from mlflow.models import infer_signature
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", required=True)
measures, species = load_iris(return_X_y=True, as_frame=True)
forest = RandomForestClassifier(n_estimators=100, random_state=0).fit(measures, species)
mlflow.sklearn.save_model(
    forest,
    parser.parse_args().out,
    signature=infer_signature(measures, forest.predict(measures)),
    serialization_format="cloudpickle",  # the default of some versions refuses trees
    pip_requirements=[],
)
