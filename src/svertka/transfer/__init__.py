"""From pretrained weights to a new task, at the price of one pass."""
