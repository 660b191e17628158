"""Files of images that evaluate measures: the layouts of arrays and the folders that are read, and as what."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from data import ImageData, Split
from data.digits import Digits
from models.errors import UserError
from scripts.tasks.sample_files import read_sample_file

GREY = Digits().load(Path())
COUNT = 12
IMAGES = GREY.test.images[:COUNT]


def colours(height: int, width: int) -> ImageData:
    """A data set of colour images of this size."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (COUNT, 3, height, width), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.zeros(COUNT, dtype=torch.int64))
    return ImageData("colours", split, split, (), False)


LAYOUTS = {
    "NHWC": lambda images: images.transpose(0, 2, 3, 1),
    "NCHW": lambda images: images,
    "int64": lambda images: images.transpose(0, 2, 3, 1).astype(np.int64),
    "int16 NCHW": lambda images: images.astype(np.int16),
    "uint32": lambda images: images.astype(np.uint32),
    "big endian": lambda images: images.astype(">u2"),
    "Fortran order": lambda images: np.asfortranarray(images),
}


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".NPY"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dataset", [GREY, colours(6, 6), colours(4, 3), colours(3, 5)], ids=lambda data: data.name)
def test_arrays_are_taken_in_every_layout_that_has_the_shape(
    dataset: ImageData, layout: str, suffix: str, tmp_path: Path
) -> None:
    images = dataset.test.images[:COUNT]
    array, path = LAYOUTS[layout](images.numpy()), tmp_path / f"samples{suffix}"
    with path.open("wb") as file:
        np.savez(file, arr_0=array) if suffix == ".npz" else np.save(file, array)
    read, labels = read_sample_file(path, dataset)
    assert read.equal(images) and read.dtype == torch.uint8 and labels is None


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_grey_images_need_no_axis_of_channels(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    array, path = IMAGES[:, 0].numpy(), tmp_path / f"samples{suffix}"
    np.savez(path, arr_0=array) if suffix == ".npz" else np.save(path, array)
    assert read_sample_file(path, GREY)[0].equal(IMAGES)
    with pytest.raises(UserError, match="but those of colours are 3x8x8"):
        read_sample_file(path, colours(8, 8))


def test_a_layout_is_named_where_it_is_not_the_usual_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "usual.npy", IMAGES.permute(0, 2, 3, 1).numpy())
    np.save(tmp_path / "first.npy", IMAGES.numpy())
    read_sample_file(tmp_path / "usual.npy", GREY)
    assert capsys.readouterr().err == ""
    read_sample_file(tmp_path / "first.npy", GREY)
    assert capsys.readouterr().err == f"{tmp_path / 'first.npy'}: the images are laid out as (N, C, H, W)\n"


@pytest.mark.parametrize("name", ["images", "samples", "x"])
def test_the_only_array_of_images_is_taken_with_its_labels(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = np.arange(COUNT) % 10
    np.savez(tmp_path / "x.npz", labels=numbers, seeds=np.arange(3.0), **cast(Any, {name: IMAGES.numpy()}))
    images, labels = read_sample_file(tmp_path / "x.npz", GREY)
    assert images.equal(IMAGES) and labels is not None and labels.tolist() == numbers.tolist()
    assert f"the images are in the array '{name}'" in capsys.readouterr().err


BAD = {
    "objects": lambda path: np.save(path, np.array([{}, 3], dtype=object), allow_pickle=True),
    "pickle": lambda path: path.write_bytes(pickle.dumps([1, 2])),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: (np.save(path, IMAGES.numpy()), path.write_bytes(path.read_bytes()[:300])),
    "text": lambda path: np.save(path, np.array(["a"] * 9)),
    "one number": lambda path: np.save(path, np.uint8(3)),
    "complex": lambda path: np.save(path, IMAGES.numpy() * 1j),
    "five axes": lambda path: np.save(path, IMAGES.numpy()[None]),
}


@pytest.mark.parametrize("kind", BAD)
def test_files_without_images_are_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.npy"
    BAD[kind](path)
    with pytest.raises(UserError) as error:
        read_sample_file(path, GREY)
    assert str(error.value).startswith(f"samples {path}: ") and "\n" not in str(error.value)


def pictures(folder: Path, names: list[str], size: int = 8) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, IMAGES, strict=False):
        Image.fromarray(image[0].numpy()).resize((size, size)).save(folder / name)
    return folder


@pytest.mark.parametrize(
    "pattern", ["{:05d}_label{}.png", "{:05d}_label{}_a-name.png", "{:05d}.png"], ids=["labels", "names", "alone"]
)
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_sheet_beside_numbered_images_is_left_out(
    suffix: str, pattern: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pictures(tmp_path / "final_samples", [pattern.format(k, k % 10) for k in range(COUNT)])
    Image.new("RGB", (300, 200)).save(folder / f"grid{suffix}")
    archive = tmp_path / "made.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.iterdir():
            file.write(path, f"final_samples/{path.name}")
    for place in (folder, archive):
        images, labels = read_sample_file(place, GREY)
        assert images.equal(IMAGES) and (labels is None) == (pattern == "{:05d}.png")
        assert f"grid{suffix} is a sheet of the other images and is left out" in capsys.readouterr().err


def test_a_picture_called_grid_among_named_pictures_is_an_image(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "mine", ["cat.png", "dog.png", "grid.png"])
    assert len(read_sample_file(folder, GREY)[0]) == 3
    assert len(read_sample_file(pictures(tmp_path / "alone", ["grid.png"]), GREY)[0]) == 1


@pytest.mark.parametrize("break_it", ["size", "cut", "text"])
def test_advice_about_pictures_names_no_flag_of_a_data_set(break_it: str, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "mixed", [f"{k}.png" for k in range(4)])
    if break_it == "size":
        pictures(folder, ["3.png"], size=16)
    else:
        (folder / "3.png").write_bytes(b"text" if break_it == "text" else (folder / "3.png").read_bytes()[:60])
    with pytest.raises(UserError) as error:
        read_sample_file(folder, GREY)
    spelled: list[Any] = []
    text = error.value.text(lambda option: spelled.append(option) or f"--{option}")
    assert set(spelled) == {"samples"} and "3.png" in text
    assert text.endswith("give all images 8 rows and 8 columns, as in digits or remove the named images")
