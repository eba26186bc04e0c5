"""Every format gives back what was put in, to the last bit; whatever could run code is refused."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pandas as pd
import pytest
import skops.io
import xgboost
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from compute.errors import CapabilityMissing, ColumnInvalid, DataNotFound, InvalidField, UnsupportedFormat
from registry import ModelRegistry, Signature, capture_signature, encode
from registry.formats import detect_format, dump_model, load_native

pytestmark = pytest.mark.filterwarnings(
    "ignore:lbfgs failed to converge",
    "ignore:Stochastic Optimizer",  # three iterations are enough to be kept
)

ROWS = 300
_random = np.random.default_rng(7)
FRAME = pd.DataFrame(
    {
        "distance": _random.integers(50, 3000, ROWS),
        "delay": np.where(_random.random(ROWS) < 0.1, np.nan, _random.normal(size=ROWS)),
        "carrier": pd.Series(_random.choice(["AA", "DL", "UA"], ROWS)).where(_random.random(ROWS) > 0.05),
        "holiday": _random.random(ROWS) < 0.3,
    }
)
AMOUNT = FRAME["distance"].to_numpy() * 0.01 + _random.normal(size=ROWS)
LABEL = np.where(np.median(AMOUNT) < AMOUNT, "late", "fine")
LEVEL = np.digitize(AMOUNT, np.quantile(AMOUNT, [0.3, 0.7]))
SIGNATURE = {
    "regression": capture_signature(FRAME, "y", AMOUNT),
    "binary": capture_signature(FRAME, "y", LABEL),
    "multiclass": capture_signature(FRAME, "y", LEVEL),
}
MATRIX = encode(FRAME, SIGNATURE["regression"])
MATRIX64 = encode(FRAME, SIGNATURE["regression"], "float64")
FULL = np.nan_to_num(MATRIX64)
POSITION = (LABEL == "late").astype(int)


def boost(objective: str, target: np.ndarray[Any, Any], **params: Any) -> xgboost.Booster:
    signature = SIGNATURE["regression"]
    table = xgboost.DMatrix(
        MATRIX, target, feature_names=list(signature.feature_names), feature_types=list(signature.feature_types),
        enable_categorical=True,
    )  # fmt: skip
    return xgboost.train({"objective": objective, "nthread": 1, **params}, table, 8)


def light(objective: str, target: np.ndarray[Any, Any], **params: Any) -> lightgbm.Booster:
    data = lightgbm.Dataset(
        MATRIX64, target, feature_name=list(SIGNATURE["regression"].feature_names), categorical_feature=[2]
    )
    return lightgbm.train({"objective": objective, "verbosity": -1, "num_threads": 1, **params}, data, 8)


def by_row(registry: ModelRegistry, model: Any, task: str) -> Any:
    model_id = registry.register_model(model, "any", signature=SIGNATURE[task])
    loaded = registry.load_model(model_id)
    assert loaded.record.model_id == model_id
    rows = FRAME.to_dict("records")
    np.testing.assert_array_equal(loaded.predict(rows), loaded.predict(FRAME))
    np.testing.assert_array_equal(loaded.predict(MATRIX64), loaded.predict(FRAME))
    return loaded


@pytest.mark.parametrize("booster", ["gbtree", "dart", "gblinear"])
def test_xgboost_regression(local_registry: ModelRegistry, booster: str) -> None:
    if booster == "gblinear":  # takes neither categories nor missing values
        model = xgboost.train({"booster": booster, "nthread": 1}, xgboost.DMatrix(FULL, AMOUNT), 8)
        loaded = local_registry.load_model(local_registry.register_model(model, "linear"))
        np.testing.assert_array_equal(loaded.predict(FULL), model.predict(xgboost.DMatrix(FULL.astype("float32"))))
        return
    model = boost("reg:squarederror", AMOUNT, booster=booster)
    np.testing.assert_array_equal(
        by_row(local_registry, model, "regression").predict(FRAME),
        model.inplace_predict(MATRIX, validate_features=False),
    )


@pytest.mark.parametrize("objective", ["binary:logistic", "binary:logitraw"])
def test_xgboost_binary(local_registry: ModelRegistry, objective: str) -> None:
    loaded = by_row(local_registry, boost(objective, POSITION), "binary")
    chances = loaded.predict(FRAME, proba=True)
    assert chances.shape == (ROWS, 2)
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-6)
    assert loaded.predict(FRAME).tolist() == np.where(chances[:, 1] > 0.5, "late", "fine").tolist()
    assert (loaded.predict(FRAME) == LABEL).mean() > 0.8


@pytest.mark.parametrize("objective", ["multi:softprob", "multi:softmax"])
def test_xgboost_multiclass(local_registry: ModelRegistry, objective: str) -> None:
    loaded = by_row(local_registry, boost(objective, LEVEL, num_class=3), "multiclass")
    chances = loaded.predict(FRAME, proba=True)
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-5)
    assert loaded.predict(FRAME).tolist() == chances.argmax(axis=1).tolist()


def test_xgboost_early_stopping_predicts_with_the_best(local_registry: ModelRegistry) -> None:
    model = xgboost.XGBRegressor(n_estimators=60, early_stopping_rounds=3, n_jobs=1, learning_rate=0.9)
    model.fit(FULL[:200], AMOUNT[:200], eval_set=[(FULL[200:], AMOUNT[200:])], verbose=False)
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    loaded = local_registry.load_model(local_registry.register_model(model, "xgboost"))
    np.testing.assert_array_equal(loaded.predict(FULL), model.predict(FULL))


def test_lightgbm(local_registry: ModelRegistry) -> None:
    model = light("regression", AMOUNT)
    np.testing.assert_array_equal(by_row(local_registry, model, "regression").predict(FRAME), model.predict(MATRIX64))
    model = light("binary", POSITION)
    loaded = by_row(local_registry, model, "binary")
    np.testing.assert_array_equal(loaded.predict(FRAME, proba=True)[:, 1], model.predict(MATRIX64))
    model = light("multiclass", LEVEL, num_class=3)
    loaded = by_row(local_registry, model, "multiclass")
    np.testing.assert_array_equal(loaded.predict(FRAME, proba=True), model.predict(MATRIX64))
    assert loaded.predict(FRAME).tolist() == model.predict(MATRIX64).argmax(axis=1).tolist()


def pipeline(last: Any) -> Any:
    """As the jobs make them: everything by the position of a column."""
    categories = make_pipeline(
        SimpleImputer(strategy="constant", fill_value=-1.0), OneHotEncoder(handle_unknown="ignore")
    )
    numbers = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler())
    return make_pipeline(ColumnTransformer([("c", categories, [2]), ("n", numbers, [0, 1, 3])]), last)


ESTIMATORS = {
    "random forest": lambda: pipeline(RandomForestClassifier(5, random_state=0)),
    "logistic": lambda: pipeline(LogisticRegression()),
    "extra trees": lambda: pipeline(ExtraTreesClassifier(5, random_state=0)),
    "boosting": lambda: pipeline(GradientBoostingClassifier(n_estimators=5)),
    "histogram boosting": lambda: HistGradientBoostingClassifier(max_iter=5),
    "calibrated": lambda: pipeline(CalibratedClassifierCV(LogisticRegression(), cv=2)),
    "neural": lambda: pipeline(MLPClassifier((4,), max_iter=3)),
}


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
@pytest.mark.parametrize("fitted_on", ["labels", "positions"])
def test_scikit_learn_classifiers(local_registry: ModelRegistry, name: str, fitted_on: str) -> None:
    model = ESTIMATORS[name]().fit(MATRIX64, LABEL if fitted_on == "labels" else POSITION)
    loaded = by_row(local_registry, model, "binary")
    np.testing.assert_array_equal(loaded.predict(FRAME, proba=True), model.predict_proba(MATRIX64))
    expected = model.predict(MATRIX64)
    assert (
        loaded.predict(FRAME).tolist()
        == (expected if fitted_on == "labels" else np.array(["fine", "late"])[expected]).tolist()
    )


@pytest.mark.parametrize(
    "last", [RandomForestRegressor(5), Ridge(), LinearRegression(), HistGradientBoostingRegressor(max_iter=3)]
)
def test_scikit_learn_regressions(local_registry: ModelRegistry, last: Any) -> None:
    model = pipeline(last).fit(MATRIX64, AMOUNT)
    loaded = by_row(local_registry, model, "regression")
    np.testing.assert_array_equal(loaded.predict(FRAME), model.predict(MATRIX64))
    with pytest.raises(CapabilityMissing, match="regression and has no probabilities"):
        loaded.predict(FRAME, proba=True)


def test_no_probabilities_says_so(local_registry: ModelRegistry) -> None:
    loaded = local_registry.load_model(
        local_registry.register_model(SVC().fit(FULL, LABEL), "svc", example=pd.DataFrame(FULL))
    )
    assert set(loaded.predict(FULL)) == {"fine", "late"}
    with pytest.raises(CapabilityMissing, match="SVC gives no probabilities"):
        loaded.predict(FULL, proba=True)


def test_a_pipeline_fitted_on_a_table_gets_a_table(local_registry: ModelRegistry) -> None:
    """Names, and categories as the text they were, not as their codes."""
    steps = ColumnTransformer(
        [
            ("c", OneHotEncoder(handle_unknown="ignore"), ["carrier"]),
            ("n", SimpleImputer(), ["delay", "distance", "holiday"]),
        ]
    )
    model = make_pipeline(steps, LogisticRegression()).fit(FRAME, LABEL)
    model_id = local_registry.register_model(model, "logistic", example=FRAME.assign(extra=1))
    loaded = local_registry.load_model(model_id)
    assert loaded.record.signature is not None
    assert loaded.record.signature.feature_names == tuple(FRAME.columns)
    assert loaded.record.signature.classes == ("fine", "late")
    np.testing.assert_array_equal(loaded.predict(FRAME, proba=True), model.predict_proba(FRAME))
    np.testing.assert_array_equal(loaded.predict(FRAME), model.predict(FRAME))
    other = FRAME.assign(carrier=["WN", None, "AA"] * (ROWS // 3))  # unknown is not the same as missing
    np.testing.assert_array_equal(loaded.predict(other, proba=True), model.predict_proba(other))
    rows = other.to_dict("records")
    np.testing.assert_array_equal(loaded.predict(rows, proba=True), model.predict_proba(other))
    np.testing.assert_array_equal(
        loaded.predict(encode(FRAME, loaded.record.signature, "float64")), model.predict(FRAME)
    )


def test_signatures_from_the_model_itself(local_registry: ModelRegistry) -> None:
    numbers = FRAME[["distance", "delay"]]
    for model, count in (
        (xgboost.XGBClassifier(n_estimators=3).fit(numbers, POSITION), 2),
        (lightgbm.LGBMClassifier(n_estimators=3, verbosity=-1).fit(numbers, LEVEL), 3),
        (HistGradientBoostingClassifier(max_iter=3).fit(numbers, LABEL), 2),
    ):
        loaded = local_registry.load_model(local_registry.register_model(model, "any"))
        signature = loaded.record.signature
        assert signature is not None
        assert [(column.name, column.dtype) for column in signature.columns] == [
            ("distance", "float"),
            ("delay", "float"),
        ]
        assert len(signature.classes or ()) == count
        np.testing.assert_array_equal(loaded.predict(numbers), model.predict(numbers))
        np.testing.assert_allclose(loaded.predict(numbers, proba=True), model.predict_proba(numbers), atol=1e-7)


def test_a_model_without_names_takes_a_matrix_only(local_registry: ModelRegistry) -> None:
    model = Ridge().fit(FULL, AMOUNT)
    loaded = local_registry.load_model(local_registry.register_model(model, "ridge"))
    assert loaded.record.signature is None
    np.testing.assert_array_equal(loaded.predict(FULL), model.predict(FULL))
    with pytest.raises(CapabilityMissing, match="takes a matrix only"):
        loaded.predict(FRAME)


def test_no_rows_and_threads(local_registry: ModelRegistry) -> None:
    for model in (
        boost("binary:logistic", POSITION),
        light("binary", POSITION),
        ESTIMATORS["random forest"]().fit(MATRIX64, LABEL),
    ):
        model_id = local_registry.register_model(model, "any", signature=SIGNATURE["binary"])
        one, two = local_registry.load_model(model_id, threads=1), local_registry.load_model(model_id, threads=2)
        np.testing.assert_array_equal(one.predict(FRAME), two.predict(FRAME))
        assert one.predict([]).shape == (0,)
        assert one.predict(FRAME.iloc[:0], proba=True).shape == (0, 2)


def test_wrong_matrices_are_refused(local_registry: ModelRegistry) -> None:
    loaded = local_registry.load_model(
        local_registry.register_model(light("regression", AMOUNT), "any", signature=SIGNATURE["regression"])
    )
    for bad in (MATRIX[0], MATRIX[:, :2], MATRIX.astype(str)):
        with pytest.raises(ColumnInvalid):
            loaded.predict(bad)


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    for make in (
        lambda: boost("reg:squarederror", AMOUNT),
        lambda: light("regression", AMOUNT),
        lambda: pipeline(Ridge()).fit(MATRIX64, AMOUNT),
    ):
        first, second = tmp_path / "first", tmp_path / "second"
        assert dump_model(make(), first) == dump_model(make(), second)
        assert first.read_bytes() == second.read_bytes()


def test_a_signature_that_does_not_fit_is_refused(local_registry: ModelRegistry) -> None:
    narrow = Signature(columns=SIGNATURE["regression"].columns[:2])
    for model in (boost("reg:squarederror", AMOUNT), light("regression", AMOUNT), Ridge().fit(FULL, AMOUNT)):
        with pytest.raises(InvalidField, match="2 features, and the model takes 4"):
            local_registry.register_model(model, "any", signature=narrow)
    assert local_registry.list_models() == []


def with_function(function: Any) -> Any:
    model = make_pipeline(FunctionTransformer(np.sin), Ridge()).fit(FULL, AMOUNT)
    model.steps[0] = ("f", FunctionTransformer(function))
    return model


class Own(LinearRegression):
    """An estimator that is not scikit-learn's."""


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (dict, "builtins.dict cannot be kept"),
        (lambda: Ridge(), "Ridge is not fitted"),
        (lambda: xgboost.XGBClassifier(), "XGBClassifier is not fitted"),
        (lambda: lightgbm.LGBMRegressor(), "LGBMRegressor is not fitted"),
        (lambda: Own().fit(FULL, AMOUNT), "test_formats.Own"),
        (lambda: with_function(os.system), "system"),
        (lambda: StandardScaler().fit(FULL), "cannot be kept"),
        (lambda: Ridge, "cannot be kept"),
    ],
)
def test_models_of_other_kinds_are_refused(local_registry: ModelRegistry, make: Any, reason: str) -> None:
    model = make()
    with pytest.raises(UnsupportedFormat, match=reason) as caught:
        local_registry.register_model(model, "any")
    assert caught.value.status == 415
    assert caught.value.hint
    assert local_registry.list_models() == []


# Files


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return buffer.getvalue()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "pack",
    [
        lambda data: data, gzip.compress, zlib.compress, bz2.compress, lzma.compress,
        lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
        lambda data: zipped(data__pkl=data), lambda data: zipped(archive__data=data, schema__json=b"{}"),
        lambda data: zipped(schema__json=b"{}", x__npy=data),
    ],
    ids=["plain", "gzip", "zlib", "bz2", "xz", "lzma", "zip", "zip like skops", "in an array of skops"],
)  # fmt: skip
def test_pickles_are_refused_and_never_unpickled(
    local_registry: ModelRegistry, tmp_path: Path, protocol: int, pack: Any
) -> None:
    marker = tmp_path / "exploded"
    path = tmp_path / "model"
    path.write_bytes(pack(pickle.dumps(Bomb(marker), protocol)))
    with pytest.raises(UnsupportedFormat):
        local_registry.register_file(path, "any")
    assert not marker.exists()
    assert local_registry.list_models() == []


def test_a_pickled_array_in_a_skops_file_is_never_unpickled(local_registry: ModelRegistry, tmp_path: Path) -> None:
    marker, path = tmp_path / "exploded", tmp_path / "model.skops"
    good = skops.io.dumps(Ridge().fit(FULL, AMOUNT))
    evil = io.BytesIO()
    np.save(evil, np.array([Bomb(marker)], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(io.BytesIO(good)) as archive, zipfile.ZipFile(path, "w") as target:
        for name in archive.namelist():
            target.writestr(name, evil.getvalue() if name.endswith(".npy") else archive.read(name))
    with pytest.raises(UnsupportedFormat):
        local_registry.register_file(path, "any")
    assert not marker.exists()


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_joblib_is_refused(local_registry: ModelRegistry, tmp_path: Path, compress: Any) -> None:
    joblib.dump(Ridge().fit(FULL, AMOUNT), tmp_path / "model", compress=compress)
    with pytest.raises(UnsupportedFormat, match="pickle"):
        local_registry.register_file(tmp_path / "model", "any")


@pytest.mark.parametrize("kind", ["builtins.eval", "os.system", "subprocess.Popen", "test_formats.Own"])
def test_types_named_by_a_skops_file_are_not_trusted(local_registry: ModelRegistry, tmp_path: Path, kind: str) -> None:
    module, _, name = kind.rpartition(".")
    data = skops.io.dumps(Ridge().fit(FULL, AMOUNT))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        schema = json.loads(archive.read("schema.json"))
        schema["__module__"], schema["__class__"] = module, name
        members = {n: archive.read(n) for n in archive.namelist() if n != "schema.json"}
    with zipfile.ZipFile(tmp_path / "model.skops", "w") as archive:
        for member, content in {**members, "schema.json": json.dumps(schema).encode()}.items():
            archive.writestr(member, content)
    with pytest.raises(UnsupportedFormat, match=kind):
        local_registry.register_file(tmp_path / "model.skops", "any")


def test_trees_that_lead_nowhere_are_refused(local_registry: ModelRegistry, tmp_path: Path) -> None:
    model = RandomForestClassifier(3, random_state=0).fit(FULL, LABEL)
    data = bytearray(skops.io.dumps(model))
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    changed = False
    for name, content in members.items():
        if (
            name.endswith(".npy")
            and (array := np.load(io.BytesIO(content))).dtype.names
            and "left_child" in array.dtype.names
        ):
            array["left_child"][0] = 10**6
            buffer = io.BytesIO()
            np.save(buffer, array)
            members[name] = buffer.getvalue()
            changed = True
    assert changed
    with zipfile.ZipFile(tmp_path / "model.skops", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(UnsupportedFormat, match="leads nowhere"):
        local_registry.register_file(tmp_path / "model.skops", "any")


FILES: dict[str, Any] = {
    "xgboost-ubj": lambda path: (
        boost("binary:logistic", POSITION).save_model(path.with_suffix(".ubj")) or path.with_suffix(".ubj")
    ),
    "lightgbm-text": lambda path: light("binary", POSITION).save_model(path) and path,
    "sklearn-skops": lambda path: skops.io.dump(ESTIMATORS["random forest"]().fit(MATRIX64, LABEL), path) or path,
}


@pytest.mark.parametrize("kind", sorted(FILES))
def test_files_are_taken_by_their_bytes(registry: ModelRegistry, tmp_path: Path, kind: str) -> None:
    path = FILES[kind](tmp_path / "model.bin")
    model_id = registry.register_file(path, "any", signature=SIGNATURE["binary"], tags=["uploaded"])
    record = registry.get_model(model_id)
    assert record.format == kind == detect_format(path.read_bytes()[:4096])
    assert record.artifact.size == path.stat().st_size
    native = load_native(record.format, path)
    loaded = registry.load_model(model_id)
    assert type(loaded.model) is type(native)
    assert loaded.predict(FRAME, proba=True).shape == (ROWS, 2)


@pytest.mark.parametrize("kind", sorted(FILES))
def test_files_that_are_cut_off_are_refused(local_registry: ModelRegistry, tmp_path: Path, kind: str) -> None:
    data = FILES[kind](tmp_path / "model.bin").read_bytes()
    for share in (0.01, 0.3, 0.6, 0.9, 0.99):
        (tmp_path / "cut").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(UnsupportedFormat):
            local_registry.register_file(tmp_path / "cut", "any")
    assert local_registry.list_models() == []


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"hello", b"PK\x03\x04", b"\x00" * 5000, b"\x08\x07\x12\x07pytorch", b'{"learner": {}}', b"tree\n"],
)
def test_other_files_are_refused(local_registry: ModelRegistry, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model").write_bytes(data)
    with pytest.raises(UnsupportedFormat):
        local_registry.register_file(tmp_path / "model", "any")


def test_a_file_that_is_not_there(local_registry: ModelRegistry, tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match="No such file"):
        local_registry.register_file(tmp_path / "nothing", "any")
