"""Emulated cameras: a street, and scripted drift."""
