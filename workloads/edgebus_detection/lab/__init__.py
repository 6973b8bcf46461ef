"""Runs of detection topologies: what is measured, shown and reported."""
