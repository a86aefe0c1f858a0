"""Running pipelines: the loop, calls in flight, steps over records."""
