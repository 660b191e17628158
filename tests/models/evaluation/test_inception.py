"""FID, KID and IS equal those of torch-fidelity, in an Inception network with random weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity import feature_extractor_inceptionv3 as theirs
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torch_fidelity.utils import create_feature_extractor, extract_featuresdict_from_input_id

from models.evaluation import inception
from models.evaluation.distances import frechet_distance, gaussian, kernel_distance
from models.evaluation.recognition import inception_score

CPU = torch.device("cpu")
COUNT = 6


class Pictures(Dataset):
    """A data set of images with three channels, as torch-fidelity takes them."""

    def __init__(self, images: Tensor):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index].expand(3, -1, -1)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """File of random weights, scaled so that activations do not vanish, with its hash as the expected one."""
    with monkeypatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = theirs.FeatureExtractorInceptionV3("random", ["2048"])
        for parameter in network.parameters():
            if parameter.ndim == 4:
                torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu")
    path = tmp_path / "weights.pth"
    torch.save(network.state_dict(), path)
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_the_published_figures_are_those_of_torch_fidelity(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2 * COUNT, 1, 8, 8), generator=generator).to(torch.uint8)
    images[COUNT:] //= 2
    monkeypatch.setattr(inception, "BATCH", 5)
    output = inception.Inception(weights, CPU).extract(images)

    layers, settings = ["2048", "logits_unbiased"], {"cuda": False, "verbose": False, "batch_size": 4, "cache": False}
    network = create_feature_extractor(
        "inception-v3-compat", layers, feature_extractor_weights_path=weights, **settings
    )
    expected = extract_featuresdict_from_input_id(1, network, input1=Pictures(images), save_cpu_ram=True, **settings)
    features, logits = (expected[layer].double() for layer in layers)
    assert features.std(0).mean() > 1e-3 and logits.std() > 1e-3
    torch.testing.assert_close(output.features, features, rtol=1e-4, atol=1e-5 * features.abs().max().item())
    torch.testing.assert_close(output.logits, logits, rtol=1e-4, atol=1e-5 * logits.abs().max().item())

    one, other = output.features.split(COUNT)
    # Projection to the few directions that the images span keeps the distances and makes the eigenvalues fast.
    basis = torch.linalg.qr(features.T).Q
    first, second = (fid_features_to_statistics(part @ basis) for part in features.split(COUNT))
    fid = fid_statistics_to_metric(first, second, False)[KEY_METRIC_FID]
    assert frechet_distance(gaussian(one), gaussian(other)) == pytest.approx(fid, rel=1e-4)
    kid = kid_features_to_metric(*features.split(COUNT), kid_subsets=1, kid_subset_size=COUNT, verbose=False)
    assert kernel_distance(one, other)[0] == pytest.approx(kid[KEY_METRIC_KID_MEAN], rel=1e-4)
    score = inception_score(output.logits, torch.ones(1, 2 * COUNT, dtype=torch.float64)).item()
    assert score == pytest.approx(isc_features_to_metric(logits, splits=1)[KEY_METRIC_ISC_MEAN], rel=1e-5)
