"""What is kept on disk: the memo, files, the bill."""
