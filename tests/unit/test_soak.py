"""What the soak draws, without any card."""

from __future__ import annotations

import random
from itertools import combinations

from hw.config import NicConfig
from sim.soak import _RING_FEATURES, _driver, _turns
from sw_driver.layouts import Feature


def test_every_combination_of_features_comes(seed: int) -> None:
    rng = random.Random(seed)
    config = NicConfig.preset("full")
    turns = _turns(rng)
    drawn = [tuple(_driver(rng, config, next(turns)).features) for _ in range(200)]
    left_out = {tuple(feature for feature in _RING_FEATURES if feature not in features)
                for features in drawn}
    assert {Feature.EVENT_IDX, Feature.NOTIFICATION_DATA, Feature.IN_ORDER} == set(_RING_FEATURES)
    assert left_out == {some for count in range(4) for some in combinations(_RING_FEATURES, count)}
