"""Files are read as HiGHS reads them; the variable INSTANCES may name a folder of more, with any subfolders."""

from __future__ import annotations

import os
from pathlib import Path

import highspy
import numpy as np
import pytest
from scipy import sparse

from compute.errors import InvalidField
from solver.optimization.files import read_program
from solver.optimization.mps import read_mps
from solver.optimization.program import Program

ENDINGS = (".mps", ".mps.gz", ".qps", ".qps.gz", ".lp")
FOLDER = os.environ.get("INSTANCES")
FILES = [path for path in sorted(Path(FOLDER).rglob("*")) if path.name.endswith(ENDINGS)] if FOLDER else []


def _read(path: Path) -> highspy.HighsModel:
    engine = highspy.Highs()
    engine.setOptionValue("output_flag", False)
    assert engine.readModel(str(path)) != highspy.HighsStatus.kError
    return engine.getModel()


def _same(program: Program, model: highspy.HighsModel) -> None:
    """Compare by names: HiGHS has the variables of LP files in an order of its own."""
    lp = model.lp_
    places = {name: place for place, name in enumerate(program.variables)}
    heights = {name: place for place, name in enumerate(program.constraints)}
    assert set(places) == set(lp.col_names_)
    assert set(heights) == set(lp.row_names_)
    columns = np.array([places[name] for name in lp.col_names_], np.int64)
    rows = np.array([heights[name] for name in lp.row_names_], np.int64)
    whole = [kind == highspy.HighsVarType.kInteger for kind in lp.integrality_] or [False] * len(columns)
    assert program.maximize == (lp.sense_ == highspy.ObjSense.kMaximize)
    assert program.offset == pytest.approx(lp.offset_)
    assert np.array_equal(program.linear[columns], lp.col_cost_)
    assert np.array_equal(program.integer[columns], whole)
    if not any("given again" in note for note in program.notes):
        # Of bounds that are given twice HiGHS drops the second.
        assert np.array_equal(program.lower[columns], lp.col_lower_)
        assert np.array_equal(program.upper[columns], lp.col_upper_)
    np.testing.assert_allclose(program.row_lower[rows], lp.row_lower_, rtol=1e-13)
    np.testing.assert_allclose(program.row_upper[rows], lp.row_upper_, rtol=1e-13)
    matrix, entries = program.matrix, lp.a_matrix_
    ours = sparse.csr_matrix((matrix.values, matrix.columns, matrix.starts), program.size)[rows][:, columns]
    form = sparse.csc_matrix if entries.format_ == highspy.MatrixFormat.kColwise else sparse.csr_matrix
    # HiGHS leaves out coefficients below 1e-9.
    assert abs(ours - form((entries.value_, entries.index_, entries.start_), program.size)).max() <= 1e-9
    hessian, terms, width = model.hessian_, program.quadratic, len(columns)
    if hessian.dim_ or len(terms.rows):
        half = sparse.csc_matrix((hessian.value_, hessian.index_, hessian.start_), (width, width))
        found = sparse.csr_matrix((terms.coefficients, (terms.rows, terms.columns)), (width, width))
        assert abs((found + found.T)[columns][:, columns] - half - sparse.tril(half, -1).T).max() <= 1e-12


@pytest.mark.slow
@pytest.mark.skipif(not FILES, reason="INSTANCES names no folder with files of programs")
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.name))
def test_published_files_are_read_as_highs_reads_them(path: Path, tmp_path: Path) -> None:
    try:
        program = read_program(path)
    except InvalidField as error:
        if "not taken" not in error.detail:
            raise
        pytest.skip(error.detail)
    # HiGHS goes by the name, and knows no .qps.
    link = tmp_path / path.name.replace(".qps", ".mps")
    link.symlink_to(path.resolve())
    _same(program, _read(link))


def test_integers_without_bounds_are_read_as_highs_reads_them(tmp_path: Path) -> None:
    text = """NAME open
ROWS
 N cost
 L limit
COLUMNS
 M1 'MARKER' 'INTORG'
 bare cost -1 limit 1
 low cost -1 limit 1
 none cost -1 limit 1
 M2 'MARKER' 'INTEND'
 y cost 1 limit 1
RHS
 rhs limit 40
BOUNDS
 LO bnd low 0
 PL bnd none
ENDATA
"""
    path = tmp_path / "open.mps"
    path.write_text(text)
    program = read_mps(text.splitlines())
    assert program.upper.tolist() == [1.0, np.inf, np.inf, np.inf]
    assert program.notes == ("of the integer columns, 1 are not in BOUNDS: they are 0 or 1",)
    _same(program, _read(path))
