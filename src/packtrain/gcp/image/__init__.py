"""The container image of the trainer: its content, its name, building it, and finding it again."""

from packtrain.gcp.image.content import DEFAULT_BASE
from packtrain.gcp.image.lookup import resolve_digest
from packtrain.gcp.image.reference import image_reference

__all__ = ["DEFAULT_BASE", "image_reference", "resolve_digest"]
