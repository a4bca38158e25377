"""culm runs Python functions somewhere else, reliably."""
