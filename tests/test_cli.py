"""The command: its help, its refusals and exit codes, and what a thin start imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import product, write_shards
from version_maker import draw_products, make_version

from pipelines.cli import main, parser
from pipelines.config import ConfigError, read_config
from pipelines.named_values import phrase_languages
from pipelines.training_products import shop_words

COMMANDS = ("sample", "train", "run", "ingest", "encode", "fuse", "build", "publish", "query", "versions", "rollback",
            "verify", "preview-views", "withdraw", "explain", "prune", "evaluate")  # fmt: skip


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
    code, text = refused(arguments, capsys)
    assert (code, "direct_num_workers" in text) == (2, False)
    assert f"{tmp_path}/no.csv" in text  # and it is said before towers are built
    assert not (tmp_path / "towers").exists()


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
        ("min_recall = 1.5", "--min-recall is 1.5; it is a share between 0 and 1"),
        ("max-shrink = -0.1", "--max-shrink is -0.1; it is a share between 0 and 1"),
        ("max_shrink = 'half'", "max_shrink takes float, not 'half'"),
        ("metric = 'cosine'", "--metric is 'cosine'; it may be angular, euclidean, manhattan, dot"),
        ("[weight]\nsmell = 1", "--weight names the modality 'smell'; it may be picture, text"),
        ("[weight]\npicture = 0\ntext = 0", "--weight leaves no modality with a weight above 0"),
        ("[weight]\nstructured = 1", "--weight structured=1 must be below 1: it is a share of the fused vector"),
        ("[weight]\npicture = 0\ntext = 0\nstructured = 0.5", "--weight leaves no modality with a weight above 0"),
        ("fusion = 'sum'", "--fusion is 'sum'; it may be concatenation, weighted_sum, mean, max"),
        ("phrase-languages = 'en,it'", "--phrase-languages names 'it'; it may be en, zh, de, es, fr, ja"),
        ("phrase-languages = ['en', 'en=2']", "--phrase-languages names 'en' twice"),
        ("phrase-languages = 'en=half'", "--phrase-languages en=half is not a number"),
        ("phrase-languages = 'de=0'", "--phrase-languages de=0 must be finite and above 0"),
        ("cross-language = 'en,it'", "--cross-language names 'it'; it may be en, zh, de, es, fr, ja"),
        ("cross-language = true", "cross-language takes names, not True"),
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


def test_phrases_are_english_and_chinese_unless_languages_are_given() -> None:
    assert phrase_languages(read_config(None, {})) == {"en": 0.65, "zh": 0.35}
    given = parser().parse_args(["train", "--phrase-languages", "ja=0.5,de", "--phrase-languages", "en=2", "--words", "own.tsv"])
    config = read_config(None, {"phrase_languages": given.phrase_languages, "words": given.words})
    assert list(phrase_languages(config).items()) == [("en", 2.0), ("de", 1.0), ("ja", 0.5)]
    with pytest.raises(ConfigError, match=r"^--words: word table 'own\.tsv' cannot be read: No such file or directory$"):
        shop_words(config)


def test_no_languages_are_crossed_where_the_flag_is_empty() -> None:
    assert read_config(None, {}).cross_language is None
    assert read_config(None, {"cross_language": [""]}).cross_language == ()
    assert read_config(None, {"cross_language": ["en,de"]}).cross_language == ("en", "de")


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


def test_a_night_is_refused_forced_and_rolled_back(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit codes are those of real processes; what follows in this one is the same command."""
    index = str(tmp_path / "index")
    where = ["--index", index]

    def night(products: int) -> list[str]:
        folder = tmp_path / f"shop-{products}"
        if not folder.exists():
            write_shards(folder, [product(number) for number in range(products)], 20)
        return ["run", *where, "--catalogue", f"{folder}/*.parquet", "--bundle", str(tiny_bundle), "--trees", "5"]

    assert main(night(30)) == 0
    first = (tmp_path / "index" / "CURRENT").read_text().strip()
    capsys.readouterr()
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", *night(20)], capture_output=True, text=True, env=os.environ, check=False
    )
    assert done.returncode == 4, done.stderr
    (second,) = {path.name for path in (tmp_path / "index" / "versions").iterdir()} - {first}
    told = (
        f"catalogue-index: version {second} is refused by the gate and not published:\n"
        f"- it has 20 products, 33.3 % fewer than the 30 of version {first}, above --max-shrink 0.1 (10 %): "
        "see that the catalogue is whole\n"
        f"to publish it anyway: catalogue-index publish {second} --index {index} --force\n"
    )
    assert done.stderr.endswith(told)
    assert main(["versions", *where]) == 0
    shown = capsys.readouterr().out
    marks = {version: line.strip().split()[0] for line in shown.splitlines() for version in (first, second) if version in line}
    assert marks == {first: "current", second: "refused"}
    assert main(["versions", *where, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(v["id"], v["current"], v["refused"]) for v in listed] == [(first, True, False), (second, False, True)]

    assert refused(["publish", second, *where], capsys) == (4, told.strip())
    assert main(["publish", second, *where, "--force"]) == 0
    assert capsys.readouterr().out == f"version {second} is current: 20 products\n"
    record = json.loads((tmp_path / "index" / "versions" / second / "published.json").read_text())["published"]
    assert [(entry["forced"], entry["instead_of"], len(entry["reasons"])) for entry in record] == [(True, first, 1)]
    assert (tmp_path / "index" / "runs" / second / "finished.json").exists()

    assert main(["rollback", *where]) == 0
    assert capsys.readouterr().out == (
        f"version {first} is current again in place of {second}: 30 products instead of 20\n"
    )
    assert refused(["rollback", *where], capsys) == (
        4, f"catalogue-index: version {first} took no other's place: there is none to roll back to"
    )  # fmt: skip
    # That run is over: the same night again makes another version, which is refused as the first one was.
    assert refused([*night(20)], capsys)[0] == 4


def test_verify_names_each_wrong_file_and_exits_with_6(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = make_version(tmp_path, "v1", draw_products(30))
    where, files = ["--index", str(tmp_path)], tmp_path / "versions" / "v1"
    capsys.readouterr()
    assert refused(["verify", *where], capsys) == (
        2, f"catalogue-index: no version of {tmp_path} is published: say which one by --version"
    )  # fmt: skip
    assert main(["publish", "v1", *where, "--min-recall", "0.5"]) == 0
    capsys.readouterr()
    assert main(["verify", *where]) == 0
    total = sum(entry.size for entry in manifest.files.values())
    assert capsys.readouterr().out == (
        f"version v1 is whole: 5 files, {total:,} bytes; so is its bundle {manifest.bundle[:12]}\n"
    )
    damaged = [files / manifest.annoy[0].file, files / manifest.vectors[0]]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert main(["verify", *where, "--version", "v1"]) == 6
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" its sha256")[0] for line in lines[:-1]] == [f"{path} is altered:" for path in damaged]
    assert lines[-1] == "version v1 is damaged: 2 of its files or its bundle's are wrong"
    (files / "manifest.json").write_text("{")
    for command in (["verify"], ["verify", "--version", "v1"], ["evaluate"], ["evaluate", "--compare", "v1", "v1"]):
        assert refused([*command, *where], capsys)[0] == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["publish", "v1", "--catalogue", "x"], "publish takes a version ('v1') or --catalogue, not both"),
        (["publish", "--catalogue", "x", "--force"], "--force goes with a version: catalogue-index publish VERSION"),
        (["publish"], "--catalogue is missing: say it on the command line"),
        (["publish", "v1", "--forc"], "unknown flag '--forc' (see catalogue-index publish --help)"),
        (["publish", "v1"], "there is no version 'v1' in "),
        (["publish", "v1", "--max-shrink", "2"], "--max-shrink is 2.0; it is a share between 0 and 1"),
        (["verify", "--version", "v1"], "there is no version 'v1' in "),
        (["explain", "P1", "--version", "v1"], "there is no version 'v1' in "),
        (["evaluate", "--version", "v1"], "there is no version 'v1' in "),
        (["evaluate", "--ablate", "--version", "../v1"], "there is no version '../v1' in "),
        (["evaluate", "--compare", "v1", "v2"], "there is no version 'v1' in "),
        (["evaluate"], "no version of "),
        (["explain", "P1"], "no version of "),
    ],
)
def test_a_wrong_use_of_publishing_is_named(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = refused([*arguments, "--index", str(tmp_path)], capsys)
    assert code == 2
    assert text.startswith(f"catalogue-index: {message}")


def test_an_index_that_is_not_there_is_not_made_by_looking_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = str(tmp_path / "none")
    every = (["publish", "v1"], ["rollback"], ["versions"], ["verify"], ["explain", "P1"], ["evaluate"], ["prune"])
    for arguments in (*every, ["verify", "--version", "v1"], ["evaluate", "--compare", "v1", "v2"]):
        told = f"catalogue-index: there is no index at {index}: no such folder"
        assert refused([*arguments, "--index", index], capsys) == (2, told)
    assert not (tmp_path / "none").exists()


def test_a_query_imports_neither_beam_nor_tensorflow() -> None:
    code = (
        "import sys, pipelines.cli as cli\n"
        "cli.main(['query', '--index', 'nowhere', '--text', 'x'])\n"
        "loaded = {'apache_beam', 'tensorflow', 'keras'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
