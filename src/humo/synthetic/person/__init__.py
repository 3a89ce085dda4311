"""Rendered people: identity, appearance, mesh, hair, glasses and pose."""
