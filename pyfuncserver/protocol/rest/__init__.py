"""HTTP: the Tornado application, its front end, and a file per dialect."""
