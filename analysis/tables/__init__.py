"""Tables in Markdown, LaTeX and HTML from a tidy frame."""
