"""The command: its help, its refusals and exit codes, and what a thin start imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import product, write_shards

from pipelines.cli import main, parser
from pipelines.config import ConfigError, read_config

COMMANDS = ("sample", "train", "run", "ingest", "encode", "fuse", "build", "publish", "query", "versions", "withdraw")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_a_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parser().parse_args([command, "--help"])
    assert left.value.code == 0
    assert f"usage: catalogue-index {command}" in capsys.readouterr().out


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(arguments)
    return code, capsys.readouterr().err.strip()


def test_a_mistyped_flag_does_not_vanish_into_beam(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "--index", str(tmp_path), "--catalogue", "x.csv", "--max-reject-rat", "0.1"]
    code, text = refused(arguments, capsys)
    assert code == 2
    assert text == (
        "catalogue-index: unknown flag '--max-reject-rat': neither this command nor Beam has it (see --help)"
    )
    assert not list(tmp_path.iterdir())


def test_a_flag_of_beam_is_passed_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "--index", str(tmp_path), "--catalogue", f"{tmp_path}/no.csv", "--direct_num_workers", "1"]
    assert "direct_num_workers" not in refused(arguments, capsys)[1]


def test_a_job_without_an_index_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = refused(["run", "--catalogue", "x.csv"], capsys)
    assert (code, text) == (2, "catalogue-index: --index is missing: say it on the command line or in --config FILE")


def test_a_query_for_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = refused(["query", "--index", "x"], capsys)
    assert (code, text) == (2, "catalogue-index: nothing to look for: give --text, --image or --product-id")


def test_a_catalogue_that_matches_nothing_is_named(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "--index", str(tmp_path / "i"), "--catalogue", f"{tmp_path}/none-*.csv", "--bundle", str(tiny_bundle)]
    code, text = refused(arguments, capsys)
    assert code == 2
    assert f"{tmp_path}/none-*.csv" in text
    assert "Traceback" not in text


def test_flags_win_over_the_configuration_file(tmp_path: Path) -> None:
    file = tmp_path / "shop.toml"
    file.write_text('index = "from-file"\ntrees = 7\nmax-pictures = 3\n[column]\ntitle = "name"\n')
    config = read_config(str(file), {"trees": 9})
    assert (config.index, config.trees, config.max_pictures, config.column) == ("from-file", 9, 3, {"title": "name"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("treees = 3", "has an unknown key 'treees': did you mean 'trees'?"),
        ("trees = 'many'", "trees takes int, not 'many'"),
        ("trees = 0", "--trees is 0; it must be at least 1"),
        ("max_reject_rate = 2", "--max-reject-rate is 2.0; it is a share between 0 and 1"),
        ("metric = 'cosine'", "--metric is 'cosine'; it may be angular, euclidean, manhattan, dot"),
        ("[weight]\nsmell = 1", "--weight names the modality 'smell'; it may be picture, text"),
        ("[weight]\npicture = 0\ntext = 0", "--weight leaves no modality with a weight above 0"),
        ("[weight]\nstructured = 1", "--weight structured=1 must be below 1: it is a share of the fused vector"),
        ("[weight]\npicture = 0\ntext = 0\nstructured = 0.5", "--weight leaves no modality with a weight above 0"),
        ("fusion = 'sum'", "--fusion is 'sum'; it may be concatenation, weighted_sum, mean, max"),
        ("= 3", "is not TOML"),
    ],
)
def test_a_bad_configuration_is_named(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "shop.toml"
    file.write_text(content)
    with pytest.raises(ConfigError) as raised:
        read_config(str(file), {})
    assert message in str(raised.value)


def test_a_fusion_is_asked_for_or_left_to_the_bundle() -> None:
    assert read_config(None, {}).fusion is None
    given = parser().parse_args(["run", "--fusion", "mean", "--weight", "structured=0.2", "--refit-statistics"])
    config = read_config(None, {name: getattr(given, name) for name in ("fusion", "weight", "refit_statistics")})
    assert (config.fusion, config.weight, config.refit_statistics) == ("mean", {"structured": "0.2"}, True)
    with pytest.raises(SystemExit):
        parser().parse_args(["run", "--fusion", "sum"])


def test_a_mapping_without_an_equals_sign_is_named() -> None:
    with pytest.raises(ConfigError, match="--column takes NAME=VALUE, not 'title'"):
        read_config(None, {"column": ["title"]})


def test_stages_one_by_one_give_an_index_that_answers(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue = write_shards(tmp_path / "shop", [product(number) for number in range(20)], 10)
    job = ["--index", str(tmp_path / "index"), "--catalogue", catalogue, "--bundle", str(tiny_bundle)]
    code, text = refused(["fuse", *job], capsys)
    assert code == 2
    assert text.endswith("encode has not ended for this catalogue and bundle: run 'catalogue-index encode' first")
    for stage in ("ingest", "encode", "fuse", "build", "publish"):
        assert main([stage, *job]) == 0, stage
    capsys.readouterr()
    assert main(["query", "--index", str(tmp_path / "index"), "--product-id", "P00003", "-k", "2", "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)
    assert [hit["rank"] for hit in hits] == [1, 2]
    assert "P00003" not in {hit["product_id"] for hit in hits}
    assert {"score", "title", "price", "colour"} <= set(hits[0])
    assert main(["versions", "--index", str(tmp_path / "index"), "--json"]) == 0
    (version,) = json.loads(capsys.readouterr().out)
    assert (version["current"], version["items"], version["sequence"]) == (True, 20, 1)


def test_a_query_imports_neither_beam_nor_tensorflow() -> None:
    code = (
        "import sys, pipelines.cli as cli\n"
        "cli.main(['query', '--index', 'nowhere', '--text', 'x'])\n"
        "loaded = {'apache_beam', 'tensorflow', 'keras'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
