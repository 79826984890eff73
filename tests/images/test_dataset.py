import csv
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rrr_edge.images.dataset
import rrr_edge.images.preprocess
import rrr_edge.images.reading
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.errors import BadInput, CannotRunHere, UsageError
from rrr_edge.images.dataset import calibration_folder, choose_balanced, read_folder, scan
from rrr_edge.images.decode import Decoded, Reduction
from rrr_edge.images.digits import write_calibration_digits, write_digits
from rrr_edge.images.fit import fit
from rrr_edge.images.layouts import HeldOut, image_files
from rrr_edge.images.picture import load
from rrr_edge.images.reading import BadFile

CHECKOUT = Path(__file__).parents[2]


def draw(path: Path, seed: int, shape: tuple[int, int] = (10, 12)) -> Path:
    """A picture that no other seed gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def draw_classes(folder: Path, count: int = 5, labels: tuple[str, ...] = ("cup", "mug"), seed: int = 0) -> Path:
    for label in labels:
        for i in range(count):
            seed += 1
            draw(folder / label / f"{i:03}.png", seed)
    return folder


def draw_splits(folder: Path) -> Path:
    for seed, (split, count) in enumerate({"train": 4, "test": 3, "val": 2}.items(), start=1):
        draw_classes(folder / split, count, seed=1000 * seed)
    return folder


def draw_album(folder: Path, count: int = 4, columns: tuple[str, str] = ("FILE_NAME", "CATEGORY"), tab=False) -> Path:
    rows = [(f"{label}{i}.png", label) for i in range(count) for label in ("wasp", "bee")]
    for seed, (name, _) in enumerate(rows):
        draw(folder / "images" / name, seed)
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if tab else ",")
        writer.writerow([*columns, "SUPER_CATEGORY"])
        writer.writerows([*row, "insect"] for row in rows)
    info = {"image_column_name": columns[0], "category_column_name": columns[1]}
    (folder / "info.json").write_text(json.dumps(info))
    return folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class TestLayouts:
    def test_given_splits_are_used_as_they_are(self, tmp_path):
        data = scan(draw_splits(tmp_path), Preprocess(image_size=8))
        assert (data.layout, data.labels, data.bad, data.duplicates) == ("splits", ("cup", "mug"), (), ())
        for name, split, count in [("train", data.train, 4), ("test", data.test, 3), ("val", data.val, 2)]:
            expected = [f"{name}/{label}/{i:03}.png" for label in ("cup", "mug") for i in range(count)]
            assert list(split.files) == expected
            assert split.labels.dtype == np.int64
            np.testing.assert_array_equal(split.labels, [0] * count + [1] * count)
            assert split.images.dtype == np.uint8
            np.testing.assert_array_equal(split.images, [fit(load(tmp_path / file), 8) for file in expected])

    def test_val_is_optional(self, tmp_path):
        draw_classes(tmp_path / "train")
        draw_classes(tmp_path / "test", seed=100)
        assert scan(tmp_path, Preprocess(image_size=8)).val is None

    def test_without_val_a_share_of_each_class_is_held_out_and_the_digest_stays(self, tmp_path):
        draw_classes(tmp_path / "train", 15)
        draw_classes(tmp_path / "test", seed=100)
        whole, held, again, other = (
            scan(tmp_path, Preprocess(image_size=8), seed=seed, held_out=HeldOut(share))
            for share, seed in ((0, 3), (0.2, 3), (0.2, 3), (0.2, 4))
        )
        assert not whole.held_out
        assert held.held_out
        assert np.bincount(held.val.labels).tolist() == [3, 3]
        assert sorted((*held.train.files, *held.val.files)) == sorted(whole.train.files)
        assert held.digest == whole.digest
        assert held.val.files == again.val.files != other.val.files
        for file, image in zip(held.val.files, held.val.images, strict=True):
            np.testing.assert_array_equal(image, fit(load(tmp_path / file), 8))

    @pytest.mark.parametrize(
        ("share", "least", "count", "held"), [(0.1, 5, 4, 0), (0.1, 5, 5, 1), (0.2, 2, 2, 1), (0.2, 2, 1, 0)]
    )
    def test_small_classes_keep_their_photos(self, share, least, count, held):
        files = [f"{i}.png" for i in range(count)]
        splits = HeldOut(share, least).divide({"train": {"cup": files}}, seed=0)
        assert len(splits.get("val", {}).get("cup", ())) == held
        assert len(splits["train"]["cup"]) == count - held

    def test_photos_that_are_given_for_validation_are_taken(self, tmp_path):
        data = scan(draw_splits(tmp_path), Preprocess(image_size=8), held_out=HeldOut(0.5))
        assert (len(data.train.files), len(data.val.files), data.held_out) == (8, 4, False)

    @pytest.mark.parametrize("count", [2, 3, 5, 20, 33])
    def test_plain_classes_are_split_80_to_20(self, tmp_path, count):
        data = scan(draw_classes(tmp_path, count), Preprocess(image_size=8))
        tests = max(1, round(count / 5))
        assert data.layout == "classes"
        np.testing.assert_array_equal(np.bincount(data.test.labels), [tests, tests])
        np.testing.assert_array_equal(np.bincount(data.train.labels), [count - tests, count - tests])
        together = sorted(data.train.files + data.test.files)
        assert together == sorted(f"{label}/{i:03}.png" for label in ("cup", "mug") for i in range(count))
        for split in (data.train, data.test):
            assert [file.split("/")[0] for file in split.files] == [data.labels[i] for i in split.labels]
            np.testing.assert_array_equal(split.images, [fit(load(tmp_path / file), 8) for file in split.files])

    def test_the_split_depends_on_the_seed_and_nothing_else(self, tmp_path, monkeypatch):
        draw_classes(tmp_path, 20)
        first = scan(tmp_path, Preprocess(image_size=8))
        listdir = os.listdir
        monkeypatch.setattr(os, "listdir", lambda path: sorted(listdir(path), reverse=True))
        again = scan(tmp_path, Preprocess(image_size=8))
        assert (again.train.files, again.test.files, again.digest) == (
            first.train.files,
            first.test.files,
            first.digest,
        )
        other = scan(tmp_path, Preprocess(image_size=8), seed=1)
        assert other.test.files != first.test.files
        assert [file.split("/")[1] for file in first.test.files[:4]] != [f.split("/")[1] for f in first.test.files[4:]]

    @pytest.mark.parametrize(("columns", "tab"), [(("FILE_NAME", "CATEGORY"), False), (("picture", "kind"), True)])
    def test_meta_album(self, tmp_path, columns, tab):
        data = scan(draw_album(tmp_path, columns=columns, tab=tab), Preprocess(image_size=8))
        assert (data.layout, data.labels) == ("meta-album", ("bee", "wasp"))
        np.testing.assert_array_equal(np.bincount(data.train.labels), [2, 2])
        np.testing.assert_array_equal(np.bincount(data.test.labels), [2, 2])
        for split in (data.train, data.test):
            for file, label, image in zip(split.files, split.labels, split.images, strict=True):
                assert file.startswith(f"images/{data.labels[label]}")
                np.testing.assert_array_equal(image, fit(load(tmp_path / file), 8))

    def test_a_class_may_be_called_train(self, tmp_path):
        assert scan(draw_classes(tmp_path, labels=("car", "train")), Preprocess(image_size=8)).labels == (
            "car",
            "train",
        )

    def test_junk_and_hidden_files_are_passed_over(self, tmp_path):
        draw_classes(tmp_path)
        for name in ("Thumbs.db", ".DS_Store", "notes.txt", "._000.png", ".hidden.jpg", "desktop.ini"):
            (tmp_path / "cup" / name).write_bytes(b"junk")
        draw(tmp_path / ".cache" / "x.png", 999)
        (tmp_path / "readme.md").write_text("x")
        data = scan(tmp_path, Preprocess(image_size=8))
        assert (data.labels, data.bad) == (("cup", "mug"), ())
        assert len(data.train.files) + len(data.test.files) == 10

    def test_links_to_classes_are_followed_and_loops_do_no_harm(self, tmp_path):
        draw_classes(tmp_path / "elsewhere", labels=("mug",), seed=100)
        draw_classes(tmp_path / "data", labels=("cup",))
        (tmp_path / "data" / "mug").symlink_to(tmp_path / "elsewhere" / "mug")
        (tmp_path / "data" / "cup" / "loop").symlink_to(tmp_path / "data" / "cup")
        (tmp_path / "data" / "self").symlink_to(tmp_path / "data" / "self")
        assert scan(tmp_path / "data", Preprocess(image_size=8)).labels == ("cup", "mug")

    def test_the_users_files_are_not_touched(self, tmp_path):
        draw_splits(tmp_path)
        before = {file: (file.stat().st_mtime_ns, sha256(file)) for file in tmp_path.rglob("*.png")}
        scan(tmp_path, Preprocess(image_size=8))
        assert {f: (f.stat().st_mtime_ns, sha256(f)) for f in tmp_path.rglob("*") if f.is_file()} == before


class TestNames:
    """`composed` and `decomposed` are equal in NFC."""

    composed, decomposed = "caf\u00e9", "cafe\u0301"

    def test_folders_whose_names_are_equal_are_one_class(self, tmp_path):
        draw_classes(tmp_path, labels=(self.composed, "mug"))
        draw_classes(tmp_path, 3, labels=(self.decomposed,), seed=100)
        data = scan(tmp_path, Preprocess(image_size=8))
        assert data.labels == (self.composed, "mug")
        assert len(data.train.files) + len(data.test.files) == 5 + 5 + 3

    def test_splits_may_write_them_in_different_ways(self, tmp_path):
        draw_classes(tmp_path / "train", labels=(self.composed, "mug"))
        draw_classes(tmp_path / "test", labels=(self.decomposed, "mug"), seed=100)
        assert scan(tmp_path, Preprocess(image_size=8)).labels == (self.composed, "mug")

    @pytest.mark.parametrize(
        "written",
        ["images/{0}.png", "{0}", "images\\{0}.png", "images/{0}", "./{0}.png", "\ufeff{0}.png", "{0}.png"],
    )
    def test_a_table_may_write_files_and_classes_in_other_ways(self, tmp_path, written):
        names = {f"{label}{i}": label for label in (self.composed, "mug") for i in range(3)}
        for seed, name in enumerate(names):
            draw(tmp_path / "images" / f"{name.replace(self.composed, self.decomposed)}.png", seed)
        mark = "\ufeff" if written.startswith("\ufeff") else ""
        lines = [f"{written.lstrip(mark).format(name)},{label}" for name, label in names.items()]
        (tmp_path / "labels.csv").write_text(f"{mark}FILE_NAME,CATEGORY\n" + "\n".join([*lines, ""]), "utf-8")
        data = scan(tmp_path, Preprocess(image_size=8))
        assert (data.labels, data.bad) == ((self.composed, "mug"), ())
        np.testing.assert_array_equal(np.bincount(data.train.labels), [1, 1])

    def test_an_ending_that_two_files_could_have_is_not_guessed(self, tmp_path):
        draw_album(tmp_path)
        shutil.copy(tmp_path / "images" / "bee1.png", tmp_path / "images" / "bee1.webp")
        table = tmp_path / "labels.csv"
        table.write_text(table.read_text().replace("bee1.png", "bee1"))
        bad = scan(tmp_path, Preprocess(image_size=8), max_bad=0.2).bad
        assert bad == (BadFile("images/bee1", "there is no such file"),)

    def test_a_file_without_an_ending_is_judged_by_its_content_and_other_endings_are_said(self, tmp_path):
        draw_classes(tmp_path)
        (tmp_path / "cup" / "000.png").rename(tmp_path / "cup" / "000")
        (tmp_path / "cup" / "README").write_text("no picture")
        assert scan(tmp_path, Preprocess(image_size=8)).remarks == ()
        for name in ("a.cr2", "b.jpg_large"):
            shutil.copy(tmp_path / "cup" / "001.png", tmp_path / "mug" / name)
        data = scan(tmp_path, Preprocess(image_size=8))
        assert sorted(data.train.files + data.test.files)[0] == "cup/000"
        assert len(data.train.files + data.test.files) == 10
        assert data.remarks == ("Files passed over for their unknown endings: 2, such as mug/a.cr2.",)

    def test_file_names_are_printed_without_control_characters(self, tmp_path):
        draw_classes(tmp_path)
        for name in ("\x1b[2J.png", os.fsdecode(b"caf\xe9.png")):
            (tmp_path / "cup" / name).write_bytes(b"")
        bad = scan(tmp_path, Preprocess(image_size=8), max_bad=0.5).bad
        assert [file.path for file in bad] == ["cup/\\x1b[2J.png", "cup/caf\\udce9.png"]


class TestRefusals:
    def refused(self, path: Path, **options) -> str:
        with pytest.raises(BadInput) as caught:
            scan(path, Preprocess(image_size=8), **options)
        assert str(caught.value).endswith((".", "?"))
        return str(caught.value).replace(str(path), "DATA")

    def test_no_folder(self, tmp_path):
        assert self.refused(tmp_path / "none") == "There is no folder DATA."
        assert self.refused(draw(tmp_path / "x.png", 0)) == "DATA is not a folder."

    def test_a_missing_folder_is_looked_for_beside(self, tmp_path):
        (tmp_path / "photos").mkdir()
        for name, advice in (("photo", f"Did you mean {tmp_path / 'photos'}?"), ("x/y", f"from {Path.cwd()} on")):
            with pytest.raises(BadInput) as caught:
                scan(tmp_path / name, Preprocess(image_size=8))
            assert advice in caught.value.advice

    def test_no_layout(self, tmp_path):
        assert self.refused(tmp_path) == "DATA is no data set: it holds no picture and no folder."
        (tmp_path / "a" / "b" / "c").mkdir(parents=True)
        (tmp_path / "d").mkdir()
        assert self.refused(tmp_path) == "DATA is no data set: it holds 2 folders without pictures (a, d)."
        for i in range(3):
            draw(tmp_path / f"{i}.png", i)
        assert self.refused(tmp_path) == "DATA is no data set: it holds 3 pictures but no folder of a class."

    def test_the_advice_names_the_three_layouts(self, tmp_path):
        with pytest.raises(BadInput) as caught:
            scan(tmp_path, Preprocess(image_size=8))
        for layout in ("train/CLASS/*", "test/CLASS/*", "val/CLASS/*", "CLASS/*,", "labels.csv"):
            assert layout in caught.value.advice

    def test_a_split_is_missing_or_misspelt(self, tmp_path):
        draw_classes(tmp_path / "train")
        assert self.refused(tmp_path) == "DATA has train/ but no test/."
        draw_classes(tmp_path / "test")
        (tmp_path / "test").rename(tmp_path / "Testing")
        assert self.refused(tmp_path) == "DATA has a folder Testing/. Did you mean test/?"

    def test_a_class_without_pictures(self, tmp_path):
        draw_classes(tmp_path)
        (tmp_path / "jug").mkdir()
        (tmp_path / "jug" / "notes.txt").write_text("x")
        assert self.refused(tmp_path) == "DATA has classes without a picture: jug."
        splits = draw_splits(tmp_path / "splits")
        for file in (splits / "test" / "mug").iterdir():
            file.unlink()
        assert self.refused(splits) == "DATA has classes without a picture: test/mug."

    def test_one_class_only(self, tmp_path):
        assert self.refused(draw_classes(tmp_path, labels=("mug",))) == "DATA has only one class: mug."

    def test_class_names_that_differ_between_splits(self, tmp_path):
        draw_splits(tmp_path)
        (tmp_path / "test" / "mug").rename(tmp_path / "test" / "Mug")
        assert self.refused(tmp_path) == "The classes of DATA differ between its splits: train/ lacks Mug."
        (tmp_path / "test" / "Mug").rename(tmp_path / "test" / "mug")
        draw(tmp_path / "train" / "jug" / "0.png", 7)
        assert self.refused(tmp_path) == "The classes of DATA differ between its splits: val/ lacks jug."

    def test_too_few_to_split(self, tmp_path):
        draw_classes(tmp_path, labels=("cup", "mug"))
        draw_classes(tmp_path, 1, labels=("jug",))
        assert self.refused(tmp_path) == "DATA has too few pictures to split: jug with one picture."

    def test_an_unreadable_folder(self, tmp_path, monkeypatch):
        draw_classes(tmp_path)

        def forbid(path):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "listdir", forbid)
        with pytest.raises(CannotRunHere, match=r"cannot be read: Permission denied\.$"):
            scan(tmp_path, Preprocess(image_size=8))

    @pytest.mark.parametrize(
        ("table", "sentence"),
        [
            ("name,CATEGORY\nx.png,bee\n", "DATA/labels.csv has no column FILE_NAME; it has name, CATEGORY."),
            ("FILE_NAME,CATEGORY\nx.png\n", "Line 2 of DATA/labels.csv lacks a file or a category."),
            ("FILE_NAME,CATEGORY\nx.png,\n", "Line 2 of DATA/labels.csv lacks a file or a category."),
            (
                "FILE_NAME,CATEGORY\nx.png,bee\n\nx.png,wasp\n",
                "DATA/labels.csv gives x.png two categories: bee and wasp.",
            ),
            ("FILE_NAME,CATEGORY\nx.png,bee\ny.png,bee\n", "DATA has only one class: bee."),
        ],
    )
    def test_a_wrong_table(self, tmp_path, table, sentence):
        (tmp_path / "labels.csv").write_text(table)
        assert self.refused(tmp_path) == sentence

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "is empty."),
            (b"\xef\xbb\xbf\n\n", "is empty."),
            ("FILE_NAME,CATEGORY\n".encode("utf-16"), "is not UTF-8 text: "),
            (b'FILE_NAME,CATEGORY\n"' + 200_000 * b"x" + b'",bee\n', "cannot be read: field larger than"),
        ],
    )
    def test_an_unreadable_table(self, tmp_path, content, said):
        (tmp_path / "labels.csv").write_bytes(content)
        assert self.refused(tmp_path).startswith(f"DATA/labels.csv {said}")

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("{", "cannot be read as JSON: "),
            (100_000 * "[", "cannot be read as JSON: "),
            ("[]", "holds list where an object belongs."),
            ("null", "holds null where an object belongs."),
            ('{"image_column_name": 7}', "has image_column_name: 7, which is not the name of a column."),
        ],
    )
    def test_unreadable_info(self, tmp_path, content, said):
        (draw_album(tmp_path) / "info.json").write_text(content)
        assert self.refused(tmp_path).startswith(f"DATA/info.json {said}")

    @pytest.mark.parametrize("content", ['{"image_column_name": null}', '\ufeff{"category_column_name": "CATEGORY"}'])
    def test_info_may_be_short_and_begin_with_a_byte_order_mark(self, tmp_path, content):
        (draw_album(tmp_path) / "info.json").write_text(content)
        assert scan(tmp_path, Preprocess(image_size=8)).labels == ("bee", "wasp")

    @pytest.mark.parametrize("name", ["mug\x1b]0;title\a", "two\nlines", os.fsdecode(b"caf\xe9")])
    def test_class_names_that_are_no_text(self, tmp_path, name):
        draw_classes(tmp_path, labels=("cup", name))
        said = self.refused(tmp_path)
        assert said.startswith("DATA has classes whose names are no text: ")
        assert said.isprintable()

    @pytest.mark.parametrize("split", ["", "train"])
    def test_pictures_in_folders_inside_a_class(self, tmp_path, split):
        (draw_splits if split else draw_classes)(tmp_path)
        here = tmp_path / split / "cup"
        (here / "notes" / "empty").mkdir(parents=True)
        scan(tmp_path, Preprocess(image_size=8))
        for seed, name in enumerate(["blue/a.png", "blue/dark/b.png", "red/c.png"]):
            draw(here / name, 7000 + seed)
        label = os.path.join(split, "cup")
        said = f"DATA has pictures in folders inside its classes: 2 in {label}/blue/, 1 in {label}/red/."
        assert self.refused(tmp_path) == said

    @pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "{absolute}"])
    def test_a_table_that_leaves_its_folder(self, tmp_path, name):
        data = draw_album(tmp_path / "album")
        name = name.format(absolute=draw(tmp_path / "album" / "secret.png", 99))
        with (data / "labels.csv").open("a") as file:
            file.write(f"{name},bee,insect\n")
        said = f"Line 10 of {data}/labels.csv names {name}, which lies outside the folder of its pictures."
        assert self.refused(data) == said.replace(str(data), "DATA")


class TestBadFiles:
    @pytest.fixture
    def dirty(self, tmp_path) -> Path:
        draw_splits(tmp_path)
        data = (tmp_path / "train" / "mug" / "000.png").read_bytes()
        (tmp_path / "train" / "mug" / "000.png").write_bytes(data[: len(data) // 2])
        (tmp_path / "train" / "cup" / "empty.jpg").touch()
        (tmp_path / "train" / "cup" / "link.jpg").symlink_to("nowhere.jpg")
        (tmp_path / "test" / "cup" / "text.jpeg").write_text("no picture")
        Image.new("F", (4, 4)).save(tmp_path / "val" / "mug" / "float.tiff")
        return tmp_path

    def test_are_listed_and_skipped_up_to_max_bad(self, dirty):
        data = scan(dirty, Preprocess(image_size=8), max_bad=0.25)
        reasons = {file.path: file.reason for file in data.bad}
        assert [*reasons] == [
            *("train/cup/empty.jpg", "train/cup/link.jpg", "train/mug/000.png"),
            *("val/mug/float.tiff", "test/cup/text.jpeg"),
        ]
        assert reasons["train/cup/empty.jpg"] == "it is empty"
        assert reasons["train/cup/link.jpg"] == "there is no such file"
        assert "truncated" in reasons["train/mug/000.png"]
        assert reasons["test/cup/text.jpeg"].startswith("it is not a picture in one of the formats JPEG, PNG")
        for split in (data.train, data.val, data.test):
            assert not set(split.files) & set(reasons)
            assert len(split.images) == len(split.labels) == len(split.files)
            np.testing.assert_array_equal(split.images, [fit(load(dirty / file), 8) for file in split.files])
            assert [file.split("/")[1] for file in split.files] == [data.labels[i] for i in split.labels]

    def test_above_max_bad_they_are_named(self, dirty):
        with pytest.raises(BadInput) as caught:
            scan(dirty, Preprocess(image_size=8), max_bad=0.2)
        message = str(caught.value)
        assert message.startswith(
            f"5 of 22 pictures in {dirty} cannot be read, more than 20%: train/cup/empty.jpg (it is"
        )
        assert "test/cup/text.jpeg" in message
        assert caught.value.advice == "Repair or remove them, or allow a larger share with --max-bad 0.228."
        assert len(scan(dirty, Preprocess(image_size=8), max_bad=0.228).bad) == 5

    def test_the_limit_is_inclusive(self, tmp_path):
        draw_classes(tmp_path, 50)
        (tmp_path / "cup" / "000.png").write_bytes(b"")
        assert scan(tmp_path, Preprocess(image_size=8), max_bad=0.01).bad == (BadFile("cup/000.png", "it is empty"),)
        (tmp_path / "cup" / "001.png").write_bytes(b"")
        with pytest.raises(BadInput, match=r"^2 of 100 .* more than 1%: "):
            scan(tmp_path, Preprocess(image_size=8), max_bad=0.01)

    def test_ten_are_named_and_the_rest_counted(self, tmp_path):
        draw_classes(tmp_path, 20)
        for i in range(13):
            (tmp_path / "cup" / f"{i:03}.png").write_bytes(b"")
        with pytest.raises(BadInput, match=r"^13 of 40 .* and 3 more\.$") as caught:
            scan(tmp_path, Preprocess(image_size=8))
        assert str(caught.value).count("it is empty") == 10

    def test_a_class_of_bad_files_only(self, tmp_path):
        draw_splits(tmp_path)
        for file in (tmp_path / "test" / "mug").iterdir():
            file.write_bytes(b"")
        with pytest.raises(BadInput, match=r"^No picture of these classes in .* can be read: test/mug\.$"):
            scan(tmp_path, Preprocess(image_size=8), max_bad=1)

    def test_files_that_the_table_lists_but_are_not_there(self, tmp_path):
        (draw_album(tmp_path) / "images" / "bee1.png").unlink()
        with pytest.raises(BadInput) as caught:
            scan(tmp_path, Preprocess(image_size=8))
        assert caught.value.advice.startswith("Correct the names in labels.csv: they are relative to images/.")
        assert scan(tmp_path, Preprocess(image_size=8), max_bad=0.2).bad == (
            BadFile("images/bee1.png", "there is no such file"),
        )


class TestWhatIsRecorded:
    def test_the_photos_are_counted(self, tmp_path):
        data = draw_splits(tmp_path)
        draw(data / "train" / "cup" / "more.png", 99)
        found = scan(data, Preprocess(image_size=8))
        assert found.counts == {
            "train": {"cup": 5, "mug": 4},
            "val": {"cup": 2, "mug": 2},
            "test": {"cup": 3, "mug": 3},
        }
        assert found.summary == "2 classes; photos: 9 train, 4 val, 6 test; 4 to 5 of a class in train"

    def test_the_same_file_in_train_and_test(self, tmp_path):
        draw_splits(tmp_path)
        (tmp_path / "test" / "cup" / "again.png").write_bytes((tmp_path / "train" / "cup" / "002.png").read_bytes())
        (tmp_path / "test" / "mug" / "other.png").write_bytes((tmp_path / "train" / "cup" / "002.png").read_bytes())
        (tmp_path / "train" / "mug" / "twice.png").write_bytes((tmp_path / "train" / "mug" / "000.png").read_bytes())
        found = scan(tmp_path, Preprocess(image_size=8), max_bad=0.2)
        assert found.duplicates == (("train/cup/002.png", "test/cup/again.png"),)
        assert found.remarks == (
            "3 pictures are the same bytes under two classes: "
            "train/cup/002.png = test/cup/again.png = test/mug/other.png.",
        )
        with pytest.raises(
            BadInput, match=r"^3 of 21 pictures in .* are the same bytes under two classes: train/cup/0"
        ):
            scan(tmp_path, Preprocess(image_size=8))

    def test_the_digest_is_of_contents_classes_and_splits(self, tmp_path):
        data = draw_splits(tmp_path)
        first = scan(data, Preprocess(image_size=8)).digest
        lines = sorted(
            f"{file.parent.parent.name}\0{file.parent.name}\0{sha256(file)}\n" for file in data.rglob("*.png")
        )
        assert first == hashlib.sha256("".join(lines).encode()).hexdigest()
        (data / "train" / "cup" / "000.png").rename(data / "train" / "cup" / "renamed.png")
        assert scan(data, Preprocess(image_size=16)).digest == first
        (data / "train" / "cup" / "renamed.png").rename(data / "train" / "mug" / "renamed.png")
        assert scan(data, Preprocess(image_size=8)).digest != first

    def test_each_picture_is_decoded_once_and_progress_told(self, tmp_path, monkeypatch):
        draw_classes(tmp_path)
        (tmp_path / "cup" / "000.png").write_bytes(b"")
        opened, steps = Counter(), []
        read_file = rrr_edge.images.preprocess.read_file

        def counting(path: Path, reduction: Reduction):
            opened[path] += 1
            return read_file(path, reduction)

        monkeypatch.setattr(rrr_edge.images.preprocess, "read_file", counting)
        scan(tmp_path, Preprocess(image_size=8), max_bad=0.5, on_progress=steps.append)
        assert opened == Counter(tmp_path.rglob("*.png"))
        assert [(step.stage, step.done, step.total) for step in steps] == [("scan", i, 10) for i in range(1, 11)]
        assert steps[-1].note == "1 unreadable"

    def test_large_sets_are_kept_on_disk(self, tmp_path, monkeypatch):
        draw_splits(tmp_path / "data")
        (tmp_path / "scratch").mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
        in_memory = scan(tmp_path / "data", Preprocess(image_size=8))
        monkeypatch.setattr(rrr_edge.images.reading, "IN_MEMORY_BYTES", 100)
        on_disk = scan(tmp_path / "data", Preprocess(image_size=8))
        assert isinstance(on_disk.train.images, np.memmap)
        assert not isinstance(in_memory.train.images, np.memmap)
        np.testing.assert_array_equal(on_disk.test.images, in_memory.test.images)
        assert [*(tmp_path / "scratch").iterdir()] == []

    def test_a_full_disk_is_one_sentence(self, tmp_path, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(rrr_edge.images.reading, "IN_MEMORY_BYTES", 100)
        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(CannotRunHere, match=r"^The disk that holds .* is full\.$"):
            scan(draw_splits(tmp_path), Preprocess(image_size=8))

    @pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
    def test_an_interrupt_does_not_wait_for_all_pictures(self, tmp_path, monkeypatch):
        draw_classes(tmp_path, 50)
        read = []

        def slow(*_):
            read.append(1)
            if len(read) == 1:
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.02)
            return Decoded(np.zeros((8, 8, 3), "u1")), "x"

        monkeypatch.setattr(rrr_edge.images.preprocess, "read_file", slow)
        monkeypatch.setattr(rrr_edge.images.reading, "usable_cores", lambda: 2)
        with pytest.raises(KeyboardInterrupt):
            scan(tmp_path, Preprocess(image_size=8))
        assert len(read) < len([*tmp_path.rglob("*.png")]) / 2


class TestReadFolder:
    def test_reads_below_sorted_and_lists_the_bad(self, tmp_path):
        for seed, name in enumerate(["b/2.png", "a.png", "b/c/1.PNG"]):
            draw(tmp_path / name, seed)
        (tmp_path / "b" / "bad.jpg").write_bytes(b"")
        (tmp_path / "b" / "notes.txt").write_text("x")
        pictures = read_folder(tmp_path, Preprocess(image_size=8))
        assert pictures.files == ("a.png", "b/2.png", "b/c/1.PNG")
        assert pictures.bad == (BadFile("b/bad.jpg", "it is empty"),)
        np.testing.assert_array_equal(pictures.images, [fit(load(tmp_path / file), 8) for file in pictures.files])
        assert image_files(tmp_path) == [tmp_path / name for name in ("a.png", "b/2.png", "b/bad.jpg", "b/c/1.PNG")]

    def test_a_limit_spreads_over_the_folder(self, tmp_path):
        draw_classes(tmp_path, 10, labels=("a", "b", "c"))
        files = read_folder(tmp_path, Preprocess(image_size=8), limit=6).files
        assert len(files) == 6
        assert Counter(file[0] for file in files) == {"a": 2, "b": 2, "c": 2}
        assert len(read_folder(tmp_path, Preprocess(image_size=8), limit=99).files) == 30

    def test_loops_of_links_end_and_no_picture_comes_twice(self, tmp_path):
        draw(tmp_path / "a" / "1.png", 1)
        (tmp_path / "a" / "up").symlink_to(tmp_path)
        (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
        (tmp_path / "b").symlink_to(tmp_path / "a")
        draw(tmp_path.with_name("outside") / "2.png", 2)
        (tmp_path / "c").symlink_to(tmp_path.with_name("outside"))
        assert read_folder(tmp_path, Preprocess(image_size=8)).files == ("a/1.png", "c/2.png")

    def test_refusals(self, tmp_path):
        with pytest.raises(BadInput, match=r"^There is no folder .*none\.$"):
            read_folder(tmp_path / "none", Preprocess(image_size=8))
        with pytest.raises(BadInput, match=r"^There is no picture in .* or below\.$"):
            read_folder(tmp_path, Preprocess(image_size=8))
        (tmp_path / "x.png").write_bytes(b"")
        with pytest.raises(BadInput, match=r"^No picture in .* can be read: x\.png \(it is empty\)\.$"):
            read_folder(tmp_path, Preprocess(image_size=8))


class TestChooseBalanced:
    labels = np.repeat([0, 1, 2, 3], [100, 50, 3, 20])

    @pytest.mark.parametrize(
        ("count", "expected"), [(12, [3, 3, 3, 3]), (33, [10, 10, 3, 10]), (1000, [100, 50, 3, 20])]
    )
    def test_classes_are_as_equal_as_they_can_be(self, count, expected):
        chosen = choose_balanced(self.labels, count)
        np.testing.assert_array_equal(np.bincount(self.labels[chosen], minlength=4), expected)
        assert len(set(chosen)) == len(chosen)
        assert (np.diff(chosen) > 0).all()

    def test_a_part_of_a_turn_differs_by_one_at_most(self):
        counts = np.bincount(np.repeat(np.arange(5), 10)[choose_balanced(np.repeat(np.arange(5), 10), 13)])
        assert sorted(counts) == [2, 2, 3, 3, 3]

    def test_the_seed_decides(self):
        np.testing.assert_array_equal(
            choose_balanced(self.labels, 40, seed=3), choose_balanced(self.labels, 40, seed=3)
        )
        assert set(choose_balanced(self.labels, 40, seed=3)) != set(choose_balanced(self.labels, 40, seed=4))

    def test_empty(self):
        assert len(choose_balanced([], 5)) == len(choose_balanced([0, 1], 0)) == 0


class TestDigits:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory) -> Path:
        pytest.importorskip("sklearn")
        folder = tmp_path_factory.mktemp("digits") / "digits"
        write_digits(folder, size=16)
        return folder

    def test_all_digits_are_there_under_their_class(self, folder):
        from sklearn.datasets import load_digits

        digits = load_digits()
        files = sorted(folder.rglob("*.png"), key=lambda file: file.name)
        assert [int(file.parent.name) for file in files] == digits.target.tolist()
        first = Image.fromarray(np.round(digits.images[0] / 16 * 255).astype(np.uint8))
        expected = np.asarray(first.resize((16, 16), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(load(files[0])[..., 0], expected)

    def test_the_split_is_stratified_80_to_20(self, folder):
        data = scan(folder, Preprocess(image_size=16))
        train, test = np.bincount(data.train.labels), np.bincount(data.test.labels)
        assert (data.layout, train.sum() + test.sum(), data.duplicates) == ("splits", 1797, ())
        np.testing.assert_array_equal(test, np.round((train + test) / 5))

    def test_nothing_is_overwritten(self, folder):
        with pytest.raises(UsageError, match="exists and is not empty"):
            write_digits(folder)

    def test_the_committed_calibration_set_is_what_is_written(self, folder, tmp_path):
        committed = CHECKOUT / "calibration" / "digits"
        write_calibration_digits(tmp_path / "new")
        names = sorted(str(file.relative_to(committed)) for file in committed.rglob("*.png"))
        assert names == sorted(str(file.relative_to(tmp_path / "new")) for file in (tmp_path / "new").rglob("*.png"))
        assert Counter(name[0] for name in names) == dict.fromkeys("0123456789", 10)
        for name in names:
            assert load(committed / name).shape == (64, 64, 3)
            np.testing.assert_array_equal(load(committed / name), load(tmp_path / "new" / name))
        assert all((folder / "train" / name).is_file() for name in names), "calibration images out of the test part"

    def test_the_committed_set_is_small_and_licensed(self):
        files = [file for file in (CHECKOUT / "calibration").rglob("*") if file.is_file()]
        assert sum(file.stat().st_size for file in files) < 300_000
        licence = (CHECKOUT / "calibration" / "digits" / "LICENSE.txt").read_text()
        assert all(word in licence for word in ("CC BY 4.0", "Alpaydin", "Kaynak", "Changes made"))


class TestCalibrationFolder:
    def test_packaged(self):
        assert calibration_folder("digits").samefile(CHECKOUT / "calibration" / "digits")
        assert len(read_folder(calibration_folder("digits"), Preprocess(image_size=32)).files) == 100

    def test_a_path_then_the_local_then_the_packaged_one(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "calibration" / "digits").mkdir(parents=True)
        assert calibration_folder("digits") == Path("calibration/digits")
        (tmp_path / "digits").mkdir()
        assert calibration_folder("digits") == Path("digits")
        assert calibration_folder(tmp_path) == tmp_path

    def test_unknown(self):
        with pytest.raises(
            UsageError, match=r"^There are no calibration images 'digit'\. Did you mean 'digits'\?$"
        ) as caught:
            calibration_folder("digit")
        assert caught.value.advice.startswith("Known sets: digits; or")
        with pytest.raises(UsageError, match=r"^There are no calibration images 'zebra'\.$"):
            calibration_folder("zebra")
