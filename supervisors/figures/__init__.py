"""What is counted, measured and told in the status."""
