"""Runs that are killed, stopped, starved and damaged; `make soak` does the same at length."""
