"""Documentation: pages in Markdown, and the code that generates the reference."""
