"""Pairs of views and the shards that hold them: the rooms behind prepare."""
