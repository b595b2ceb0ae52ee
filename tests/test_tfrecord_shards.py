"""TFRecord shards of tf.train.Example: every feature, every checksum, and pictures read again by row."""

from __future__ import annotations

import struct
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import jpeg
from google.protobuf.json_format import MessageToDict
from shop_files import example, open_catalogue, problems_of, publish, read, rejects_of, rows_of, write_tfrecord, zip_file

from pipelines import tfrecord_shards
from pipelines.catalogue import CatalogueError, list_shards, pieces, read_pictures, read_piece
from pipelines.example_message import Example
from pipelines.recognition import masked_crc32c

RED, BLUE = jpeg((200, 30, 30), 1), jpeg((30, 40, 210), 2)


SHOP = [
    example(product_id="a1", title="Red shoe", price=19.99, stock=3, image__encoded=RED, tags=["new", "红"]),
    example(product_id="a2", title="蓝色 衬衫", stock=0, image__encoded=[RED, BLUE], tags=[], sizes=[38, 39], score=[0.5, 0.25]),
    example(product_id="a3", title="Hat", price=7.0, tags=["old"], image__encoded=b""),
]


@pytest.mark.parametrize("name", ["x.tfrecord", "x.tfrecords", "train-00000-of-00010", "x.tfrecord-00003-of-00010"])
@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_examples_are_rows_and_features_columns(tmp_path: Path, name: str, compression: str) -> None:
    write_tfrecord(tmp_path / (name + ".gz" * (compression == "GZIP")), SHOP, compression)
    shards, schema = open_catalogue(tmp_path)
    assert (shards[0].format, shards[0].compression) == ("tfrecord", "gzip" if compression else None)
    assert schema.picture_kind == "bytes"
    assert {field.name: field.type for field in schema.kept} == {
        "title": pa.string(), "price": pa.float64(), "tags": pa.list_(pa.string()), "stock": pa.int64(),
    }  # fmt: skip
    rows = rows_of(shards, schema)
    assert [row["product_id"] for row in rows] == ["a1", "a2", "a3"]
    assert [row["text"] for row in rows] == [["Red shoe"], ["蓝色 衬衫"], ["Hat"]]
    assert [row["price"] for row in rows] == ["19.99", None, "7"]
    assert [row["kept"]["stock"] for row in rows] == [3, 0, None]
    assert [row["kept"]["tags"] for row in rows] == [["new", "红"], None, ["old"]]
    assert [row["picture_bytes"] for row in rows] == [[RED], [RED, BLUE], None]
    assert not problems_of(rows)


def test_pictures_are_read_again_by_row_without_reading_others(tmp_path: Path) -> None:
    pictures = [jpeg((10, 20, 30), seed) for seed in range(40)]
    path = write_tfrecord(tmp_path / "x.tfrecord", [example(id=i, image=data) for i, data in enumerate(pictures)])
    shards, schema = open_catalogue(path)
    wanted = [3, 4, 17, 39]
    assert list(read_pictures(shards[0], wanted, None, schema)) == [(row, [pictures[row]]) for row in wanted]
    assert list(read_pictures(shards[0], [], None, schema)) == []
    with pytest.raises(CatalogueError, match=r"x\.tfrecord has 40 rows and no row 40: start the run again"):
        list(read_pictures(shards[0], [5, 40], None, schema))
    data = bytearray(path.read_bytes())
    data[100] ^= 1  # in the data of the first record, which nobody asked for
    path.write_bytes(data)
    zip_file(path)
    with pytest.raises(CatalogueError, match=r"x\.tfrecord\.gz is damaged at byte 0 \(record 0\): the checksum"):
        open_catalogue(tmp_path)


def test_a_picture_that_looks_like_a_text_stays_the_bytes_it_is(tmp_path: Path) -> None:
    path = write_tfrecord(tmp_path / "x.tfrecord", [example(id=1, image=RED), example(id=2, image=b"<html>404</html>")])
    shards, schema = open_catalogue(path)
    assert [row["picture_bytes"] for row in rows_of(shards, schema)] == [[RED], [b"<html>404</html>"]]
    assert list(read_pictures(shards[0], [1], None, schema)) == [(1, [b"<html>404</html>"])]


@pytest.mark.parametrize(
    ("cut", "sentence"),
    [
        (-1, r"is cut off at byte {last} \(record 2\): a record of \d+ bytes has no end; write it again"),
        (-60, r"is cut off at byte {last} \(record 2\): a record of \d+ bytes has no end"),
        (5, r"is cut off at byte {last} \(record 2\): the header of a record is incomplete"),
    ],
)
def test_a_cut_off_shard_is_refused_with_the_place(tmp_path: Path, cut: int, sentence: str) -> None:
    path = write_tfrecord(tmp_path / "x.tfrecord", SHOP)
    data = path.read_bytes()
    last = len(data) - len(SHOP[2]) - 16
    path.write_bytes(data[:cut] if cut < 0 else data[: last + cut])
    with pytest.raises(CatalogueError, match=r"x\.tfrecord " + sentence.format(last=last)):
        open_catalogue(path)


def test_a_gzipped_shard_cut_in_half_is_refused_by_name(tmp_path: Path) -> None:
    path = write_tfrecord(tmp_path / "x.tfrecord.gz", SHOP, "GZIP")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CatalogueError, match=r"x\.tfrecord\.gz is cut off: its gzip stream has no end; write it again"):
        open_catalogue(path)


def test_a_cut_off_shard_is_refused_while_pictures_are_passed_over(tmp_path: Path) -> None:
    path = write_tfrecord(tmp_path / "x.tfrecord", [example(id=i, image=RED) for i in range(5)])
    _, schema = open_catalogue(path)
    path.write_bytes(path.read_bytes()[:-700])
    (cut,) = list_shards([str(path)])
    with pytest.raises(CatalogueError, match=r"is cut off at byte \d+ \(record 4\): a record of \d+ bytes has no end"):
        list(read_pictures(cut, [3, 7], None, schema))


def test_damage_is_named_by_its_place(tmp_path: Path) -> None:
    path = write_tfrecord(tmp_path / "x.tfrecord", SHOP)
    good = path.read_bytes()
    second = len(SHOP[0]) + 16
    for place, sentence in (
        (second + 20, rf"is damaged at byte {second} \(record 1\): the checksum of a record does not fit its data"),
        (second + 3, rf"is damaged at byte {second} \(record 1\): a record's length of \d+ bytes is wrong"),
        (2, r"is damaged at byte 0 \(record 0\): a record's length of \d+ bytes is wrong; write it again"),
    ):
        data = bytearray(good)
        data[place] ^= 0x40
        path.write_bytes(data)
        with pytest.raises(CatalogueError, match=r"x\.tfrecord " + sentence):
            open_catalogue(path)


def test_an_absurd_length_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = write_tfrecord(tmp_path / "x.tfrecord", SHOP)
    for length, sentence in ((1 << 62, "a record's length of 4611686018427387904 bytes is wrong"), (1 << 36, "has no end")):
        header = struct.pack("<Q", length)
        path.write_bytes(header + struct.pack("<I", masked_crc32c(header)) + path.read_bytes()[12:])
        with pytest.raises(CatalogueError, match=sentence):
            open_catalogue(path)


def test_records_that_cannot_be_read_are_rows_in_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfrecord_shards, "MAX_ROW_BYTES", 1 << 20)
    long = example(id=9, title="x" * 2_000_000)
    path = write_tfrecord(tmp_path / "x.tfrecord", [SHOP[0], b"\xff\xffno message", long, SHOP[2], SHOP[1]])
    shards, schema = open_catalogue(path)
    rows = rows_of(shards, schema)
    assert [(row["row"], row["product_id"]) for row in rows] == [(0, "a1"), (1, None), (2, None), (3, "a3"), (4, "a2")]
    assert [row["problems"][0]["detail"] for row in rows if row["problems"]] == [
        "record 1 is no tf.train.Example", "record 2 is longer than 64 MB",
    ]  # fmt: skip
    assert list(read_pictures(shards[0], [2, 4], None, schema)) == [(2, []), (4, [RED, BLUE])]


def test_records_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = write_tfrecord(tmp_path / "x.tfrecord", [b"\xff\xff", b"\xff\xfe"])
    with pytest.raises(CatalogueError, match=r"does not hold records of tf\.train\.Example \(record 0 is no"):
        open_catalogue(path)


def test_a_shard_without_records_reads_as_nothing(tmp_path: Path) -> None:
    write_tfrecord(tmp_path / "none.tfrecord.gz", [], "GZIP")
    with pytest.raises(CatalogueError, match="the catalogue has no rows: all of its 1 files are empty"):
        open_catalogue(tmp_path)
    write_tfrecord(tmp_path / "x.tfrecord", SHOP)
    assert [row["shard"] for row in read(tmp_path)] == [1, 1, 1]


def test_blocks_keep_to_rows_and_bytes(tmp_path: Path) -> None:
    write_tfrecord(tmp_path / "x.tfrecord", [example(id=i, image=RED) for i in range(200)])
    shards, schema = open_catalogue(tmp_path)
    (piece,) = pieces(shards[0])
    assert max(batch.num_rows for batch in read_piece(piece, schema, batch_rows=64)) == 64
    assert max(batch.nbytes for batch in read_piece(piece, schema, batch_bytes=20_000)) < 30_000
    for stop in (0, 1, 64, 150, 300):
        rows = [row for batch in read_piece(piece, schema, batch_rows=64, stop_row=stop) for row in batch["row"].to_pylist()]
        assert rows == list(range(min(stop, 200)))


def test_the_message_is_tensorflows() -> None:
    import tensorflow as tf

    for data in SHOP:
        ours, theirs = Example.FromString(data), tf.train.Example.FromString(data)
        assert MessageToDict(ours) == MessageToDict(theirs)
        assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)
    for number, field in enumerate(("bytes_list", "float_list", "int64_list"), 1):
        assert tf.train.Feature.DESCRIPTOR.fields_by_name[field].number == number


def test_a_tfrecord_catalogue_becomes_a_published_version(tmp_path: Path, tiny_bundle: Path) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    pictures = [jpeg((200, 30, 30), seed) for seed in range(12)]
    rows = [example(id=f"p{i}", title=f"红色 衬衫 {i}", price=float(i), image=data) for i, data in enumerate(pictures)]
    write_tfrecord(shop / "train-00000-of-00002", rows[:7])
    write_tfrecord(shop / "train-00001-of-00002.gz", [*rows[7:], example(id="bad", title="one", image=RED[:90])], "GZIP")
    report, found = publish(tmp_path, tiny_bundle, shop, max_reject_rate=0.2)
    assert (report.rows, report.indexed, report.published) == (13, 13, True)
    assert report.encoded == {"picture": 12, "text": 13}
    assert found["p11"] == {"title": "红色 衬衫 11", "price": 11.0}
    (reject,) = rejects_of(tmp_path, report)
    assert (reject["product_id"], reject["shard"], reject["row"], reject["field"]) == (
        "bad", f"{shop}/train-00001-of-00002.gz", 5, "picture",
    )  # fmt: skip
