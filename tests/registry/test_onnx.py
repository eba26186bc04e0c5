"""ONNX models predict as the models they were made of; what reaches beyond the file, or takes too much, is refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnx
import onnxmltools
import pandas as pd
import pytest
import xgboost
from onnx import TensorProto, helper
from onnxmltools.convert.common.data_types import FloatTensorType
from skl2onnx import to_onnx
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import IsolationForest, RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from compute import Config
from compute.errors import CapabilityMissing, ColumnInvalid, InvalidField, UnsupportedFormat
from registry import ModelRegistry, capture_signature
from registry.formats import detect_format, load_native
from registry.onnx_format import is_onnx

pytestmark = [
    pytest.mark.parametrize("config", ["directory"], indirect=True),
    pytest.mark.filterwarnings("ignore:Stochastic Optimizer"),
]

ROWS = 200
_random = np.random.default_rng(5)
MATRIX = _random.random((ROWS, 4)).astype("float32")
AMOUNT = (MATRIX @ np.array([3.0, -1.0, 0.5, 2.0])).astype("float32")
LEVEL = np.digitize(AMOUNT, np.quantile(AMOUNT, [0.3, 0.7]))
WORD = np.array(["early", "fine", "late"])[LEVEL]
BINARY = (LEVEL == 2).astype(int)
ROWS_OF_MATRIX = pd.DataFrame(MATRIX, columns=[f"X_{index}" for index in range(4)])


def keep(registry: ModelRegistry, model: Any, **fields: Any) -> Any:
    return registry.load_model(registry.register_model(model, "onnx", **fields), threads=1)


@pytest.mark.parametrize(("target", "zipmap"), [("words", True), ("levels", False), ("binary", False)])
@pytest.mark.parametrize(
    "make",
    [
        LogisticRegression,
        lambda: RandomForestClassifier(5, random_state=0),
        lambda: KNeighborsClassifier(3),
        lambda: MLPClassifier((4,), max_iter=5),
    ],
    ids=["logistic", "forest", "neighbours", "neural"],
)
def test_classifiers_of_scikit_learn(
    local_registry: ModelRegistry, make: Callable[[], Any], zipmap: bool, target: str
) -> None:
    labels = {"words": WORD, "levels": LEVEL, "binary": BINARY}[target]
    model = make().fit(MATRIX, labels)
    loaded = keep(local_registry, to_onnx(model, MATRIX[:1], options={"zipmap": zipmap}))
    signature = loaded.record.signature
    assert signature.classes == tuple(model.classes_.tolist())
    assert signature.task == ("binary" if target == "binary" else "multiclass")
    assert [(column.name, column.dtype) for column in signature.columns] == [(f"X_{i}", "float") for i in range(4)]
    assert loaded.predict(MATRIX).tolist() == model.predict(MATRIX).tolist()
    np.testing.assert_allclose(loaded.predict(MATRIX, proba=True), model.predict_proba(MATRIX), atol=1e-5)
    np.testing.assert_array_equal(loaded.predict(ROWS_OF_MATRIX), loaded.predict(MATRIX))
    np.testing.assert_array_equal(loaded.predict(ROWS_OF_MATRIX.to_dict("records")), loaded.predict(MATRIX))
    assert loaded.predict([]).shape == (0,)


@pytest.mark.parametrize("make", [LinearRegression, lambda: RandomForestRegressor(5, random_state=0)])
def test_regressions_of_scikit_learn(local_registry: ModelRegistry, make: Callable[[], Any]) -> None:
    model = make().fit(MATRIX, AMOUNT)
    loaded = keep(local_registry, to_onnx(model, MATRIX[:1]))
    assert loaded.record.signature.task == "regression"
    assert loaded.predict(MATRIX).shape == (ROWS,)
    np.testing.assert_allclose(loaded.predict(MATRIX), model.predict(MATRIX), atol=1e-4)
    with pytest.raises(CapabilityMissing, match="regression"):
        loaded.predict(MATRIX, proba=True)


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
@pytest.mark.parametrize("task", ["regression", "binary", "multiclass"])
def test_boosters(local_registry: ModelRegistry, library: str, task: str) -> None:
    target = {"regression": AMOUNT, "binary": BINARY, "multiclass": LEVEL}[task]
    kind = "Regressor" if task == "regression" else "Classifier"
    if library == "xgboost":
        model = getattr(xgboost, f"XGB{kind}")(n_estimators=5, n_jobs=1).fit(MATRIX, target)
    else:
        model = getattr(lightgbm, f"LGBM{kind}")(n_estimators=5, n_jobs=1, verbosity=-1).fit(MATRIX, target)
    convert = getattr(onnxmltools, f"convert_{library}")
    loaded = keep(local_registry, convert(model, initial_types=[("X", FloatTensorType([None, 4]))]))
    np.testing.assert_allclose(loaded.predict(MATRIX), model.predict(MATRIX), atol=1e-4)
    if task != "regression":
        np.testing.assert_allclose(loaded.predict(MATRIX, proba=True), model.predict_proba(MATRIX), atol=1e-5)


TABLE = pd.DataFrame(
    {
        "amount": MATRIX[:, 0],
        "carrier": _random.choice(["AA", "DL", "UA"], ROWS),
        "count": _random.integers(0, 9, ROWS),
    }
)


def test_one_tensor_for_each_feature_texts_among_them(local_registry: ModelRegistry) -> None:
    steps = ColumnTransformer(
        [("c", OneHotEncoder(handle_unknown="ignore"), ["carrier"]), ("n", StandardScaler(), ["amount", "count"])]
    )
    model = make_pipeline(steps, LogisticRegression()).fit(TABLE, WORD)
    exported = to_onnx(model, TABLE[:1].astype({"carrier": object}))
    loaded = keep(local_registry, exported)
    derived = {column.name: column.dtype for column in loaded.record.signature.columns}
    assert derived == {"amount": "float", "carrier": "category", "count": "int"}
    other = TABLE.assign(carrier=["WN", "DL"] * (ROWS // 2))  # one that was never seen
    for signature in (loaded.record.signature, capture_signature(TABLE.assign(y=WORD), "y")):
        loaded = keep(local_registry, exported, signature=signature)
        for rows in (TABLE, other, TABLE.to_dict("records")):
            frame = pd.DataFrame(rows)
            assert loaded.predict(rows).tolist() == model.predict(frame).tolist()
            np.testing.assert_allclose(loaded.predict(rows, proba=True), model.predict_proba(frame), atol=1e-5)
    for bad in ({"carrier": None}, {"count": None}):
        with pytest.raises(ColumnInvalid, match=next(iter(bad))):
            loaded.predict([{**TABLE.to_dict("records")[0], **bad}])


def test_positions_become_the_labels_of_the_signature(local_registry: ModelRegistry) -> None:
    signature = capture_signature(ROWS_OF_MATRIX, "y", WORD)
    model = LogisticRegression().fit(MATRIX, LEVEL)
    loaded = keep(local_registry, to_onnx(model, MATRIX[:1]), signature=signature)
    assert loaded.predict(MATRIX).tolist() == np.array(["early", "fine", "late"])[model.predict(MATRIX)].tolist()


def test_scores_that_are_no_probabilities_are_not_given_as_such(local_registry: ModelRegistry) -> None:
    loaded = keep(local_registry, to_onnx(LinearSVC().fit(MATRIX, WORD), MATRIX[:1]))
    assert loaded.predict(MATRIX).tolist() == LinearSVC().fit(MATRIX, WORD).predict(MATRIX).tolist()
    with pytest.raises(CapabilityMissing, match="no probabilities"):
        loaded.predict(MATRIX, proba=True)


def test_outliers(local_registry: ModelRegistry) -> None:
    model = IsolationForest(n_estimators=5, random_state=0).fit(MATRIX)
    exported = to_onnx(model, MATRIX[:1], target_opset={"": 17, "ai.onnx.ml": 3})
    assert keep(local_registry, exported).predict(MATRIX).tolist() == model.predict(MATRIX).tolist()


@pytest.mark.parametrize("zipmap", [True, False])
def test_files_are_kept_as_objects_are(registry: ModelRegistry, tmp_path: Path, zipmap: bool) -> None:
    exported = to_onnx(LogisticRegression().fit(MATRIX, WORD), MATRIX[:1], options={"zipmap": zipmap})
    (tmp_path / "model").write_bytes(exported.SerializeToString(deterministic=True))
    by_file = registry.get_model(registry.register_file(tmp_path / "model", "onnx"))
    by_object = registry.get_model(registry.register_model(exported, "onnx"))
    assert by_object.format == by_file.format == "onnx"
    assert by_object.artifact == by_file.artifact
    assert by_object.signature == by_file.signature
    assert by_file.signature is not None
    assert by_file.signature.classes == ("early", "fine", "late")


def test_threads(local_registry: ModelRegistry) -> None:
    model_id = local_registry.register_model(to_onnx(LinearRegression().fit(MATRIX, AMOUNT), MATRIX[:1]), "onnx")
    for threads in (1, 2):
        options = local_registry.load_model(model_id, threads=threads).model.session.get_session_options()
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (threads, 1)


def test_a_signature_of_another_width_is_refused(local_registry: ModelRegistry) -> None:
    exported = to_onnx(LinearRegression().fit(MATRIX, AMOUNT), MATRIX[:1])
    with pytest.raises(InvalidField, match="2 features, and the model takes 4"):
        local_registry.register_model(exported, "onnx", signature=capture_signature(ROWS_OF_MATRIX[["X_0", "X_1"]]))


# What is told from the bytes


def graph(nodes: list[Any], *, initializers: Any = (), shape: Any = (None, 4), out: int = TensorProto.FLOAT) -> Any:
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("Y", out, None)],
        list(initializers),
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def summed(**changes: Any) -> Any:
    return graph([helper.make_node("ReduceSum", ["X", "axis"], ["Y"], keepdims=1)], initializers=[AXIS], **changes)


AXIS = helper.make_tensor("axis", TensorProto.INT64, [1], [1])


def test_detection(config: Config) -> None:
    model = summed()
    assert detect_format(model.SerializeToString()[:4096]) == "onnx"
    model.producer_name, model.doc_string = "tests", "long " * 2000
    assert detect_format(model.SerializeToString()[:4096]) == "onnx"
    for other in (
        b"", b"\x08", b"\x08\x08", b"\x08\x07\x12\x07pytorch",
        b"\x08\x00\x12\x01a", b"\x08\xff\xff\xff\xff\x7f\x12\x01a",
        b"\x12\x05tests\x08\x08", b"\x08\x08\x3d1234", b"{L\x00", pickle.dumps({"a": 1}), b"PK\x03\x04", b"tree\n",
    ):  # fmt: skip
        assert not is_onnx(other), other


def external() -> Any:
    model = graph([helper.make_node("MatMul", ["X", "W"], ["Y"])], initializers=[])
    weights = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=[4, 1], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value="../../../../etc/passwd")
    model.graph.initializer.append(weights)
    return model


def external_in_a_branch() -> Any:
    weights = external().graph.initializer[0]
    branch = helper.make_graph([helper.make_node("MatMul", ["X", "W"], ["Z"])], "b", [], [], [weights])
    condition = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    node = helper.make_node("If", ["c"], ["Y"], then_branch=branch, else_branch=branch)
    return graph([node], initializers=[condition])


def nested(depth: int) -> Any:
    """A choice in a choice in a choice."""
    inner = helper.make_graph([helper.make_node("Identity", ["X"], ["Z"])], "b", [], [])
    for _ in range(depth):
        inner = helper.make_graph([helper.make_node("If", ["c"], ["Z"], then_branch=inner)], "b", [], [])
    node = helper.make_node("If", ["c"], ["Y"], then_branch=inner, else_branch=inner)
    return graph([node], initializers=[helper.make_tensor("c", TensorProto.BOOL, [], [True])])


def deep() -> Any:
    """One graph in another, so often that the reader of such messages gives up."""
    inner = onnx.GraphProto(name="leaf").SerializeToString()

    def field(number: int, content: bytes) -> bytes:
        size, length = b"", len(content)
        while length >= 0x80:
            size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + content

    for _ in range(200):
        inner = field(1, field(5, field(6, inner)))
    return b"\x08\x08" + field(7, inner)


def huge(op: str) -> Any:
    """A few bytes that ask for terabytes."""
    if op == "tensor":
        weights = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=[1 << 20, 1 << 22], raw_data=b"1234")
        return graph([helper.make_node("MatMul", ["X", "W"], ["Y"])], initializers=[weights])
    size = helper.make_tensor("n", TensorProto.INT64, [2], [4, 1 << 40])
    nodes = [helper.make_node("ConstantOfShape", ["n"], ["W"]), helper.make_node("MatMul", ["X", "W"], ["Y"])]
    return graph(nodes, initializers=[size])


def with_function() -> Any:
    model = graph([helper.make_node("F", ["X"], ["Y"], domain="own")])
    body = [helper.make_node("F", ["a"], ["b"], domain="own")]  # which calls itself
    model.functions.append(helper.make_function("own", "F", ["a"], ["b"], body, [helper.make_opsetid("own", 1)]))
    return model


HOSTILE: dict[str, tuple[Callable[[], Any], str]] = {
    "other file": (external, "in another file"),
    "other file in a branch": (external_in_a_branch, "in another file"),
    "unknown operator": (lambda: graph([helper.make_node("Nothing", ["X"], ["Y"])]), "cannot be run"),
    "unknown domain": (
        lambda: graph([helper.make_node("Run", ["X"], ["Y"], domain="evil.ops")]),
        "operator 'Run' of 'evil.ops'",
    ),
    "a cycle": (
        lambda: graph([helper.make_node("Add", ["X", "Y"], ["Z"]), helper.make_node("Abs", ["Z"], ["Y"])]),
        "cannot be run",
    ),
    "a function that calls itself": (with_function, "functions of its own"),
    "nested graphs": (lambda: nested(18), "nest more than"),
    "deeply nested graphs": (deep, "not a whole ONNX model"),
    "a tensor without its values": (lambda: huge("tensor"), "cannot be run|died"),
    "a huge constant": (lambda: huge("constant"), "too much memory"),
    "a fixed number of rows": (lambda: summed(shape=(1, 4)), "any number of rows"),
    "no number of features": (lambda: summed(shape=(None, None)), "how many features"),
    "an image": (lambda: summed(shape=(None, 3, 8, 8)), "in the shape"),
    "one prediction for all rows": (
        lambda: graph(
            [helper.make_node("ReduceSum", ["X", "axis"], ["Y"], keepdims=1)],
            initializers=[helper.make_tensor("axis", TensorProto.INT64, [1], [0])],
        ),
        "gives 1 predictions for 2 rows",
    ),
    "a sequence": (
        lambda: graph([helper.make_node("SequenceConstruct", ["X"], ["Y"])], out=TensorProto.FLOAT),
        "cannot be run|no predictions",
    ),
    "no graph": (lambda: b"\x08\x08\x12\x05tests\x3a\x00", "no graph"),
}


# Without the limits of the other process, the huge constant could take all memory of this machine.
@pytest.mark.parametrize("name", sorted(HOSTILE.keys() - {"a huge constant"}))
def test_hostile_files_are_refused(config: Config, tmp_path: Path, name: str) -> None:
    make, reason = HOSTILE[name]
    made = make()
    (tmp_path / "model").write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    with pytest.raises(UnsupportedFormat, match=reason) as caught:
        load_native("onnx", tmp_path / "model", foreign=True).try_out()
    assert caught.value.status == 415


@pytest.mark.parametrize("name", ["a huge constant", "nested graphs", "unknown domain", "one prediction for all rows"])
def test_hostile_uploads_are_tried_elsewhere(local_registry: ModelRegistry, tmp_path: Path, name: str) -> None:
    make, reason = HOSTILE[name]
    (tmp_path / "model").write_bytes(make().SerializeToString())
    with pytest.raises(UnsupportedFormat, match=reason):
        local_registry.register_file(tmp_path / "model", "onnx")
    assert local_registry.list_models() == []


def test_files_that_are_cut_off_are_refused(local_registry: ModelRegistry, tmp_path: Path) -> None:
    data = to_onnx(RandomForestRegressor(2, random_state=0).fit(MATRIX, AMOUNT), MATRIX[:1]).SerializeToString()
    for share in (0.3, 0.9):
        (tmp_path / "cut").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(UnsupportedFormat):
            local_registry.register_file(tmp_path / "cut", "onnx")
    assert local_registry.list_models() == []
