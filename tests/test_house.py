"""How the package is laid out: floors, imports, names, and shape checking that works."""

import ast
import inspect
import subprocess
import sys
from dataclasses import is_dataclass
from pathlib import Path

import pytest
import torch

import inductionlens as il

ROOT = Path(__file__).parent.parent
PACKAGE = Path(il.__file__).parent
MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}

#: First match wins: (module or folder, floor, wing). A module may import from lower floors and its own wing.
FLOORS = [
    ("__main__", 6, "entry"),
    ("__init__", 0, "names"),
    ("cli", 5, "cli"),
    ("studies", 3, "studies"),
    ("measure", 2, "measure"),
    ("controls", 2, "measure"),
    ("effects", 2, "measure"),
    ("composition", 2, "measure"),
    ("paths", 2, "measure"),
    ("orders", 2, "measure"),
    ("trigrams", 2, "measure"),
    ("models", 1, "models"),
    ("scores", 1, "scores"),
    ("probes", 1, "scores"),
    ("corpus", 1, "scores"),
    ("file_text", 1, "scores"),
    ("training_data", 1, "scores"),
    ("training_batches", 1, "scores"),
    ("intervals", 1, "tables"),
    ("nulls", 1, "tables"),
    ("phase_change", 1, "tables"),
    ("several_changes", 1, "tables"),
    ("ramps", 1, "tables"),
    ("ramp_nulls", 1, "tables"),
    ("plots", 1, "tables"),
    ("patterns_view", 1, "tables"),
    ("errors", 0, "ground"),
    ("checks", 0, "ground"),
    ("heads", 0, "ground"),
    ("detection", 0, "ground"),
    ("tables", 0, "ground"),
    ("effect_columns", 0, "ground"),
    ("formation_columns", 0, "ground"),
    ("circuit_columns", 0, "ground"),
    ("column_tables", 0, "ground"),
    ("study_columns", 0, "ground"),
    ("cells", 0, "ground"),
    ("csv_tables", 0, "ground"),
    ("published_columns", 0, "ground"),
    ("files", 0, "ground"),
    ("head_files", 0, "ground"),
    ("partial", 0, "ground"),
    ("locks", 0, "ground"),
    ("head_scores", 0, "ground"),
]
ONLY_IN = {"transformer_lens": ("models",), "matplotlib": ("plots",), "typer": ("cli",), "rich": ("cli",)}


def place(module):
    for name, floor, wing in FLOORS:
        if module == name or module.startswith(name + "."):
            return floor, wing
    raise AssertionError(f"{module} has no place in the house: add it to FLOORS")


def imports(path):
    """Every module that a file imports, at its top or inside a function, but not for type checking alone."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            if node.module and node.module.split(".")[0] == "inductionlens":
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_and_never_sideways(module):
    floor, wing = place(module)
    for name in imports(MODULES[module]):
        inner = name.removeprefix("inductionlens.")
        if inner == name or inner not in MODULES:
            continue
        other_floor, other_wing = place(inner)
        assert other_floor < floor or (other_floor, other_wing) == (floor, wing), f"{module} imports {inner}"


@pytest.mark.parametrize("module", MODULES)
def test_libraries_stay_in_their_rooms(module):
    for name in imports(MODULES[module]):
        rooms = ONLY_IN.get(name.split(".")[0])
        assert rooms is None or module.split(".")[0] in rooms, f"{module} imports {name}"
        if name.split(".")[0] == "pandas":
            assert module.split(".")[0] not in ("models", "scores"), f"{module} imports pandas"


@pytest.mark.parametrize("module", MODULES)
def test_files_say_what_they_are_for_and_keep_annotations_alive(module):
    tree = ast.parse(MODULES[module].read_text())
    first = (ast.get_docstring(tree) or "").splitlines()
    assert first, f"{module} has no first line"
    assert len(first[0].split()) <= 12, f"{module}: {first[0]}"
    # Under this import annotations are strings, and shapes that cannot be resolved pass unchecked.
    assert "__future__" not in set(imports(MODULES[module]))


@pytest.mark.parametrize("module", MODULES)
def test_nothing_below_the_command_line_prints(module):
    if module.split(".")[0] == "cli":
        return
    calls = [node.func.id for node in ast.walk(ast.parse(MODULES[module].read_text()))
             if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]  # fmt: skip
    assert "print" not in calls


def test_public_names_exist_and_are_few():
    assert len(il.PUBLIC) <= 25
    for name in il.PUBLIC:
        assert getattr(il, name).__doc__ or name == "Head", name
    assert set(il.__all__) == {*il.PUBLIC, "__version__"}
    with pytest.raises(AttributeError, match="has no attribute 'scann'"):
        il.scann  # noqa: B018


def test_every_public_function_has_a_docstring():
    import importlib

    for module in MODULES:
        if module in ("__main__", "__init__"):
            continue
        loaded = importlib.import_module(f"inductionlens.{module.removesuffix('.__init__')}")
        for name, item in vars(loaded).items():
            if name.startswith("_") or getattr(item, "__module__", None) != loaded.__name__:
                continue
            if inspect.isfunction(item) or inspect.isclass(item):
                assert inspect.getdoc(item), f"{module}.{name}"


def test_importing_the_package_costs_nothing_heavy():
    code = "import sys, inductionlens; print([m for m in ('torch', 'pandas', 'numpy', 'typer') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_wrong_shapes_are_caught_in_functions_and_bundles():
    from jaxtyping import TypeCheckError

    from inductionlens.probes import Probe
    from inductionlens.scores.attention import previous

    with pytest.raises(TypeCheckError):
        previous(torch.zeros(3, dtype=torch.long), None)
    assert is_dataclass(Probe)
    with pytest.raises(TypeCheckError):
        Probe(torch.zeros(3, dtype=torch.long), None, 3, 1, 0)


def test_the_version_stands_in_one_place():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert il.__version__ == project["version"]
    assert project["version"] in (ROOT / "CHANGELOG.md").read_text()
