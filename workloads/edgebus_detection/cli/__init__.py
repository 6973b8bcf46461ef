"""Commands of the detection workload."""
