"""WebDataset tars as img2dataset writes them: members of one key are one product, broken tars are refused by name."""

from __future__ import annotations

import gzip
import json
import logging
import tarfile
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import jpeg
from shop_files import Member, open_catalogue, problems_of, publish, read, rejects_of, rows_of, write_parquet, write_tar

from pipelines import webdataset_shards
from pipelines.catalogue import CatalogueError, list_shards, pieces, read_pictures, read_piece

RED, BLUE = jpeg((200, 30, 30), 1), jpeg((30, 40, 210), 2)
def sample(number: int, caption: str | None, data: bytes = RED, suffix: str = "jpg", **fields: Any) -> list[Member]:
    """Return the members of one sample as img2dataset 1.4x writes them."""
    key = f"{number:09d}"
    about = {
        "caption": caption, "url": f"https://shop.example/{key}.jpg", "key": key, "status": "success", "error_message": None,
        "width": 32, "height": 32, "exif": "{}", "sha256": "0" * 64, **fields,
    }  # fmt: skip
    text = [] if caption is None else [(f"{key}.txt", caption.encode())]
    return [(f"{key}.{suffix}", data), *text, (f"{key}.json", json.dumps(about).encode())]


SHOP = [
    *sample(0, "Red shoe"),
    *sample(1, "蓝色 衬衫", BLUE, "webp"),
    *sample(2, None, b"", "png"),
    *sample(3, "Hat", RED, "jpeg"),
]


@pytest.mark.parametrize("name", ["00000.tar", "00000.tar.gz", "00000.tgz", "shard-00000-of-00002"])
def test_members_of_one_key_are_one_product(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / name, SHOP)
    shards, schema = open_catalogue(tmp_path)
    assert (shards[0].format, shards[0].compression) == ("webdataset", "gzip" if "gz" in name else None)
    assert schema.sources["product_id"] == ("key",)
    assert schema.sources["title"] == ("caption",)
    assert schema.picture_kind == "bytes"
    assert {"url", "width", "sha256"} <= set(schema.kept.names)
    rows = rows_of(shards, schema)
    assert [row["product_id"] for row in rows] == ["000000000", "000000001", "000000002", "000000003"]
    assert [row["text"] for row in rows] == [["Red shoe"], ["蓝色 衬衫"], [], ["Hat"]]
    assert [row["picture_bytes"] for row in rows] == [[RED], [BLUE], None, [RED]]
    assert [row["kept"]["url"] for row in rows][1] == "https://shop.example/000000001.jpg"
    assert not problems_of(rows)
    assert list(read_pictures(shards[0], [1, 2, 3], None, schema)) == [(1, [BLUE]), (2, []), (3, [RED])]
    assert [row["picture_bytes"] for row in rows_of(shards, schema, pictures=False)] == [None] * 4


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_tar_and_name_is_read(tmp_path: Path, form: int) -> None:
    folder = "照片" if form != tarfile.USTAR_FORMAT else "photos"
    deep = f"{folder}/{'deep/' * 30}" if form != tarfile.USTAR_FORMAT else "deep/"
    members = [
        ("README", b"no member of a product"),
        (f"{folder}/1.b.jpg", BLUE),
        (f"{folder}/1.a.jpg", RED),
        (f"{folder}/1.txt", b"two"),
        (f"{folder}/._1.jpg", b"of a Mac"),
        (f"{deep}2.JPG", RED),
        (f"{deep}2.npy", b"\x93NUMPY"),
    ]
    write_tar(tmp_path / "x.tar", members, form)
    shards, schema = open_catalogue(tmp_path)
    rows = rows_of(shards, schema)
    assert [row["product_id"] for row in rows] == [f"{folder}/1", f"{deep}2"]
    assert [row["picture_bytes"] for row in rows] == [[BLUE, RED], [RED]]
    assert rows[0]["text"] == ["two"]
    assert list(read_pictures(shards[0], [0], None, schema)) == [(0, [BLUE, RED])]


def test_an_id_and_a_title_of_the_json_come_before_key_and_caption(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", sample(7, "a caption", sku="S-7", title="A title", price=9.5, picture="elsewhere.jpg"))
    (row,) = read(tmp_path)
    assert (row["product_id"], row["text"], row["price"]) == ("S-7", ["A title"], "9.5")
    assert row["picture_bytes"] == [RED]
    assert (row["kept"]["key"], row["kept"]["caption"]) == ("000000007", "a caption")


def test_what_img2dataset_writes_beside_its_tars_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(2):
        write_tar(tmp_path / f"{number:05d}.tar", sample(number, "shoe"))
        write_parquet(tmp_path / f"{number:05d}.parquet", [{"key": f"{number:09d}", "caption": "shoe", "status": "success"}])
        (tmp_path / f"{number:05d}_stats.json").write_text('{"count": 1, "successes": 1}')
    for pattern in (str(tmp_path), f"{tmp_path}/*"):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            shards = list_shards([pattern])
        assert [Path(shard.uri).name for shard in shards] == ["00000.tar", "00001.tar"]
        assert (
            "4 files that lie beside tars of the same name are left out: "
            "00000.parquet, 00000_stats.json, 00001.parquet, 00001_stats.json" in caplog.text
        )
        assert "recognised 2 files as a WebDataset tar: members of one key are one product" in caplog.text
    assert [shard.format for shard in list_shards([f"{tmp_path}/*.parquet"])] == ["parquet"] * 2


@pytest.mark.parametrize("cut", ["in a member", "in a header", "between members", "without its end mark"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_tar_that_is_cut_off_is_refused_by_name(tmp_path: Path, cut: str, zipped: bool) -> None:
    data = write_tar(tmp_path / "x.tar", [("1.jpg", bytes(2000)), ("1.txt", b"shoe"), ("2.jpg", bytes(2000))]).read_bytes()
    # Headers lie at 0, 2560 and 3584; the data of the last member ends at 6096, its block at 6144.
    place = {"in a member": 5000, "in a header": 3700, "between members": 3584, "without its end mark": 6144}[cut]
    (tmp_path / "x.tar").write_bytes(gzip.compress(data[:place]) if zipped else data[:place])
    with pytest.raises(CatalogueError, match=r"x\.tar is cut off or damaged near byte \d+: .*; write it again"):
        open_catalogue(tmp_path)


def test_a_gzipped_tar_cut_in_half_is_refused_by_name(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar.gz", SHOP)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CatalogueError, match=r"x\.tar\.gz is cut off: its gzip stream has no end; write it again"):
        open_catalogue(tmp_path)


def test_a_damaged_header_is_refused_and_not_taken_for_the_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [("1.txt", b"a"), ("2.txt", b"b"), ("3.txt", b"c")])
    data = bytearray(path.read_bytes())
    data[1024 + 150] ^= 1
    path.write_bytes(data)
    with pytest.raises(CatalogueError, match="a member's header or the end mark is missing"):
        open_catalogue(tmp_path)
    data[:512] = b"x" * 512
    path.write_bytes(data)
    with pytest.raises(CatalogueError, match=r"x\.tar is not a WebDataset tar, it is of another format"):
        open_catalogue(tmp_path)


def test_a_tar_cut_off_behind_what_is_inspected_is_refused_while_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.catalogue._SAMPLE_BYTES", range(1, 2_000))
    path = write_tar(tmp_path / "x.tar", [member for number in range(50) for member in sample(number, "shoe")])
    path.write_bytes(path.read_bytes()[:-20_000])
    shards, schema = open_catalogue(tmp_path)
    with pytest.raises(CatalogueError, match=r"x\.tar is cut off or damaged"):
        rows_of(shards, schema)
    with pytest.raises(CatalogueError, match=r"x\.tar is cut off or damaged"):
        list(read_pictures(shards[0], [0, 49], None, schema))


def test_an_absurd_header_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 1 << 34
    data = write_tar(tmp_path / "x.tar", sample(0, "shoe")).read_bytes()
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + data)
    with pytest.raises(CatalogueError, match="a member's header has 17179869184 bytes"):
        open_catalogue(tmp_path)


def test_products_that_cannot_be_read_are_rows_in_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset_shards, "MAX_ROW_BYTES", 1 << 20)
    members = [
        *sample(0, "a"), ("1.json", b'{"key": '), ("1.jpg", RED), ("2.json", b"[1]"), ("3.txt", b"caf\xe9"),
        ("4.jpg", bytes(2_000_000)), ("4.txt", b"long"), *sample(5, "b"), *sample(6, "c"), *sample(7, "d"), *sample(8, "e"),
    ]  # fmt: skip
    write_tar(tmp_path / "x.tar", members)
    rows = read(tmp_path)
    assert [row["row"] for row in rows] == list(range(9))
    assert problems_of(rows) == {row: [(None, "unreadable_row")] for row in (1, 2, 3, 4)}
    details = [row["problems"][0]["detail"] for row in rows if row["problems"]]
    assert details[0].startswith("the member 1.json cannot be read: Expecting value")
    assert details[1] == "the member 2.json cannot be read: it is JSON, but not an object"
    assert "the member 3.txt cannot be read: 'utf-8' codec can't decode byte 0xe9" in details[2]
    assert details[3].startswith("the product '4' is longer than")


def test_a_tar_without_members_reads_as_nothing(tmp_path: Path) -> None:
    write_tar(tmp_path / "none.tar", [])
    with pytest.raises(CatalogueError, match="the catalogue has no rows: all of its 1 files are empty"):
        open_catalogue(tmp_path)
    write_tar(tmp_path / "x.tar", SHOP)
    assert [row["shard"] for row in read(tmp_path)] == [1] * 4


def test_a_tar_is_never_whole_in_memory(tmp_path: Path) -> None:
    import tracemalloc

    members = [(f"{number:05d}.jpg", RED[:20] + bytes(400_000)) for number in range(200)]
    write_tar(tmp_path / "x.tar", members)
    shards, schema = open_catalogue(tmp_path, keep=())
    previous, pool = pa.default_memory_pool(), pa.system_memory_pool()
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        before = pool.bytes_allocated()
        count = sum(batch.num_rows for batch in read_piece(pieces(shards[0])[0], schema, batch_bytes=4 << 20))
        assert len(list(read_pictures(shards[0], range(0, 200, 9), None, schema, batch_bytes=4 << 20))) == 23
        assert count == 200
        assert pool.max_memory() - before < 20 << 20
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(previous)


def test_a_folder_of_tars_becomes_a_published_version(tmp_path: Path, tiny_bundle: Path) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    pictures = [jpeg((200, 30, 30), seed) for seed in range(12)]
    samples = [sample(number, f"红色 衬衫 {number}", data, price=float(number)) for number, data in enumerate(pictures)]
    write_tar(shop / "00000.tar", list(chain(*samples[:7])))
    write_tar(shop / "00001.tar.gz", list(chain(sample(99, "broken", RED[:90]), *samples[7:])))
    (shop / "00000_stats.json").write_text("{}")
    report, found = publish(tmp_path, tiny_bundle, shop, max_reject_rate=0.2)
    assert (report.rows, report.indexed, report.published) == (13, 13, True)
    assert report.encoded == {"picture": 12, "text": 13}
    assert (found["000000011"]["title"], found["000000011"]["price"]) == ("红色 衬衫 11", 11.0)
    (reject,) = rejects_of(tmp_path, report)
    assert (reject["product_id"], reject["shard"], reject["row"], reject["field"]) == (
        "000000099", f"{shop}/00001.tar.gz", 0, "picture",
    )  # fmt: skip
