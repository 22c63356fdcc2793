"""Image formation: from a specimen's atoms to counts in a detector, and the bounds that follow."""
