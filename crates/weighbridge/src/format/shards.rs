//! Models in several files: indexes, shards, directories.
