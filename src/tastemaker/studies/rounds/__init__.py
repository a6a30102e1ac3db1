"""Online rounds: sample, collect labels, train, and again, with a page after every round."""
