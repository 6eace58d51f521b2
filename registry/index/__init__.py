"""The index of embeddings in FAISS, rebuilt from the catalog."""
