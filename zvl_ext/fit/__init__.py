"""A few learned numbers for a user's own pictures: what is learned from, the loop, the report."""
