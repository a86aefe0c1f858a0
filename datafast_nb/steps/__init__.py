"""Steps: what a user writes."""
