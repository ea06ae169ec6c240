"""The base model: where it comes from, its weights, its adapter, its attention, its loss."""
