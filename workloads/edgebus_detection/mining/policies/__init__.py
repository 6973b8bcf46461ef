"""Policies of detection, one formula each; named in the group ``edgebus.policies.detection``."""
