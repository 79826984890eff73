import pytest
import torch
import torchvision

from rrr_edge.bundle.sources import BACKBONE, SOURCES


@pytest.mark.parametrize("name", SOURCES)
def test_the_names_and_shapes_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        theirs = {k: tuple(v.shape) for k, v in torchvision.models.get_model(name).state_dict().items()}
    assert SOURCES[name].features == theirs["fc.weight"][1]
    del theirs["fc.weight"], theirs["fc.bias"]
    assert list(SOURCES[name].shapes().items()) == list(theirs.items())
    assert SOURCES[name].name.lower() == name


def test_the_default_is_one_of_them() -> None:
    assert BACKBONE in SOURCES
