"""Fuzzing of what reads foreign bytes: templates, replies, JSON Lines, checkpoints.

`make fuzz` mutates the seeds of each target for `FUZZ_SECONDS` and keeps what breaks a rule in
`fuzz/findings/<target>/`. The tests replay every file there, so a mended finding stays mended.
"""
