"""What HTTP answers beside predictions: a file per dialect."""
