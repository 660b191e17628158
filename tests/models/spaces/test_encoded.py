"""Encoded data sets: what they hold, what they say of themselves, and what does not fit is found."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors
import torch

from models.autoencoders.autoencoder import Autoencoder
from models.errors import UserError
from models.spaces import Identity
from models.spaces.encoded import Encoded, encode_images, file_name, read_encoded, write_encoded
from models.spaces.pixels import Pixels
from tests.models.coders import random_images, small_coder

SHAPE = (3, 8, 12)
CPU = torch.device("cpu")


@pytest.fixture
def coder(tmp_path: Path) -> Autoencoder:
    return small_coder(tmp_path / "run", SHAPE, latent_shape=(2, 2, 3))


@pytest.mark.parametrize("kind", ["vae", "autoencoder"])
def test_codes_are_the_posteriors_of_images_and_mirror_images(kind: str, tmp_path: Path) -> None:
    coder, images = small_coder(tmp_path / "run", SHAPE, kind, latent_shape=(2, 2, 3)), random_images(11, SHAPE)
    codes = encode_images(coder, images, True, CPU, batch_size=4)
    for found, source in ((codes.posterior, images), (codes.mirrored, images.flip(3))):
        assert found is not None and found.shape == (11, 4, 2, 3)
        expected = torch.cat(coder.encode(Pixels.scale(source)), dim=1)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    if kind == "autoencoder":
        assert (codes.posterior[:, 2:] == -30).all()  # no spread to speak of
    assert encode_images(coder, images, False, CPU).mirrored is None


def test_statistics_are_those_of_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    posterior, mirrored = (torch.randn(500, 4, 3, 3, generator=generator) for _ in range(2))
    mean, scale = Encoded(posterior, mirrored).statistics()
    means, logs = torch.cat([posterior, mirrored]).chunk(2, dim=1)
    draws = means + (logs / 2).exp() * torch.randn(50, *means.shape, generator=generator)
    torch.testing.assert_close(mean.float(), draws.mean((0, 1, 3, 4)), atol=0.01, rtol=0)
    torch.testing.assert_close(scale.float(), draws.std((0, 1, 3, 4)), atol=0.01, rtol=0)


def test_the_reach_is_that_of_the_farthest_latent() -> None:
    """Channels of deviation 1; one latent lies 7 from the mean and its posterior has deviation 0.1."""
    mean = torch.tensor([-1.0, 1.0]).repeat(500).reshape(1000, 1, 1, 1).clone()
    mean[0] = 7.0
    log_variance = torch.full_like(mean, 2 * math.log(0.1))
    codes = Encoded(torch.cat([mean, log_variance], dim=1), None)
    centre, scale = (each.item() for each in codes.statistics())
    reach = codes.reach(*codes.statistics())
    assert reach == pytest.approx((7 - centre + 0.3) / scale, rel=1e-5)
    mirrored = Encoded(codes.posterior[1:], codes.posterior[:1])
    assert mirrored.reach(*mirrored.statistics()) == pytest.approx(reach, rel=1e-5)


def test_a_channel_that_never_moves_can_still_be_divided_by() -> None:
    flat = torch.cat([torch.full((5, 1, 2, 2), 3.0), torch.full((5, 1, 2, 2), -60.0)], dim=1)
    assert Encoded(flat, None).statistics()[1].item() == pytest.approx(1e-6)


@pytest.mark.parametrize("flips", [False, True])
def test_written_and_read_back(flips: bool, coder: Autoencoder, tmp_path: Path) -> None:
    codes = encode_images(coder, random_images(5, SHAPE), flips, CPU)
    codes = replace(codes, data=Identity("d", "c"), autoencoder_sha256="a", words={"split": "train"})
    path = tmp_path / file_name("mnist", "train")
    write_encoded(path, codes, torch.arange(5))
    found = read_encoded(path)
    assert found.posterior.equal(codes.posterior) and found.words == codes.words
    assert found.mirrored is codes.mirrored is None or found.mirrored.equal(codes.mirrored)  # type: ignore[union-attr]
    assert (found.data, found.autoencoder_sha256, path.name) == (Identity("d", "c"), "a", "mnist-train.safetensors")
    with safetensors.safe_open(path, framework="pt") as file:
        assert file.get_tensor("labels").tolist() == [0, 1, 2, 3, 4]


def test_what_does_not_fit_is_said(coder: Autoencoder) -> None:
    codes = replace(encode_images(coder, random_images(3, SHAPE), False, CPU), data=Identity("d"))
    assert "another autoencoder" in str(codes.mismatch(coder, Identity("d"), False))
    mine = replace(codes, autoencoder_sha256=coder.sha256)
    assert mine.mismatch(coder, Identity("d"), False) is None
    assert mine.mismatch(coder, Identity("e"), False) == "of other images"
    assert mine.mismatch(coder, Identity("d"), True) == "without the mirrored images"


def test_files_that_are_none(tmp_path: Path, coder: Autoencoder) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(UserError, match=r"x\.safetensors"):
        read_encoded(path)
    write_encoded(path, encode_images(coder, random_images(3, SHAPE), False, CPU), torch.zeros(3))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match="no encoded data set"):
        read_encoded(path)
    with pytest.raises(UserError, match="no encoded data set"):
        read_encoded(coder.path)
