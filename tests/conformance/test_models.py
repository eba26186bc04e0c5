"""`parallel_model_training` and `parallel_model_inference` over every engine."""

from __future__ import annotations

import pandas as pd
import pytest
from sklearn.datasets import load_diabetes

from compute import ComputeManager, Config, load_config
from compute.errors import ColumnMissing, InvalidField, ModelNotFound
from jobs import parallel_model_inference, parallel_model_training, predict_batch
from registry import get_model_registry

pytestmark = pytest.mark.slow  # workers that import scikit-learn, for each engine; the examples run on one


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    table: pd.DataFrame = load_diabetes(as_frame=True).frame
    clinics = ["north", "south", None] * (len(table) // 3) + ["north"] * (len(table) % 3)
    return table.assign(clinic=clinics, ward=["a", "b"] * (len(table) // 2))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    default = load_config()
    storage = default.storage.model_copy(update={"uri": tmp_path_factory.mktemp("state").as_uri()})
    return default.model_copy(update={"storage": storage})


def test_one_model_for_each_configuration(manager: ComputeManager, config: Config, frame: pd.DataFrame) -> None:
    configurations = [
        {"model_type": "linear", "name": "straight"},
        {"model_type": "random_forest", "model_params": {"n_trees": 5}},
        {"model_type": "random_forest", "model_params": {"n_estimators": 5}, "name": "woods"},
    ]
    trained = parallel_model_training(
        frame, "target", configurations, manager=manager, config=config, exclude=["clinic", "ward"], seed=3
    )
    assert [one.configuration for one in trained] == [
        {"exclude": ["clinic", "ward"], "seed": 3, **configuration} for configuration in configurations
    ]
    straight, wrong, woods = trained
    # One that fails says why, and where, and keeps no other from being registered.
    assert isinstance(wrong.error, InvalidField)
    assert "'n_trees'" in str(wrong.error)
    assert wrong.result is None
    assert straight.result is not None
    assert woods.result is not None
    assert straight.error is None
    registry = get_model_registry(config)
    assert registry.resolve("straight").model_id == straight.result["model_id"]
    assert registry.resolve("woods").metrics == woods.result["metrics"]

    names = ["straight", woods.result["model_id"]]
    scored = parallel_model_inference(names, frame, 100, manager=manager, config=config)
    assert list(scored.columns) == names
    expected = predict_batch("straight", frame, config=config).rename("straight")
    pd.testing.assert_series_equal(scored["straight"], expected)
    shuffled = frame.sample(frac=1, random_state=0)
    again = parallel_model_inference("straight", shuffled, manager=manager, config=config)
    pd.testing.assert_series_equal(again["straight"], expected.loc[shuffled.index])
    assert parallel_model_inference("woods", frame.head(0), manager=manager, config=config).shape == (0, 1)
    with pytest.raises(ColumnMissing) as caught:
        parallel_model_inference(names, frame.drop(columns="bmi"), 100, manager=manager, config=config)
    assert "By the model straight." in caught.value.__notes__


def test_one_model_for_each_group(
    manager: ComputeManager, config: Config, frame: pd.DataFrame, request: pytest.FixtureRequest
) -> None:
    # Of its own for each engine: they share the registry, and two of them are called dask.
    name = f"of-{request.node.callspec.params['engine']}"
    options = {"by": ["clinic", "ward"], "model_type": "linear", "name": name}
    # Of the last group three rows are left: fewer than a model can be learnt from.
    data = pd.concat([frame[frame["clinic"].notna()], frame[frame["clinic"].isna() & (frame["ward"] == "b")].head(3)])
    trained = parallel_model_training(data, "target", manager=manager, config=config, **options)
    assert [one.group for one in trained] == [
        {"clinic": "north", "ward": "a"},
        {"clinic": "south", "ward": "b"},
        {"clinic": "north", "ward": "b"},
        {"clinic": "south", "ward": "a"},
        {"clinic": None, "ward": "b"},
    ]
    *well, small = trained
    assert small.error is not None
    assert "In the group" in "".join(small.error.__notes__)
    sizes = data.groupby(["clinic", "ward"], sort=False).size().tolist()
    assert [one.result["rows"] for one in well if one.result] == sizes
    found = get_model_registry(config).search_models(
        f'name = "{name}" and metadata.group.clinic = "south" and metadata.group.ward = "a"'
    )
    assert [model.model_id for model in found.models] == [well[3].result["model_id"] if well[3].result else None]
    assert "clinic" not in (well[0].result or {})["features"]


def test_what_cannot_be_asked_for(manager: ComputeManager, config: Config, frame: pd.DataFrame) -> None:
    with pytest.raises(TypeError, match="model_typ"):
        parallel_model_training(frame, "target", [{"model_typ": "linear"}], manager=manager, config=config)
    assert parallel_model_training(frame, "target", [], manager=manager, config=config) == []
    with pytest.raises(ModelNotFound):
        parallel_model_inference("none", frame, manager=manager, config=config)
    for names in ([], ["a", "a"]):
        with pytest.raises(InvalidField, match="models is"):
            parallel_model_inference(names, frame, manager=manager, config=config)
