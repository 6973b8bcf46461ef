"""Long runs that look for what breaks: ``python -m tests.soak --help``."""
