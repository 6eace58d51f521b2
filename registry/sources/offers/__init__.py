"""Where candidates come from besides the shortlist: one file an offer."""
