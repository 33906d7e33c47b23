"""Position lambdas, in the order of contraction that is the cheapest."""
