"""What a model is: a flat program of operations, and what is known of each value before it runs."""
