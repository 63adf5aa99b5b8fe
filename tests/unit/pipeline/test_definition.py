from __future__ import annotations

import pytest

from redisai_py.artifacts import Invalid
from redisai_py.pipeline.definition import Definition
from redisai_py.pipeline.gates import Gate

TEXT = """
[artifact]
name = "cancer"
promote = ["production"]
[dataset]
source = "csv:data/cancer.csv"
targets = ["diagnosis"]
features = ["*"]
ignore = ["id"]
[split]
test = 0.2
stratify = "diagnosis"
[model]
builder = "xgboost.classifier"
params = { n_estimators = 80 }
[evaluate]
metrics = ["accuracy"]
gate = { accuracy = ">=0.93", accuracy_vs = { "@production" = ">=-0.01" } }
[deploy]
key = "cancer"
batchsize = 16
"""


def test_the_text_of_a_definition_gives_the_same_definition() -> None:
    definition = Definition.from_toml(TEXT)
    assert definition.evaluate.gate == (
        Gate("accuracy", None, ">=", 0.93),
        Gate("accuracy", "@production", ">=", -0.01),
    )
    again = Definition.from_toml(definition.as_toml())
    assert again == definition
    assert again.as_toml() == definition.as_toml()
    assert Definition.from_value(definition.as_value()) == definition


def test_texts_that_toml_has_to_quote_come_back() -> None:
    odd = 'a "b"\\\n\t\x7f é'
    definition = Definition.from_value(
        {
            "artifact": {"name": "x"},
            "dataset": {"source": f"csv:{odd}", "targets": [odd], "types": {odd: "string"}},
            "model": {"builder": "b", "params": {"deep": {"list": [1, 2.5, True, odd]}, "empty": {}}},
        }
    )
    assert Definition.from_toml(definition.as_toml()) == definition


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[split]", "[splitt]", r"\[splitt\] is not part of a pipeline; did you mean split\?"),
        ("stratify", "stratfy", r"split.stratfy is unknown; did you mean stratify\?"),
        ("ignore =", "ignored =", r"dataset.ignored is unknown; did you mean ignore\?"),
        ("test = 0.2", "test = 1.5", "test is 1.5"),
        ("test = 0.2", 'test = "0.2"', 'split.test is "0.2"; it must be a number'),
        ("test = 0.2", "test = true", "split.test is true; it must be a number"),
        ("batchsize = 16", "batchsize = 1.5", "deploy.batchsize is 1.5; it must be a whole number"),
        ("batchsize = 16", "batchsize = -1", "deploy.batchsize is -1; it must be 0"),
        ("batchsize = 16", "minbatchsize = 2", "deploy.minbatchsize needs deploy.batchsize"),
        ("batchsize = 16", "minbatchtimeout = 2", "deploy.minbatchtimeout needs deploy.minbatchsize"),
        ("batchsize = 16", 'device = "TPU"', "deploy.device is 'TPU'; it must be CPU, GPU or such as GPU:1"),
        ('key = "cancer"', 'key = ""', "deploy.key is empty"),
        ("[evaluate]", "seed = -1\n[evaluate]", "model.seed is -1"),
        ('["diagnosis"]', '"diagnosis"', "dataset.targets must be a list of strings"),
        ('["diagnosis"]', "[]", "dataset.targets is empty"),
        ('features = ["*"]', 'features = ["diagnosis"]', "diagnosis is a target and a feature"),
        ('features = ["*"]', 'features = ["id"]', "id is a feature and ignored"),
        ("csv:data", "cvs:data", "dataset.source is 'cvs:data/cancer.csv'; it must be one of csv:..."),
        (">=0.93", "0.93", "evaluate.gate.accuracy is .0.93.; it must be a comparison"),
        ("@production", "production", "evaluate.gate.accuracy_vs must be a table"),
        ("[model]", "[[model]]", r"\[model\] must be a table"),
        ('name = "cancer"\n', "", "artifact.name is missing"),
        ("[artifact]", "[artifact", "not TOML"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, says: str) -> None:
    assert old in TEXT
    with pytest.raises(Invalid, match=says):
        Definition.from_toml(TEXT.replace(old, new, 1))


def test_settings_replace_words() -> None:
    settings = ("model.params.n_estimators=100", "model.params.booster=gbtree", "split.seed=3", "deploy.key=other")
    definition = Definition.from_toml(TEXT, settings)
    assert definition.model.params == {"n_estimators": 100, "booster": "gbtree"}
    assert definition.split is not None
    assert definition.split.seed == 3
    assert definition.deploy is not None
    assert definition.deploy.key == "other"


@pytest.mark.parametrize("setting", ["seed=3", "split.seed", "split..seed=1", "artifact.name.x=1", "split.sed=1"])
def test_settings_that_say_nothing_are_refused(setting: str) -> None:
    with pytest.raises(Invalid):
        Definition.from_toml(TEXT, [setting])
