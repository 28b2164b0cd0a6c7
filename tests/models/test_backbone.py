"""tinyfcn.models.backbone: what it says of a network without running it is what the network does."""

import numpy as np
import pytest

from tinyfcn.models import FCN8s, FCN32sAlexNet, FCN32sCaffeNet


@pytest.mark.parametrize("padding", ["paper", "same"])
@pytest.mark.parametrize("kind, size", [(FCN8s, (61, 90)), (FCN32sAlexNet, (130, 97)), (FCN32sCaffeNet, (130, 97))])
def test_maps_have_the_sizes_and_channels_that_are_told(monkeypatch, kind, size, padding):
    net = kind(2, width=1 / 16, padding=padding)
    monkeypatch.setattr(type(net.backbone), "borders", lambda self, first: ([first] * 5, [None] * 5))  # see models/border.py
    seen, apply = {}, net.apply

    def recording(name, *arguments, **options):
        seen[name] = apply(name, *arguments, **options)
        return seen[name]

    monkeypatch.setattr(net, "apply", recording)
    net.forward(np.zeros((1, 3, *size), np.float32))
    down, across = (net.backbone.map_sizes(net.first_padding, net.fc6_padding, side) for side in size)
    assert {name: seen[name].shape[2:] for name in down} == {name: (down[name], across[name]) for name in down}
    for number in range(1, len(net.backbone.blocks) + 1):
        assert seen[f"pool{number}"].shape[1] == net.backbone.pool_channels(number, 1 / 16)
    assert seen["fc7"].shape[1] == net.hidden == net.backbone.shapes(1 / 16)["fc7.bias"][0]


def test_groups_share_the_channels_of_any_width_evenly():
    for width in 0.01, 0.3, 0.77:
        net = FCN32sCaffeNet(2, width=width, padding="same", hidden=8)
        assert net.params["conv2.weight"].shape[0] % 2 == 0 == net.params["conv5.weight"].shape[0] % 2
