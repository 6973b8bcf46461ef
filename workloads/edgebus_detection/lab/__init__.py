"""Runs of detection topologies: measures, views, pictures and reports."""
