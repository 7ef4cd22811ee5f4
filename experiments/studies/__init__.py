"""Studies: comparisons of many searches or trainings."""
