"""Long runs that look for what breaks: ``python -m benchmarks.soak --help``."""
