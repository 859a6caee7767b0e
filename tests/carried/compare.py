"""How far this TransformerLens is from the tables kept here: python tests/carried/compare.py"""

from importlib.metadata import version

import pandas as pd
from make import HERE, MODELS, SETTINGS

import inductionlens as il


def main() -> None:
    print(f"TransformerLens {version('transformer-lens')} against the tables in {HERE.name}/")
    for name, model in MODELS.items():
        there = pd.read_csv(HERE / f"{name}.csv")
        here = il.scan(model(), **SETTINGS).table
        numbers = [column for column in here.columns if here[column].dtype.kind == "f"]
        gaps = here[numbers].fillna(9) - there[numbers].astype(float).fillna(9)  # undefined here, undefined there
        largest = float(gaps.abs().max(axis=None))
        same = here["kind"].tolist() == there["kind"].tolist()
        print(f"{name}: largest difference {largest:.1e}, verdicts {'the same' if same else 'differ'}")


if __name__ == "__main__":
    main()
