"""Studies: many searches or trainings, and what they show."""
