"""Scores carried from one model class to the other: the same weights, the same numbers."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from carried.make import MODELS, SETTINGS

import inductionlens as il

#: Tables written where the other TransformerLens runs; the ones kept here come from 3.9.
FOLDER = Path(os.environ.get("INDUCTIONLENS_CARRIED", Path(__file__).parent / "carried"))


@pytest.mark.parametrize("name", MODELS)
def test_the_same_weights_give_the_same_scores(name):
    there = pd.read_csv(FOLDER / f"{name}.csv", keep_default_na=False, na_values=[""])
    here = il.scan(MODELS[name](), **SETTINGS).table
    numbers = [column for column in here.columns if here[column].dtype.kind == "f"]
    assert {"prefix_matching", "copying", "induction_logit", "ov_eigen", "q_value", "copying_gain"} <= set(numbers)
    for column in numbers:
        assert np.allclose(here[column], there[column].astype(float), rtol=0, atol=1e-5, equal_nan=True), column
    assert here["kind"].tolist() == there["kind"].tolist()
    assert here["layer"].tolist() == there["layer"].tolist()
    assert here["head"].tolist() == there["head"].tolist()
