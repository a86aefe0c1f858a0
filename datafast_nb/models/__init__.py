"""Models: what answers the requests of a pipeline."""
