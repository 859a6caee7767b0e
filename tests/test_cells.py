"""Numbers read back from files of every kind: as they were, or refused, and never lost."""

import json
import math

import pandas as pd
import pytest

from inductionlens import InputError
from inductionlens.cells import numbers
from inductionlens.files import read_plain_table
from inductionlens.head_files import typed

HUGE = 10**20


@pytest.mark.parametrize(
    ("cells", "kind", "expected"),
    [
        ([1, 2], "int64", [1, 2]),
        (["1", "-2"], "int64", [1, -2]),
        ([HUGE], "float64", [1e20]),
        ([HUGE, 1], "float64", [1e20, 1.0]),
        ([str(HUGE), "1"], "float64", [1e20, 1.0]),
        ([-(2**63), 2**63 - 1], "int64", [-(2**63), 2**63 - 1]),
        ([str(2**63)], "float64", [2.0**63]),
        ([-(2**63) - 1], "float64", [-(2.0**63)]),
        ([1, None], "float64", [1.0, None]),
        (["1", ""], "float64", [1.0, None]),
        ([1, pd.NA, 2.5], "float64", [1.0, None, 2.5]),
        ([1, math.nan], "float64", [1.0, None]),
        (["0.1", "5e-324"], "float64", [0.1, 5e-324]),
        (["inf", "-inf", "nan"], "float64", [math.inf, -math.inf, None]),
        ([None, None], "float64", [None, None]),
        ([], "int64", []),
        ([True, False], "bool", [True, False]),
        (["True", "False"], "bool", [True, False]),
        ([True, None], "float64", [1.0, None]),
        (["", "False"], "float64", [None, 0.0]),
    ],
)
def test_cells_become_the_numbers_that_they_are(cells, kind, expected):
    column = numbers(pd.Series(cells, dtype=object))
    assert column.dtype == kind
    assert [None if value != value else value for value in column.tolist()] == expected


@pytest.mark.parametrize("cells", [["much"], [1, "much"], [True, 2], ["True", "3"], [[1]], [{}], [1j]])
def test_what_is_no_number_is_refused(cells):
    with pytest.raises(ValueError, match=r"number|could not convert"):
        numbers(pd.Series(cells, dtype=object))


@pytest.mark.parametrize("name", ["a.json", "a.csv"])
def test_a_whole_number_beyond_64_bits_is_read_from_a_file(name, tmp_path):
    rows = [{"step": 0, "loss": HUGE}, {"step": 1, "loss": HUGE}]
    text = json.dumps(rows) if name == "a.json" else f"step,loss\n0,{HUGE}\n1,{HUGE}\n"
    (tmp_path / name).write_text(text)
    table, _ = read_plain_table(tmp_path / name, (), ("step", "loss"), "table")
    assert table["loss"].tolist() == [1e20, 1e20]
    assert table["step"].tolist() == [0, 1]


@pytest.mark.parametrize("cell", ["true, 3", '"much", 3', f"1{'0' * 400}, 3"])
def test_a_column_that_holds_no_numbers_is_one_sentence(cell, tmp_path):
    first, second = cell.split(", ")
    (tmp_path / "a.json").write_text(f'[{{"loss": {first}}}, {{"loss": {second}}}]')
    with pytest.raises(InputError, match=r"is not a table: column loss must hold numbers"):
        read_plain_table(tmp_path / "a.json", (), ("loss",), "table")


def test_head_tables_keep_whole_numbers_beyond_64_bits():
    """Their reader is another one."""
    table = typed(pd.DataFrame({"layer": [0, 0], "head": [0, 1], "copying": [HUGE, None]}, dtype=object), "table")
    assert table["copying"].tolist()[0] == 1e20
    assert math.isnan(table["copying"].tolist()[1])
