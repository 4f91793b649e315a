"""Builds the dataset: plan, generate, build, import, publish."""
