"""What people say about images: labels in the formats of other tools, read and written."""
