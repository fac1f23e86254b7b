"""The other half of the stand-in: models and memory. See tests/standin/modules."""
