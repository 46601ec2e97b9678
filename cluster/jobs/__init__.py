"""A job: what is asked made definite, its stages, what it costs."""
