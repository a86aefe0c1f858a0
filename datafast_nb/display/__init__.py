"""Drawing: plain views in, text and static HTML out."""
