"""Formats are recognised by content, and what contradicts a suffix or --format is an error that says what it is."""

from __future__ import annotations

import io
import json
import logging
import tarfile
from pathlib import Path

import pytest
from shop_files import SHOP, write_csv, write_jsonl, write_parquet, write_tsv, zip_file

from pipelines import config
from pipelines.catalogue import CatalogueError, list_shards
from pipelines.config import ConfigError, read_config
from pipelines.readers import READERS
from pipelines.recognition import NOUNS, header_delimiter, look

MERCHANT = "id\ttitle\tdescription\tlink\timage_link\tprice\n1\tHat\tplain\tl\ta.jpg\t5 USD\n"
SHOPIFY = "Handle,Title,Body (HTML),Vendor,Variant Price,Image Src\nhat,Hat,plain,Casa,5.00,a.jpg\n"
WOOCOMMERCE = 'ID,Type,SKU,Name,Published,"GTIN, UPC, EAN, or ISBN",Regular price,Images,Parent\n1,simple,s,Hat,1,,5,a.jpg,\n'
FEED = '<?xml version="1.0"?>\n<rss xmlns:g="http://base.google.com/ns/1.0"><channel></channel></rss>'


def make(folder: Path, name: str, kind: str) -> Path:
    """Write a file of one format under any name."""
    path = folder / name
    texts = {"merchant": MERCHANT, "shopify": SHOPIFY, "woocommerce": WOOCOMMERCE, "xml": FEED, "array": "[]"}
    writers = {"parquet": write_parquet, "jsonl": write_jsonl, "csv": write_csv, "tsv": write_tsv}
    if kind in writers:
        writers[kind](path, SHOP)
    elif kind == "tfrecord":
        import tensorflow as tf

        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(b"data")
    elif kind == "webdataset":
        with tarfile.open(path, "w") as tar:
            info = tarfile.TarInfo("1.json")
            info.size = 2
            tar.addfile(info, io.BytesIO(b"{}"))
    else:
        path.write_text(texts[kind])
    return path


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("name", "kind", "form"),
    [
        ("data", "parquet", "parquet"),
        ("data", "jsonl", "jsonl"),
        ("data", "tfrecord", "tfrecord"),
        ("data.bin", "webdataset", "webdataset"),
        ("feed", "xml", "merchant"),
        ("feed.txt", "merchant", "merchant"),
        ("feed.csv", "merchant", "merchant"),
        ("export.txt", "shopify", "shopify"),
        ("export.csv", "woocommerce", "woocommerce"),
        ("export.tsv", "woocommerce", "woocommerce"),
        ("x.csv", "csv", "csv"),
        ("x.tab", "tsv", "tsv"),
        ("part-00001-of-00004", "parquet", "parquet"),
    ],
)
def test_the_content_says_the_format(
    tmp_path: Path, name: str, kind: str, form: str, zipped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = make(tmp_path, name, kind)
    with caplog.at_level(logging.INFO):
        (shard,) = list_shards([str(zip_file(path) if zipped else path)])
    assert (shard.format, shard.compression) == (form, "gzip" if zipped else None)
    assert f"recognised 1 file as {NOUNS[shard.format]}" in caplog.text


def test_one_sentence_says_what_was_recognised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(3):
        make(tmp_path, f"products_{number}.csv", "shopify")
    make(tmp_path, "own.parquet", "parquet")
    with caplog.at_level(logging.INFO):
        list_shards([str(tmp_path)])
    (sentence,) = [record.message for record in caplog.records]
    assert sentence == ("recognised 1 file as Parquet; 3 files as a Shopify product export: rows with one handle are one product")


@pytest.mark.parametrize(
    ("name", "kind", "sentence"),
    [
        ("x.tfrecord", "parquet", r"x\.tfrecord is not TFRecord, it is Parquet: give it the suffix of what it is"),
        ("x.tar", "jsonl", r"x\.tar is not a WebDataset tar, it is of another format"),
        ("x.parquet", "webdataset", r"x\.parquet is not a Parquet file, it is a tar archive"),
        ("x.csv", "tfrecord", r"x\.csv is no text, it is TFRecord"),
        ("x.jsonl", "webdataset", r"x\.jsonl is no text, it is a tar archive"),
        ("x.xml", "csv", r"x\.xml is not a Google Merchant feed, it is of another format"),
        ("x.txt", "csv", r"x\.txt is of no known format \(\.parquet, .*rename it"),
    ],
)
def test_a_suffix_that_the_content_contradicts_is_refused(tmp_path: Path, name: str, kind: str, sentence: str) -> None:
    with pytest.raises(CatalogueError, match=sentence):
        list_shards([str(make(tmp_path, name, kind))])


@pytest.mark.parametrize(
    ("name", "kind", "form"),
    [
        ("x.csv", "shopify", "csv"), ("x.csv", "woocommerce", "csv"), ("x.txt", "merchant", "tsv"), ("x.txt", "csv", "csv"),
        ("x.data", "jsonl", "jsonl"), ("x.csv", "csv", "merchant"), ("x.parquet", "tfrecord", "tfrecord"),
    ],
)  # fmt: skip
def test_the_format_that_is_asked_for_is_taken_where_the_content_fits(tmp_path: Path, name: str, kind: str, form: str) -> None:
    (shard,) = list_shards([str(make(tmp_path, name, kind))], form)  # type: ignore[arg-type]
    assert shard.format == form


@pytest.mark.parametrize(
    ("name", "kind", "form", "looks"),
    [
        ("x.csv", "csv", "shopify", "CSV with the columns id, title, description, price, stock"),
        ("x.csv", "csv", "tsv", "CSV with the columns"),
        ("x.tsv", "tsv", "csv", "TSV with the columns id, title"),
        ("x.csv", "shopify", "woocommerce", "a Shopify product export"),
        ("x.csv", "woocommerce", "merchant", "a WooCommerce product export"),
        ("x.parquet", "parquet", "jsonl", "Parquet"),
        ("x.jsonl", "jsonl", "parquet", "JSON"),
        ("x.tar", "webdataset", "tfrecord", "a tar archive"),
        ("x.tfrecord", "tfrecord", "webdataset", "TFRecord"),
        ("x.xml", "xml", "csv", "a Google Merchant feed"),
        ("x.csv", "csv", "webdataset", "CSV with the columns"),
        ("x.json", "array", "jsonl", "a JSON array"),
    ],
)  # fmt: skip
def test_a_file_that_contradicts_the_format_asked_for_is_named(
    tmp_path: Path, name: str, kind: str, form: str, looks: str
) -> None:
    path = make(tmp_path, name, kind)
    with pytest.raises(CatalogueError) as error:
        list_shards([str(path)], form)  # type: ignore[arg-type]
    noun = NOUNS[form]  # type: ignore[index]
    assert str(error.value).startswith(f"{path} is not {noun}, as --format {form} says, it looks like {looks}")
    assert str(error.value).endswith(": leave --format out, or narrow the glob")


def test_other_xml_and_pictures_are_named(tmp_path: Path) -> None:
    assert look(b"<html></html>").noun == "XML or HTML of another kind"
    assert look(b"\xff\xd8\xff\xe0....").noun == "a picture"
    assert look("﻿".encode() + b'{"id": 1}').formats == ("jsonl",)
    assert look(b"").formats == look(b"\n\n").formats == ()
    assert [header_delimiter(line) for line in ("a,b;c,d", "a;b", "a\tb", "a")] == [",", ";", "\t", ","]


def test_the_setting_names_every_reader(tmp_path: Path) -> None:
    assert ("auto", *READERS) == config.FORMATS
    assert set(NOUNS) == set(READERS)
    assert read_config(None, {}).format == "auto"
    (tmp_path / "c.toml").write_text('format = "excel"')
    with pytest.raises(ConfigError, match="--format is 'excel'; it may be auto, parquet, jsonl, csv, tsv, tfrecord, webdataset"):
        read_config(str(tmp_path / "c.toml"), {})


def test_json_over_several_lines_is_told_to_be_written_one_object_a_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_text(json.dumps({"id": 1, "title": "a"}, indent=1))
    (shard,) = list_shards([str(tmp_path / "x")])
    with pytest.raises(CatalogueError, match=r"does not hold JSON lines, one object a line \(line 1 is not JSON"):
        READERS[shard.format].describe(shard, 1 << 20)
