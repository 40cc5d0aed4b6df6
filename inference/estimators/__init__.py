"""Estimators of the gradient of an objective over routes, one a file."""
