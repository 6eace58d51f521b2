"""What is durable: database, schema, migrations, blobs, failpoints."""
