"""Each formula again, from its paper: plain Python in float64, without torch and without the package."""
