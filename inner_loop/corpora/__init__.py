"""Corpora: from parquet shards or a user's own files to the tokens experiments read, once.

Owns: reading, downloading, splitting, training the tokenizer, writing the cache folder (`build`).
Does not own: the Tokenizer, the packing of rows, the loader and the metric (prepare.py, which hands
the first two in as `build.Tools`), nor who may see which shard (the run box and the scorer).
"""
