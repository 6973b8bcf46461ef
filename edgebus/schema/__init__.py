"""The published form of the contracts: JSON Schema, AsyncAPI, and what may change in them."""
