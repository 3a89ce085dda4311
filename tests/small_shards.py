"""The configuration of the shards that tests render."""

from humo.synthetic.shards import ShardConfig

SMALL_SHARDS = ShardConfig(
    seed=9,
    sizes=((32, 48), (32, 32)),
    takes=2,
    take_frames=5,
    double_every=2,
    speeches=6,
    people=60,
    people_per_shard=2,
    engines=("espeak",),
    supersample=1,
)
"""Shards of two people each: portraits, and squares at twice their size."""
