"""Topologies: machines, the services on them and their settings."""
