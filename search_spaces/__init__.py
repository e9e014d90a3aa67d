"""What is compared: studies as data, one file a paper."""
