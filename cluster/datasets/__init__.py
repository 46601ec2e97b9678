"""Many pictures from a table of requests: planned, drawn in packs, written as Parquet shards."""
