"""Metrics by subject; `humo.evaluation.registry` lists them."""
