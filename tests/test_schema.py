"""The published schemas, against an independent validator."""

import json

import pytest
import yaml
from jsonschema import Draft202012Validator

from mdlbench.records.record import parse_record
from mdlbench.records.schema import record_schema, suite_schema, tables
from mdlbench.suite.load import suite_names, suites_folder
from tests.records import make_record

RECORD = Draft202012Validator(record_schema())
SUITE = Draft202012Validator(suite_schema())


@pytest.fixture
def content():
    return json.loads(make_record("a").to_json())


def test_a_record_file_fits_its_schema(content):
    RECORD.check_schema(RECORD.schema)
    assert RECORD.is_valid(content)
    assert parse_record(json.dumps(content), "here").name == "a"


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.pop("checksum"),
        lambda record: record.pop("schema_version"),
        lambda record: record["identity"].pop("suite_digest"),
        lambda record: record.update(extra=1),
        lambda record: record["points"][0].update(mse="small"),
        lambda record: record["points"][0]["bits"].update(heldout_ci=[1.0]),
        lambda record: record.update(status="unfinished"),
    ],
)
def test_what_is_no_record_does_not_fit(content, change):
    change(content)
    assert not RECORD.is_valid(content)


@pytest.mark.parametrize("name", suite_names())
def test_shipped_suites_fit_the_schema(name):
    assert SUITE.is_valid(yaml.safe_load((suites_folder() / name / "suite.yaml").read_text()))


def test_a_suite_with_a_misspelt_key_does_not_fit():
    content = yaml.safe_load((suites_folder() / "mnist" / "suite.yaml").read_text())
    assert not SUITE.is_valid({**content, "tolerence": []})


def test_a_suites_source_is_of_one_of_the_built_in_kinds():
    kinds = {
        "images": "ImagesConfig",
        "language": "LanguageConfig",
        "superposed": "SuperposedConfig",
        "synthetic": "SyntheticConfig",
    }
    source = suite_schema()["properties"]["source"]
    references = {kind: f"#/$defs/{name}" for kind, name in kinds.items()}
    assert source["discriminator"] == {"propertyName": "kind", "mapping": references}
    content = yaml.safe_load((suites_folder() / "mnist" / "suite.yaml").read_text())
    assert not SUITE.is_valid({**content, "source": {**content["source"], "n_tset": 1}})
    assert not SUITE.is_valid({**content, "source": {"kind": "audio"}})
    text = tables(suite_schema())
    assert "| `source` | [ImagesConfig](#imagesconfig) or [LanguageConfig]" in text
    assert all(f"## {name}\n" in text for name in kinds.values())


def test_tables_explain_what_the_code_says():
    text = tables(record_schema())
    assert text.startswith("## EvalRecord\n\nOne SAE scored on one suite.\n\n| Key | Type |")
    assert "| `heldout_ci` | \\[number, number\\] | yes |" in text
    assert "| `points` | \\[[OperatingPoint](#operatingpoint), …\\] | yes |" in text
    assert '| `metric` | `"mse"` or `"fvu"` or `"delta_ce"` or `"kl"` | yes |' in text
    assert '| `status` | `"complete"` | no | Default: `"complete"`. |' in text
